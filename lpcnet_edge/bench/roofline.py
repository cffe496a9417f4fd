"""What a stage's ONNX graph costs, layer by layer: operations, and bytes to and from memory. No torch, no engine.

A layer is a convolution (or another node that must see its whole input) with everything elementwise behind it, as
engines fuse them: bias, ReLU, Clip, Add, Q and DQ move no bytes of their own. A tensor between layers is written once
and read once by each reader, as bytes where it is quantised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import onnx

from lpcnet_edge.backends.lowering import without_picking
from lpcnet_edge.bench.devices import Device
from lpcnet_edge.errors import BadArtifact

# Nodes that engines fuse into the layer before them, or that only look at the same bytes in another way.
_FUSED = frozenset(
    (
        *("Relu", "Clip", "Add", "Sub", "Mul", "Div", "Cast", "Sigmoid", "Exp", "Log", "Sqrt", "Round", "Floor", "Min"),
        *(
            "Max",
            "Pow",
            "Abs",
            "Neg",
            "Greater",
            "Less",
            "Equal",
            "GreaterOrEqual",
            "LessOrEqual",
            "Where",
            "And",
            "Or",
        ),
        *("Not", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "QuantizeLinear", "BatchNormalization"),
        *("LeakyRelu", "Transpose", "Pad", "HardSigmoid", "Tanh", "Erf", "Reciprocal", "Ceil", "Split", "Slice"),
    )
)
_SHAPES_ONLY = frozenset(("Shape", "Constant", "ConstantOfShape", "Range"))
_ELEMENT_BYTES = {
    onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT8: 1, onnx.TensorProto.BOOL: 1, onnx.TensorProto.INT32: 4,
    onnx.TensorProto.INT64: 8,
}  # fmt: skip


@dataclass
class Layer:
    """One layer: operations (2 a multiply-add) of its convolutions, elementwise operations, and bytes of memory."""

    name: str
    kind: str
    quantised: bool = False
    ops: int = 0
    vector_ops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    tensors: set[str] = field(default_factory=set)

    def seconds(self, device: Device) -> tuple[float, str]:
        """The least time on a device, and what bounds it: ``compute`` or ``memory``."""
        rate = device.int8_ops if self.quantised else device.float_ops
        compute = self.ops / rate + self.vector_ops / device.vector_ops
        memory = (self.read_bytes + self.written_bytes) / device.bytes_per_s
        return (compute, "compute") if compute >= memory else (memory, "memory")


def layers_of(model: bytes, stage: str, batch: int, float_bytes: int) -> list[Layer]:
    """The layers of a stage for a batch of tiles, in order; ``float_bytes`` is the size of a float number in memory.

    Raises ``BadArtifact`` where a tensor's shape cannot be told.
    """
    proto = onnx.load_model_from_string(model)
    if stage == "confidence":
        proto = without_picking(proto)
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    return _Costing(proto, float_bytes).layers()


class _Costing:
    def __init__(self, proto: onnx.ModelProto, float_bytes: int) -> None:
        self.graph, self.float_bytes = proto.graph, float_bytes
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        for name, tensor in self.constants.items():
            self.shapes[name], self.types[name] = list(tensor.dims), tensor.data_type
        self.behind: dict[str, str] = {}  # the output of a DequantizeLinear -> the bytes that it reads

    def layers(self) -> list[Layer]:
        made: list[Layer] = []
        owner: dict[str, int] = {}
        rank: dict[str, int] = {}
        for place, node in enumerate(self.graph.node):
            if node.op_type in _SHAPES_ONLY:
                continue
            if node.op_type == "DequantizeLinear":
                self.behind[node.output[0]] = node.input[0]
                continue
            data = [self._source(name) for name in node.input if name and not self._is_constant(name)]
            inside = [name for name in data if name in owner]
            if node.op_type in _FUSED and inside:
                index = owner[max(inside, key=lambda name: rank[name])]
            else:
                index = len(made)
                made.append(Layer(node.name or node.output[0], node.op_type))
            layer = made[index]
            self._count(layer, node)
            for name in filter(None, node.input):
                source = self._source(name)
                if owner.get(source) != index and source not in layer.tensors:
                    layer.tensors.add(source)
                    layer.read_bytes += self._bytes(source)
            for name in node.output:
                owner[name], rank[name] = index, place
        self._written(made, owner)
        return [layer for layer in made if layer.ops or layer.read_bytes or layer.written_bytes]

    def _count(self, layer: Layer, node: onnx.NodeProto) -> None:
        out = self._elements(node.output[0])
        if node.op_type == "Conv":
            weight = self.shapes[node.input[1]]
            layer.ops += 2 * out * prod(weight[1:])
            layer.quantised = layer.quantised or node.input[0] in self.behind
        elif node.op_type in ("MatMul", "Gemm"):
            inner = self.shapes[node.input[0]][-1]
            layer.ops += 2 * out * inner
            layer.quantised = layer.quantised or node.input[0] in self.behind
        elif node.op_type not in (
            "Identity",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Split",
            "Slice",
            "Gather",
            "Transpose",
            "Pad",
        ):
            layer.vector_ops += out

    def _written(self, made: list[Layer], owner: Mapping[str, int]) -> None:
        """A tensor is written where another layer, or whoever runs the graph, reads it."""
        wanted = {value.name for value in self.graph.output}
        for index, layer in enumerate(made):
            wanted |= {name for name in layer.tensors if owner.get(name, index) != index}
        for name in wanted:
            if name in owner:
                made[owner[name]].written_bytes += self._bytes(name)

    def _source(self, name: str) -> str:
        return self.behind.get(name, name)

    def _is_constant(self, name: str) -> bool:
        return self._source(name) in self.constants

    def _elements(self, name: str) -> int:
        shape = self.shapes.get(name)
        if shape is None or any(size < 1 for size in shape):
            raise BadArtifact(
                f"the shape of '{name}' in the {self.graph.name} stage cannot be told", mend="build the bundle again"
            )
        return prod(shape)

    def _bytes(self, name: str) -> int:
        if name in self.constants and not prod(self.shapes[name]):
            return 0
        return self._elements(name) * _ELEMENT_BYTES.get(self.types.get(name, 1), self.float_bytes)
