"""Quantisers side by side on the same float network: this package, ONNX Runtime, NNCF and ModelOpt.

    python benchmarks/quantisation.py [--weights NAME] [--data DIR --fold N] [--batch 8] [--rounds 40]
                                      [--peers onnxruntime nncf modelopt] [--threads 0] [--record FILE] [--json]

Each quantiser gets the same float ONNX pair and the same calibration tiles. What they make is measured in one process
on OpenVINO, both stages one after the other, interleaved, and the medians are given beside ONNX Runtime's and
OpenVINO's FP32; accuracy is measured on the check images against the ground truth and against float. NNCF and ModelOpt
have an environment each below .peers/, made on first use; one that cannot be installed is reported as missing, with the
reason.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import EngineSegmenter, open_engine
from lpcnet_edge.build.calibration_set import CalibrationRecipe, pick_calibration_set
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.export import export_network
from lpcnet_edge.build.observe import observe
from lpcnet_edge.build.ranges import range_of
from lpcnet_edge.build.splits import generated_splits, split
from lpcnet_edge.check.agreement import Comparison
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import LpcnetError, UsageError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.weights import load_network

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers"
REQUIREMENTS = {
    "onnxruntime": [],
    "nncf": ["nncf==3.2.0", f"openvino=={version('openvino')}", f"onnx=={version('onnx')}"],
    "modelopt": ["nvidia-modelopt[onnx]==0.47.0"],
}
STAGES = ("localization", "confidence")


def environment(peer: str) -> Path:
    """The Python of a peer's environment, made and filled on first use; raises ``RuntimeError`` with pip's reason."""
    if not REQUIREMENTS[peer]:
        return Path(sys.executable)
    folder = PEERS / peer
    python, done = folder / "bin/python", folder / ".installed"
    wanted = "\n".join(REQUIREMENTS[peer])
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {', '.join(REQUIREMENTS[peer])} into {folder.relative_to(HERE.parent)}", file=sys.stderr)
    try:
        venv.create(folder, with_pip=True, clear=True)
    except subprocess.CalledProcessError as exc:
        raise RuntimeError(f"{sys.executable} cannot make virtual environments (Debian: python3-venv)") from exc
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[peer]]
    found = subprocess.run(install, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError((found.stderr.strip().splitlines() or [f"pip ended with {found.returncode}"])[-1])
    done.write_text(wanted)
    return python


def quantise_with(peer: str, folder: Path) -> dict[str, Path]:
    """Let a peer quantise folder/float/*.onnx with folder/tiles.npz; the files it made, by stage."""
    python = environment(peer)
    out = folder / peer
    out.mkdir(exist_ok=True)
    run = [python, HERE / "peers" / f"quantise_{peer}.py", folder / "float", folder / "tiles.npz", out]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError((found.stderr.strip().splitlines() or ["no message"])[-1])
    return {
        stage: next(path for path in sorted(out.glob(f"{stage}.*")) if path.suffix in (".onnx", ".xml"))
        for stage in STAGES
    }


class PeerEngine:
    """A peer's file on OpenVINO, as it would be used: static shapes, float32 hint."""

    runtime = "openvino"

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> None:
        import openvino

        self.version = openvino.__version__
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = core.compile_model(model, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = [port.get_any_name() for port in compiled.outputs]

    def run(self, feeds: Any) -> dict[str, NDArray[Any]]:
        results = self._request.infer(dict(feeds), share_inputs=True)
        return {name: np.array(results[index]) for index, name in enumerate(self._names)}

    def close(self) -> None:
        self._request = None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    network = load_network(args.weights)
    quiet: Callable[[str, int, int], None] = lambda phase, done, total: None  # noqa: E731
    splits = generated_splits() if args.data is None else split(open_dataset(args.data), args.weights, args.fold, quiet)
    pair = export_network(network)
    chosen = pick_calibration_set(splits.calibration, CalibrationRecipe(), network.tile_px)
    tiles = np.stack(list(chosen.tiles()))
    if len(tiles) % args.batch:
        raise UsageError(
            f"{len(tiles)} calibration tiles are no whole batches of {args.batch}, and all quantisers get the same",
            mend=f"give a --batch that divides {len(tiles)}",
        )
    folder = PEERS / "work"
    (folder / "float").mkdir(parents=True, exist_ok=True)
    models = {"localization": pair.localization, "confidence": pair.confidence}
    for stage, model in models.items():
        (folder / "float" / f"{stage}.onnx").write_bytes(model.SerializeToString())

    size = args.batch
    engines = Engines(
        pair,
        classes=network.classes,
        channels=network.channels,
        tile_px=network.tile_px,
        backend="openvino",
        batch=size,
        cache=None,
        threads=args.threads,
    )
    float_engine = engines.reference().localization
    embeddings = np.concatenate(
        [float_engine.run({"pixels": tiles[i : i + size]})["embedding"] for i in range(0, len(tiles), size)]
    )
    np.savez(folder / "tiles.npz", tiles=tiles, embedding=embeddings)
    ranges = {name: range_of(histogram, "minmax") for name, histogram in observe(pair, tiles, len(tiles)).items()}

    def joined(first: Any, second: Any) -> EngineSegmenter:
        return EngineSegmenter(
            first, second, classes=network.classes, channels=network.channels, tile_px=network.tile_px, batch=size
        )

    candidates: dict[str, Any] = {
        "onnxruntime fp32": joined(
            *(open_engine("onnxruntime", m.SerializeToString(), threads=args.threads) for m in models.values())
        ),
        "openvino fp32": engines.reference(),
        "lpcnet-edge int8": engines.quantised(ranges),
    }
    missing: dict[str, str] = {}
    for peer in args.peers:
        try:
            paths = quantise_with(peer, folder)
            candidates[f"{peer} int8"] = joined(
                *(PeerEngine(paths[stage], engines.shapes(models[stage]), args.threads) for stage in STAGES)
            )
        except (RuntimeError, OSError, StopIteration) as exc:
            missing[peer] = str(exc)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    batch = tiles[:size]
    for turn in range(args.rounds + 3):
        for name, segmenter in candidates.items():
            started = time.perf_counter()
            segmenter.predict(batch)
            if turn >= 3:
                times[name].append(1e3 * (time.perf_counter() - started) / size)
    comparison = Comparison(engines.reference(), splits.check)
    slowest = statistics.median(times["onnxruntime fp32"])
    rows = {}
    for name, segmenter in candidates.items():
        found = comparison.against(segmenter).judgement()
        median = statistics.median(times[name])
        rows[name] = {
            "ms_per_tile": round(median, 3),
            "against_onnxruntime_fp32": round(slowest / median, 2),
            "against_openvino_fp32": round(statistics.median(times["openvino fp32"]) / median, 2),
            "mean_iou": round(found.candidate_miou, 2),
            "mean_iou_drop": round(found.drop, 3),
            "mask_iou": round(found.mask_iou, 2),
        }
    return {
        "weights": str(args.weights),
        "check": splits.note,
        "batch": size,
        "rounds": args.rounds,
        "threads": args.threads,
        "machine": platform.machine(),
        "processor": _processor(),
        "rows": rows,
        "missing": missing,
        "versions": {name: version(name) for name in ("openvino", "onnxruntime")},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--weights", default="carbon-fabric")
    parser.add_argument("--data")
    parser.add_argument("--fold", nargs="+")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--peers", nargs="*", default=list(REQUIREMENTS), choices=list(REQUIREMENTS))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for name in ("batch", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: use 1 or more")
    try:
        found = measure(args)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    if args.record:
        write_atomically(args.record, json.dumps(found, indent=1) + "\n")
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'':<20}{'ms/tile':>9}{'x ORT fp32':>12}{'x OV fp32':>11}{'mIoU':>8}{'drop':>8}{'mask IoU':>10}")
    for name, row in found["rows"].items():
        print(
            f"{name:<20}{row['ms_per_tile']:>9.2f}{row['against_onnxruntime_fp32']:>12.2f}"
            f"{row['against_openvino_fp32']:>11.2f}{row['mean_iou']:>8.2f}{row['mean_iou_drop']:>8.3f}{row['mask_iou']:>10.2f}"
        )
    for peer, reason in found["missing"].items():
        print(f"{peer}: missing ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
