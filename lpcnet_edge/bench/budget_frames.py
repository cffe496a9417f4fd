"""Running frames for the budget's search: real pixels through the pipeline, with the number of picked tiles forced."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.bench.budget import CONFIRMED, SCREENED, Candidate, find_budget
from lpcnet_edge.bench.opening import CPU_BACKENDS, header, kept_tuning, not_measured, opened
from lpcnet_edge.bench.options import Options
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import UsageError
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.pipeline import Pipeline, framing_for
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sources.frame import Frame
from lpcnet_edge.runtime.tile_plan import plan_tiles
from lpcnet_edge.types import Dataset, Image

BATCHES, QUICK_BATCHES = (16, 8, 4, 2, 1), (4, 1)


class FrameTimer:
    """Runs frames of one size as a candidate says.

    Parameters
    ----------
    bundle, images
        What is run: frames of one size.
    open_with
        Opens a backend whose largest batch is as given; each is opened once and closed by :meth:`close`.
    gate
        Of the pipeline; decides only how many tiles are said to be needed.
    framing
        How frames become tiles, but for the overlap; None: as in ``run``.
    clock
        Seconds.
    """

    def __init__(
        self,
        bundle: Bundle,
        images: tuple[Image, ...],
        open_with: Callable[[int], Backend],
        gate: Any = "auto",
        framing: Framing | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bundle, self._images, self._open_with, self._gate, self._clock = bundle, images, open_with, gate, clock
        self._framing = framing
        self._opened: dict[int, Backend] = {}
        self._slots: dict[tuple[int, int], Slot] = {}
        self._next = 0

    def latencies(self, candidate: Candidate, count: int) -> list[float]:
        """Of so many frames, ms, from pixels in memory to the verdict."""
        backend, pipeline = self._backend(candidate.batch), self._pipeline(candidate.overlap_px)
        slot = self._slot(candidate.batch, candidate.tiles)
        self._one(backend, pipeline, slot, candidate.picked)  # the first time allocates
        return [self._one(backend, pipeline, slot, candidate.picked) for _ in range(count)]

    def needs(self, batch: int, overlap_px: int, tiles: int) -> int:
        """The most tiles that the gate picks of any of the frames."""
        backend, pipeline = self._backend(batch), self._pipeline(overlap_px)
        slot, most = self._slot(batch, tiles), 0
        for number, image in enumerate(self._images):
            work = pipeline.begin(_frame(image, number))
            pipeline.write(work, slot, 0)
            backend.submit(slot, tiles)
            backend.collect(slot)
            most = max(most, len(pipeline.gate([work], slot)))
        return most

    def close(self) -> None:
        """Close the backends."""
        for backend in self._opened.values():
            backend.close()

    def _one(self, backend: Backend, pipeline: Pipeline, slot: Slot, picked: int) -> float:
        image = self._images[self._next % len(self._images)]
        self._next += 1
        started = self._clock()
        work = pipeline.begin(_frame(image, self._next))
        if work.plan is None:
            raise UsageError("the frame cannot be inspected", mend="give frames that `lpcnet-edge run` takes")
        tiles = len(work.plan)
        pipeline.write(work, slot, 0)
        backend.submit(slot, tiles)
        backend.collect(slot)
        highest = np.argpartition(slot.score[:tiles], tiles - picked)[tiles - picked :] if picked else np.zeros(0)
        work.picked = np.sort(highest).astype(np.int32)
        if picked:
            backend.submit_picked(slot, work.picked)
            backend.collect_picked(slot)
        pipeline.finish(work, slot)
        return 1e3 * (self._clock() - started)

    def _backend(self, batch: int) -> Backend:
        if batch not in self._opened:
            self._opened[batch] = self._open_with(batch)
        return self._opened[batch]

    def _pipeline(self, overlap_px: int) -> Pipeline:
        height, width = self._images[0].shape[:2]
        framing = self._framing or framing_for(height, width, self._bundle.manifest.tile_px)
        framing = replace(framing, overlap_px=overlap_px)
        return Pipeline(self._bundle, RunSettings(framing=framing, gate=self._gate), "bench")

    def _slot(self, batch: int, tiles: int) -> Slot:
        if (batch, tiles) not in self._slots:
            self._slots[batch, tiles] = self._backend(batch).make_slot(tiles)
        return self._slots[batch, tiles]


def measure_budget(
    bundle: Bundle,
    data: Dataset | Path | None,
    options: Options,
    budget_ms: float,
    *,
    size_px: tuple[int, int] | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Find what holds a p99 latency of ``budget_ms`` on frames of one size; the record.

    Of frames of several sizes the largest are taken. Decoding, waiting and sinks are not in the latency.

    Raises
    ------
    UsageError
        ``budget_ms`` is not above 0.
    """
    if budget_ms <= 0:
        raise UsageError(f"a budget of {budget_ms:g} ms", mend="give milliseconds above 0")
    batches = options.batches or (QUICK_BATCHES if options.quick else BATCHES)
    options = replace(options, batches=tuple(batches))
    with opened(bundle, data, options, size_px=size_px) as bench:
        largest = max((image.shape[:2] for image in bench.frames.images), key=lambda shape: shape[0] * shape[1])
        images = tuple(image for image in bench.frames.images if image.shape[:2] == largest)
        tuning = kept_tuning(bundle, options)

        def open_with(batch: int) -> Backend:
            return open_backend(bundle, options.backend, tuning=replace(tuning, batch=batch))

        if bench.backend.name not in CPU_BACKENDS:
            batches = (max(batches),)  # the engine's own: it is not chosen here
        timer = FrameTimer(bundle, images, open_with, options.gate, options.framing)
        try:
            overlaps = [
                (overlap, tiles, timer.needs(max(batches), overlap, tiles))
                for overlap, tiles in overlaps_for(largest, bundle.manifest.tile_px, options.framing)
            ]
            with bench.sampler.phase("budget"):
                found = find_budget(
                    timer.latencies,
                    budget_ms,
                    overlaps=overlaps,
                    batches=batches,
                    screened=5 if options.quick else SCREENED,
                    confirmed=100 if options.quick else CONFIRMED,
                    progress=progress,
                )
        finally:
            timer.close()
        record = header(bench) | bench.stability({})
    budget = {"frame_px": [largest[1], largest[0]], **found.to_json()}
    return {**record, **not_measured(), "readings": bench.readings(), "budget": budget}


def overlaps_for(shape: tuple[int, ...], tile_px: int, framing: Framing | None = None) -> list[tuple[int, int]]:
    """(overlap px, tiles a frame): half a tile, a quarter ... to none; of overlaps with equal tiles the largest."""
    base = framing or framing_for(shape[0], shape[1], tile_px)
    if base.mode == "resize":
        return [(base.overlap_px, 1)]
    by_tiles: dict[int, int] = {}
    for overlap in (tile_px // 2, tile_px // 4, tile_px // 8, tile_px // 16, 0):
        count = len(plan_tiles(shape[0], shape[1], Framing("tile", tile_px, overlap)))
        by_tiles.setdefault(count, overlap)
    return [(overlap, count) for count, overlap in by_tiles.items()]


def _frame(image: Image, number: int) -> Frame:
    return Frame(image, str(number), time.monotonic_ns(), str(number), "bench", number)
