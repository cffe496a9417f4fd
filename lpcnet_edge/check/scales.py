"""The scales in a bundle's quantised files, and how they fit its calibration, its float pair and what images do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.types import Image

LEVELS = 127
_BATCH = 4


@dataclass(frozen=True)
class QuantisedStage:
    """What one stage's Q/DQ nodes hold.

    Attributes
    ----------
    activations
        Scale of every quantised tensor, by the float tensor's name.
    weights
        Dequantised weights (O, I, kh, kw) by the float initializer's name.
    """

    activations: Mapping[str, float]
    weights: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TensorUse:
    """What a tensor does on some images, beside its range.

    Attributes
    ----------
    range
        The largest magnitude that INT8 keeps: scale x 127.
    largest
        The largest magnitude seen.
    saturated
        Share 0..1 of the values beyond the range.
    sqnr_db
        Of the tensor rounded and clipped, against itself.
    """

    range: float
    largest: float
    saturated: float
    sqnr_db: float


def quantised_stage(model: onnx.ModelProto) -> QuantisedStage:
    """Read a stage's scales and weights; both are empty for a float file."""
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    activations: dict[str, float] = {}
    weights: dict[str, NDArray[np.float32]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in constants:
            activations[node.input[0]] = float(constants[node.input[1]])
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            scales = constants[node.input[1]].reshape(-1, 1, 1, 1).astype(np.float32)
            weights[node.input[0].removesuffix(".int8")] = constants[node.input[0]].astype(np.float32) * scales
    return QuantisedStage(activations, weights)


def float_weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The weights (O, I, kh, kw) of a float stage's convolutions, by name."""
    convs = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    return {c.name: numpy_helper.to_array(c) for c in model.graph.initializer if c.name in convs}


def weight_gain(float_weight: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How many times the float weight the other is: the least-squares factor."""
    norm = float(np.square(float_weight, dtype=np.float64).sum())
    return float((float_weight.astype(np.float64) * other).sum()) / norm if norm else 1.0


def tensor_uses(
    reference: Mapping[str, bytes], scales: Mapping[str, Mapping[str, float]], tiles: Sequence[Image]
) -> dict[str, TensorUse]:
    """What the quantised tensors do on some tiles in the float pair.

    Parameters
    ----------
    reference
        The serialised float stages, ``localization`` and ``confidence``.
    scales
        For each stage the scale of its quantised tensors.
    tiles
        (S, S) or (S, S, 3) uint8.
    """
    engines = {}
    for stage, data in reference.items():
        own = {value.name for value in onnx.load_model_from_string(data).graph.output}
        extra = [name for name in scales[stage] if name not in own]
        engines[stage] = open_engine("onnxruntime", data, extra_outputs=extra)
    seen: dict[str, list[tuple[float, int, int, float, float]]] = {}
    for start in range(0, len(tiles), _BATCH):
        batch = np.stack(tiles[start : start + _BATCH])
        first = engines["localization"].run({"pixels": batch})
        picked = np.arange(len(batch), dtype=np.int32)
        second = engines["confidence"].run({"pixels": batch, "embedding": first["embedding"], "picked": picked})
        for stage, found in (("localization", first), ("confidence", second)):
            for name, scale in scales[stage].items():
                seen.setdefault(name, []).append(_seen(found[name], scale))
    uses = {}
    for name, rows in seen.items():
        scale = next(own[name] for own in scales.values() if name in own)
        largest, beyond, count, signal, noise = (list(column) for column in zip(*rows, strict=True))
        sqnr = 10 * math.log10(sum(signal) / sum(noise)) if sum(signal) and sum(noise) else math.inf
        uses[name] = TensorUse(LEVELS * scale, max(largest), sum(beyond) / sum(count), sqnr)
    return uses


def _seen(values: NDArray[np.float32], scale: float) -> tuple[float, int, int, float, float]:
    """Largest magnitude, values beyond the range, values, energy, and energy of the quantisation's error."""
    levels = np.rint(values / np.float32(scale))
    kept = np.clip(levels, -LEVELS, LEVELS) * np.float32(scale)
    beyond = int(np.count_nonzero(np.abs(levels) > LEVELS))
    signal = float(np.square(values, dtype=np.float64).sum())
    noise = float(np.square(values - kept, dtype=np.float64).sum())
    return float(np.abs(values).max()), beyond, values.size, signal, noise
