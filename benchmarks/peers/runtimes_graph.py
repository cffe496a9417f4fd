"""Both stages as the one file that other runtimes take: the same operators and weights, joined at the embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcnet_edge.backends.graphs import from_model, to_model
from lpcnet_edge.backends.lowering import without_picking

_FIRST = "first/"


def joined(localization: bytes, confidence: bytes) -> onnx.ModelProto:
    """One graph from ``pixels`` (N, S, S[, 3]) uint8 to ``classes`` and ``confidence`` (N, S, S) uint8.

    Stage 2 computes every tile: the gathers that a gate needs are gone, and so is what nothing but the gate reads.
    """
    first = onnx.compose.add_prefix(onnx.load_model_from_string(localization), _FIRST)
    second = without_picking(onnx.load_model_from_string(confidence))
    shared = {f"{_FIRST}{name}": name for name in ("pixels", "embedding")}
    for node in first.graph.node:
        node.input[:] = [shared.get(name, name) for name in node.input]
        node.output[:] = [shared.get(name, name) for name in node.output]
    graph = second.graph
    graph.name = "joined"
    for kind in ("node", "initializer"):
        added, own = getattr(first.graph, kind), list(getattr(graph, kind))
        del getattr(graph, kind)[:]
        getattr(graph, kind).extend([*added, *own])
    del graph.value_info[:]
    pixels = next(value for value in graph.input if value.name == "pixels")
    for value in (pixels, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.input[:]
    graph.input.append(pixels)
    return to_model(from_model(second).cleanup().toposort())


def host_normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a joined graph that takes ``images`` (N, C, S, S) float32 in 0..1, RGB where C is 3, for ``pixels``.

    What loops that normalise on the host hand over is brought back to the pixels' range at the graph's entry.
    """
    graph = from_model(model)
    pixels = graph.inputs[0]
    colour = len(pixels.shape) == 4
    side = pixels.shape[1]
    images = gs.Variable("images", np.float32, ["N", 3 if colour else 1, side, side])
    graph.inputs = [images]
    entry = images
    steps: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("Mul", [gs.Constant("images.largest", np.array(255, np.float32))], {})
    ]
    if colour:
        steps.append(("Gather", [gs.Constant("images.bgr", np.array([2, 1, 0], np.int64))], {"axis": 1}))
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    else:
        steps.append(("Squeeze", [gs.Constant("images.channel", np.array([1], np.int64))], {}))
    for op, more, attributes in steps:
        out = gs.Variable(f"images/{op.lower()}", np.float32)
        graph.nodes.append(gs.Node(op, out.name, attributes, [entry, *more], [out]))
        entry = out
    for cast in [node for node in graph.nodes if node.op == "Cast" and node.inputs[0] is pixels]:
        old = cast.outputs[0]
        for reader in list(old.outputs):
            reader.inputs = [entry if tensor is old else tensor for tensor in reader.inputs]
        cast.outputs.clear()
    return to_model(graph.cleanup().toposort())
