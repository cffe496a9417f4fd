"""Looking at an ONNX file without running it: it must stand alone, and have the inputs and outputs that are stated.

The file is parsed as a protocol buffer only. ONNX's own loader would follow the paths of external data that it finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto, ValueInfoProto

from lpcnet_edge.bundle.manifest import StageSpec, TensorSpec
from lpcnet_edge.bundle.names import shown
from lpcnet_edge.errors import BadModel, UnsafeModel

_STANDARD = ("", "ai.onnx")
_BUILD_MEND = "do not use this bundle; build it again from its weights"
_DTYPES: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
    TensorProto.BOOL: "bool",
}


def scan_model(data: bytes, where: str) -> ModelProto:
    """Parse the bytes of an ONNX file and make sure that it stands alone.

    Raises
    ------
    BadModel
        The bytes are no ONNX model.
    UnsafeModel
        It keeps data in other files, defines functions, or uses operators outside ONNX's own.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as exc:
        raise BadModel(f"{where} is no ONNX file: {shown(exc)}", mend=_BUILD_MEND) from exc
    if not model.graph.node or not model.opset_import:
        raise BadModel(f"{where} is no ONNX file: it has no nodes or no opset", mend=_BUILD_MEND)
    if model.functions:
        raise UnsafeModel(f"{where} defines the function '{shown(model.functions[0].name)}'", mend=_BUILD_MEND)
    if model.training_info:
        raise UnsafeModel(f"{where} carries training graphs", mend=_BUILD_MEND)
    for opset in model.opset_import:
        if opset.domain not in _STANDARD:
            raise UnsafeModel(f"{where} asks for operators of '{shown(opset.domain)}'", mend=_BUILD_MEND)
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in _STANDARD:
                raise UnsafeModel(
                    f"{where}: the node '{shown(node.name)}' is a '{shown(node.op_type)}' of '{shown(node.domain)}'",
                    mend=_BUILD_MEND,
                )
        for tensor in _tensors(graph):
            if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
                paths = [entry.value for entry in tensor.external_data if entry.key == "location"]
                raise UnsafeModel(
                    f"{where}: the tensor '{shown(tensor.name)}' is kept in another file, '{shown(''.join(paths))}'",
                    mend=_BUILD_MEND,
                )
    return model


def check_interface(model: ModelProto, spec: StageSpec, where: str) -> None:
    """Raise ``BadModel`` unless the model's inputs and outputs are those of ``spec``, in this order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for what, found, stated in (("inputs", inputs, spec.inputs), ("outputs", model.graph.output, spec.outputs)):
        have, want = ", ".join(_described(found)), ", ".join(map(str, stated))
        if have != want:
            raise BadModel(f"{where} has the {what} {shown(have)}; the manifest says {want}", mend=_BUILD_MEND)


def tensor_specs(values: Sequence[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """The specs of a graph's inputs or outputs, for a manifest; ``ValueError`` or ``BadConfig`` for unusual ones."""
    return tuple(TensorSpec(value.name, _dtype(value), _shape(value)) for value in values)


def _described(values: Sequence[ValueInfoProto]) -> list[str]:
    return [f"{value.name} {_dtype(value)} ({', '.join(map(str, _shape(value)))})" for value in values]


def _dtype(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    return _DTYPES.get(kind, f"type_{kind}")


def _shape(value: ValueInfoProto) -> tuple[int | str, ...]:
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in sizes)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and those inside its nodes; protocol buffers bound the depth to 100 messages."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _inner(attribute):
                yield from _graphs(inner)


def _inner(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every constant of one graph: weights, sparse weights, and those in the attributes of its nodes."""
    yield from graph.initializer
    sparse: list[SparseTensorProto] = [*graph.sparse_initializer]
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)
