r"""Our cascade beside other segmentation networks on a CPU: images/s against mIoU, interleaved, and the Pareto front.

    python benchmarks/peers/networks.py BUNDLE --data DIR [--fold 1] [--study benchmarks/records/study]
        [--work runs/study/work] [--peers NAME ...] [--rounds 9] [--images 256] [--seconds 1] [--threads N]
        [--record benchmarks/records/networks.json] [--quick]

BUNDLE is an INT8 bundle for the data. Each peer runs on OpenVINO in FP32 and in INT8 as NNCF makes it, at the bundle's
tile size, in the fastest of its batches and performance hints; ours runs as a station runs it, verdicts included, with
the gate off, and on over two mixes: the fold's own, and a line's, on which 1 % of the images show a defect. A bundle
without a gate gets one that is calibrated on the very fold it is measured on, which the record says. Everything is
measured in turn, round after round, and whatever is fast has the same images over and over, for ``--seconds``: else
it would be measured while its queues fill and empty. All resize alike, as the accuracies were measured. Accuracies are
those of the study's records (``benchmarks/accuracy/study.py``), one recipe and budget for all; a peer that the study
did not train is measured with random weights, for its speed alone.
Writes the record and, beside it, the plot. ``--quick`` only shows that it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from networks import PEERS, SPEED_ONLY
from networks_report import front, judge, plot, text_of
from peer_models import Peer, PeerSegmenter, export, fastest, peer_module, quantise

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.bench.timed import TimedBackend
from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.check.evaluate import evaluate
from lpcnet_edge.check.opening import BackendSegmenter, GatedSegmenter
from lpcnet_edge.datasets import open_dataset, with_fold, without_fold
from lpcnet_edge.errors import BadData, LpcnetError, UsageError
from lpcnet_edge.files import finite, write_atomically
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.runtime.gate_calibration import calibrate_bundle
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.types import Dataset, Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "accuracy"))
from study_groups import Group, read_groups, record_paths
from study_records import read_record

LINE_DEFECTIVE = 0.01
WORK = Path(__file__).resolve().parents[2] / ".peers" / "networks"


def study_of(folder: Path, dataset: str) -> Group | None:
    """The study's largest group of runs by tile on this data, if there is one."""
    if not any(folder.glob("*.json")):
        return None
    groups = read_groups([read_record(path) for path in record_paths(folder)])
    return next((g for g in groups if g.plan["data"] == dataset and g.plan["split"] == "tile"), None)


def study_weights(folder: Path, dataset: str, name: str, fold: str) -> Path | None:
    """The weights of a configuration that were trained without the fold, of the first seed that there is."""
    return next(iter(sorted(folder.glob(f"{dataset}.tile.{name}.fold-{fold}.seed-*/weights.safetensors"))), None)


def mixes(data: Dataset, count: int) -> dict[str, list[Image]]:
    """``own``: images of the fold as they come, shuffled. ``line``: the same images with 1 % defective parts."""
    rng = np.random.default_rng(0)
    samples = [data.read(index) for index in range(len(data.entries))]
    free = [s.image for s in samples if not s.mask.any()]
    defective: dict[str, list[Image]] = {}
    for sample in samples:
        if sample.mask.any():
            defective.setdefault(sample.entry.part, []).append(sample.image)
    order = rng.permutation(max(count, len(samples)))[:count] % len(samples)
    parts = list(defective.values())
    if not free or not parts:
        raise BadData(
            f"{data.name} has {len(free)} free images and {len(parts)} defective parts to measure with",
            mend="give a fold that has both with --fold",
        )
    line = [free[int(rng.integers(len(free)))] for _ in range(count)]
    # Exactly the share, not by chance: a run of a few hundred images would hold anything from none to six.
    for place in rng.choice(count, max(1, round(LINE_DEFECTIVE * count)), replace=False).tolist():
        part = parts[int(rng.integers(len(parts)))]
        line[place] = part[int(rng.integers(len(part)))]
    return {"own": [samples[index].image for index in order.tolist()], "line": line}


def session_rate(bundle: Bundle, backend: Backend, images: Sequence[Image], gate: Any) -> tuple[float, float]:
    """Images a second of a bulk run, and the share of tiles that stage 2 saw."""
    with Session(bundle, [iter(images)], RunSettings(gate=gate), backend=lambda: TimedBackend(backend)) as session:
        for _ in session:
            pass
    totals = session.pipeline.totals
    return totals.frames / (session.ended_s - session.started_s), totals.picked / max(1, totals.tiles)


def make_peers(
    names: Sequence[str], folder: Path, data: Dataset, fold: str, side: int, tiles: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each peer's files, FP32 and INT8, and where its weights come from; ``missing`` says why there are none."""
    WORK.mkdir(parents=True, exist_ok=True)
    for name in names:
        weights = None if name in SPEED_ONLY else study_weights(folder, data.name, name, fold)
        about: dict[str, Any] = {"weights": "random" if weights is None else "study"}
        paths = {"fp32": WORK / f"{name}.onnx", "int8": WORK / f"{name}-int8.xml"}
        try:
            module = peer_module(name, len(data.classes), weights)
            export(module, side, paths["fp32"])
            quantise(paths["fp32"], tiles, paths["int8"], transformer=name.startswith("segformer"))
            about["files"] = paths
        except (RuntimeError, ValueError, OSError) as exc:
            about["missing"] = str(exc).strip().splitlines()[-1]
        yield name, about


def measure(args: argparse.Namespace) -> dict[str, Any]:
    bundle = open_bundle(args.bundle)
    manifest, data = bundle.manifest, open_dataset(args.data)
    if manifest.channels != 1 or manifest.classes != data.classes:
        raise UsageError(f"{args.bundle} is not for {data.name} in grey", mend="build a bundle of its weights")
    held, training, side = with_fold(data, {args.fold}), without_fold(data, {args.fold}), manifest.tile_px
    images = mixes(held, args.images)
    rng = np.random.default_rng(1)
    chosen = rng.choice(len(training.entries), min(args.calibration, len(training.entries)), replace=False)
    tiles = np.stack([resize_image(training.read(int(i)).image, side, side) for i in chosen])
    backend = open_backend(bundle, "openvino")
    found: dict[str, Any] = {"networks": {}, "missing": {}, "gate_from": "the bundle"}
    candidates: dict[str, Callable[[int], float]] = {}
    segmenters: dict[str, PeerSegmenter] = {}
    picked: dict[str, float] = {}
    try:
        gate = manifest.gate
        if gate.mode == "off":
            seen = calibrate_bundle(bundle, backend, held)
            gate = GateSpec("threshold", seen.threshold, seen.alpha, seen.parts)
            found["gate_from"] = "the fold that it is measured on"

        def ours(key: str, mix: str, threshold: Any) -> Callable[[int], float]:
            def rate(times: int) -> float:
                value, picked[key] = session_rate(bundle, backend, times * images[mix], threshold)
                return value

            return rate

        for key, mix, on in (("gate off", "own", False), ("own mix", "own", True), ("line mix", "line", True)):
            candidates[f"lpc-net {key}"] = ours(key, mix, gate.threshold if on else "off")
        for name, about in make_peers(args.peers, args.work, data, args.fold, side, tiles):
            found["networks"][name] = {"weights": about["weights"]}
            if "missing" in about:
                found["missing"][name] = about["missing"]
                continue
            for kind, path in about["files"].items():
                peer = fastest(path, side, images["own"][: args.trial], args.threads)
                candidates[f"{name} {kind}"] = lambda times, peer=peer: peer.rate(times * images["own"])  # type: ignore[misc]
                found["networks"][name][f"{kind}_runs_as"] = f"batch {peer.batch}, {peer.hint.lower()}"
                if about["weights"] == "study":
                    segmenters[f"{name} {kind}"] = PeerSegmenter(
                        Peer(path, side, 8, "LATENCY", args.threads), data.classes
                    )
        rates: dict[str, list[float]] = {name: [] for name in candidates}
        warm = {name: rate(1) for name, rate in candidates.items()}
        times = found["times"] = {name: math.ceil(args.seconds * value / args.images) for name, value in warm.items()}
        for _ in range(args.rounds):
            for name, rate in candidates.items():
                rates[name].append(rate(times[name]))
        alone = BackendSegmenter(backend, manifest)
        figures = {"gate off": evaluate(alone, held), "gate on": evaluate(GatedSegmenter(alone, gate), held)}
        accuracy = {key: one.to_json()["candidate"]["mean_iou"] for key, one in figures.items()}
    finally:
        backend.close()
    return summarise(args, found, rates, accuracy, picked, segmenters, held, gate, bundle)


def summarise(
    args: argparse.Namespace,
    found: dict[str, Any],
    rates: dict[str, list[float]],
    accuracy: dict[str, float],
    picked: dict[str, float],
    segmenters: dict[str, PeerSegmenter],
    held: Dataset,
    gate: GateSpec,
    bundle: Bundle,
) -> dict[str, Any]:
    """The record: medians, ratios round by round, accuracies and where they come from."""
    study = study_of(args.study, held.name)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    networks = found["networks"]
    for name, row in networks.items():
        for kind in ("fp32", "int8"):
            row[f"{kind}_per_s"] = medians.get(f"{name} {kind}")
            if f"{name} {kind}" in segmenters:
                one = evaluate(segmenters[f"{name} {kind}"], held).to_json()["candidate"]
                row[f"{kind}_fold_mean_iou"] = one["mean_iou"]
    ours = {key.removeprefix("lpc-net "): value for key, value in medians.items() if key.startswith("lpc-net ")}
    networks["lpc-net"] = {"weights": "bundle", "int8_per_s": ours["gate off"], "by_gate": ours}
    # Beside each other stand figures of the same folds and seeds, whatever else the study has of some.
    group = None if study is None else study.shared_by([name for name in study.configs if name in networks])
    for name, row in networks.items():
        one = group.compare(name) if group is not None and name in group.configs else None
        row["mean_iou"] = None if one is None else float(one.value[0])
        row["mean_iou_bounds"] = None if one is None else one.bounds[:, 0].tolist()
    record = {
        "schema": "lpcnet-edge/networks/1",
        "quick": args.quick,
        "data": {"name": held.name, "fold": args.fold, "digest": held.digest(), "images": args.images},
        "bundle": {"id": bundle.id, "gate": asdict(gate), "gate_from": found["gate_from"]},
        "bundle_mean_iou": accuracy,
        "picked_share": picked,
        "study": None if group is None else {"caption": group.caption(), "budget": group.budget},
        "rounds": args.rounds,
        "times_images": found["times"],
        "threads": args.threads or len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "versions": {name: version(name) for name in ("openvino", "torch", "lpcnet-edge")},
        "missing": found["missing"],
        "rates": rates,
        "networks": networks,
    }
    return {**record, "front": front(networks), "targets": judge(networks, rates)}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--fold", default="1")
    parser.add_argument("--study", type=Path, default=Path("benchmarks/records/study"), help="records of the study")
    parser.add_argument("--work", type=Path, default=Path("runs/study/work"), help="where its runs left their weights")
    parser.add_argument("--peers", nargs="*", default=[*PEERS, *SPEED_ONLY], choices=[*PEERS, *SPEED_ONLY])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1.0, help="a round of each takes, about, at least")
    parser.add_argument("--calibration", type=int, default=128, help="tiles of other folds for NNCF")
    parser.add_argument("--trial", type=int, default=64, help="images to choose each peer's batch and hint with")
    parser.add_argument("--threads", type=int, default=0, help="of the peers; taskset restricts them and us")
    parser.add_argument("--record", type=Path, default=Path("benchmarks/records/networks.json"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    for name in ("rounds", "images", "calibration", "trial"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: use 1 or more")
    if not 0 < args.seconds <= 60:
        parser.error(f"--seconds {args.seconds:g}: use more than 0, and 60 at most")
    if args.quick:
        args.seconds = 0.01
        args.rounds, args.images, args.calibration, args.trial = 2, 24, 8, 8
    cv2.setNumThreads(1)
    try:
        record = measure(args)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    write_atomically(args.record, json.dumps(finite(record), indent=1) + "\n")
    plot(record, args.record.with_suffix(".png"))
    print(text_of(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
