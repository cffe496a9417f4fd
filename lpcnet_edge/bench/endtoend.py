"""The pipeline end to end: files to verdicts in a sink, in bulk and live, and where the time goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bench.frames import Frames
from lpcnet_edge.bench.statistics import drift, latency_summary, rates_over_time
from lpcnet_edge.bench.timed import LEAST_FRAMES, TimedBackend, TimedFiles, attribution, in_memory
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BackendFailed
from lpcnet_edge.runtime.running import draining
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import LiveSettings, RunSettings
from lpcnet_edge.runtime.sinks import SinkSettings, open_sinks
from lpcnet_edge.runtime.tile_plan import plan_tiles

LOAD = 0.8
"""Of what live running can do: frames come at this share of it, so that the queue stays short."""


@dataclass
class BulkRuns:
    """Rounds of bulk running.

    Attributes
    ----------
    frames_per_s, tiles_per_s
        Of each round.
    series
        (moment, frames a second) within the rounds.
    """

    frames_per_s: list[float] = field(default_factory=list)
    tiles_per_s: list[float] = field(default_factory=list)
    series: list[tuple[float, float]] = field(default_factory=list)
    wall_ms: float = 0.0
    parts_ms: dict[str, float] = field(default_factory=dict)
    decode_ms: float = 0.0
    frames: int = 0
    tiles: int = 0
    picked: int = 0

    @property
    def drift(self) -> float | None:
        """From the first third of all rounds to the last."""
        return drift([rate for _, rate in self.series])

    def to_json(self) -> dict[str, Any]:
        """Plain data, as docs/json.md describes it."""
        return {
            "frames_per_s": float(np.median(self.frames_per_s)),
            "tiles_per_s": float(np.median(self.tiles_per_s)),
            "rounds_frames_per_s": self.frames_per_s,
            "rounds_tiles_per_s": self.tiles_per_s,
            "frames": self.frames,
            "picked_share": self.picked / self.tiles if self.tiles else None,
            "attribution": attribution(self.wall_ms, self.parts_ms, self.frames),
            "decode_in_its_thread_ms": self.decode_ms / self.frames if self.frames else None,
            "drift": self.drift,
        }


def measure_bulk(
    bundle: Bundle,
    backend: Backend,
    frames: Frames,
    settings: RunSettings,
    into: BulkRuns,
    seconds: float,
    folder: Path,
) -> bool:
    """One round: frames decoded from files for so many seconds, verdicts written. False where a signal ended it.

    The attributed time is that of the thread that decides; frames are decoded beside it in a thread of their own, and
    ``waiting`` is what it waits for that.
    """
    files = TimedFiles(frames.files, bundle.manifest.channels, 1 << 40, seconds=seconds)
    timed = TimedBackend(backend)
    done: list[float] = []
    parts: dict[str, float] = {}
    sinks = open_sinks(SinkSettings(jsonl=folder / "verdicts.jsonl"), bundle.manifest.classes)
    with sinks, Session(bundle, [files], settings, backend=lambda: timed) as session, draining(session) as asked:
        started = time.perf_counter()
        for result in session:
            now = time.perf_counter()
            sinks.write(result.item, result.verdict)
            done.append(time.perf_counter())
            parts["sink"] = parts.get("sink", 0.0) + 1e3 * (done[-1] - now)
            for name in ("tiling", "gate", "stitch", "decide"):
                parts[name] = parts.get(name, 0.0) + result.verdict.latency_ms.get(name, 0.0)
        ended = time.perf_counter()
        parts["waiting"] = 1e3 * session.waited_s
        totals = session.pipeline.totals
        _check(totals.refused["engine failed"])
    parts |= {stage: 1e3 * spent for stage, spent in timed.spent_s.items()}
    if not done:
        return not asked.is_set()
    wall_s = ended - started
    into.frames_per_s.append(len(done) / wall_s)
    into.tiles_per_s.append(totals.tiles / wall_s)
    into.series += slot_rates(done, frames_a_slot(bundle, frames, settings))
    into.wall_ms += 1e3 * wall_s
    into.decode_ms += sum(files.decode_ms[: len(done)])
    into.frames += len(done)
    into.tiles += totals.tiles
    into.picked += totals.picked
    for name, value in parts.items():
        into.parts_ms[name] = into.parts_ms.get(name, 0.0) + value
    return not asked.is_set()


def measure_memory(bundle: Bundle, backend: Backend, frames: Frames, settings: RunSettings, seconds: float) -> float:
    """Tiles a second of the pipeline over decoded frames with the gate off: the raw engine does the same arithmetic."""
    off, source = replace(settings, gate="off"), in_memory(frames.images, seconds, LEAST_FRAMES)
    with Session(bundle, [source], off, backend=lambda: TimedBackend(backend)) as session:
        for _ in session:
            pass
        _check(session.pipeline.totals.refused["engine failed"])
        return session.pipeline.totals.tiles / (session.ended_s - session.started_s)


def measure_live(
    bundle: Bundle, backend: Backend, frames: Frames, settings: RunSettings, seconds: float, folder: Path
) -> dict[str, Any]:
    """Live: what a frame takes from the moment it is read to its verdict in the sink, part by part.

    Frames come at ``LOAD`` of the rate that a first, short run finds.
    """
    settings = replace(settings, live=LiveSettings(waiting=4))
    capacity, _, _ = _live(bundle, backend, frames, settings, seconds / 4, None, folder)
    rate = LOAD * capacity
    _, totals_ms, parts_ms = _live(bundle, backend, frames, settings, seconds, 1 / rate, folder)
    return {
        "offered_per_s": rate,
        "capacity_per_s": capacity,
        "latency_ms": latency_summary(totals_ms),
        "attribution": attribution(sum(totals_ms), parts_ms, len(totals_ms)),
    }


def _live(
    bundle: Bundle,
    backend: Backend,
    frames: Frames,
    settings: RunSettings,
    seconds: float,
    period_s: float | None,
    folder: Path,
) -> tuple[float, list[float], dict[str, float]]:
    """Frames a second; of each frame the ms from read to sunk; and by part the sums."""
    count = 1 << 40 if period_s is None else max(LEAST_FRAMES, int(seconds / period_s))
    limit_s = seconds if period_s is None else None
    files = TimedFiles(frames.files, bundle.manifest.channels, count, period_s=period_s, seconds=limit_s)
    totals_ms: list[float] = []
    parts: dict[str, float] = {}
    names = {"localization": "stage1", "confidence": "stage2"}
    sinks = open_sinks(SinkSettings(jsonl=folder / "live.jsonl"), bundle.manifest.classes)
    with sinks, Session(bundle, [files], settings, backend=lambda: TimedBackend(backend), live=True) as session:
        for number, result in enumerate(session):
            now = time.perf_counter()
            sinks.write(result.item, result.verdict)
            sunk = time.perf_counter()
            whole = (time.monotonic_ns() - result.item.taken_ns) / 1e6
            latency, decode = result.verdict.latency_ms, files.decode_ms[number]
            own = {names.get(name, name): value for name, value in latency.items() if name != "total"}
            own["decode"], own["waiting"] = decode, own["waiting"] - decode  # it is taken when reading it begins
            own["sink"] = 1e3 * (sunk - now)
            for name, value in own.items():
                parts[name] = parts.get(name, 0.0) + value
            totals_ms.append(whole)
        elapsed_s = session.ended_s - session.started_s
        _check(session.pipeline.totals.refused["engine failed"])
    return len(totals_ms) / elapsed_s, totals_ms, parts


def frames_a_slot(bundle: Bundle, frames: Frames, settings: RunSettings) -> int:
    """Frames that share a slot in bulk, whose verdicts come together."""
    return max(1, int(settings.bulk.tiles / tiles_a_frame(bundle, frames, settings)))


def slot_rates(done_s: list[float], together: int, bins: int = 30) -> list[tuple[float, float]]:
    """(moment, frames a second) from the moments of verdicts, ``together`` of which come at once."""
    return rates_over_time(done_s[together - 1 :: together], together, bins=bins, least=1)


def tiles_a_frame(bundle: Bundle, frames: Frames, settings: RunSettings) -> float:
    """The mean over the frames."""
    side = bundle.manifest.tile_px
    counts = []
    for image in frames.images:
        height, width = image.shape[:2]
        counts.append(len(plan_tiles(height, width, frames.framing(image, side, settings.framing))))
    return sum(counts) / len(counts)


def _check(failed: int) -> None:
    if failed:
        raise BackendFailed(
            f"{failed} frame(s) were not computed because the engines failed: nothing measured of them counts",
            mend="lpcnet-edge selftest says whether the bundle computes here",
        )
