"""Whatever call fails on a CUDA device: the error is ours, the slot is free, and nothing is left behind."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from contract import check_picked, some_tiles
from local_bundle import frame_of, heat_of, write_local
from recording import DISCRETE, NO_MAPPING, ORIN, SHAPE, LocalStage, RecordingDevice

from lpcnet_edge.backends.base import Slot
from lpcnet_edge.backends.cuda import launch
from lpcnet_edge.backends.cuda.device import Properties
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.slots import CudaBackend
from lpcnet_edge.errors import BackendFailed, DeviceLost
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import BulkSettings, RunSettings

TILES = some_tiles(3)
PICKED = np.array([0, 2], np.int32)


@pytest.fixture(autouse=True)
def no_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the number of calls is the same each time."""
    monkeypatch.setattr(launch, "SPIN_S", 0.0)


def opened(device: RecordingDevice, graphs: bool = True) -> CudaBackend:
    stages = {name: LocalStage(device) for name in ("localization", "confidence")}
    settings = CudaSettings(graphs="on" if graphs else "off")
    return CudaBackend(device, stages, SHAPE, settings, name="fake", about="a fake", sizes=(1, 2))


def one_batch(backend: CudaBackend, slot: Slot) -> None:
    slot.pixels[:3] = TILES
    backend.submit(slot, 3)
    assert backend.collect(slot)
    np.testing.assert_allclose(slot.score[:3], heat_of(TILES).max(axis=(1, 2)), rtol=1e-6)
    backend.submit_picked(slot, PICKED)
    assert backend.collect_picked(slot)
    check_picked(slot, TILES, PICKED)


def whole_life(device: RecordingDevice, graphs: bool) -> None:
    """Open, two batches, close; after a failure in a batch the slot must serve again, unless the device is lost."""
    backend = opened(device, graphs)
    try:
        slot = backend.make_slot(3)
        for _ in range(2):
            try:
                one_batch(backend, slot)
            except BackendFailed:
                if not device.sticky:
                    one_batch(backend, slot)
                raise
    finally:
        backend.close()
        backend.close()


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("properties", [DISCRETE, NO_MAPPING, ORIN], ids=["discrete", "without-mapping", "orin"])
def test_whichever_call_fails(
    properties: Properties, graphs: bool, sticky: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    whole = RecordingDevice(properties)
    whole_life(whole, graphs)
    assert whole.ledger.empty
    last_close = whole.calls - 3  # close settles the three streams; what fails there is logged
    assert last_close > 40
    for number in range(1, last_close + 1):
        device = RecordingDevice(properties, fail_at=number, sticky=sticky)
        with pytest.raises(DeviceLost if sticky else BackendFailed, match=r"CUDA_ERROR_UNKNOWN"):
            whole_life(device, graphs)
        assert device.ledger.empty, f"call {number}: {device.ledger}"
        assert ("close device", None) in device.journal
    for number in range(last_close + 1, whole.calls + 1):
        device = RecordingDevice(properties, fail_at=number, sticky=sticky)
        whole_life(device, graphs)
        assert device.ledger.empty


def test_what_cannot_be_given_back_keeps_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    device = RecordingDevice(fail_closing=True)
    whole_life(device, True)
    assert device.ledger.empty
    assert device.journal[-1] == ("close device", None)
    assert "while it gives back" in caplog.text


def test_the_order_of_giving_back() -> None:
    device = RecordingDevice()
    whole_life(device, True)
    closing = [call.removeprefix("close ") for call, _ in device.journal if call.startswith("close ")]
    order = ["event", "graph", "pinned", "stream", "device"]
    assert [closing.index(kind) for kind in order] == sorted(closing.index(kind) for kind in order)
    assert closing[-1] == "device"
    assert closing.index("pinned") > max(n for n, kind in enumerate(closing) if kind == "graph")
    assert device.closed_under_work == 0


@pytest.mark.parametrize("stage", ["localization", "confidence"])
def test_a_stage_that_fails_is_named_and_the_slot_serves_again(stage: str) -> None:
    device = RecordingDevice()
    stages = {name: LocalStage(device) for name in ("localization", "confidence")}
    backend = CudaBackend(device, stages, SHAPE, CudaSettings(graphs="off"), name="fake", about="a fake", sizes=(1, 2))
    slot = backend.make_slot(3)
    stages[stage].breaks = True
    with pytest.raises(BackendFailed, match=f"fake failed in the {stage} stage: out of luck"):
        one_batch(backend, slot)
    assert device.is_idle, "what was started before the failure may still write into the slot"
    stages[stage].breaks = False
    one_batch(backend, slot)
    backend.close()
    assert device.ledger.empty


def test_a_slot_that_cannot_be_made_leaves_the_others() -> None:
    device = RecordingDevice()
    backend = opened(device)
    slot = backend.make_slot(3)
    held = dict(device.ledger.nbytes)
    for further in range(1, 30):
        device.fail_at = device.calls + further
        with pytest.raises(BackendFailed, match="in the making of a slot"):
            backend.make_slot(3)
        assert dict(device.ledger.nbytes) == held
        device.fail_at = None
        one_batch(backend, slot)
    backend.close()
    assert device.ledger.empty


@pytest.mark.parametrize("sticky", [False, True])
def test_every_frame_gets_one_verdict_whichever_call_of_the_run_fails(tmp_path: Path, sticky: bool) -> None:
    """A lost device is opened again; frames whose maps were ready on it keep them."""
    bundle = write_local(tmp_path / "local")
    frames = [frame_of(seed, 64, 64, defects=seed % 3) for seed in range(24)]
    settings = RunSettings(bulk=BulkSettings(slots=3, tiles=8), gate=0.6)

    def run(fail_after: int | None) -> tuple[list[str], int]:
        devices: list[RecordingDevice] = []

        def opener() -> CudaBackend:
            device = RecordingDevice(eager=0.5, seed=len(devices), sticky=sticky)
            if not devices and fail_after is not None:
                device.fail_at = fail_after
            devices.append(device)
            return opened(device)

        with Session(bundle, [iter(frames)], settings, backend=opener, live=False) as session:
            results = list(session)
        assert [result.item.sequence for result in results] == list(range(24))
        assert all(device.ledger.empty for device in devices)
        return [result.verdict.outcome for result in results], devices[0].calls

    wanted, calls = run(None)
    assert set(wanted) == {"pass", "reject"}
    for fail_after in range(10, calls, 37):
        assert run(fail_after)[0] == wanted
