"""Slots on a CUDA device, without one: the contract, the order of work, and that nothing waits or allocates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Thread, get_ident
from typing import Any

import numpy as np
import pytest
from contract import Contract, check_picked, filled, some_tiles
from local_bundle import frame_of, heat_of, write_local
from recording import CALLS_THAT_WAIT, DISCRETE, NO_MAPPING, ORIN, SHAPE, LocalStage, RecordingDevice

from lpcnet_edge.backends.cuda.device import Properties
from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.slots import CudaBackend
from lpcnet_edge.errors import BackendFailed, UsageError
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import BulkSettings, RunSettings


def opened(device: RecordingDevice, settings: CudaSettings | None = None, **options: Any) -> CudaBackend:
    stages = {name: LocalStage(device) for name in ("localization", "confidence")}
    return CudaBackend(device, stages, SHAPE, settings, name="fake", about="a fake", **options)


KINDS = {
    "discrete": (DISCRETE, True, CudaSettings()),
    "without-mapping": (NO_MAPPING, True, CudaSettings()),
    "orin": (ORIN, True, CudaSettings()),
    "orin-staged": (ORIN, True, CudaSettings(memory="staged")),
    "graphs-off": (DISCRETE, True, CudaSettings(graphs="off")),
    "without-graphs": (DISCRETE, False, CudaSettings()),
}
DICE = [(0.0, 0), (0.3, 1), (0.3, 2), (0.7, 3), (1.0, 4), (1.0, 5)]
"""How eager the streams are, and the seed."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Properties, bool, CudaSettings]:
    return KINDS[request.param]


class TestContract(Contract):
    """On every kind of device, batches of up to 4 as the contract expects of all, streams late or eager."""

    @pytest.fixture(params=[0.0, 0.5, 1.0], ids=lambda eager: f"eager-{eager}")
    def backend(
        self, request: pytest.FixtureRequest, kind: tuple[Properties, bool, CudaSettings]
    ) -> Iterator[CudaBackend]:
        properties, has_graphs, settings = kind
        device = RecordingDevice(properties, has_graphs=has_graphs, eager=request.param)
        backend = opened(device, settings, sizes=(1, 2, 4))
        yield backend
        backend.close()
        assert device.ledger.empty, device.ledger
        assert device.closed_under_work == 0


def batches(backend: CudaBackend, count: int, tiles: int = 6, slots: int = 3) -> None:
    """So many batches, several in flight, each checked; what is picked changes from batch to batch."""
    ring = [backend.make_slot(tiles) for _ in range(slots)]
    flying: list[tuple[Any, Any, Any]] = []
    rng = np.random.default_rng(0)

    def step() -> None:
        slot, pixels, picked = flying.pop(0)
        assert backend.collect(slot)
        np.testing.assert_allclose(slot.score[:tiles], heat_of(pixels).max(axis=(1, 2)), rtol=1e-6)
        backend.submit_picked(slot, picked)
        if flying:  # the next one's stage 1 is asked for before this one's stage 2 is through
            assert backend.collect(flying[0][0])
        assert backend.collect_picked(slot)
        check_picked(slot, pixels, picked)

    for number in range(count):
        slot = ring[number % slots]
        pixels = some_tiles(tiles, 7 * number)
        slot.pixels[:tiles] = pixels
        picked = np.flatnonzero(rng.random(tiles) < 0.5).astype(np.int32)
        backend.submit(slot, tiles)
        flying.append((slot, pixels, picked))
        if len(flying) == slots:
            step()
    while flying:
        step()


@pytest.mark.parametrize(("eager", "seed"), DICE)
@pytest.mark.parametrize("sizes", [(1, 2, 4), (8,)], ids=str)
def test_no_allowed_order_of_the_streams_changes_a_result(
    kind: tuple[Properties, bool, CudaSettings], eager: float, seed: int, sizes: tuple[int, ...]
) -> None:
    properties, has_graphs, settings = kind
    device = RecordingDevice(properties, has_graphs=has_graphs, eager=eager, seed=seed)
    backend = opened(device, settings, sizes=sizes)
    batches(backend, 12)
    backend.close()
    assert device.ledger.empty
    assert device.closed_under_work == 0


def test_nothing_is_allocated_and_nothing_waits_but_twice_a_batch(kind: tuple[Properties, bool, CudaSettings]) -> None:
    properties, has_graphs, settings = kind
    device = RecordingDevice(properties, has_graphs=has_graphs)
    backend = opened(device, settings)
    slot = backend.make_slot(6)
    assert device.is_idle, "what goes wrong when bindings are tried out must be told by make_slot"
    device.hangs = True  # asking gets nothing done, so each wait is one that blocks
    before, begun = device.ledger.made, len(device.journal)
    for number in range(100):
        backend.submit(slot, 6)
        backend.collect(slot)
        backend.submit_picked(slot, np.arange(1 + number % 6, dtype=np.int32))
        backend.collect_picked(slot)
    assert device.ledger.made == before
    calls = [call for call, _ in device.journal[begun:]]
    assert [call for call in calls if call in CALLS_THAT_WAIT] == 200 * ["wait"]
    assert "bind" not in calls
    assert "capture" not in calls
    device.hangs = False
    backend.close()


def test_copies(kind: tuple[Properties, bool, CudaSettings]) -> None:
    """None in mapped mode; else pixels, indices and maps, and scores where the device cannot write them by itself."""
    properties, has_graphs, settings = kind
    device = RecordingDevice(properties, has_graphs=has_graphs)
    backend = opened(device, CudaSettings(memory=settings.memory, graphs="off"))
    slot = backend.make_slot(6)
    begun = len(device.journal)
    backend.submit(slot, 6)
    backend.collect(slot)
    backend.submit_picked(slot, np.arange(3, dtype=np.int32))
    backend.collect_picked(slot)
    copies = sum(call == "copy" for call, _ in device.journal[begun:])
    assert copies == (0 if backend.mode == "mapped" else 3 if properties.maps_host else 4)
    assert backend.mode == ("mapped" if properties.integrated and settings.memory == "auto" else "staged")
    backend.close()


def test_a_graph_does_what_the_calls_do() -> None:
    found = []
    for graphs in ("on", "off"):
        device = RecordingDevice()
        backend = opened(device, CudaSettings(graphs=graphs))  # type: ignore[arg-type]
        slot = filled(backend, some_tiles(5))
        begun = len(device.journal)
        backend.submit(slot, 5)
        backend.collect(slot)
        backend.submit_picked(slot, np.array([1, 4], np.int32))
        backend.collect_picked(slot)
        calls = [call for call, _ in device.journal[begun:]]
        assert (calls.count("launch"), calls.count("enqueue")) == ((2, 0) if graphs == "on" else (0, 2))
        assert f"graphs {graphs}" in backend.about
        found.append((slot.score[:5].copy(), slot.classes[:2].copy(), slot.confidence[:2].copy()))
        backend.close()
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_binding_without_graphs_says_so() -> None:
    backend = opened(RecordingDevice(has_graphs=False))
    assert "graphs none through recording without graphs" in backend.about
    backend.close()


@pytest.mark.parametrize("picked_per_frame", [0, 1, 4])
def test_bulk_copies_the_next_batch_before_it_waits_for_this_one(tmp_path: Path, picked_per_frame: int) -> None:
    bundle = write_local(tmp_path / "local")
    device = RecordingDevice(eager=0.5)
    backend = opened(device, sizes=(1, 2, 4, 8))
    frames = [frame_of(seed, 64, 64, defects=picked_per_frame) for seed in range(60)]
    settings = RunSettings(bulk=BulkSettings(slots=3, tiles=8), gate=0.6 if picked_per_frame else 1.0)
    shape = TileShape.of(bundle.manifest)
    assert shape == SHAPE
    journal = device.journal
    marks: list[tuple[str, int]] = []  # what the pipeline asked for, with its place in the journal
    copying = device.streams[0].handle

    def marked(name: str) -> Any:
        real = getattr(backend, name)

        def call(slot: Any, *rest: Any) -> Any:
            marks.append((name, len(journal)))
            return real(slot, *rest)

        return call

    for name in ("submit", "submit_picked", "collect_picked"):
        setattr(backend, name, marked(name))
    with Session(bundle, [iter(frames)], settings, backend=lambda: backend, live=False) as session:
        results = list(session)
    assert [result.item.sequence for result in results] == list(range(60))
    assert all(result.verdict.reasons == () or "engine" not in result.verdict.reasons[0] for result in results)
    if picked_per_frame == 0:
        assert not [name for name, _ in marks if name == "submit_picked"]
        return
    submits = [place for name, place in marks if name == "submit"]
    waits = [place for name, place in marks if name == "collect_picked"]
    assert len(submits) == len(waits)
    for following, wait in zip(submits[1:], waits, strict=False):
        copy = next(n for n in range(following, len(journal)) if journal[n] == ("copy", copying))
        assert copy < wait, "the copy of batch n + 1 comes after the wait for stage 2 of batch n"
    assert device.ledger.empty


def test_a_slot_that_nobody_holds_is_given_back_by_the_next_one() -> None:
    device = RecordingDevice()
    backend = opened(device)
    held = []
    for tiles in (4, 8, 16, 4, 8, 16, 4, 8, 16):
        slot = backend.make_slot(tiles)
        held.append(device.ledger.nbytes["memory"])
        del slot
    assert held[:3] == held[3:6] == held[6:]
    busy = backend.make_slot(4)
    backend.submit(busy, 4)
    del busy  # at work: it stays until that is over
    alive = device.ledger.alive["pinned"]
    other = backend.make_slot(4)
    assert device.ledger.alive["pinned"] == 2 * alive
    del other
    backend.close()
    assert device.ledger.empty


def test_slots_keep_their_results_after_closing() -> None:
    tiles = some_tiles(3)
    device = RecordingDevice()
    backend = opened(device)
    slot = filled(backend, tiles)
    seen = slot.pixels, slot.classes, slot.confidence
    backend.submit(slot, 3)
    backend.collect(slot)
    backend.close()
    backend.close()
    np.testing.assert_allclose(slot.score[:3], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)
    for array in (slot.pixels, slot.classes, slot.confidence):
        assert not any(np.shares_memory(array, pinned) for pinned in seen)
    assert device.ledger.empty


@pytest.mark.parametrize(("tiles", "capacity"), [(1, 1), (3, 4), (4, 4), (5, 5), (9, 9), (11, 12)])
def test_capacity_is_no_larger_than_batches_need(tiles: int, capacity: int) -> None:
    backend = opened(RecordingDevice(), sizes=(1, 2, 4))
    assert backend.make_slot(tiles).capacity == capacity
    backend.close()


def test_sizes_end_where_the_stages_do() -> None:
    device = RecordingDevice()
    stages = {"localization": LocalStage(device, largest=8), "confidence": LocalStage(device, largest=5)}
    backend = CudaBackend(device, stages, SHAPE, name="fake", about="a fake")
    assert backend.sizes == (1, 2, 4)
    backend.close()
    device = RecordingDevice()
    stages = {"localization": LocalStage(device, largest=8), "confidence": LocalStage(device, largest=5)}
    with pytest.raises(UsageError, match="no size is that small"):
        CudaBackend(device, stages, SHAPE, name="fake", about="a fake", sizes=(8, 16))
    assert device.ledger.empty


def test_mapped_memory_that_is_not_to_be_had() -> None:
    device = RecordingDevice(NO_MAPPING)
    with pytest.raises(UsageError, match="cannot map the host's memory"):
        opened(device, CudaSettings(memory="mapped"))
    assert device.ledger.empty


def test_a_time_limit_never_blocks_and_the_spin_is_short() -> None:
    device = RecordingDevice()
    backend = opened(device)
    slot = backend.make_slot(4)
    backend.submit(slot, 4)
    device.hangs = True
    begun = len(device.journal)
    assert not backend.collect(slot, 0.0)
    assert not backend.collect(slot, 0.01)
    calls = [call for call, _ in device.journal[begun:]]
    assert "wait" not in calls
    assert len(calls) < 2000  # of some 50 us of asking, then every 100 us
    with pytest.raises(RuntimeError, match="still at work"):
        backend.submit(slot, 4)
    device.hangs = False
    assert backend.collect(slot, 1.0)
    backend.close()


def test_another_thread_makes_the_device_its_own() -> None:
    device = RecordingDevice()
    opened_there: list[CudaBackend] = []
    thread = Thread(target=lambda: opened_there.append(opened(device)))
    thread.start()
    thread.join()
    (backend,) = opened_there
    assert ("make_current", None) not in device.journal
    slot = backend.make_slot(1)
    backend.submit(slot, 1)
    backend.collect(slot)
    assert sum(call == "make_current" for call, _ in device.journal) == 1
    backend.close()


def test_a_thread_that_cannot_make_the_device_its_own_leaves_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    device = RecordingDevice()
    backend, raised = opened(device), list[BaseException]()
    slot = backend.make_slot(1)
    backend.submit(slot, 1)

    def collect() -> None:
        try:
            backend.collect(slot)
        except BackendFailed as exc:
            raised.append(exc)

    def refuse() -> None:
        raise BackendFailed("cuCtxSetCurrent gave CUDA_ERROR_INVALID_CONTEXT")

    with monkeypatch.context() as patched:
        patched.setattr(device, "make_current", refuse)
        thread = Thread(target=collect)
        thread.start()
        thread.join()
    assert "failed in the localization stage" in str(raised[0])
    backend.submit(slot, 1)  # after a failure a slot has none
    assert backend.collect(slot)
    backend.close()


def test_a_thread_with_the_number_of_one_that_has_ended_is_another() -> None:
    """Linux gives a thread's number to the next one, and no context is current in that."""
    device, found = RecordingDevice(), list[Any]()

    def run(work: Callable[[], object]) -> int | None:
        thread = Thread(target=work)
        thread.start()
        thread.join()
        return thread.ident

    number = run(lambda: found.append(opened(device)))
    (backend,) = found

    def make() -> None:
        if get_ident() == number:
            found.append(backend.make_slot(1))

    for _ in range(200):
        run(make)
        if len(found) > 1:
            break
    else:
        pytest.skip("this system gives no number twice")
    assert ("make_current", None) in device.journal
    backend.close()


def test_the_calls_of_a_batch() -> None:
    """All of them, with graphs: ten, on three streams."""
    device = RecordingDevice()
    backend = opened(device)
    copying, computing, returning = (stream.handle for stream in device.streams)
    slot = backend.make_slot(4)
    begun = len(device.journal)
    backend.submit(slot, 4)
    backend.collect(slot)
    backend.submit_picked(slot, np.arange(2, dtype=np.int32))
    told = [entry for entry in device.journal[begun:] if entry[0] not in ("done", "wait")]
    assert told == [
        ("copy", copying),
        ("record", copying),
        ("wait_for", computing),
        ("launch", computing),
        ("record", computing),
        ("launch", computing),
        ("record", computing),
        ("wait_for", returning),
        ("copy", returning),
        ("record", returning),
    ]
    assert all(one != other for one, other in pairwise((copying, computing, returning)))
    backend.close()
