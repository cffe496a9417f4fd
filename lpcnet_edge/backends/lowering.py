"""The CPU's file: activations behind a ReLU as uint8, integer for integer what the signed file computes.

OpenVINO and ONNX Runtime multiply unsigned by signed bytes fastest on x86. A tensor that cannot be negative keeps its
scale and takes uint8 in place of int8; the signed file saturates at 127 scales, so the ReLU becomes a Clip there and
every integer is the same. Derived at load, never stored.

ONNX Runtime computes a convolution in integers only where its Q follows at once. So there the ReLU goes, which uint8 is
by itself, and the Clip stands behind the Q, on bytes. Its kernels for processors without VNNI add two products in 16
bits: 2 x 127 x 127 fits, 2 x 255 x 127 would not. So a convolution that reads signed bytes, which ONNX Runtime would
shift by 128, is left in float.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcnet_edge.backends.graphs import from_model, to_model

_LEVELS = 127  # where the signed file saturates


def lower_for_cpu(model: onnx.ModelProto, *, clip_bytes: bool = False) -> onnx.ModelProto:
    """A copy of a quantised stage with unsigned activations wherever they are provably non-negative.

    With ``clip_bytes`` what a convolution of unsigned bytes gives is clipped behind its Q: ONNX Runtime's form.
    """
    graph = from_model(model)
    for node in [n for n in graph.nodes if n.op == "QuantizeLinear"]:  # in the order of computing
        if behind_relu(node.inputs[0]):
            _unsigned(graph, node, clip_bytes=clip_bytes)
    graph.cleanup().toposort()
    return to_model(graph)


def without_picking(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of stage 2 that computes every tile it is given: its gathers, and the input ``picked``, are gone."""
    graph = from_model(model)
    for node in [n for n in graph.nodes if n.op == "Gather" and n.inputs[1].name == "picked"]:
        for reader in list(node.outputs[0].outputs):
            reader.inputs = [node.inputs[0] if tensor is node.outputs[0] else tensor for tensor in reader.inputs]
        node.outputs.clear()
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name != "picked"]
    for tensor in graph.inputs:
        tensor.shape = ["M", *tensor.shape[1:]]
    graph.cleanup().toposort()
    return to_model(graph)


def with_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a stage that gives, or takes, its embedding as (N, S/16, S/16, E), as CPU convolutions have it inside.

    What one stage writes for the other alone need not be turned over twice on the way.
    """
    graph = from_model(model)
    for tensor in [tensor for tensor in graph.outputs if tensor.name == "embedding"]:
        tensor.name = "embedding/planes"
        last = gs.Variable("embedding", tensor.dtype, [tensor.shape[axis] for axis in (0, 2, 3, 1)])
        graph.nodes.append(gs.Node("Transpose", "embedding/channels_last", {"perm": [0, 2, 3, 1]}, [tensor], [last]))
        graph.outputs[graph.outputs.index(tensor)] = last
    for tensor in [tensor for tensor in graph.inputs if tensor.name == "embedding"]:
        planes = gs.Variable("embedding/planes", tensor.dtype)
        for reader in list(tensor.outputs):
            reader.inputs = [planes if read is tensor else read for read in reader.inputs]
        tensor.shape = [tensor.shape[axis] for axis in (0, 2, 3, 1)]
        graph.nodes.append(gs.Node("Transpose", "embedding/channels_first", {"perm": [0, 3, 1, 2]}, [tensor], [planes]))
    graph.cleanup().toposort()
    return to_model(graph)


def behind_relu(tensor: gs.Variable) -> bool:
    """Whether a tensor is provably non-negative: a ReLU's, through what keeps signs."""
    if not tensor.inputs:
        return False
    producer = tensor.inputs[0]
    if producer.op == "MaxPool" or (producer.op == "Resize" and producer.attrs.get("mode") != "cubic"):
        return behind_relu(producer.inputs[0])
    return bool(producer.op == "Relu")


def _unsigned(graph: gs.Graph, node: gs.Node, *, clip_bytes: bool) -> None:
    tensor, scale = node.inputs[0], node.inputs[1]
    zero = gs.Constant(f"{tensor.name}.zero_point_unsigned", np.array(0, np.uint8))
    quantised = node.outputs[0]
    quantised.dtype = np.dtype(np.uint8)
    for reader in [node, *quantised.outputs]:
        reader.inputs[2] = zero
    if clip_bytes and _of_bytes(node):
        _clip_bytes(graph, node)
    else:
        _clip(graph, node, float(_LEVELS * scale.values))


def _of_bytes(quantiser: gs.Node) -> bool:
    """Whether it quantises what a convolution of unsigned bytes gives through a ReLU, and nothing else reads that."""
    relu = quantiser.inputs[0].inputs[0]
    if relu.op != "Relu" or not relu.inputs[0].inputs:
        return False
    conv = relu.i()
    if conv.op != "Conv" or not all(tensor.inputs for tensor in conv.inputs[:2]):
        return False
    data, weights = conv.i(0), conv.i(1)
    return bool(
        data.op == weights.op == "DequantizeLinear"
        and data.inputs[2].values.dtype == np.uint8
        and len(conv.outputs[0].outputs) == len(relu.outputs[0].outputs) == 1
    )


def _clip_bytes(graph: gs.Graph, quantiser: gs.Node) -> None:
    """Put a Clip behind a quantiser to unsigned bytes, and take the ReLU before it away."""
    quantised = quantiser.outputs[0]
    whole = gs.Variable(f"{quantised.name}.whole", np.uint8, quantised.shape)
    bounds = [
        gs.Constant(f"{quantised.name}.least", np.array(0, np.uint8)),
        gs.Constant(f"{quantised.name}.largest", np.array(_LEVELS, np.uint8)),
    ]
    relu = quantiser.i()
    quantiser.inputs[0], quantiser.outputs = relu.inputs[0], [whole]
    graph.nodes.append(gs.Node("Clip", f"{quantised.name}.clip", {}, [whole, *bounds], [quantised]))


def _clip(graph: gs.Graph, quantiser: gs.Node, limit: float) -> None:
    """Make the ReLU before a quantiser a Clip at the signed file's largest value."""
    tensor = quantiser.inputs[0]
    relu = tensor.inputs[0]
    bounds = [
        gs.Constant(f"{tensor.name}.least", np.array(0.0, np.float32)),
        gs.Constant(f"{tensor.name}.largest", np.array(limit, np.float32)),
    ]
    if relu.op == "Relu" and len(tensor.outputs) == 1:
        relu.op, relu.inputs = "Clip", [relu.inputs[0], *bounds]
        return
    clipped = gs.Variable(f"{tensor.name}.clipped", np.float32, tensor.shape)
    graph.nodes.append(gs.Node("Clip", f"{tensor.name}.clip", {}, [tensor, *bounds], [clipped]))
    quantiser.inputs[0] = clipped
