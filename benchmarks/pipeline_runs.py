"""Runs of the pipeline for ``pipeline.py`` and ``pipeline_live.py``: how much is run, and what a run came to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bench.timed import TimedBackend
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings

Image = NDArray[np.uint8]
OWN = ("tiling", "gate", "stitch", "decide")
"""What we do ourselves, on the thread that decides."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 7
    tiles: int = 512
    large: tuple[int, int] = (2048, 2448)
    large_frames: int = 16
    calibration: int = 2000
    unseen: int = 400
    live_frames: int = 10_000
    soak_frames: int = 20_000
    soak_after: int = 1000
    app_seconds: float = 3.0
    confidence: float | None = 0.95
    segments: int = 20


QUICK = Scale(2, 24, (600, 600), 2, 40, 24, 60, 120, 40, 1.0, None, 2)  # too few parts for a confidence


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Attributes
    ----------
    frames, tiles, picked
        Their numbers.
    seconds
        From its beginning to its last verdict.
    latencies
        Of each frame, by stage, ms.
    picked_of
        Tiles for stage 2 of each frame, in live running.
    parts_ms
        The deciding thread's time by part, summed.
    """

    frames: int
    tiles: int
    picked: int
    seconds: float
    latencies: list[dict[str, float]]
    picked_of: list[int]
    parts_ms: dict[str, float]

    @property
    def tiles_per_s(self) -> float:
        """Of the whole run."""
        return self.tiles / self.seconds


def run(bundle: Bundle, backend: Backend, frames: Any, settings: RunSettings, *, live: bool = False) -> Run:
    """A run over ``frames``."""
    timed = TimedBackend(backend)  # which its session does not close
    latencies: list[dict[str, float]] = []
    picked_of: list[int] = []
    with Session(bundle, [frames], settings, backend=lambda: timed, live=live) as session:
        totals, before = session.pipeline.totals, 0
        for result in session:
            latencies.append(dict(result.verdict.latency_ms))
            picked_of.append(totals.picked - before)
            before = totals.picked
        parts = {name: sum(latency.get(name, 0.0) for latency in latencies) for name in OWN}
        parts["waiting"] = 1e3 * session.waited_s
        parts |= {stage: 1e3 * spent for stage, spent in timed.spent_s.items()}
        seconds = session.ended_s - session.started_s
    return Run(totals.frames, totals.tiles, totals.picked, seconds, latencies, picked_of, parts)


def cycle(frames: list[Image], count: int) -> Iterator[Image]:
    """``count`` frames, over and over the same."""
    return (frames[n % len(frames)] for n in range(count))


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
