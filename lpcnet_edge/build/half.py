"""The float16-typed file for strongly typed TensorRT: derived from a canonical stage, inputs and outputs kept.

The convolutional trunk becomes float16, weights, biases and scales with it. Preprocessing, the heads' outputs, the PCM
and the arg max stay in float32: they cost little, and rounding there would move decisions.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcnet_edge.backends.graphs import from_model, to_model
from lpcnet_edge.backends.trunk import in_trunk

_SMALLEST_SCALE = np.float16(2.0**-24)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a canonical stage, float or quantised, whose trunk is typed float16."""
    graph = from_model(model)
    trunk = [node for node in graph.nodes if in_trunk(node.op, node.name)]
    inside = {id(node) for node in trunk}
    casts: dict[tuple[int, int], gs.Variable] = {}
    constants: dict[int, gs.Constant] = {}
    for node in trunk:
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                if tensor.values.dtype == np.float32 and not (node.op == "Resize" and index):
                    node.inputs[index] = constants.setdefault(id(tensor), _half_constant(tensor))
            elif tensor.name and tensor.dtype == np.float32 and not _made_inside(tensor, inside):
                node.inputs[index] = _cast(graph, tensor, onnx.TensorProto.FLOAT16, np.float16, casts)
    for node in trunk:
        for index, tensor in enumerate(node.outputs):
            if tensor.dtype != np.float32:
                continue
            readers = [reader for reader in tensor.outputs if id(reader) not in inside]
            is_output = any(tensor is output for output in graph.outputs)
            if is_output:
                _rename_output(graph, node, index, tensor, inside)
                continue
            tensor.dtype = np.dtype(np.float16)
            for reader in readers:
                where = reader.inputs.index(tensor)
                reader.inputs[where] = _cast(graph, tensor, onnx.TensorProto.FLOAT, np.float32, casts)
    graph.cleanup().toposort()
    return to_model(graph)


def _made_inside(tensor: gs.Variable, inside: set[int]) -> bool:
    return bool(tensor.inputs) and id(tensor.inputs[0]) in inside


def _half_constant(tensor: gs.Constant) -> gs.Constant:
    values = tensor.values.astype(np.float16)
    if tensor.name.endswith(".scale"):
        values = np.asarray(np.maximum(values, _SMALLEST_SCALE), dtype=np.float16)
    return gs.Constant(f"{tensor.name}.half", values)


def _cast(
    graph: gs.Graph, tensor: gs.Variable, to: int, dtype: type, casts: dict[tuple[int, int], gs.Variable]
) -> gs.Variable:
    key = (id(tensor), to)
    if key not in casts:
        kind = "half" if to == onnx.TensorProto.FLOAT16 else "single"
        out = gs.Variable(f"{tensor.name}.{kind}", dtype, tensor.shape)
        casts[key] = out
        graph.nodes.append(gs.Node("Cast", f"{tensor.name}.to_{kind}", {"to": to}, [tensor], [out]))
    return casts[key]


def _rename_output(graph: gs.Graph, node: gs.Node, index: int, tensor: gs.Variable, inside: set[int]) -> None:
    """An output of the graph keeps its name and float32; the trunk goes on with a float16 tensor."""
    half = gs.Variable(f"{tensor.name}.half", np.float16, tensor.shape)
    readers = list(tensor.outputs)
    node.outputs[index] = half
    for reader in readers:
        if id(reader) in inside:
            reader.inputs[reader.inputs.index(tensor)] = half
    graph.nodes.append(gs.Node("Cast", f"{tensor.name}.to_single", {"to": onnx.TensorProto.FLOAT}, [half], [tensor]))
