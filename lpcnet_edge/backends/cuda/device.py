"""What the pipeline needs of a CUDA device, as protocols: ten primitives, two bindings (``cuda-bindings``, ``pycuda``).

Every call that CUDA refuses raises :class:`~lpcnet_edge.errors.BackendFailed` or, where there is nothing to open,
``MissingDevice`` / ``MissingLibrary``, with CUDA's name of the error, the call and the mend. What a device made is
counted in its :class:`Ledger`; closing the device gives back all that is left. One thread uses a device.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import DTypeLike, NDArray

MemoryMode = Literal["staged", "mapped"]
"""``staged``: pinned host memory and copies. ``mapped``: engines read and write pinned host memory, for GPUs that share
the host's memory."""


@dataclass(frozen=True)
class Properties:
    """What is asked of a device once.

    Attributes
    ----------
    name, compute_capability
        As in ``Orin``, ``8.7``.
    integrated
        Whether the GPU shares the host's memory (``cudaDevAttrIntegrated``).
    maps_host
        Whether it can read pinned host memory in place (``cudaDevAttrCanMapHostMemory``).
    memory_bytes
        Of the device.
    multiprocessors, clock_khz, memory_clock_khz, memory_bus_bits
        For the roofline; 0 where the driver does not say.
    """

    name: str
    compute_capability: str
    integrated: bool
    maps_host: bool
    memory_bytes: int
    multiprocessors: int = 0
    clock_khz: int = 0
    memory_clock_khz: int = 0
    memory_bus_bits: int = 0


@dataclass
class Ledger:
    """What is held of a device: objects alive by kind, and their bytes. All zero when everything was given back."""

    alive: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)
    made: int = 0

    def add(self, kind: str, nbytes: int = 0) -> None:
        """Count one made."""
        self.alive[kind] += 1
        self.nbytes[kind] += nbytes
        self.made += 1

    def remove(self, kind: str, nbytes: int = 0) -> None:
        """Count one given back."""
        self.alive[kind] -= 1
        self.nbytes[kind] -= nbytes

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not any(self.alive.values()) and not any(self.nbytes.values())


class Buffer(Protocol):
    """Memory that a device can reach.

    Attributes
    ----------
    address
        By which the device reaches it; of ``pinned`` memory only where that was made with ``mapped=True``, else 0.
    nbytes
        Its size.
    """

    address: int
    nbytes: int

    def close(self) -> None:
        """Give it back; twice is fine."""


class HostBuffer(Buffer, Protocol):
    """Pinned host memory."""

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A view of its first bytes; it must not be used after :meth:`close`."""


class Event(Protocol):
    """A mark in a stream."""

    def done(self) -> bool:
        """Whether the work before the mark is over, without waiting; raises what that work failed with."""

    def wait(self) -> None:
        """Block the thread, without spinning, until it is."""

    def ms_since(self, earlier: Event) -> float:
        """Between two marks that are done, both made with ``timing=True``."""

    def close(self) -> None:
        """Give it back."""


class Graph(Protocol):
    """Captured work, ready to be launched again and again."""

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it at once."""

    def close(self) -> None:
        """Give it back."""


class Stream(Protocol):
    """A queue of work. ``handle`` is the ``cudaStream_t`` as a number, for libraries that enqueue on it."""

    handle: int

    def record(self, event: Event) -> None:
        """Mark what is enqueued so far."""

    def wait_for(self, event: Event) -> None:
        """What is enqueued from here on begins after the mark; the host does not wait."""

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses, of whichever kind, asynchronously: host memory must be pinned.

        The host's address of pinned memory is that of its array, ``array.ctypes.data``.
        """

    def copy_2d(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width_bytes: int, rows: int
    ) -> None:
        """Copy rows that lie ``pitch`` bytes apart."""

    def capture(self) -> AbstractContextManager[Capture]:
        """Capture what is enqueued inside, instead of running it; ``BackendFailed`` where there are no graphs."""

    def synchronize(self) -> None:
        """Wait for everything; for opening and closing only."""

    def close(self) -> None:
        """Give it back."""


class Capture(Protocol):
    """What :meth:`Stream.capture` gives; ``graph`` is set when the block has ended."""

    graph: Graph


class Device(Protocol):
    """A CUDA device through one binding; a context manager that gives back all it made.

    Attributes
    ----------
    binding
        ``cuda-bindings`` or ``pycuda``.
    has_graphs
        Whether the binding can capture graphs.
    properties, ledger
        As above.
    """

    binding: str
    has_graphs: bool
    properties: Properties
    ledger: Ledger

    def __enter__(self) -> Device: ...

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None: ...

    def pinned(self, nbytes: int, *, mapped: bool = False, write_combined: bool = False) -> HostBuffer:
        """Pinned host memory, zeroed; ``mapped``: the device reads and writes it in place, at its ``address``."""

    def memory(self, nbytes: int) -> Buffer:
        """Device memory."""

    def stream(self) -> Stream:
        """A non-blocking stream."""

    def event(self, *, timing: bool = False) -> Event:
        """An event whose :meth:`Event.wait` blocks instead of spinning."""

    def free_bytes(self) -> int:
        """Device memory that is free now."""

    def make_current(self) -> None:
        """Let the calling thread use the device, where the binding keeps a current context for each thread."""

    def close(self) -> None:
        """Wait for its streams and give back everything; twice is fine."""
