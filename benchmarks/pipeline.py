"""What the pipeline costs beside its engines, what the gate saves, and how steady live running is; all in one run.

    python benchmarks/pipeline.py BUNDLE [--backend NAME] [--only PART ...] [--threshold SCORE] [--quick] [--json]

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
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pipeline_live import measure_live
from pipeline_runs import OWN, QUICK, Image, Run, Scale, cycle, ratio, run

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.null import NullBackend
from lpcnet_edge.backends.trials import engine_rate
from lpcnet_edge.backends.tuning import default_tuning
from lpcnet_edge.bench.raw import BenchmarkApp, Inputs, RawFailed
from lpcnet_edge.bench.timed import TimedBackend, attribution
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.errors import LpcnetError, UsageError
from lpcnet_edge.metrics.gate_threshold import calibrate_gate
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.gate_calibration import MIN_DEFECT_PX, score_tiles
from lpcnet_edge.runtime.pipeline import framing_for
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.tile_plan import plan_tiles

BATCH = 8


PARTS = ("bulk", "null", "gate", "live", "soak")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("engines/carbon-fabric-int8"))
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure only these parts")
    parser.add_argument("--threshold", type=float, help="of the gate, where the part gate does not find it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threshold is None and "gate" not in args.only and {"live", "soak"} & set(args.only):
        parser.error("live and soak need a gate: give --threshold, or the part gate too")
    try:
        found = measure(args)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except RawFailed as exc:
        print(f"error: benchmark_app: {exc} (mend: leave the part bulk out with --only)", file=sys.stderr)
        return 1
    print(json.dumps(found) if args.json else "\n".join(lines_of(found)))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for, by name."""
    threshold, scale = args.threshold, QUICK if args.quick else Scale()
    bundle = open_bundle(args.bundle)
    if (bundle.manifest.channels, bundle.manifest.classes) != (3, CarbonFabric(1).classes):
        raise UsageError(f"{args.bundle} is not for carbon fabric, which alone is generated", mend="give one that is")
    cv2.setNumThreads(1)
    backend = open_backend(bundle, args.backend)
    small = [
        CarbonFabric(64 if not args.quick else 8, seed=7001).read(n).image for n in range(64 if not args.quick else 8)
    ]
    found: dict[str, Any] = {"bundle": bundle.id, "backend": backend.about, "quick": args.quick}
    try:
        if "bulk" in args.only:
            found["bulk"] = measure_bulk(bundle, backend, small, scale)
        if "null" in args.only:
            found["null"] = measure_null(bundle, small, scale)
        if "gate" in args.only:
            found["gate"], threshold = measure_gate(bundle, backend, scale)
        if "live" in args.only:
            found["live"] = measure_live(bundle, backend, small, threshold, scale)
        if "soak" in args.only:
            found["soak"] = measure_soak(bundle, backend, small, threshold, scale)
    finally:
        backend.close()
    return found


def measure_bulk(bundle: Bundle, backend: Backend, small: list[Image], scale: Scale) -> dict[str, Any]:
    """The pipeline over the engines, gate off, from memory and from JPEG files; and what a user would write."""
    off = RunSettings(gate="off")
    rates: dict[str, list[float]] = {"engines": [], "memory": [], "jpeg": []}
    peers = {f"plain {name} loop": peer_loop(bundle, name) for name in ("onnxruntime", "openvino")}
    runs: dict[str, list[Run]] = {"memory": [], "jpeg": []}
    with tempfile.TemporaryDirectory() as folder:
        app = benchmark_app(bundle, backend, small, Path(folder))
        images = Path(folder) / "images"
        images.mkdir()
        for number, frame in enumerate(cycle(small, scale.tiles)):
            cv2.imwrite(f"{images}/{number:05}.jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
        for turn in range(scale.rounds + 1):
            now = {"engines": engine_rate(backend, 4 * BATCH, 0.02 * scale.tiles)}
            for name, source in (("memory", cycle(small, scale.tiles)), ("jpeg", str(images))):
                found = run(bundle, backend, source, off)
                now[name] = found.tiles_per_s
                if turn:  # the first round warms up
                    runs[name].append(found)
            now |= {name: loop(small, scale.tiles) for name, loop in peers.items()}
            if app is not None:
                now["benchmark_app"] = app(scale.app_seconds)
            if turn:
                for name, rate in now.items():
                    rates.setdefault(name, []).append(rate)
    engines = rates["engines"]
    return {
        "ratio_to_engines": ratio(rates["memory"], engines),
        "ratio_to_engines_with_jpeg": ratio(rates["jpeg"], engines),
        "tiles_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "ms_per_tile": {name: whereabouts(found) for name, found in runs.items()},
        "rounds": scale.rounds,
    }


def whereabouts(runs: list[Run]) -> dict[str, float]:
    """Where the deciding thread's time goes, ms a tile; ``rest`` is what no part explains."""
    parts = {name: sum(found.parts_ms[name] for found in runs) for name in runs[0].parts_ms}
    whole_ms = 1e3 * sum(found.seconds for found in runs)
    found = attribution(whole_ms, parts, sum(one.tiles for one in runs))
    return {"whole": found["whole_ms"], **{name: row["ms"] for name, row in found["parts"].items()}}  # type: ignore


def benchmark_app(
    bundle: Bundle, backend: Backend, small: list[Image], folder: Path
) -> Callable[[float], float] | None:
    """OpenVINO's own tool on both stages, one after the other: tiles a second. None beside another backend."""
    if backend.name != "openvino":
        return None
    side = bundle.manifest.tile_px
    tiles = np.stack([cv2.resize(frame, (side, side)) for frame in cycle(small, BATCH)])
    stage1 = open_engine("openvino", bundle.read(bundle.manifest.localization.file), threads=1)
    app = BenchmarkApp(bundle, default_tuning(), 2, Inputs(tiles, stage1.run({"pixels": tiles})["embedding"]), folder)
    return lambda seconds: 1 / sum(1 / app.rate(stage, BATCH, seconds) for stage in bundle.manifest.stages)


def peer_loop(bundle: Bundle, name: str) -> Callable[[list[Image], int], float]:
    """Both stages in a plain loop: fill a batch, run, run, take the classes.

    ONNX Runtime gets the canonical files as they are, OpenVINO what our own backend makes of them.
    """
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
    """Our own work a tile with no arithmetic: a tenth of the tiles picked, a slot of 8 tiles.

    On frames that are cut into 8 tiles, and on small parts, where every tile is a frame and gets a verdict of its own;
    each as the bundle has them, and in grey, which is a third of the bytes.
    """
    grey = replace(bundle, manifest=replace(bundle.manifest, channels=1))
    one = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if frame.ndim == 3 else frame for frame in small]
    side, framing = bundle.manifest.tile_px, Framing("tile", tile_px=bundle.manifest.tile_px)
    height, width = (side + more * (side - framing.overlap_px) for more in (1, 3))
    cut, grey_cut = ([np.ascontiguousarray(frame) for frame in tiled(some, height, width)] for some in (small, one))
    return {
        **own_work(bundle, cut, scale, framing),
        "size_px": [width, height],
        "grey": own_work(grey, grey_cut, scale, framing),
        "parts": own_work(bundle, small, scale),
        "grey_parts": own_work(grey, one, scale),
    }


def tiled(small: list[Image], height: int, width: int) -> Iterator[Image]:
    """Larger frames: each small one repeated beside and below itself."""
    for frame in small:
        times = (-(-height // frame.shape[0]), -(-width // frame.shape[1]), 1)
        yield np.tile(frame, times[: frame.ndim])[:height, :width]


def own_work(bundle: Bundle, frames: list[Any], scale: Scale, framing: Framing | None = None) -> dict[str, Any]:
    """By part, µs a tile: the medians of the rounds."""
    backend = NullBackend(bundle.manifest, picked_share=0.1)
    settings = RunSettings(gate=0.5, framing=framing)
    settings = replace(settings, bulk=replace(settings.bulk, tiles=BATCH))
    count = 4 * scale.tiles if framing is None else -(-4 * scale.tiles // BATCH)
    totals: list[dict[str, float]] = []
    for _ in range(scale.rounds):
        found = run(bundle, backend, cycle(frames, count), settings)
        us = {name: 1e3 * found.parts_ms[name] / found.tiles for name in OWN}
        us["all"] = 1e6 * found.seconds / found.tiles
        us["waiting"] = 1e3 * found.parts_ms["waiting"] / found.tiles
        us["dispatch"] = us["all"] - us["waiting"] - sum(us[name] for name in OWN)
        totals.append(us)
    middle = {name: statistics.median(us[name] for us in totals) for name in totals[0]}
    overhead_us = middle["dispatch"] + middle["tiling"] + middle["gate"]
    return {
        "overhead_us": overhead_us,
        "bare_copy_us": bare_copy_us(backend, frames, framing or Framing("resize", bundle.manifest.tile_px), scale),
        "us": middle,
        "tiles_a_frame": found.tiles / found.frames,
    }


def bare_copy_us(backend: NullBackend, frames: list[Any], framing: Framing, scale: Scale) -> float:
    """Of ``tiling``, what the machine takes by itself: the tiles copied into as many slots, with nothing between."""
    side, plan = framing.tile_px, plan_tiles(*frames[0].shape[:2], framing)
    corners = list(zip(plan.y.tolist(), plan.x.tolist(), strict=True))
    slots = [backend.make_slot(BATCH) for _ in range(RunSettings().bulk.slots)]
    times = []
    for _ in range(scale.rounds):
        started, number = time.perf_counter(), 0
        for frame in cycle(frames, -(-scale.tiles // len(corners))):
            for y, x in corners:
                slots[number // BATCH % len(slots)].pixels[number % BATCH] = frame[y : y + side, x : x + side]
                number += 1
        times.append(1e6 * (time.perf_counter() - started) / number)
    return statistics.median(times)


def measure_gate(bundle: Bundle, backend: Backend, scale: Scale) -> tuple[dict[str, Any], float]:
    """Frames a second with the gate at alpha 0.01 over gate off, on large frames; parts missed on unseen seeds.

    Calibrated on many parts, lest the luck of one draw of parts decide the figures; the threshold that holds alpha for
    this very calibration with a confidence, instead of on average, stands beside it.
    """
    seen = score_tiles(bundle, backend, CarbonFabric(scale.calibration, seed=7101))
    unseen = score_tiles(bundle, backend, CarbonFabric(scale.unseen, seed=7201, defect_share=1.0))
    defective = unseen.defect_px >= MIN_DEFECT_PX
    parts = {part for part, is_bad in zip(unseen.parts, defective, strict=True) if is_bad}
    large = CarbonFabric(scale.large_frames, seed=7301, size=scale.large)
    frames = [large.read(n) for n in range(scale.large_frames)]
    images = [sample.image for sample in frames]
    framing = framing_for(*scale.large, bundle.manifest.tile_px, "tile")
    asked = {"on": None} | ({"confident": scale.confidence} if scale.confidence is not None else {})
    gates = {
        name: calibrate_gate(seen.score, seen.parts, seen.defect_px >= MIN_DEFECT_PX, confidence=confidence)
        for name, confidence in asked.items()
    }
    rates: dict[str, list[float]] = {"off": [], **{name: [] for name in gates}}
    shares: dict[str, float] = {}
    for turn in range(max(2, scale.rounds // 2) + 1):
        for name, values in rates.items():
            gate: Any = gates[name].threshold if name in gates else "off"
            done = run(bundle, backend, images, RunSettings(gate=gate, framing=framing))
            shares[name] = done.picked / done.tiles
            if turn:
                values.append(done.frames / done.seconds)
    rows: dict[str, dict[str, Any]] = {}
    for name, found in gates.items():
        scores = zip(unseen.parts, defective, unseen.score, strict=True)
        caught = {part for part, is_bad, score in scores if is_bad and score >= found.threshold}
        rows[name] = {
            "speedup": ratio(rates[name], rates["off"]),
            "missed": 1 - len(caught) / len(parts),
            "missed_parts": len(parts) - len(caught),
            "confidence": found.confidence,
            "threshold": found.threshold,
            "picked_share": shares[name],
        }
    result = {
        **rows.pop("on"),
        **rows,
        "unseen_parts": len(parts),
        "alpha": gates["on"].alpha,
        "calibrated_on": gates["on"].parts,
        "frames_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "defective_frames": sum(bool(sample.mask.any()) for sample in frames),
    }
    return result, gates["on"].threshold


def measure_soak(
    bundle: Bundle, backend: Backend, small: list[Image], threshold: float, scale: Scale
) -> dict[str, Any]:
    """Growth of memory, threads and files over a long bulk run, after its first frames."""

    def standing() -> dict[str, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tasks, files = (len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd"))
        return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "threads": tasks, "files": files}

    settings = RunSettings(gate=threshold)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    timed = TimedBackend(backend)
    with Session(bundle, [cycle(small, scale.soak_frames)], settings, backend=lambda: timed) as session:
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
        yield f"{name:<64}{value:.4g}" if isinstance(value, float) else f"{name:<64}{value}"


if __name__ == "__main__":
    sys.exit(main())
