"""A CUDA device in plain memory: it keeps a journal, and does work late and in the worst order that was allowed.

Streams are queues. Nothing in them is done before the host waits for it, or a seeded die says so; and then only what
streams and events really make it depend on. A dependency that was forgotten so becomes wrong data. Addresses are those
of a space of its own, so that a host's pointer given to a stage, or an address past the end of a buffer, is an error.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from local_bundle import LIMIT, SIDE, heat_of
from numpy.typing import DTypeLike, NDArray

from lpcnet_edge.backends.base import aligned
from lpcnet_edge.backends.cuda.device import Ledger, Properties
from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.errors import BackendFailed, DeviceLost

DISCRETE = Properties("fake", "8.9", integrated=False, maps_host=True, memory_bytes=1 << 30)
NO_MAPPING = Properties("fake", "8.9", integrated=False, maps_host=False, memory_bytes=1 << 30)
ORIN = Properties("fake", "8.7", integrated=True, maps_host=True, memory_bytes=1 << 30)

SHAPE = TileShape(SIDE, 1, 2 * (SIDE // 16) ** 2 * 4)
CALLS_THAT_WAIT = ("wait", "synchronize", "pinned", "memory")  # CUDA's allocations wait for the device too


@dataclass(eq=False)
class Work:
    """One entry of a stream: done once its predecessor in the stream and what it waits for are."""

    do: Callable[[], object]
    before: Work | None
    after: Work | None = None
    is_done: bool = False


class Held:
    kind = ""

    def __init__(self, device: RecordingDevice, nbytes: int = 0) -> None:
        self.device, self.nbytes, self.is_open = device, nbytes, True
        device.ledger.add(self.kind, nbytes)
        device.held.append(self)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.device.ledger.remove(self.kind, self.nbytes)
            self.device.held.remove(self)
            self.device.note(f"close {self.kind}", closing=True)


class Memory(Held):
    """Device memory: what nobody wrote is garbage. It must not be given back under work that may touch it."""

    kind = "memory"

    def __init__(self, device: RecordingDevice, nbytes: int, *, address: bool = True) -> None:
        super().__init__(device, nbytes)
        self.content = aligned((nbytes,), np.uint8)
        self.content[:] = 0xA5
        self.address = device.next_address if address else 0
        device.next_address += -(-nbytes // 256) * 256 + 4096  # aligned as CUDA's are

    def close(self) -> None:
        if self.is_open and not self.device.is_idle:
            self.device.closed_under_work += 1
        super().close()


class Pinned(Memory):
    kind = "pinned"

    def __init__(self, device: RecordingDevice, nbytes: int, mapped: bool) -> None:
        super().__init__(device, nbytes, address=mapped)
        self.content[:] = 0

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        kind = np.dtype(dtype)
        return self.content[: int(np.prod(shape)) * kind.itemsize].view(kind).reshape(shape)


class Event(Held):
    kind = "event"
    marked: Work | None = None

    def done(self) -> bool:
        self.device.note("done")
        self.device.advance(self.marked)
        return self.marked is None or self.marked.is_done

    def wait(self) -> None:
        self.device.note("wait")
        self.device.finish(self.marked)

    def ms_since(self, earlier: Event) -> float:
        return 0.0


@dataclass
class Graph:
    """Closed by the device like everything else; what it holds runs in one piece."""

    steps: list[Callable[[], object]]
    held: Held

    def launch(self, stream: Stream) -> None:
        assert self.held.is_open
        self.held.device.note("launch", stream)
        stream.put(lambda: [step() for step in self.steps])

    def close(self) -> None:
        self.held.close()


class GraphHeld(Held):
    kind = "graph"


@dataclass
class Capture:
    graph: Graph | None = None


class Stream(Held):
    kind = "stream"

    def __init__(self, device: RecordingDevice) -> None:
        super().__init__(device)
        self.last: Work | None = None
        self.waits_for: Work | None = None
        self.captured: list[Callable[[], object]] | None = None
        self.handle = len(device.streams)
        self.queue: deque[Work] = deque()
        device.streams.append(self)

    def put(self, do: Callable[[], object]) -> Work:
        assert self.is_open
        if self.captured is not None:
            self.captured.append(do)
            return Work(do, None)
        self.last = Work(do, self.last, self.waits_for)
        self.waits_for = None
        self.queue.append(self.last)
        self.device.roll()
        return self.last

    def record(self, event: Event) -> None:
        self.device.note("record", self)
        event.marked = self.put(lambda: None)

    def wait_for(self, event: Event) -> None:
        self.device.note("wait_for", self)
        assert self.captured is None
        marked = event.marked  # as it is now: marked again later, this wait stays with the first
        self.last = Work(lambda: None, self.last, marked)
        self.queue.append(self.last)
        self.device.roll()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.device.note("copy", self)
        into, of = self.device.view(target, nbytes, host=True), self.device.view(source, nbytes, host=True)
        self.put(lambda: np.copyto(into, of))

    def copy_2d(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        self.device.note("copy", self)
        assert width <= min(target_pitch, source_pitch)
        pairs = [
            (
                self.device.view(target + n * target_pitch, width, host=True),
                self.device.view(source + n * source_pitch, width, host=True),
            )
            for n in range(rows)
        ]

        def both() -> None:
            for into, of in pairs:
                np.copyto(into, of)

        self.put(both)

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        self.device.note("capture", self)
        capture, self.captured = Capture(), []
        self.device.capturing = True
        try:
            yield capture
            steps = self.captured
        finally:
            self.captured, self.device.capturing = None, False
        capture.graph = Graph(steps, GraphHeld(self.device))

    def synchronize(self) -> None:
        self.device.note("synchronize", self)
        self.device.finish(self.last)


class RecordingDevice:
    """See the module.

    Parameters
    ----------
    eager
        Chance, at every call, that each stream goes on by itself: 0 does what is waited for and no more, 1 does all
        that its dependencies allow at once, the streams in random order.
    fail_at
        Number of the call that fails; ``sticky``: and all after it, as on a lost device.
    fail_closing
        Whatever is given back is given back, and says that it failed.

    Attributes
    ----------
    hangs
        Nothing gets done by being asked about.
    """

    def __init__(
        self,
        properties: Properties = DISCRETE,
        *,
        has_graphs: bool = True,
        eager: float = 0.0,
        seed: int = 0,
        fail_at: int | None = None,
        sticky: bool = False,
        fail_closing: bool = False,
    ) -> None:
        self.binding = "recording" if has_graphs else "recording without graphs"
        self.has_graphs, self.properties = has_graphs, properties
        self.ledger = Ledger()
        self.journal: list[tuple[str, int | None]] = []
        self.calls = 0
        self.fail_at, self.sticky, self.fail_closing, self.hangs = fail_at, sticky, fail_closing, False
        self.held: list[Held] = []
        self.streams: list[Stream] = []
        self.next_address = 0x7F00_0000_0000
        self.capturing = False
        self.closed_under_work = 0
        self._eager, self._die, self._rolling = eager, random.Random(seed), False

    def note(self, call: str, stream: Stream | None = None, *, closing: bool = False) -> None:
        self.journal.append((call, None if stream is None else stream.handle))
        if self.capturing:
            assert call in ("copy", "enqueue", "record", "capture"), f"{call} while a graph is captured"
        if closing:
            if self.fail_closing:
                raise BackendFailed("CUDA_ERROR_LAUNCH_FAILED in closing")
            return
        self.calls += 1
        if self.fail_at is not None and (self.calls == self.fail_at or (self.sticky and self.calls > self.fail_at)):
            error = DeviceLost if self.sticky else BackendFailed
            raise error(f"CUDA_ERROR_UNKNOWN in {call}, call {self.calls}")

    def view(self, address: int, nbytes: int, *, host: bool = False) -> NDArray[np.uint8]:
        """The bytes at an address; ``host``: that may be the host's address of pinned memory."""
        for held in self.held:
            if not isinstance(held, Memory):
                continue
            starts = [held.address] if held.address else []
            if host and isinstance(held, Pinned):
                starts.append(held.content.ctypes.data)
            for start in starts:
                if start <= address < start + held.nbytes:
                    assert address + nbytes <= start + held.nbytes, "past the end of a buffer"
                    return held.content[address - start : address - start + nbytes]
        raise AssertionError(f"{address:#x} is no address that was given")

    def pinned(self, nbytes: int, *, mapped: bool = False, write_combined: bool = False) -> Pinned:
        self.note("pinned")
        assert not mapped or self.properties.maps_host
        return Pinned(self, nbytes, mapped)

    def memory(self, nbytes: int) -> Memory:
        self.note("memory")
        return Memory(self, nbytes)

    def stream(self) -> Stream:
        self.note("stream")
        return Stream(self)

    def event(self, *, timing: bool = False) -> Event:
        self.note("event")
        return Event(self)

    @property
    def is_idle(self) -> bool:
        return all(work.is_done for stream in self.streams for work in stream.queue)

    def free_bytes(self) -> int:
        return 1 << 30

    def make_current(self) -> None:
        self.note("make_current")

    def close(self) -> None:
        self.note("close device", closing=True)

    def finish(self, work: Work | None) -> None:
        """Do a piece of work, after all that it depends on."""
        pending = [work]
        while pending:
            at = pending[-1]
            if at is None or at.is_done:
                pending.pop()
                continue
            needed = [other for other in (at.before, at.after) if other is not None and not other.is_done]
            if needed:
                pending += needed
                continue
            at.do()
            at.is_done, at.before, at.after = True, None, None
            pending.pop()

    def advance(self, work: Work | None) -> None:
        """One step towards a piece of work, for a host that asks for it."""
        if self.hangs:
            return
        while work is not None and not work.is_done:
            needed = [other for other in (work.before, work.after) if other is not None and not other.is_done]
            if not needed:
                work.do()
                work.is_done, work.before, work.after = True, None, None
                return
            work = needed[0]

    def roll(self) -> None:
        """Let streams go on by themselves, as far as they may."""
        for stream in self.streams:
            while stream.queue and stream.queue[0].is_done:
                stream.queue.popleft()
        if self.hangs or self._rolling or self._die.random() >= self._eager:
            return
        self._rolling = True
        moved = True
        while moved:
            moved = False
            for stream in self._die.sample(self.streams, len(self.streams)):
                while stream.queue and (
                    stream.queue[0].is_done
                    or all(o is None or o.is_done for o in (stream.queue[0].before, stream.queue[0].after))
                ):
                    self.finish(stream.queue.popleft())
                    moved = True
        self._rolling = False


@dataclass(eq=False)
class Bound:
    stage: LocalStage
    do: Callable[[], object]
    ran: bool = False
    is_open: bool = True

    def enqueue(self, stream: Stream) -> None:
        device = self.stage.device
        device.note("enqueue", stream)
        assert self.is_open
        assert self.ran or not device.capturing, "captured before it ran once"
        if self.stage.breaks:
            raise ValueError("out of luck")
        self.ran = True
        stream.put(self.do)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.stage.device.ledger.remove("binding")
            self.stage.bindings.remove(self)


@dataclass(eq=False)
class LocalStage:
    """The stages of ``local_bundle``, in numpy, on a recording device."""

    device: RecordingDevice
    largest: int = 32
    is_open: bool = True
    breaks: bool = False
    bindings: list[Bound] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device.ledger.add("stage")

    def bind(self, addresses: Mapping[str, int], rows: Mapping[str, int], lane: int = 0) -> Bound:
        self.device.note("bind")
        assert max(rows.values()) <= self.largest
        cells = SIDE // 16
        kinds: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            "pixels": ((SIDE, SIDE), np.uint8),
            "embedding": ((2, cells, cells), np.float32),
            "score": ((), np.float32),
            "picked": ((), np.int32),
            "classes": ((SIDE, SIDE), np.uint8),
            "confidence": ((SIDE, SIDE), np.uint8),
        }
        at: dict[str, NDArray[Any]] = {}
        for name, address in addresses.items():
            assert address % 256 == 0, f"{name} does not begin where TensorRT demands"
            shape, kind = kinds[name]
            nbytes = rows[name] * int(np.prod(shape, dtype=int)) * np.dtype(kind).itemsize
            at[name] = self.device.view(address, nbytes).view(kind).reshape((rows[name], *shape))

        def localize() -> None:
            heat = heat_of(at["pixels"])
            at["embedding"][:, 0], at["embedding"][:, 1] = heat, 1 - heat
            at["score"][:] = heat.max(axis=(1, 2))

        def classify() -> None:
            picked = at["picked"]
            assert (picked >= 0).all()
            assert (picked < rows["pixels"]).all(), "an index of no tile"
            at["classes"][:] = at["pixels"][picked] > LIMIT
            heat = at["embedding"][picked, 0].repeat(16, axis=1).repeat(16, axis=2)
            with np.errstate(invalid="ignore", over="ignore"):  # garbage is garbage
                at["confidence"][:] = np.rint(255 * heat).astype(np.uint8)

        bound = Bound(self, classify if "picked" in at else localize)
        self.device.ledger.add("binding")
        self.bindings.append(bound)
        return bound

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.device.ledger.remove("stage")
            for bound in list(self.bindings):
                bound.close()
