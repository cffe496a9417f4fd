"""What cross-layer equalisation and bias correction are worth here: agreement of INT8 with float, with and without.

    python benchmarks/corrections.py [--weights carbon-fabric] [--data DATA --fold N] [--json]

Both are of Nagel et al., 2019, Data-Free Quantization Through Weight Equalization and Bias Correction. Ranges come from
the build's own default set, by minmax; everything else is equal. The figures are those of the check images: how far
mIoU falls below float's, the overlap of INT8's and float's defect masks, and equal pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.graphs import from_model, to_model
from lpcnet_edge.build.calibration_set import CalibrationRecipe, pick_calibration_set
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.export import OnnxPair, export_network
from lpcnet_edge.build.observe import batches, observe
from lpcnet_edge.build.quantise import LEVELS, quantisable, weight_scales
from lpcnet_edge.build.ranges import range_of
from lpcnet_edge.build.splits import generated_splits, split
from lpcnet_edge.check.agreement import Comparison
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import LpcnetError
from lpcnet_edge.network.weights import load_network


def equalise(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The same function with evener weights, and the number of layer pairs that were changed.

    Where a convolution feeds exactly one other through a ReLU, channel i of the tensor between them is divided by
    s_i = sqrt(r1_i / r2_i), r1 and r2 being the largest weights of that channel on either side. A ReLU passes positive
    factors, so that the float network computes what it did.
    """
    graph = from_model(model)
    convs = quantisable(graph)
    changed = 0
    for conv in convs:
        after = _only_conv_behind(conv)
        if after is None:
            continue
        w1, b1, w2 = conv.inputs[1].values, conv.inputs[2].values, after.inputs[1].values
        r1 = np.abs(w1).max(axis=(1, 2, 3))
        r2 = np.abs(w2).max(axis=(0, 2, 3))
        alive = (r1 > 1e-8) & (r2 > 1e-8)
        s = np.where(alive, np.sqrt(np.where(alive, r1, 1.0) / np.where(alive, r2, 1.0)), 1.0).astype(np.float32)
        conv.inputs[1] = gs.Constant(conv.inputs[1].name, w1 / s[:, None, None, None])
        conv.inputs[2] = gs.Constant(conv.inputs[2].name, b1 / s)
        after.inputs[1] = gs.Constant(after.inputs[1].name, w2 * s[None, :, None, None])
        changed += 1
    graph.cleanup().toposort()
    return to_model(graph), changed


def input_means(pair: OnnxPair, batches: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
    """Mean of every input channel (C,) of every quantisable convolution, by tensor name, in the float network."""
    stages = {"localization": pair.localization, "confidence": pair.confidence}
    wanted = {s: sorted({n.inputs[0].name for n in quantisable(from_model(m))}) for s, m in stages.items()}
    engines = {
        stage: open_engine(
            "onnxruntime",
            model.SerializeToString(),
            extra_outputs=[n for n in wanted[stage] if n not in {o.name for o in model.graph.output}],
        )
        for stage, model in stages.items()
    }
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for batch in batches:
        first = engines["localization"].run({"pixels": batch})
        picked = np.arange(len(batch), dtype=np.int32)
        second = engines["confidence"].run({"pixels": batch, "embedding": first["embedding"], "picked": picked})
        for stage, found in (("localization", first), ("confidence", second)):
            for name in wanted[stage]:
                mean = found[name].mean(axis=(2, 3), dtype=np.float64).sum(axis=0)
                key = f"{stage}:{name}"
                sums[key] = sums.get(key, 0.0) + mean
        count += len(batch)
    return {name: total / count for name, total in sums.items()}


def correct_biases(
    model: onnx.ModelProto, stage: str, means: Mapping[str, NDArray[np.float64]], keep_float: Iterable[str] = ()
) -> onnx.ModelProto:
    """The float stage with biases that cancel the mean error that rounding its weights to INT8 will make.

    b' = b - sum over the kernel of (W_q - W) E[x]; border effects are left out. To be quantised next, not to be used
    in float.
    """
    graph = from_model(model)
    kept = set(keep_float)
    for conv in quantisable(graph):
        if conv.name in kept:
            continue
        weights, bias = conv.inputs[1].values, conv.inputs[2].values
        scales = weight_scales(weights)[:, None, None, None]
        error = np.clip(np.rint(weights / scales), -LEVELS, LEVELS) * scales - weights
        shift = error.sum(axis=(2, 3)).astype(np.float64) @ means[f"{stage}:{conv.inputs[0].name}"]
        conv.inputs[2] = gs.Constant(conv.inputs[2].name, (bias - shift).astype(np.float32))
    graph.cleanup().toposort()
    return to_model(graph)


def _only_conv_behind(conv: gs.Node) -> gs.Node | None:
    """The convolution that alone reads this one's ReLU, if there is one."""
    readers = conv.outputs[0].outputs
    if len(readers) != 1 or readers[0].op != "Relu" or len(conv.inputs) < 3:
        return None
    after = readers[0].outputs[0].outputs
    found = after[0] if len(after) == 1 and after[0].op == "Conv" else None
    return found if found is not None and isinstance(found.inputs[1], gs.Constant) else None


def measure(weights: str, data: str | None, folds: list[str] | None) -> dict[str, Any]:
    """mIoU drop, mask IoU and equal pixels of each variant."""
    network = load_network(weights)
    quiet = lambda phase, done, total: None  # noqa: E731
    splits = generated_splits() if data is None else split(open_dataset(data), weights, folds, quiet)
    plain = export_network(network)
    chosen = pick_calibration_set(splits.calibration, CalibrationRecipe(), network.tile_px)
    tiles = np.stack(list(chosen.tiles()))

    def engines_of(pair: OnnxPair) -> Engines:
        return Engines(
            pair,
            classes=network.classes,
            channels=network.channels,
            tile_px=network.tile_px,
            backend="openvino",
            batch=8,
            cache=None,
        )

    comparison = Comparison(engines_of(plain).reference(), splits.check)
    even_stages = [equalise(model) for model in (plain.localization, plain.confidence)]
    even = OnnxPair(*(model for model, _ in even_stages))
    found: dict[str, Any] = {"equalised_pairs": sum(count for _, count in even_stages), "variants": {}}
    for name, pair in (("plain", plain), ("equalised", even)):
        histograms = observe(pair, tiles, len(tiles))
        ranges = {tensor: range_of(histogram, "minmax") for tensor, histogram in histograms.items()}
        means = input_means(pair, batches(tiles[:64], 8))
        corrected = OnnxPair(
            correct_biases(pair.localization, "localization", means),
            correct_biases(pair.confidence, "confidence", means),
        )
        for suffix, form in (("", pair), (" + bias correction", corrected)):
            agreement = comparison.against(engines_of(form).quantised(ranges)).judgement()
            found["variants"][name + suffix] = {
                "mean_iou_drop": round(agreement.drop, 3),
                "mask_iou": round(agreement.mask_iou, 3),
                "pixels": round(agreement.pixels, 4),
            }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--weights", default="carbon-fabric")
    parser.add_argument("--data")
    parser.add_argument("--fold", nargs="+")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        found = measure(args.weights, args.data, args.fold)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'':<34}{'mIoU drop':>10}{'mask IoU':>10}{'pixels':>10}")
    for name, row in found["variants"].items():
        print(f"{name:<34}{row['mean_iou_drop']:>10.3f}{row['mask_iou']:>10.3f}{row['pixels']:>10.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
