"""The doubling of stage 2's logits as OpenVINO computes it fast: one axis at a time, whole rows as vectors.

OpenVINO vectorises an interpolation over channels, and six class planes fill a third of a vector: the doubling alone
then takes a seventh of the INT8 network's time. With the rows of a plane declared channels of a channels-last tensor,
vectors are full: one axis is doubled, the planes are turned over, and the other axis follows. The class comes first in
the result, so that the planes are parts of it and need no copy. Derived at load, never stored; the sums are those of
the canonical file in another order.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcnet_edge.backends.graphs import from_model, to_model

_LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def double_by_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of stage 2 with its logits doubled axis by axis; the model itself where it ends in another way."""
    graph = from_model(model)
    found = next((node for node in graph.nodes if node.op == "Split" and _doubled(node) is not None), None)
    if found is None:
        return model
    logits = _doubled(found)
    assert logits is not None
    _insert(graph, found, logits)
    graph.cleanup().toposort()
    return to_model(graph)


def _doubled(split: gs.Node) -> gs.Variable | None:
    """The logits (N, K, h, w) whose bilinear doubling, laid flat, is split into class planes."""
    flat = split.i() if split.inputs[0].inputs else None
    if flat is None or flat.op != "Reshape" or not flat.inputs[0].inputs:
        return None
    resize = flat.i()
    linear = resize.op == "Resize" and _LINEAR.items() <= resize.attrs.items()
    if not linear or not isinstance(resize.inputs[2], gs.Constant) or list(resize.inputs[2].values) != [1, 1, 2, 2]:
        return None
    logits: gs.Variable = resize.inputs[0]
    return logits


def _insert(graph: gs.Graph, split: gs.Node, logits: gs.Variable) -> None:
    classes, (height, width) = len(split.outputs), (side // 2 for side in graph.outputs[0].shape[1:])

    def node(op: str, name: str, inputs: list[gs.Tensor], **attrs: object) -> gs.Variable:
        out = gs.Variable(f"output/{name}", np.float32)
        graph.nodes.append(gs.Node(op, out.name, attrs, inputs, [out]))
        return out

    def reshaped(name: str, tensor: gs.Variable, *shape: int) -> gs.Variable:
        return node("Reshape", name, [tensor, gs.Constant(f"output/{name}_shape", np.array(shape, np.int64))])

    scales = gs.Constant("output/row_scales", np.array([2, 1], np.float32))
    nothing = gs.Variable.empty()
    columns = node("Transpose", "columns", [logits], perm=[1, 0, 3, 2])
    columns = reshaped("column_vectors", columns, -1, width, 1, height)
    columns = node("Resize", "doubled_columns", [columns, nothing, scales], **_LINEAR, axes=[1, 2])
    # Between four dimensions: with a Reshape on either side, to three, OpenVINO 2026.4 takes this for moving nothing.
    rows = node("Transpose", "row_vectors", [columns], perm=[0, 3, 2, 1])
    rows = node("Resize", "doubled_rows", [rows, nothing, scales], **_LINEAR, axes=[1, 2])
    split.inputs[0] = reshaped("by_class", rows, classes, -1, 4 * height * width)
    split.attrs["axis"] = 0
