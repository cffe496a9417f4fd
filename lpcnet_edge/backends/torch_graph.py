"""A stage's ONNX file run by torch: the operators of our graphs, node by node, and no others.

Q/DQ are evaluated as fake quantisation, so that what is computed is what an INT8 engine computes, at the speed of the
float type that torch multiplies in. What is known when the file is read (weights, their dequantisation, shapes, axes)
is settled then: nothing in :meth:`TorchGraph.forward` makes the host wait for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from lpcnet_edge.backends.torch_operators import OPERATORS, TYPES, Node, Run, dequantised, read_node, scale_of
from lpcnet_edge.backends.trunk import in_trunk


class TorchGraph(nn.Module):
    """An ONNX stage as a module: keyword tensors in, tensors by name out.

    Parameters
    ----------
    model
        A canonical stage, float or quantised.
    half
        Compute the trunk in float16, as the file derived for TensorRT does; the rest stays in float32.
    keep
        Give out every tensor that is computed, in float32, for comparisons.

    Raises
    ------
    BadModel
        An operator, or a form of one, that our graphs do not have.
    """

    def __init__(self, model: onnx.ModelProto, *, half: bool = False, keep: bool = False) -> None:
        super().__init__()
        graph = model.graph
        self.inputs = [value.name for value in graph.input]
        self.outputs = {value.name: TYPES[value.type.tensor_type.elem_type] for value in graph.output}
        self._half, self._keep = half, keep
        known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._steps: list[tuple[Node, Run, list[str | None], torch.dtype]] = []
        quantised: dict[str, tuple[str, float]] = {}  # output of a QuantizeLinear: its input's step size
        self._kept: dict[tuple[str, torch.dtype], str] = {}  # the buffer of each known tensor
        self._same: dict[str, str] = {}  # output of a DequantizeLinear: what the QuantizeLinear before it made
        for proto in graph.node:
            node = read_node(proto, known)
            if node.op == "DequantizeLinear":
                if node.known[0] is not None:
                    known[node.outputs[0]] = dequantised(node)
                else:
                    node.want("its scale is not its quantiser's", quantised.get(node.inputs[0]) == scale_of(node))
                    self._same[node.outputs[0]] = node.inputs[0]
                continue
            if node.op == "QuantizeLinear":
                quantised[node.outputs[0]] = scale_of(node)
            if node.op not in OPERATORS:
                raise node.refusal("this operator is not known here")
            count, build = OPERATORS[node.op]
            dtype = torch.float16 if half and in_trunk(node.op, node.name) else torch.float32
            names = [
                self._place(name, value, dtype, weight=node.op == "Conv")
                for name, value in zip(node.inputs[:count], node.known, strict=False)
            ]
            self._steps.append((node, build(node), names, dtype))
        self._find_last_uses()

    def _place(self, name: str, value: NDArray[Any] | None, dtype: torch.dtype, *, weight: bool) -> str | None:
        """The name under which a step finds an input; a known one becomes a buffer of this module."""
        if not name:
            return None
        if value is None:
            return self._same.get(name, name)
        kept = self._kept.setdefault((name, dtype), f"known_{len(self._kept)}")  # no dot may be in it
        if not hasattr(self, kept):
            tensor = torch.from_numpy(np.array(value))
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            if weight and dtype == torch.float16 and tensor.ndim == 4:  # what tensor cores read
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(kept, tensor, persistent=False)
        return kept

    def _find_last_uses(self) -> None:
        last: dict[str, Node] = {}
        given_out = {self._same.get(name, name) for name in self.outputs}
        for node, _, names, _ in self._steps:
            last.update({name: node for name in (*names, *node.outputs) if name is not None})
        for name, node in last.items():
            if name not in given_out and not hasattr(self, name):
                node.drop.append(name)

    def forward(self, **feeds: Tensor) -> dict[str, Tensor]:
        """Outputs by name, and every other tensor too where they are kept."""
        values: dict[tuple[str, torch.dtype | None], Tensor] = {(name, None): feeds[name] for name in self.inputs}
        for node, run, names, dtype in self._steps:
            made = run(*(None if name is None else self._in(values, name, dtype) for name in names))
            for name, tensor in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=True):
                values[name, None] = tensor
            if not self._keep:
                for name in node.drop:
                    for kind in (None, torch.float16, torch.float32):
                        values.pop((name, kind), None)
        if self._keep:
            kept = {name: tensor for (name, kind), tensor in values.items() if kind is None}
            return kept | {after: kept[before] for after, before in self._same.items()}
        found = {name: self._same.get(name, name) for name in self.outputs}
        return {name: values[found[name], None].to(dtype) for name, dtype in self.outputs.items()}

    def _in(self, values: dict[tuple[str, torch.dtype | None], Tensor], name: str, dtype: torch.dtype) -> Tensor:
        """A tensor in the type that a node computes in, where it is of a float type."""
        tensor = values.get((name, None))
        if tensor is None:
            buffer: Tensor = getattr(self, name)
            return buffer
        if not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        cast = values.get((name, dtype))
        if cast is None:
            cast = values[name, dtype] = tensor.to(dtype)
        return cast
