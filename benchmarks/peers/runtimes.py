"""Runtimes side by side on the same network files: ours, plain loops, and the loops of anomalib and Ultralytics.

    python benchmarks/peers/runtimes.py [BUNDLE] [--data DIR [--fold N]] [--gate THRESHOLD] [--only WORD ...]
        [--rounds 5] [--seconds 0.6] [--images 64] [--record benchmarks/records/runtimes-NAME.json] [--quick]

Everything from a file to its verdict counts: reading, decoding, resizing or cutting, inference, joining, deciding. Each
runtime has a process of its own; they run in turn, round after round, over the same files, and ratios are taken round
by round. Without ``--data``, for a bundle of carbon fabric: JPEG files of generated tiles, of which 5 % are defective,
and one large frame. With it: images of a dataset or of any folder. The gate is the bundle's, or ``--gate``, or for
carbon fabric calibrated here. ``--quick`` only shows that it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from runtimes_inputs import Workload, gate_of, generated, given, jobs_of
from runtimes_loops import Job
from runtimes_report import add_ratios, agreement, markdown, row_of
from runtimes_worker import Contender, Worker, WorkerFailed

from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.errors import LpcnetError, UsageError
from lpcnet_edge.files import finite, write_atomically

CALIBRATION_FRAMES = 400


def contenders(precisions: Sequence[str], threshold: float | None) -> list[Contender]:
    """Who runs, of files in these precisions, the bundle's own last; ours come first."""
    own, ours = precisions[-1], "lpcnet-edge"
    gates: list[tuple[str, str | float]] = [("gate off", "off")]
    if threshold is not None:
        gates.append(("gate on", threshold))
    found = [Contender(f"{ours}, {words}", own, "ours", gate=gate) for words, gate in gates]
    found += [Contender(f"{ours} live, {words}", own, "live", gate=gate, latency=True) for words, gate in gates]
    found += [Contender(f"{ours}, gate off", file, "ours") for file in precisions[:-1]]
    for file in reversed(precisions):
        for name, kind in (("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
            found.append(Contender(f"{name}, batch 1", file, kind, latency=True))
            found.append(Contender(f"{name}, batch 8", file, kind, 8))
        found += [Contender(f"openvino AsyncInferQueue, batch {n}", file, "openvino-async", n) for n in (1, 8)]
        found.append(Contender("anomalib's loop", file, "anomalib", latency=True))
        found.append(Contender("Ultralytics' loop", file, "ultralytics", latency=True))
    return [*found, Contender("decode alone", "", "decode")]


def chosen(who: Sequence[Contender], words: Sequence[str]) -> list[Contender]:
    """Those whose name or kind holds one of the words; decoding, and ours with the gate off, which others are held
    against, always."""
    return [
        one
        for one in who
        if one.kind == "decode"
        or (one.kind == "ours" and one.gate == "off")
        or any(word.lower() in f"{one.key} {one.kind}".lower() for word in words)
    ]


def measure(
    who: Sequence[Contender], jobs: dict[str, Job], load: Workload, rounds: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """One workload: everyone in turn, each round beginning with another."""
    folder.mkdir()
    missing: dict[str, str] = {}
    measured: dict[str, list[dict[str, Any]]] = {}
    maps: dict[str, Any] = {}
    passes: dict[str, int] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for number, one in enumerate(who):
            _tell(f"{load.name}: opening {one.key} ({number + 1} of {len(who)})")
            job = replace(jobs[one.file or next(iter(jobs))], files=load.files)
            try:
                worker = stack.enter_context(Worker(one, job, folder))
                classes, outcomes, first_s = worker.maps()  # and warms up
            except WorkerFailed as exc:
                missing[one.key] = str(exc)
                continue
            workers[one.key], maps[one.key] = worker, (classes, outcomes)
            passes[one.key], measured[one.key] = max(1, math.ceil(seconds / first_s)), []
        order = list(workers)
        for turn in range(rounds):
            _tell(f"{load.name}: round {turn + 1} of {rounds}")
            shift = turn * len(order) // rounds
            for key in order[shift:] + order[:shift]:
                if key in missing:
                    continue
                try:
                    measured[key].append({**workers[key].run(passes[key]), "passes": passes[key]})
                except WorkerFailed as exc:
                    missing[key] = str(exc)
        about = {key: worker.about for key, worker in workers.items()}
    rows: dict[str, dict[str, Any]] = {}
    plain = {one.file: one.key for one in who if one.kind == "ours" and one.gate == "off"}
    for one in who:
        if one.key not in workers or one.key in missing:
            continue
        own = plain.get(one.file, one.key)
        rows[one.key] = {
            **{"name": one.name, "file": one.file, "kind": one.kind, "about": about[one.key]},
            **row_of(measured[one.key], len(load.files), latency=one.latency),
            "agreement": agreement(maps[own], maps[one.key]) if own != one.key and own in maps else None,
        }
    add_ratios(rows)
    frames = {"says": load.says, "count": len(load.files)}
    return {"frames": frames, "rounds": rounds, "rows": rows, "missing": missing}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    bundle = open_bundle(args.bundle)
    manifest = bundle.manifest
    fabric = manifest.channels == 3 and manifest.classes == CarbonFabric(1).classes
    if args.data is None and not fabric:
        raise UsageError(f"{args.bundle} is not for carbon fabric, which alone is generated", mend="give --data DIR")
    idle = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        jobs = jobs_of(bundle, folder)
        frames = 40 if args.quick else CALIBRATION_FRAMES
        threshold, words = gate_of(bundle, args.gate, fabric=args.data is None, frames=frames)
        side = manifest.tile_px
        if args.data is not None:
            loads = [(given(bundle, folder / "given", args.data, args.fold, args.images), args.rounds)]
        else:
            large = (4 * side + 8,) * 2 if args.quick else (2048, 2448)
            small = generated(folder / "small", count=args.images, size_px=(side, side), name="small frames")
            whole = generated(folder / "large", count=1, size_px=large, name="a large frame")
            loads = [(small, args.rounds), (whole, -(-args.rounds // 2))]  # a pass over a large one takes longer
        who = contenders(list(jobs), threshold)
        who = chosen(who, args.only) if args.only else who
        workloads = {
            load.name: {"gate": words, **measure(who, jobs, load, rounds, args.seconds, folder / f"work {load.name}")}
            for load, rounds in loads
        }
    return {
        "schema": "lpcnet-edge/runtimes/1",
        "quick": args.quick,
        "bundle": {"id": bundle.id, "threshold": threshold},
        "processor": processor(),
        "threads": len(os.sched_getaffinity(0)),
        "load_average": idle,
        "versions": {name: version(name) for name in ("openvino", "onnxruntime", "opencv-python-headless")},
        "workloads": workloads,
    }


def processor() -> str:
    """The processor's name, as the kernel has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("engines/carbon-fabric-int8"))
    parser.add_argument("--data", help="a dataset's folder, or any folder of images")
    parser.add_argument("--fold", help="of the dataset")
    parser.add_argument("--gate", type=float, help="threshold; without it the bundle's")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="each has about so long a round")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="contenders whose name holds one of these")
    parser.add_argument("--record", type=Path, help="default: benchmarks/records/runtimes-NAME.json; .md beside it")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    for name in ("images", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: use 1 or more")
    if args.quick:
        args.images, args.rounds, args.seconds = min(args.images, 8), 2, 0.0
    try:
        record = run(args)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    name = Path(args.data).name if args.data else "carbon-fabric"
    out = args.record or Path(__file__).resolve().parents[1] / "records" / f"runtimes-{name}.json"
    write_atomically(out, json.dumps(finite(record), indent=1) + "\n")
    text = markdown(record)
    write_atomically(out.with_suffix(".md"), text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
