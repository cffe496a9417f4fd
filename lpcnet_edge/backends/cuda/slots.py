"""Both stages on a CUDA device, for the pipeline: slots in pinned memory, three streams, two waits a batch.

Copies to the device, work, and copies from it each have a stream, so that the pixels of one batch travel while another
is at work. Everything is made and tried in :meth:`CudaBackend.make_slot`; afterwards nothing is allocated and nothing
waits for the device but :meth:`CudaBackend.collect` and :meth:`CudaBackend.collect_picked`, on one event each.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import current_thread
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Slot, aligned
from lpcnet_edge.backends.batches import Bucket, padded
from lpcnet_edge.backends.cuda.device import Device, Event
from lpcnet_edge.backends.cuda.launch import CONFIDENCE, LOCALIZATION, Launch, bind_all, try_out, wait_for
from lpcnet_edge.backends.cuda.memory import SlotMemory, TileShape, host_address, memory_mode, slot_memory
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.stage import Stage
from lpcnet_edge.errors import BackendFailed, LpcnetError, UsageError

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32)
"""Tiles of a batch, as far as the stages take so many."""

_MEND = "lpcnet-edge verify and show say whether the bundle is whole; try another --backend"


class _Closing(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closing)


@dataclass(eq=False)
class _Own:
    """A slot's memory, what runs on it, and its marks: pixels on the device, work done, results on the host."""

    memory: SlotMemory
    launches: dict[tuple[str, int, int], Launch]  # by stage, first tile, tiles
    copied: Event
    computed: Event
    done: Event
    scope: ExitStack
    stage: str = ""
    at_work: bool = False
    moves: list[tuple[int, int, int]] = field(default_factory=list)  # rows of results: to, from, how many


class CudaBackend:
    """A :class:`~lpcnet_edge.backends.base.Backend` made of a device and two stages, all of which it owns from here on.

    Parameters
    ----------
    name, about
        As in the protocol; how the device is used is added to ``about``.
    stages
        By name, ``localization`` and ``confidence``. They are closed before the device.
    shape
        Of a tile.
    settings
        Memory and graphs; the binding has been chosen.
    sizes
        Tiles of a batch. More tiles are computed in batches of the largest, and what is left in the smallest that
        holds it: rows without a tile compute what lies there.

    Raises
    ------
    UsageError
        The memory that was asked for is not to be had, or no size is left.
    BackendFailed
        CUDA refuses something; then everything is given back.
    """

    def __init__(
        self,
        device: Device,
        stages: Mapping[str, Stage],
        shape: TileShape,
        settings: CudaSettings | None = None,
        *,
        name: str,
        about: str,
        sizes: Sequence[int] = SIZES,
    ) -> None:
        settings = settings or CudaSettings()
        self.name = name
        self._device, self._stages, self._shape = device, dict(stages), shape
        self._thread = current_thread()  # not its number, which the next thread may have
        self._busy: dict[int, Slot] = {}  # by id(), and so kept from being dropped
        self._dropped: deque[_Own] = deque()
        self._slots: dict[int, tuple[_Own, weakref.ref[Slot]]] = {}  # by id() of the former
        self._scope = ExitStack()
        self._closed = False
        self._scope.callback(device.close)
        for stage in self._stages.values():
            self._scope.callback(stage.close)
        try:
            largest = min(stage.largest for stage in self._stages.values())
            self.sizes = tuple(sorted(size for size in sizes if size <= largest))
            if not self.sizes:
                raise UsageError(
                    f"the stages take {largest} tile(s) at most, no size is that small",
                    mend=f"give a size of 1 to {largest} tile(s)",
                )
            self.mode = memory_mode(settings, device.properties)
            self._graphs = settings.graphs == "on" and device.has_graphs
            self._copying, self._computing, self._returning = (
                self._kept(device.stream) for _ in ("to the device", "work", "to the host")
            )
        except BaseException:
            self._give_back(self._scope)
            raise
        graphs = "on" if self._graphs else "off" if settings.graphs == "off" else f"none through {device.binding}"
        self.about = (
            f"{about}, {device.properties.compute_capability} through {device.binding}, {self.mode} memory, "
            f"graphs {graphs}, batches up to {self.sizes[-1]}"
        )

    def make_slot(self, tiles: int) -> Slot:
        """A slot for at least so many tiles, every binding of it tried once; slots that nobody holds any more are
        given back first."""
        self._enter()
        while self._dropped:
            self._release(self._dropped.popleft())
        last = padded(max(tiles, 1), self.sizes)[-1]
        scope = ExitStack()
        try:
            memory = slot_memory(self._device, self._shape, last.start + last.size, self.sizes[-1], self.mode, scope)
            launches = bind_all(self._stages, memory, self.sizes, scope)
            copied, computed, done = (self._kept(self._device.event, scope) for _ in range(3))
            try_out(launches, self._computing, graphs=self._graphs)
        except Exception as exc:
            self._settle()
            self._give_back(scope)
            raise self._failed("making of a slot", exc) from exc
        own = _Own(memory, launches, copied, computed, done, scope)
        slot = Slot(memory.pixels, aligned((memory.capacity,), np.float32), memory.maps[0], memory.maps[1], own)
        self._slots[id(own)] = own, weakref.ref(slot)
        weakref.finalize(slot, self._dropped.append, own).atexit = False
        return slot

    def submit(self, slot: Slot, count: int) -> None:
        """Start stage 1 on the first ``count`` tiles."""
        own = self._begin(slot, LOCALIZATION)
        try:
            for bucket in padded(count, self.sizes):
                self._localize(own, bucket)
            self._computing.record(own.done)
        except Exception as exc:
            self._abandon(slot)
            raise self._failed(f"{LOCALIZATION} stage", exc) from exc

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        """Start stage 2 on the tiles ``picked`` (M,), ascending.

        Stages take no more than the largest size of tiles at once, also to gather from: a slot of more has blocks.
        """
        own = self._begin(slot, CONFIDENCE)
        most, row = self.sizes[-1], 0
        try:
            for start in range(0, own.memory.capacity, most):
                if own.memory.capacity > most:
                    mine = picked[slice(*np.searchsorted(picked, (start, start + most)))]
                else:
                    mine = picked
                if len(mine):
                    self._classify(own, start, mine, row)
                    row += len(mine)
            (self._computing if self.mode == "mapped" else self._returning).record(own.done)
        except Exception as exc:
            self._abandon(slot)
            raise self._failed(f"{CONFIDENCE} stage", exc) from exc

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        """Wait for what was submitted; see :func:`~lpcnet_edge.backends.cuda.launch.wait_for` for how."""
        own: _Own = slot.own
        if not own.at_work:
            return True
        try:
            self._enter()
            if not wait_for(own.done, timeout_s):
                return False
        except Exception as exc:
            self._abandon(slot)
            raise self._failed(f"{own.stage} stage", exc) from exc
        self._forget(slot)
        if own.stage == LOCALIZATION:
            for first, scores in zip(range(0, own.memory.capacity, own.memory.block), own.memory.score, strict=True):
                block = slot.score[first : first + own.memory.block]
                block[:] = scores[: len(block)]
        for target, source, count in own.moves:
            own.memory.maps[:, target : target + count] = own.memory.maps[:, source : source + count]
        return True

    collect_picked = collect

    def close(self) -> None:
        """Wait for what still runs and give back everything; what fails on the way is logged, and the rest goes on.

        Slots keep their results, in plain memory: after a failure the pipeline may still hold some to be read.
        """
        if self._closed:
            return
        self._closed = True
        for _, held in self._slots.values():
            _detach(held())
        self._try_quietly(self._enter)
        self._settle()
        self._busy.clear()
        for own, _ in list(self._slots.values()):
            self._release(own)
        self._give_back(self._scope)

    def _localize(self, own: _Own, bucket: Bucket) -> None:
        """Put a batch of stage 1 on the streams."""
        memory, launch = own.memory, own.launches[LOCALIZATION, bucket.start, bucket.size]
        if self.mode == "staged":
            tile = memory.row_bytes("pixels")
            source = host_address(memory.pixels) + bucket.start * tile
            self._copying.copy(memory.first("pixels", bucket.start), source, bucket.tiles * tile)
            self._copying.record(own.copied)
            self._computing.wait_for(own.copied)
        launch.run(self._computing)

    def _classify(self, own: _Own, start: int, picked: NDArray[np.int32], row: int) -> None:
        """Put a batch of stage 2 on the streams: tiles of the block from ``start`` on, whose maps belong at ``row``."""
        memory, count = own.memory, len(picked)
        size = padded(count, self.sizes)[0].size
        # Rows of waste gather what was picked in their place before, or 0: a tile of this block in any case.
        np.subtract(picked, start, out=memory.picked[start // memory.block, :count])
        own.launches[CONFIDENCE, start, size].run(self._computing)
        if self.mode == "staged":
            self._computing.record(own.computed)
            self._returning.wait_for(own.computed)
            plane = memory.shape.plane_bytes
            pitch = memory.capacity * plane
            target = host_address(memory.maps) + row * plane
            self._returning.copy_2d(target, pitch, memory.first("classes", start), pitch, count * plane, 2)
        elif row != start:
            own.moves.append((row, start, count))

    def _begin(self, slot: Slot, stage: str) -> _Own:
        own: _Own = slot.own
        if own.at_work:
            raise RuntimeError("the slot is still at work")
        self._enter()
        own.stage, own.at_work = stage, True
        own.moves.clear()
        self._busy[id(slot)] = slot
        return own

    def _abandon(self, slot: Slot) -> None:
        """Wait for all work after a failure: none of it may write into the slot later."""
        self._settle()
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        slot.own.at_work = False
        self._busy.pop(id(slot), None)

    def _enter(self) -> None:
        """A device is opened, used and closed by one thread after the other."""
        thread = current_thread()
        if self._thread is not thread:
            self._device.make_current()
            self._thread = thread

    def _settle(self) -> None:
        for stream in (self._copying, self._computing, self._returning):
            self._try_quietly(stream.synchronize)

    def _release(self, own: _Own) -> None:
        if self._slots.pop(id(own), None) is not None:
            self._give_back(own.scope)

    def _kept(self, make: Callable[[], T], scope: ExitStack | None = None) -> T:
        """What ``make`` makes, closed with the scope, by default the backend's."""
        made = make()
        (scope or self._scope).callback(made.close)
        return made

    def _give_back(self, scope: ExitStack) -> None:
        self._try_quietly(scope.close)

    def _try_quietly(self, step: Callable[[], object]) -> None:
        """Whoever gives back after a failure, or at the end, has heard of it or does not need to."""
        try:
            step()
        except Exception as exc:
            log.warning("%s, while it gives back what it held: %s", self.name, exc)

    def _failed(self, where: str, exc: Exception) -> LpcnetError:
        """The error as one of ours that says where; its class stays, since a lost device is another matter."""
        if isinstance(exc, BackendFailed):
            return type(exc)(f"{self.name} failed in the {where}: {exc.message}", mend=exc.mend)
        if isinstance(exc, LpcnetError):
            return exc
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
        return BackendFailed(f"{self.name} failed in the {where}: {reason}", mend=_MEND)


def _detach(slot: Slot | None) -> None:
    if slot is not None:
        slot.pixels = np.zeros_like(slot.pixels)
        slot.classes, slot.confidence = slot.classes.copy(), slot.confidence.copy()
