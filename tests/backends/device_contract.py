"""What holds for every CUDA device behind the device layer: each check takes a function that opens one.

Run on a real GPU by ``test_device_gpu.py``, and on the emulated driver by ``emulated/child.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lpcnet_edge.backends.cuda.device import Buffer, Device, HostBuffer, Stream
from lpcnet_edge.errors import BackendFailed, UsageError

Open = Callable[[], Device]


def bytes_of(buffer: HostBuffer) -> Any:
    return buffer.array((buffer.nbytes,), np.uint8)


def host(buffer: HostBuffer) -> int:
    return int(bytes_of(buffer).ctypes.data)


def filled(device: Device, nbytes: int, seed: int = 0) -> HostBuffer:
    buffer = device.pinned(nbytes)
    bytes_of(buffer)[:] = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    return buffer


def fetch(device: Device, stream: Stream, source: Buffer) -> Any:
    back = device.pinned(source.nbytes)
    stream.copy(host(back), source.address, source.nbytes)
    stream.synchronize()
    return bytes_of(back).copy()


def properties_are_told(open_device: Open) -> None:
    with open_device() as device:
        found = device.properties
        assert found.name
        assert int(found.compute_capability.split(".")[0]) >= 5
        assert 0 < device.free_bytes() <= found.memory_bytes
        assert found.multiprocessors > 0


def pinned_memory_is_zeroed(open_device: Open) -> None:
    with open_device() as device:
        for wishes in ({}, {"mapped": True}, {"write_combined": True}, {"mapped": True, "write_combined": True}):
            buffer = device.pinned(4099, **wishes)
            assert not bytes_of(buffer).any()
            assert bool(buffer.address) == ("mapped" in wishes)
        view = device.pinned(48).array((2, 3), np.int64)
        view[1, 2] = 7
        assert view.shape == (2, 3)


def copies_come_back(open_device: Open) -> None:
    with open_device() as device:
        stream, there, further = device.stream(), device.memory(100_003), device.memory(100_003)
        sent = filled(device, 100_003)
        stream.copy(there.address, host(sent), sent.nbytes)
        stream.copy(further.address, there.address, sent.nbytes)
        assert (fetch(device, stream, further) == bytes_of(sent)).all()
        part = device.pinned(10)
        stream.copy(host(part), there.address + 5, 10)
        stream.synchronize()
        assert (bytes_of(part) == bytes_of(sent)[5:15]).all()


def rectangles_come_back(open_device: Open) -> None:
    with open_device() as device:
        stream, there = device.stream(), device.memory(64 * 7)
        sent, back = filled(device, 100 * 7), device.pinned(33 * 7)
        stream.copy_2d(there.address, 64, host(sent), 100, 33, 7)
        stream.copy_2d(host(back), 33, there.address, 64, 33, 7)
        stream.synchronize()
        assert (back.array((7, 33), np.uint8) == sent.array((7, 100), np.uint8)[:, :33]).all()


def streams_wait_for_each_other(open_device: Open) -> None:
    with open_device() as device:
        nbytes = 8 << 20
        one, two, mark = device.stream(), device.stream(), device.event()
        sent, there, back = filled(device, nbytes), device.memory(nbytes), device.pinned(nbytes)
        for _ in range(3):
            bytes_of(back)[:] = 0
            one.copy(there.address, host(sent), nbytes)
            one.record(mark)
            two.wait_for(mark)
            two.copy(host(back), there.address, nbytes)
            end = device.event()
            two.record(end)
            end.wait()
            assert end.done()
            assert (bytes_of(back) == bytes_of(sent)).all()
            bytes_of(sent)[:] += 1


def events_tell_time(open_device: Open) -> None:
    with open_device() as device:
        stream, before, after, plain = (
            device.stream(),
            device.event(timing=True),
            device.event(timing=True),
            device.event(),
        )
        sent, there = filled(device, 4 << 20), device.memory(4 << 20)
        stream.record(before)
        stream.copy(there.address, host(sent), sent.nbytes)
        stream.record(after)
        stream.record(plain)
        plain.wait()
        assert after.ms_since(before) > 0
        with pytest.raises(BackendFailed, match="cuEventElapsedTime"):
            plain.ms_since(before)


def mapped_memory_is_the_devices_too(open_device: Open) -> None:
    with open_device() as device:
        if not device.properties.maps_host:
            return
        stream, there = device.stream(), device.memory(5000)
        mapped, result = device.pinned(5000, mapped=True), device.pinned(5000, mapped=True)
        bytes_of(mapped)[:] = np.arange(5000) % 251
        stream.copy(there.address, mapped.address, 5000)
        stream.copy(result.address, there.address, 5000)
        stream.synchronize()
        assert (bytes_of(result) == bytes_of(mapped)).all()


def graphs_do_what_was_captured(open_device: Open) -> None:
    with open_device() as device:
        stream, there, back = device.stream(), device.memory(5000), device.pinned(5000)
        sent = filled(device, 5000)
        if not device.has_graphs:
            with pytest.raises(BackendFailed) as caught:
                stream.capture()
            assert "graphs: off" in str(caught.value.mend)
            return
        with stream.capture() as captured:
            stream.copy(there.address, host(sent), 5000)
            stream.copy_2d(host(back), 50, there.address, 100, 50, 50)
        stream.synchronize()
        assert not bytes_of(back).any(), "captured, not run"
        for seed in range(3):
            bytes_of(sent)[:] = seed + 1
            captured.graph.launch(stream)
            stream.synchronize()
            assert (bytes_of(back)[:2500] == seed + 1).all()
            assert not bytes_of(back)[2500:].any()
        captured.graph.close()
        captured.graph.close()
        with pytest.raises(UsageError, match="graph was used after it was closed"):
            captured.graph.launch(stream)


def captures_span_streams(open_device: Open) -> None:
    with open_device() as device:
        if not device.has_graphs:
            return
        one, two, fork, join = device.stream(), device.stream(), device.event(), device.event()
        sent, there, back = filled(device, 600), device.memory(600), device.pinned(600)
        with one.capture() as captured:
            one.copy(there.address, host(sent), 600)
            one.record(fork)
            two.wait_for(fork)
            two.copy(host(back), there.address, 600)
            two.record(join)
            one.wait_for(join)
        captured.graph.launch(one)
        one.synchronize()
        assert (bytes_of(back) == bytes_of(sent)).all()

        def never_joined() -> None:
            with one.capture():
                one.record(fork)
                two.wait_for(fork)
                two.copy(host(back), there.address, 600)

        with pytest.raises(BackendFailed):
            never_joined()
        assert device.ledger.alive["graph"] == 1


def a_capture_that_fails_leaves_its_stream(open_device: Open) -> None:
    with open_device() as device:
        if not device.has_graphs:
            return
        stream, there, sent = device.stream(), device.memory(100), filled(device, 100)

        def fail() -> None:
            with stream.capture():
                stream.copy(there.address, host(sent), 100)
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fail()
        with pytest.raises(BackendFailed, match="CAPTURE"), stream.capture():
            stream.synchronize()
        assert not device.ledger.alive["graph"]
        stream.copy(there.address, host(sent), 100)
        assert (fetch(device, stream, there) == bytes_of(sent)).all()


def everything_is_given_back(open_device: Open) -> None:
    device = open_device()
    kept = [device.pinned(10), device.memory(20), device.stream(), device.event(), device.event(timing=True)]
    assert device.ledger.made == 5
    assert device.ledger.nbytes == {"pinned": 10, "memory": 20, "stream": 0, "event": 0}
    kept[1].close()
    kept[1].close()
    assert device.ledger.alive["memory"] == device.ledger.nbytes["memory"] == 0
    assert not device.ledger.empty

    def fail() -> None:
        with device:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert device.ledger.empty
    device.close()
    for held in kept:
        held.close()
    assert device.ledger.empty
    assert device.ledger.made == 5


def nothing_is_used_after_its_end(open_device: Open) -> None:
    with open_device() as device:
        stream, event, other = device.stream(), device.event(), device.event()
        pinned, memory = device.pinned(8, mapped=device.properties.maps_host), device.memory(8)
        event.close()
        for use in (event.wait, event.done, lambda: stream.record(event), lambda: stream.wait_for(event)):
            with pytest.raises(UsageError, match="event was used after it was closed"):
                use()
        pinned.close()
        memory.close()
        assert (pinned.address, memory.address) == (0, 0)
        with pytest.raises(UsageError):
            pinned.array((8,), np.uint8)
        with pytest.raises(UsageError, match="address 0"):
            stream.copy(memory.address, memory.address, 8)
        stream.close()
        assert stream.handle == 0
        for use in (stream.synchronize, lambda: stream.record(other), lambda: stream.copy(1, 1, 8)):
            with pytest.raises(UsageError, match="stream was used after it was closed"):
                use()
    for use in (device.stream, device.event, device.free_bytes, device.make_current, lambda: device.memory(1)):
        with pytest.raises(UsageError, match="device was used after it was closed"):
            use()
    with pytest.raises(UsageError, match="device was used after it was closed"):
        device.pinned(1)


def impossible_wishes_are_refused(open_device: Open) -> None:
    with open_device() as device:
        for make in (device.memory, device.pinned):
            with pytest.raises(UsageError, match="at least one byte"):
                make(0)
        with pytest.raises(BackendFailed, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
            device.memory(1 << 50)
        assert "smaller batch" in str(caught.value.mend)
        with pytest.raises(UsageError, match="are 12 bytes, the buffer has 8"):
            device.pinned(8).array((3,), np.float32)
        stream, there = device.stream(), device.memory(64)
        with pytest.raises(BackendFailed, match="cuMemcpy2DAsync gave CUDA_ERROR_INVALID_VALUE"):
            stream.copy_2d(there.address, 4, there.address + 32, 4, 8, 2)  # rows wider than their distance
        assert device.ledger.alive == {"pinned": 1, "memory": 1, "stream": 1}


def another_thread_may_use_it(open_device: Open) -> None:
    with open_device() as device:
        sent, there, stream = filled(device, 1000), device.memory(1000), device.stream()
        came: list[Any] = []

        def work() -> None:
            device.make_current()
            stream.copy(there.address, host(sent), 1000)
            came.append(fetch(device, device.stream(), there) if stream.synchronize() is None else None)
            device.make_current()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (came[0] == bytes_of(sent)).all()


def another_thread_may_close_it(open_device: Open) -> None:
    device = open_device()
    device.memory(10)
    device.stream()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    assert device.ledger.empty
    copies_come_back(open_device)


def two_share_one_context(open_device: Open) -> None:
    with open_device() as one:
        there = one.memory(100)
        with open_device() as two:
            sent, stream = filled(two, 100), two.stream()
            stream.copy(there.address, host(sent), 100)
            stream.synchronize()
            kept = bytes_of(sent).copy()
        assert two.ledger.empty
        assert (fetch(one, one.stream(), there) == kept).all()


def closing_one_leaves_anothers_capture(open_device: Open) -> None:
    """As when a backend that failed is closed in the background while the next one is made."""
    with open_device() as one:
        if not one.has_graphs:
            return
        other = open_device()
        other.stream().copy(other.memory(100).address, host(filled(other, 100)), 100)
        stream, there, sent = one.stream(), one.memory(100), filled(one, 100)
        closing = threading.Thread(target=other.close)
        with stream.capture() as captured:
            stream.copy(there.address, host(sent), 100)
            closing.start()
            closing.join()
        assert other.ledger.empty
        captured.graph.launch(stream)
        assert (fetch(one, stream, there) == bytes_of(sent)).all()


def memory_stays_flat(open_device: Open) -> None:
    with open_device() as device:
        if device.properties.integrated:
            return  # what is free there is the whole machine's
        free: list[int] = []
        for _ in range(100):
            held = [device.memory(1 << 20), device.pinned(1 << 16), device.stream(), device.event()]
            for one in held:
                one.close()
            free.append(device.free_bytes())
        assert device.ledger.empty
        assert free[-1] >= free[10] - (4 << 20), "the driver may keep a little for itself"


CHECKS: tuple[Callable[[Open], None], ...] = (
    properties_are_told,
    pinned_memory_is_zeroed,
    copies_come_back,
    rectangles_come_back,
    streams_wait_for_each_other,
    events_tell_time,
    mapped_memory_is_the_devices_too,
    graphs_do_what_was_captured,
    captures_span_streams,
    a_capture_that_fails_leaves_its_stream,
    everything_is_given_back,
    nothing_is_used_after_its_end,
    impossible_wishes_are_refused,
    another_thread_may_use_it,
    another_thread_may_close_it,
    two_share_one_context,
    closing_one_leaves_anothers_capture,
    memory_stays_flat,
)
