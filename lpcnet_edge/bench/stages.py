"""Each stage by itself on ready buffers of real tiles: its throughput, and the latency of a batch alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.bench.probe import Probe
from lpcnet_edge.bench.statistics import drift, latency_summary, rates_over_time

STAGES = ("localization", "confidence")
_LEAST_LATENCIES = 120
_AT_MOST = 4.0
"""So many latencies are taken, or as many as come in so many times the seconds asked for: p99 needs 100."""


@dataclass
class StageRun:
    """What was measured of one stage at one batch size, over all rounds.

    Attributes
    ----------
    tiles_per_s
        Of each round, with batches queued so that the engine never waits.
    latencies_ms
        Of single batches, one at a time: submitted to collected.
    series
        (moment, tiles a second) within the rounds.
    raw_tiles_per_s
        The raw engine's, of each round.
    loading
        What a fresh process saw, or why not.
    """

    stage: str
    batch: int
    tiles_per_s: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    series: list[tuple[float, float]] = field(default_factory=list)
    raw_tiles_per_s: list[float] = field(default_factory=list)
    loading: Probe | str = "not measured"

    @property
    def drift(self) -> float | None:
        """From the first third of all rounds to the last."""
        return drift([rate for _, rate in self.series])

    def to_json(self) -> dict[str, Any]:
        """Plain data, as docs/json.md describes it."""
        ours = float(np.median(self.tiles_per_s)) if self.tiles_per_s else None
        raw = float(np.median(self.raw_tiles_per_s)) if self.raw_tiles_per_s else None
        pairs = list(zip(self.tiles_per_s, self.raw_tiles_per_s, strict=False))
        probe = self.loading if isinstance(self.loading, Probe) else None
        return {
            "stage": self.stage,
            "batch": self.batch,
            "tiles_per_s": ours,
            "rounds_tiles_per_s": self.tiles_per_s,
            "latency_ms": latency_summary(self.latencies_ms),
            "first_ms": probe.first_ms if probe else None,
            "load_ms": probe.load_ms if probe else None,
            "peak_memory_mb": probe.peak_memory_mb if probe else None,
            "memory_before_mb": probe.before_mb if probe else None,
            "loading_not_measured": None if probe else str(self.loading),
            "raw_tiles_per_s": raw,
            "ratio_to_raw": float(np.median([a / b for a, b in pairs])) if pairs else None,
            "drift": self.drift,
        }


def filled_slots(backend: Backend, tiles: NDArray[np.uint8], number: int) -> list[Slot]:
    """Slots with real tiles in them, through both stages once: (N, S, S[, 3]) tiles, N a slot's."""
    slots = []
    every = np.arange(len(tiles), dtype=np.int32)
    for _ in range(number):
        slot = backend.make_slot(len(tiles))
        slot.pixels[: len(tiles)] = tiles
        backend.submit(slot, len(tiles))
        backend.collect(slot)
        backend.submit_picked(slot, every)
        backend.collect_picked(slot)
        slots.append(slot)
    return slots


def measure_rate(backend: Backend, run: StageRun, slots: list[Slot], seconds: float) -> None:
    """One round of throughput: all slots in flight, each submitted again as soon as it is collected."""
    submit, collect = _calls(backend, run)
    flying = deque(slots)
    for slot in flying:
        submit(slot)
    collect(flying[0])  # the queue has filled
    submit(flying[0])
    flying.rotate(-1)
    done = [time.perf_counter()]
    while done[-1] - done[0] < seconds or len(done) < 4:
        collect(flying[0])
        done.append(time.perf_counter())
        submit(flying[0])
        flying.rotate(-1)
    for slot in flying:
        collect(slot)
    run.tiles_per_s.append(run.batch * (len(done) - 1) / (done[-1] - done[0]))
    run.series += rates_over_time(done, run.batch)


def measure_latency(
    backend: Backend, run: StageRun, slot: Slot, seconds: float, *, least: int = _LEAST_LATENCIES
) -> None:
    """One round of latency: a batch at a time and nothing beside it."""
    submit, collect = _calls(backend, run)
    started = now = time.perf_counter()
    count = 0
    while now - started < seconds or (count < least and now - started < _AT_MOST * seconds):
        submit(slot)
        collect(slot)
        before, now = now, time.perf_counter()
        run.latencies_ms.append(1e3 * (now - before))
        count += 1


def _calls(backend: Backend, run: StageRun) -> tuple[Callable[[Slot], None], Callable[[Slot], object]]:
    if run.stage == STAGES[0]:
        return lambda slot: backend.submit(slot, run.batch), backend.collect
    every = np.arange(run.batch, dtype=np.int32)
    return lambda slot: backend.submit_picked(slot, every), backend.collect_picked
