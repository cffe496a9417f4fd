"""The device layer on a real GPU, through each binding that is installed. Run with ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from device_contract import CHECKS, Open, filled, host

from lpcnet_edge.backends.cuda.device import Device, Stream
from lpcnet_edge.backends.cuda.open import Binding, open_device
from lpcnet_edge.errors import MissingDevice, MissingLibrary

pytestmark = pytest.mark.gpu


@pytest.fixture(params=[binding for binding in get_args(Binding) if binding != "auto"])
def opener(request: pytest.FixtureRequest) -> Open:
    """Opens a device; skips where there is none, or not this binding."""
    try:
        open_device(request.param).close()
    except (MissingDevice, MissingLibrary) as exc:
        pytest.skip(str(exc))
    return lambda: open_device(request.param)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Open], None], opener: Open) -> None:
    check(opener)


def milliseconds(device: Device, streams: list[Stream], enqueue: Callable[[Stream], None]) -> float:
    """From the first stream's beginning to the end of all of them."""
    start, end = device.event(timing=True), device.event(timing=True)
    streams[0].record(start)
    for stream in streams[1:]:
        stream.wait_for(start)
    for stream in streams:
        enqueue(stream)
    for stream in streams[1:]:
        mark = device.event()
        stream.record(mark)
        streams[0].wait_for(mark)
    streams[0].record(end)
    end.wait()
    return end.ms_since(start)


def test_copies_run_beside_other_work(opener: Open) -> None:
    """A copy from pinned memory and work on the device take, on two streams, clearly less than one after the other."""
    with opener() as device:
        if device.properties.integrated:
            pytest.skip("an integrated GPU's copies and work share one memory")
        nbytes = 128 << 20
        sent, there = filled(device, nbytes), device.memory(nbytes)
        one, two = device.memory(nbytes), device.memory(nbytes)
        copying, working = device.stream(), device.stream()

        def copy(stream: Stream) -> None:
            stream.copy(there.address, host(sent), nbytes)

        def work(stream: Stream) -> None:
            for _ in range(rounds):
                stream.copy(two.address, one.address, nbytes)

        def both(stream: Stream) -> None:
            (copy if stream is copying else work)(stream)

        rounds = 1
        milliseconds(device, [copying, working], both)
        alone = min(milliseconds(device, [copying], copy) for _ in range(3))
        rounds = max(1, round(alone / min(milliseconds(device, [working], work) for _ in range(3))))
        working_alone = min(milliseconds(device, [working], work) for _ in range(3))
        together = min(milliseconds(device, [copying, working], both) for _ in range(3))
        assert together < alone + working_alone - 0.5 * min(alone, working_alone), (alone, working_alone, together)


def test_graphs_follow_plain_work_bit_by_bit(opener: Open) -> None:
    with opener() as device:
        if not device.has_graphs:
            pytest.skip(f"{device.binding} has no graphs")
        stream, sent = device.stream(), filled(device, 1 << 20)
        there, plain, replayed = device.memory(1 << 20), device.pinned(1 << 20), device.pinned(1 << 20)

        def enqueue(back: Any) -> None:
            stream.copy(there.address, host(sent), 1 << 20)
            stream.copy_2d(host(back), 512, there.address, 1024, 512, 1024)

        with stream.capture() as captured:
            enqueue(replayed)
        enqueue(plain)
        for _ in range(1000):
            captured.graph.launch(stream)
        stream.synchronize()
        assert (replayed.array((1 << 20,), "u1") == plain.array((1 << 20,), "u1")).all()
