"""What the pipeline costs beside its engines, what the gate saves, and how steady live running is; all in one run.

    python benchmarks/pipeline.py BUNDLE [--backend NAME] [--quick] [--json]

BUNDLE is a carbon-fabric one. Whatever is compared is measured in turn, round after round, and the ratio is the median
over the rounds, since machines drift. ``--quick`` only shows that it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.null import NullBackend
from lpcnet_edge.backends.trials import engine_rate
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.metrics.conformal import calibrate_gate
from lpcnet_edge.runtime.gate_calibration import MIN_DEFECT_PX, score_tiles
from lpcnet_edge.runtime.pipeline import framing_for
from lpcnet_edge.runtime.running import Percentiles
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import LiveSettings, RunSettings
from lpcnet_edge.runtime.sources import Frame

Image = NDArray[np.uint8]
BATCH = 8


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 7
    tiles: int = 512
    large: tuple[int, int] = (2048, 2448)
    large_frames: int = 16
    calibration: int = 400
    unseen: int = 400
    live_frames: int = 10_000
    soak_frames: int = 20_000
    soak_after: int = 1000


QUICK = Scale(2, 24, (600, 600), 2, 40, 24, 60, 120, 40)


class Kept:
    """A backend that a session may use and not close."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.about = backend.name, backend.about
        self.submit, self.collect = backend.submit, backend.collect
        self.submit_picked, self.collect_picked = backend.submit_picked, backend.collect_picked

    def make_slot(self, tiles: int) -> Slot:
        return self._backend.make_slot(tiles)

    def close(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("engines/carbon-fabric-int8"))
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle, scale = open_bundle(args.bundle), QUICK if args.quick else Scale()
    cv2.setNumThreads(1)
    backend = open_backend(bundle, args.backend)
    small = [
        CarbonFabric(64 if not args.quick else 8, seed=7001).read(n).image for n in range(64 if not args.quick else 8)
    ]
    found: dict[str, Any] = {"bundle": bundle.id, "backend": backend.about, "quick": args.quick}
    try:
        found["bulk"] = measure_bulk(bundle, backend, small, scale)
        found["null"] = measure_null(bundle, small, scale)
        found["gate"], threshold = measure_gate(bundle, backend, scale)
        found["live"] = measure_live(bundle, backend, small, threshold, scale)
        found["soak"] = measure_soak(bundle, backend, small, threshold, scale)
    finally:
        backend.close()
    print(json.dumps(found) if args.json else "\n".join(lines_of(found)))
    return 0


def run(
    bundle: Bundle, backend: Backend, frames: Any, settings: RunSettings, *, live: bool = False
) -> tuple[Session, list[dict[str, float]]]:
    """A run over ``frames``; its session, and the latencies of each frame."""
    with Session(bundle, [frames], settings, backend=lambda: Kept(backend), live=live) as session:
        latencies = [dict(result.verdict.latency_ms) for result in session]
    return session, latencies


def rate_of(session: Session) -> float:
    """Tiles a second of a run."""
    return session.pipeline.totals.tiles / (session.ended_s - session.started_s)


def cycle(frames: list[Image], count: int) -> Iterator[Image]:
    """``count`` frames, over and over the same."""
    return (frames[n % len(frames)] for n in range(count))


def measure_bulk(bundle: Bundle, backend: Backend, small: list[Image], scale: Scale) -> dict[str, Any]:
    """The pipeline over the engines, gate off, from memory and from JPEG files; and what a user would write."""
    off = RunSettings(gate="off")
    rates: dict[str, list[float]] = {"engines": [], "memory": [], "jpeg": []}
    peers = {name: peer_loop(bundle, name) for name in ("onnxruntime", "openvino")}
    rates.update({f"plain {name} loop": [] for name in peers})
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, frame in enumerate(cycle(small, scale.tiles)):
            cv2.imwrite(f"{folder}/{number:05}.jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
        for turn in range(scale.rounds + 1):
            now = {"engines": engine_rate(backend, 4 * BATCH, 0.02 * scale.tiles)}
            session, latencies = run(bundle, backend, cycle(small, scale.tiles), off)
            now["memory"] = rate_of(session)
            now["jpeg"] = rate_of(run(bundle, backend, folder, off)[0])
            now.update({f"plain {name} loop": loop(small, scale.tiles) for name, loop in peers.items()})
            if turn:  # the first round warms up
                stages += latencies
                for name, rate in now.items():
                    rates[name].append(rate)
    engines = rates["engines"]
    own = ("tiling", "gate", "stitch", "decide")
    return {
        "ratio_to_engines": ratio(rates["memory"], engines),
        "ratio_to_engines_with_jpeg": ratio(rates["jpeg"], engines),
        "tiles_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "own_us": {name: 1e3 * statistics.mean(stage[name] for stage in stages) for name in own},
        "rounds": scale.rounds,
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def peer_loop(bundle: Bundle, name: str) -> Callable[[list[Image], int], float]:
    """Both canonical files in a plain loop: fill a batch, run, run, take the classes."""
    side, channels = bundle.manifest.tile_px, bundle.manifest.channels
    options: dict[str, Any] = {"lower": False} if name == "onnxruntime" else {}
    engines = [
        open_engine(name, bundle.read(spec.file), threads=len(os.sched_getaffinity(0)), **options)
        for spec in bundle.manifest.stages.values()
    ]
    every = np.arange(BATCH, dtype=np.int32)

    def loop(frames: list[Image], count: int) -> float:
        started, done = time.perf_counter(), 0
        while done < count:
            batch = [cv2.resize(frames[(done + n) % len(frames)], (side, side)) for n in range(BATCH)]
            pixels = np.stack(batch).reshape(BATCH, side, side, *([3] if channels == 3 else []))
            first = engines[0].run({"pixels": pixels})
            engines[1].run({"pixels": pixels, "embedding": first["embedding"], "picked": every})
            done += BATCH
        return done / (time.perf_counter() - started)

    return loop


def measure_null(bundle: Bundle, small: list[Image], scale: Scale) -> dict[str, Any]:
    """Our own work a tile with no arithmetic: a tenth of the tiles picked, a slot of 8 tiles."""
    backend = NullBackend(bundle.manifest, picked_share=0.1)
    settings = RunSettings(gate=0.5)
    settings = replace(settings, bulk=replace(settings.bulk, tiles=BATCH))
    names = ("tiling", "gate", "stitch", "decide")
    totals: list[dict[str, float]] = []
    for _ in range(scale.rounds):
        session, latencies = run(bundle, backend, cycle(small, 4 * scale.tiles), settings)
        tiles = len(latencies)
        us = {name: 1e3 * sum(latency[name] for latency in latencies) / tiles for name in names}
        us["all"] = 1e6 * (session.ended_s - session.started_s) / tiles
        us["dispatch"] = us["all"] - sum(us[name] for name in names)
        totals.append(us)
    middle = {name: statistics.median(us[name] for us in totals) for name in totals[0]}
    return {"overhead_us": middle["dispatch"] + middle["tiling"] + middle["gate"], "us": middle}


def measure_gate(bundle: Bundle, backend: Backend, scale: Scale) -> tuple[dict[str, Any], float]:
    """Frames a second with the gate at alpha 0.01 over gate off, on large frames; parts missed on unseen seeds."""
    seen = score_tiles(bundle, backend, CarbonFabric(scale.calibration, seed=7101))
    found = calibrate_gate(seen.score, seen.parts, seen.defect_px >= MIN_DEFECT_PX)
    unseen = score_tiles(bundle, backend, CarbonFabric(scale.unseen, seed=7201, defect_share=1.0))
    defective = unseen.defect_px >= MIN_DEFECT_PX
    parts = {part for part, is_bad in zip(unseen.parts, defective, strict=True) if is_bad}
    caught = {
        p for p, bad, s in zip(unseen.parts, defective, unseen.score, strict=True) if bad and s >= found.threshold
    }
    large = CarbonFabric(scale.large_frames, seed=7301, size=scale.large)
    frames = [large.read(n) for n in range(scale.large_frames)]
    images = [sample.image for sample in frames]
    framing = framing_for(*scale.large, bundle.manifest.tile_px, "tile")
    rates: dict[str, list[float]] = {"on": [], "off": []}
    picked = tiles = 0
    for turn in range(max(2, scale.rounds // 2) + 1):
        for name, gate in (("on", found.threshold), ("off", "off")):
            session, _ = run(bundle, backend, images, RunSettings(gate=gate, framing=framing))  # type: ignore[arg-type]
            if turn:
                rates[name].append(len(images) / (session.ended_s - session.started_s))
            if name == "on":
                picked, tiles = session.pipeline.totals.picked, session.pipeline.totals.tiles
    return {
        "speedup": ratio(rates["on"], rates["off"]),
        "missed": 1 - len(caught) / len(parts),
        "missed_parts": len(parts) - len(caught),
        "unseen_parts": len(parts),
        "alpha": found.alpha,
        "threshold": found.threshold,
        "calibrated_on": found.parts,
        "frames_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "picked_share": picked / tiles,
        "defective_frames": sum(bool(sample.mask.any()) for sample in frames),
    }, found.threshold


def paced(frames: list[Image], count: int, period_s: float) -> Iterable[Frame]:
    """A ring of frames at a fixed rate, each stamped when it was due."""
    start_ns = time.monotonic_ns() + 10_000_000
    for number in range(count):
        due_ns = start_ns + int(number * period_s * 1e9)
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        yield Frame(frames[number % len(frames)], str(number), due_ns, str(number), "ring", number)


def measure_live(
    bundle: Bundle, backend: Backend, small: list[Image], threshold: float, scale: Scale
) -> dict[str, Any]:
    """A ring at 80 % of what live running can do: one tile, gate off (the worst case, all picked) and on."""
    result: dict[str, Any] = {}
    live = LiveSettings(waiting=4)
    for name, gate in (("off", "off"), ("on", threshold)):
        settings = RunSettings(gate=gate, live=live)  # type: ignore[arg-type]
        session, _ = run(bundle, backend, cycle(small, max(50, scale.live_frames // 50)), settings, live=True)
        capacity = session.pipeline.totals.frames / (session.ended_s - session.started_s)
        _, latencies = run(bundle, backend, paced(small, scale.live_frames, 1 / (0.8 * capacity)), settings, live=True)
        by_picked: dict[str, Percentiles] = {}
        for latency in latencies:
            bucket = "picked" if "confidence" in latency else "cleared"
            by_picked.setdefault(bucket, Percentiles()).add(latency["total"])
            by_picked.setdefault("all", Percentiles()).add(latency["total"])
        result[name] = {
            bucket: {"p50_ms": p.at(0.5), "p99_ms": p.at(0.99), "p999_ms": p.at(0.999), "largest_ms": p.largest}
            for bucket, p in by_picked.items()
        }
        result[name]["capacity_per_s"] = capacity
    off = result["off"]["all"]
    return {"p50_ms": off["p50_ms"], "p999_ms": off["p999_ms"], "frames": scale.live_frames, "gate": result}


def measure_soak(
    bundle: Bundle, backend: Backend, small: list[Image], threshold: float, scale: Scale
) -> dict[str, Any]:
    """Growth of memory, threads and files over a long bulk run, after its first frames."""

    def standing() -> dict[str, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tasks, files = (len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd"))
        return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "threads": tasks, "files": files}

    settings, first, last = RunSettings(gate=threshold), {}, {}
    with Session(bundle, [cycle(small, scale.soak_frames)], settings, backend=lambda: Kept(backend)) as session:
        for number, _ in enumerate(session):
            if number == scale.soak_after:
                first = standing()
            last = standing() if number >= scale.soak_frames - 64 else last
    return {
        "rss_growth": last["rss"] / first["rss"] - 1,
        "rss_mb": last["rss"] / 2**20,
        "threads": last["threads"] - first["threads"],
        "files": last["files"] - first["files"],
        "frames": scale.soak_frames,
    }


def lines_of(value: Any, name: str = "") -> Iterator[str]:
    """Nested figures as lines of text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from lines_of(item, f"{name}.{key}" if name else key)
    else:
        yield f"{name:<48}{value:.4g}" if isinstance(value, float) else f"{name:<48}{value}"


if __name__ == "__main__":
    sys.exit(main())
