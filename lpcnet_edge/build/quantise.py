"""INT8 as explicit QuantizeLinear / DequantizeLinear nodes, placed for the fusions of TensorRT and OpenVINO.

Symmetric, zero point 0, one scale per activation tensor, one per output channel of a weight, biases in float. The
rules, each asserted on the real graphs by tests/build/test_placement.py:

- a convolution is quantised where a ReLU follows it, directly or behind one addition; never one over a pooled vector,
  the heatmap's head, the PCM or a grouped one;
- so is the one that makes stage 2's class logits, whose result stays in float: it reads the largest tensor of the
  network, which would otherwise be written in float for its sake;
- a tensor has one Q, and every INT8 consumer reads it through a DQ of its own;
- Q never stands between a convolution and its ReLU or addition;
- of an addition's two inputs the one that is not the convolution (the skip) is quantised, before a Resize if one
  stands in between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lpcnet_edge.backends.graphs import from_model, to_model
from lpcnet_edge.errors import BuildFailed, UsageError

LEVELS = 127
"""Steps on either side of zero of a symmetric INT8 tensor."""

SCALE_FLOOR = 2.0**-24
"""Least scale: TensorRT refuses 0, and this is the least that a float16 can hold."""

PIXEL_SCALE = 1.0 / LEVELS
"""Scale of the normalised pixels, (p - 128) / 127, at which INT8 represents every byte exactly."""


CLASSIFIER = "stage2/decoder/classify"
"""The convolution that makes the class logits."""


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ goes in one graph.

    Attributes
    ----------
    convs
        Names of the convolutions that compute in INT8, in the graph's order.
    uses
        Quantised tensor -> the nodes (with input index) that read it as INT8.
    """

    convs: tuple[str, ...]
    uses: Mapping[str, tuple[tuple[str, int], ...]]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The quantised activation tensors, whose ranges a calibration must give."""
        return tuple(self.uses)


def quantisable(graph: gs.Graph) -> list[gs.Node]:
    """The convolutions that the rules allow in INT8, in the graph's order."""
    return [node for node in graph.nodes if node.op == "Conv" and _allowed(node)]


def place(graph: gs.Graph, keep_float: Collection[str] = ()) -> Placement:
    """Decide which convolutions and tensors of a float graph become INT8.

    ``keep_float`` names convolutions that stay in float; raises ``UsageError`` for one that is not quantisable.
    """
    convs = quantisable(graph)
    unknown = sorted(set(keep_float) - {node.name for node in convs})
    if unknown:
        raise UsageError(
            f"{graph.name} has no quantisable layer {unknown[0]!r}",
            mend=f"use names such as {', '.join(node.name for node in convs[:3])}",
        )
    chosen = [node for node in convs if node.name not in keep_float]
    uses: dict[str, list[tuple[str, int]]] = {}
    for node in chosen:
        uses.setdefault(node.inputs[0].name, []).append((node.name, 0))
        skip = _skip(node)
        if skip is not None:
            reader, index = skip
            uses.setdefault(reader.inputs[index].name, []).append((reader.name, index))
    return Placement(tuple(node.name for node in chosen), {name: tuple(readers) for name, readers in uses.items()})


def quantise(model: onnx.ModelProto, ranges: Mapping[str, float], keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """The model with Q/DQ nodes and its weights as int8.

    Parameters
    ----------
    model
        A float stage of :func:`~lpcnet_edge.build.export.export_network`.
    ranges
        For every tensor of the placement the magnitude that the largest INT8 value stands for.
    keep_float
        Convolutions that stay in float.

    Raises
    ------
    BuildFailed
        A range is missing or not finite, or a weight is not finite.
    UsageError
        ``keep_float`` names something else than a quantisable convolution.
    """
    graph = from_model(model)
    placement = place(graph, keep_float)
    nodes = {node.name: node for node in graph.nodes}
    tensors = graph.tensors()
    for name, readers in placement.uses.items():
        scale = activation_scale(name, ranges)
        _quantise_tensor(graph, tensors[name], scale, [(nodes[reader], i) for reader, i in readers])
    for name in placement.convs:
        _quantise_weights(graph, nodes[name])
    graph.cleanup().toposort()
    return to_model(graph)


def weight_scales(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale (O,) of each output channel of a weight (O, I, kh, kw): its largest magnitude over 127, floored."""
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    return np.asarray(np.maximum(largest / LEVELS, SCALE_FLOOR), dtype=np.float32)


def _only_reader(tensor: gs.Variable) -> gs.Node | None:
    return tensor.outputs[0] if len(tensor.outputs) == 1 else None


def _allowed(node: gs.Node) -> bool:
    weights = node.inputs[1]
    if node.attrs.get("group", 1) != 1 or not isinstance(weights, gs.Constant):
        return False
    spatial = (node.outputs[0].shape or ())[2:]
    if all(extent == 1 for extent in spatial):
        return False
    if node.name == CLASSIFIER:
        return True
    reader = _only_reader(node.outputs[0])
    if reader is not None and reader.op == "Add":
        reader = _only_reader(reader.outputs[0])
    return reader is not None and reader.op == "Relu"


def _skip(conv: gs.Node) -> tuple[gs.Node, int] | None:
    """Who reads the skip of the addition behind a convolution: (node, input index); None where there is none."""
    add = _only_reader(conv.outputs[0])
    if add is None or add.op != "Add" or conv.name == CLASSIFIER:  # the PCM's addition is in float
        return None
    index = 1 if add.inputs[0] is conv.outputs[0] else 0
    skip = add.inputs[index]
    if isinstance(skip, gs.Constant) or not skip.inputs:
        return None
    producer = skip.inputs[0]
    return (producer, 0) if producer.op == "Resize" else (add, index)


def activation_scale(name: str, ranges: Mapping[str, float]) -> np.float32:
    """Scale of a quantised tensor; that of the pixels is fixed. Raises ``BuildFailed`` for a missing or bad range."""
    if name == "preprocess/normalise":
        return np.float32(PIXEL_SCALE)
    value = ranges.get(name)
    if value is None or not np.isfinite(value) or value < 0:
        raise BuildFailed(
            f"the calibration gives {value!r} as the range of {name}", mend="calibrate again with this network"
        )
    return np.float32(max(value / LEVELS, SCALE_FLOOR))


def _quantise_tensor(
    graph: gs.Graph, tensor: gs.Variable, scale: np.float32, readers: list[tuple[gs.Node, int]]
) -> None:
    scales = gs.Constant(f"{tensor.name}.scale", np.array(scale, np.float32))
    zero = gs.Constant(f"{tensor.name}.zero_point", np.array(0, np.int8))
    quantised = gs.Variable(f"{tensor.name}.int8", np.int8, tensor.shape)
    graph.nodes.append(gs.Node("QuantizeLinear", f"{tensor.name}.q", {}, [tensor, scales, zero], [quantised]))
    for reader, index in readers:
        suffix = "" if len(readers) == 1 else f"_{readers.index((reader, index)) + 1}"
        real = gs.Variable(f"{tensor.name}.dequantised{suffix}", np.float32, tensor.shape)
        graph.nodes.append(
            gs.Node("DequantizeLinear", f"{tensor.name}.dq{suffix}", {}, [quantised, scales, zero], [real])
        )
        reader.inputs[index] = real


def _quantise_weights(graph: gs.Graph, conv: gs.Node) -> None:
    weights = conv.inputs[1].values
    if not np.isfinite(weights).all():
        raise BuildFailed(f"{conv.name} has weights that are not finite", mend="train again, or use other weights")
    scales = weight_scales(weights)
    levels = np.clip(np.rint(weights / scales[:, None, None, None]), -LEVELS, LEVELS).astype(np.int8)
    name = conv.inputs[1].name
    stored = gs.Constant(f"{name}.int8", levels)
    real = gs.Variable(f"{name}.dequantised", np.float32, list(weights.shape))
    inputs = [
        stored,
        gs.Constant(f"{name}.scale", scales),
        gs.Constant(f"{name}.zero_point", np.zeros(len(scales), np.int8)),
    ]
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}.dq", {"axis": 0}, inputs, [real]))
    conv.inputs[1] = real
