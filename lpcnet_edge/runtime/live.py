"""Live: one frame at a time, each with a deadline from the moment it was taken; a verdict always, and in order.

Cameras that share the engines take turns. A frame at the head of its camera's queue waits for at most one frame of
each other camera, and each of those leaves the engines at its own deadline: with C cameras, (C - 1) deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.errors import BackendFailed, LpcnetError
from lpcnet_edge.runtime.inbox import Inbox, wait_any
from lpcnet_edge.runtime.pipeline import Pipeline, Result, Work
from lpcnet_edge.runtime.room import Room
from lpcnet_edge.runtime.settings import LiveSettings


class _Late(Exception):
    """The deadline passed while the engines worked."""


class LiveRun:
    """Runs a pipeline over the inboxes of one or more sources; iterate once.

    A stage that fails is tried once more, within the deadline. If it fails again, the frame is a reject, the backend is
    opened again in the background, and frames are rejects until it is back.

    Parameters
    ----------
    idle
        Called while no frame waits; returns after how many seconds to be called again, None for not before a frame.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        room: Room,
        inboxes: Sequence[Inbox],
        settings: LiveSettings,
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._pipeline, self._room, self._inboxes, self._settings = pipeline, room, inboxes, settings
        self._idle = idle
        self._slot: Slot | None = None
        self._owner: Backend | None = None
        self._busy_since_s: float | None = None
        self._busy_stage = 0
        self._turn = 0

    def __iter__(self) -> Iterator[Result]:
        """Results, in the order of each source's frames; raises what ended a source, after all of them."""
        while True:
            inbox = self._next()
            if inbox is None:
                if all(inbox.done for inbox in self._inboxes):
                    break
                wait_any(self._inboxes, self._idle())
                continue
            item = inbox.take()
            if item is None:
                continue
            work = self._pipeline.begin(item)
            result = work.result or self._decide(work)
            self._pipeline.count(work)
            yield result
        for inbox in self._inboxes:
            if inbox.error is not None:
                raise inbox.error

    def warm_up(self, tiles: int = 1) -> None:
        """Compute something, so that the first frame takes no longer than the others. Frames of more tiles than this
        make the slot larger when they come."""
        backend = self._room.ready()
        if backend is None:
            return
        try:
            slot = self._slot_for(backend, tiles)
            for count in sorted({tiles, *(1 << n for n in range(tiles.bit_length()))}):
                backend.submit(slot, count)
                backend.collect(slot)
                backend.submit_picked(slot, np.arange(count, dtype=np.int32))
                backend.collect_picked(slot)
        except LpcnetError as exc:  # frames will be rejects until it is back
            self._room.failed(exc)

    def _next(self) -> Inbox | None:
        """The next source in turn that has an item."""
        for offset in range(len(self._inboxes)):
            place = (self._turn + offset) % len(self._inboxes)
            if self._inboxes[place].has_item:
                self._turn = place + 1
                return self._inboxes[place]
        return None

    def _decide(self, work: Work) -> Result:
        limit_ms = self._settings.deadline_ms
        until_ns = None if limit_ms is None else work.taken_ns + int(1e6 * limit_ms)
        pipeline = self._pipeline
        try:
            if _left_s(until_ns) == 0.0:
                return pipeline.reject(
                    work, f"late: taken {work.latency_ms['waiting']:.1f} ms ago, before it was begun"
                )
            backend = self._room.ready()
            if backend is None:
                return pipeline.reject(work, f"engine failed: {self._room.failure}")
            assert work.plan is not None
            if not self._settle(backend, until_ns):
                return pipeline.reject(work, "late: the engines are still busy with an earlier frame")
            slot = self._slot_for(backend, work.tiles)
            pipeline.write(work, slot, 0)
            self._stages(work, backend, slot, until_ns)
        except _Late:
            return pipeline.reject(work, f"late: not decided within {limit_ms:g} ms")
        except LpcnetError as exc:
            self._room.failed(exc)
            self._busy_since_s = None
            return pipeline.reject(work, f"engine failed: {exc.message}")
        result = pipeline.finish(work, slot)
        if limit_ms is not None and result.verdict.latency_ms["total"] > limit_ms:
            return pipeline.late(work, limit_ms)
        return result

    def _stages(self, work: Work, backend: Backend, slot: Slot, until_ns: int | None) -> None:
        assert work.plan is not None
        started = time.perf_counter()
        self._run(1, work, backend, slot, work.tiles, until_ns)
        between = time.perf_counter()
        work.latency_ms["localization"] = 1e3 * (between - started)
        picked = self._pipeline.gate([work], slot)
        if len(picked):
            between = time.perf_counter()
            self._run(2, work, backend, slot, picked, until_ns)
            work.latency_ms["confidence"] = 1e3 * (time.perf_counter() - between)
        self._room.worked()

    def _run(self, stage: int, work: Work, backend: Backend, slot: Slot, what: object, until_ns: int | None) -> None:
        """Submit and collect a stage, twice at the most."""
        submit, collect = (
            (backend.submit, backend.collect) if stage == 1 else (backend.submit_picked, backend.collect_picked)
        )
        for attempt in (1, 2):
            try:
                submit(slot, what)  # type: ignore[arg-type]  # a count, or the picked tiles
                self._busy_since_s, self._busy_stage = time.monotonic(), stage
                done = self._wait(collect, slot, until_ns)
            except BackendFailed:
                self._busy_since_s = None
                if attempt == 2:
                    raise
                continue
            if done:
                self._busy_since_s = None
                return
            self._refuse_hang()
            raise _Late

    def _wait(self, collect: Callable[[Slot, float | None], bool], slot: Slot, until_ns: int | None) -> bool:
        """Collect; False at the deadline, or when the backend hangs. A backend may return before its time is up."""
        while True:
            left_s = _left_s(until_ns, max(0.0, self._settings.hang_s - self._busy_s))
            if collect(slot, left_s):
                return True
            if _left_s(until_ns) == 0.0 or self._busy_s >= self._settings.hang_s:
                return False

    @property
    def _busy_s(self) -> float:
        """How long the backend has worked on what the slot holds."""
        return 0.0 if self._busy_since_s is None else time.monotonic() - self._busy_since_s

    def _refuse_hang(self) -> None:
        if self._busy_s >= self._settings.hang_s:
            raise BackendFailed(f"the backend has worked for {self._settings.hang_s:g} s on one frame")

    def _settle(self, backend: Backend, until_ns: int | None) -> bool:
        """Wait for a frame that was given up at its deadline; whether the slot is free again."""
        if self._busy_since_s is None or backend is not self._owner or self._slot is None:
            return True
        collect = backend.collect if self._busy_stage == 1 else backend.collect_picked
        try:
            done = self._wait(collect, self._slot, until_ns)
        except BackendFailed:  # of a frame that has its verdict; this one finds out for itself
            done = True
        if done:
            self._busy_since_s = None
        else:
            self._refuse_hang()
        return done

    def _slot_for(self, backend: Backend, tiles: int) -> Slot:
        if self._slot is None or self._owner is not backend or self._slot.capacity < tiles:
            self._slot, self._owner = backend.make_slot(tiles), backend
        return self._slot


def _left_s(until_ns: int | None, otherwise: float | None = None) -> float | None:
    """Seconds to the deadline, 0 when it has passed, ``otherwise`` where there is none (or later than that)."""
    if until_ns is None:
        return otherwise
    left_s = max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
    return left_s if otherwise is None else min(left_s, otherwise)
