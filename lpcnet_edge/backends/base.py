"""The seam between the pipeline and whatever computes: reusable slots, and a backend that never blocks on submit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 64
"""Bytes; a cache line, and the widest vector of x86 and ARM."""


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A zeroed array whose first byte lies at a multiple of ``ALIGNMENT``."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(kind).reshape(shape)


Memory = Callable[[int], NDArray[np.uint8]]
"""Gives so many zeroed bytes, (n,) uint8, whose first lies at a multiple of ``ALIGNMENT``."""


def plain_memory(size: int) -> NDArray[np.uint8]:
    """``Memory`` of this process."""
    return aligned((size,), np.uint8)


@dataclass(eq=False)
class Slot:
    """One reusable set of buffers for N tiles of S x S pixels, made once by :meth:`Backend.make_slot`.

    The pipeline writes ``pixels`` and reads the rest; between a submit and its collect it touches none of them.

    Attributes
    ----------
    pixels
        (N, S, S) or (N, S, S, 3) uint8.
    score
        (N,) float32, after :meth:`Backend.collect`: that of each submitted tile.
    classes, confidence
        (N, S, S) uint8, after :meth:`Backend.collect_picked`: row ``i`` is that of ``picked[i]``.
    own
        What the backend keeps with the slot: embeddings, device memory, work in flight.
    """

    pixels: NDArray[np.uint8]
    score: NDArray[np.float32]
    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    own: Any = field(default=None, repr=False)

    @property
    def capacity(self) -> int:
        """N."""
        return len(self.pixels)


def slot_in(memory: Memory, shape: tuple[int, ...]) -> Slot:
    """A slot whose ``pixels`` have this shape, (N, S, S) or (N, S, S, 3); its arrays lie in one block of ``memory``.

    Where each lies follows from the shape, so that two processes find the same in a block that they share.
    """
    wanted = (shape, np.uint8), (shape[:1], np.float32), (shape[:3], np.uint8), (shape[:3], np.uint8)
    sizes = [int(np.prod(each, dtype=np.int64)) * np.dtype(kind).itemsize for each, kind in wanted]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    block = memory(starts.pop())
    return Slot(*(
        block[start : start + size].view(kind).reshape(each)
        for start, size, (each, kind) in zip(starts, sizes, wanted, strict=True)
    ))  # fmt: skip


class Backend(Protocol):
    """Both stages, ready to compute on slots. Work of all slots is done in the order of its submission.

    One thread uses a backend. ``submit`` and ``submit_picked`` start work and return; a slot has one piece of work at a
    time. After a failure the slot has none and may be submitted again.

    Attributes
    ----------
    name
        Recorded in every verdict, such as ``openvino``.
    about
        One line on what was opened: version, device, threads, batch.
    """

    name: str
    about: str

    def make_slot(self, tiles: int) -> Slot:
        """A slot for at least ``tiles`` tiles."""

    def submit(self, slot: Slot, count: int) -> None:
        """Start stage 1 on the first ``count`` tiles."""

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        """Wait for stage 1: True when ``slot.score[:count]`` is there, False when the time is up and it still runs.

        Raises :class:`~lpcnet_edge.errors.BackendFailed`, from here or from the submit.
        """

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        """Start stage 2 on the tiles ``picked`` (M,), of those that stage 1 has seen: ascending, none twice."""

    def collect_picked(self, slot: Slot, timeout_s: float | None = None) -> bool:
        """Wait for stage 2, as :meth:`collect` does: ``slot.classes[:M]`` and ``slot.confidence[:M]``."""

    def close(self) -> None:
        """Wait for what still runs and let go of everything; closing twice is fine."""


@runtime_checkable
class HostBackend(Backend, Protocol):
    """A backend that computes on any memory of the host, so that another process may share its slots."""

    def make_slot_in(self, tiles: int, memory: Memory) -> Slot:
        """As :meth:`make_slot`, with the slot's arrays in one block of ``memory``."""
