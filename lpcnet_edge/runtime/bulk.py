"""Bulk: every frame of a source as fast as the engines go, in order, with full batches across frames.

Slots go round: while one is filled, the engines work on stage 1 of another and stage 2 of a third, so that they always
have something queued while we cut, stitch and decide.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.errors import LpcnetError
from lpcnet_edge.runtime.inbox import Inbox
from lpcnet_edge.runtime.pipeline import Pipeline, Result, Work
from lpcnet_edge.runtime.room import Load, Room, compute
from lpcnet_edge.runtime.settings import BulkSettings

_MAX_WORKS = 256
"""Frames without tiles (unreadable ones) take no room in a slot; they are given out at the latest after so many."""


class BulkRun:
    """Runs a pipeline over an inbox; iterate once. Memory is bounded by ``settings.slots`` slots."""

    def __init__(self, pipeline: Pipeline, room: Room, inbox: Inbox, settings: BulkSettings) -> None:
        self._pipeline, self._room, self._inbox, self._settings = pipeline, room, inbox, settings
        self._free: list[Slot] = []
        self._owner: Backend | None = None  # of the free slots
        self._made = 0
        self._flying: deque[Load] = deque()
        self._filling = Load(None, None)

    def __iter__(self) -> Iterator[Result]:
        """Results in the order of the frames; raises what ended the source, after all of them."""
        inbox, linger_s = self._inbox, self._settings.linger_ms / 1e3
        while True:
            item = inbox.take()
            if item is None:
                if not inbox.done and (self._filling.works or self._flying):
                    if inbox.wait(linger_s):
                        continue
                elif not inbox.done:
                    inbox.wait()
                    continue
                yield from self._drain()
                if inbox.done:
                    break
                continue
            work = self._pipeline.begin(item)
            if work.plan is not None and work.result is None:
                yield from self._place(work, work.tiles)
            self._filling.works.append(work)
            load = self._filling
            full = load.slot is not None and load.tiles >= load.slot.capacity
            if full or len(load.works) >= _MAX_WORKS:
                yield from self._push()
        if inbox.error is not None:
            raise inbox.error

    def _place(self, work: Work, tiles: int) -> Iterator[Result]:
        """Write a frame into the slot being filled, or into the next one where it does not fit."""
        load = self._filling
        if load.slot is not None and load.tiles + tiles > load.slot.capacity:
            yield from self._push()
            load = self._filling
        while load.slot is None:
            if self._made >= self._settings.slots:
                while self._flying and not self._usable(self._room.ready()):
                    yield from self._step()
            backend = self._room.ready()
            if backend is None:
                self._pipeline.reject(work, f"engine failed: {self._room.failure}")
                return
            try:
                self._give_slot(load, backend, tiles)
            except LpcnetError as exc:
                self._room.failed(exc)
        self._pipeline.write(work, load.place[1], load.tiles)
        load.tiles += tiles

    def _usable(self, backend: Backend | None) -> bool:
        return self._owner is backend and bool(self._free)

    def _give_slot(self, load: Load, backend: Backend, tiles: int) -> None:
        if self._owner is not backend:  # the first time, or it was opened again
            self._owner, self._free, self._made = backend, [], 0
        if self._free:
            slot = self._free.pop()
            if slot.capacity >= tiles:
                load.slot, load.backend = slot, backend
                return
            self._made -= 1
        load.slot, load.backend = backend.make_slot(max(tiles, self._settings.tiles)), backend
        self._made += 1

    def _push(self) -> Iterator[Result]:
        """Hand the filled load to stage 1, and take what comes out at the other end."""
        load, self._filling = self._filling, Load(None, None)
        self._flying.append(load)
        load.since_s = time.perf_counter()
        if load.tiles == 0:
            load.stage = 3
        elif load.backend is self._room.ready():
            backend, slot = load.place
            load.stage = 1
            try:
                backend.submit(slot, load.tiles)
            except LpcnetError as exc:
                self._recover(load, exc)
        else:
            self._recover(load, None)
        if len(self._flying) >= self._settings.slots:
            yield from self._step()

    def _step(self) -> Iterator[Result]:
        """Give out the oldest load, and keep the engines at work meanwhile."""
        *others, _ = self._flying
        for load in others or self._flying:
            self._to_stage2(load, None)
        oldest = self._flying[0]
        self._to_stage2(oldest, None)
        if oldest.stage == 2:
            try:
                backend, slot = oldest.place
                if backend is not self._room.ready():
                    self._recover(oldest, None)
                else:
                    backend.collect_picked(slot)
                    self._stamp(oldest, "confidence")
                    oldest.stage = 3
            except LpcnetError as exc:
                self._recover(oldest, exc)
        for load in list(self._flying)[1:]:
            self._to_stage2(load, 0.0)
        self._flying.popleft()
        for work in oldest.works:
            result = work.result
            if result is None:
                result = self._pipeline.finish(work, oldest.place[1])
            self._pipeline.count(work)
            yield result
        if oldest.slot is not None and oldest.backend is self._owner:
            self._free.append(oldest.slot)

    def _drain(self) -> Iterator[Result]:
        if self._filling.works:
            yield from self._push()
        while self._flying:
            yield from self._step()

    def _to_stage2(self, load: Load, timeout_s: float | None) -> None:
        """Take a load from stage 1 to stage 2, where stage 1 is through within the time."""
        if load.stage != 1:
            return
        backend, slot = load.place
        if backend is not self._room.ready():
            self._recover(load, None)
            return
        try:
            if not backend.collect(slot, timeout_s):
                return
            self._stamp(load, "localization")
            load.picked = self._pipeline.gate(load.works, slot)
            load.stage = 3
            if len(load.picked):
                load.stage = 2
                backend.submit_picked(slot, load.picked)
        except LpcnetError as exc:
            self._recover(load, exc)

    def _stamp(self, load: Load, stage: str) -> None:
        """From its submission on, so waiting for the loads before it is in it."""
        now_s = time.perf_counter()
        elapsed_ms, load.since_s = 1e3 * (now_s - load.since_s), now_s
        for work in load.works:
            if work.plan is not None:
                work.latency_ms[stage] = elapsed_ms
        self._room.worked()

    def _recover(self, load: Load, exc: LpcnetError | None) -> None:
        """Compute a load again after a failure: once as it is, then on a backend opened again; else reject it all."""
        if exc is not None and load.backend is self._room.ready():
            try:
                compute(load, self._pipeline, load.place[0])
                return
            except LpcnetError as again:
                self._room.failed(again)
        backend = self._room.ready()
        if backend is not None:
            try:
                slot = backend.make_slot(max(load.tiles, self._settings.tiles))
                load.slot, load.backend = slot, backend
                for work in load.works:
                    if work.plan is not None and work.result is None:
                        self._pipeline.write(work, slot, work.first)
                compute(load, self._pipeline, backend)
                if self._owner is not backend:
                    self._owner, self._free, self._made = backend, [], 0
                self._made += 1
                return
            except LpcnetError as again:
                self._room.failed(again)
        load.stage = 3
        for work in load.works:
            if work.result is None:
                self._pipeline.reject(work, f"engine failed: {self._room.failure}")
