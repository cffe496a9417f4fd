"""Names in an exported graph that a person can read: nodes after modules, tensors after nodes."""

from __future__ import annotations

import ast

import onnx
import onnx_graphsurgeon as gs


def name_nodes(model: onnx.ModelProto) -> None:
    """Name torch's nodes after the module they come from, such as ``stage2/decoder/up8/conv`` and ``.../conv/relu``."""
    taken: dict[str, int] = {}
    for node in model.graph.node:
        about = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(about.get("pkg.torch.onnx.name_scopes", "['', '']"))
        scope = (scopes[-2] if len(scopes) > 1 else "").replace(".", "/") or "output"
        if node.op_type == "Conv" and any(name.endswith(".weight") for name in node.input):
            name = scope.removesuffix("/conv")  # a block's only convolution needs no name of its own
            name = scope if name.count("/") < 2 else name
        else:
            name = f"{scope}/{node.op_type.lower()}"
        seen = taken[name] = taken.get(name, 0) + 1
        node.name = name if seen == 1 else f"{name}_{seen}"


def name_tensors(graph: gs.Graph) -> None:
    """Name every tensor but the inputs and outputs after the node that makes it, constants after the node they feed."""
    fixed = {t.name for t in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        for index, tensor in enumerate(node.outputs):
            if tensor.name not in fixed:
                tensor.name = f"{node.name}:{index}" if index else node.name
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and not tensor.name.startswith("stage"):
                tensor.name = f"{node.name}.{_role(node, index)}"


def _role(node: gs.Node, index: int) -> str:
    roles = {"Conv": ("input", "weight", "bias")}.get(node.op, ())
    return roles[index] if index < len(roles) else f"constant{index}"
