"""A network as the library parsed it, and as its ONNX file declares it: inputs, outputs and the range of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import onnx

from lpcnet_edge.backends.tensorrt import Library
from lpcnet_edge.backends.tensorrt_versions import DataType, Tensor
from lpcnet_edge.bundle.manifest import TensorSpec
from lpcnet_edge.bundle.model import scan_model
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import BuildFailed, UsageError

Shape: TypeAlias = tuple[int, ...]
ShapeRange: TypeAlias = tuple[Shape, Shape, Shape]
"""The smallest shape of an input, the one to be fastest at, and the largest."""

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def read_model(onnx_bytes: bytes) -> onnx.ModelProto:
    """The model, without running anything.

    Raises
    ------
    BadModel, UnsafeModel
        It is none, or does not stand alone.
    BuildFailed
        It has unsigned Q/DQ: the parser takes that with a warning and computes with signed numbers.
    """
    model = scan_model(onnx_bytes, "the ONNX file")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            types.update((node.output[0], a.t.data_type) for a in node.attribute if a.name == "value")
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        given = [types.get(name) for name in (node.input[0], *node.input[2:])]
        if onnx.TensorProto.UINT8 in given or (node.op_type == "QuantizeLinear" and len(node.input) < 3):
            raise BuildFailed(
                f"node '{node.name}' ({node.op_type}) is unsigned, which TensorRT reads as signed",
                mend="give the canonical file with signed Q/DQ; the one lowered to uint8 is for CPUs alone",
            )
    return model


def tensor_specs(
    library: Library, tensors: Sequence[Tensor], declared: Sequence[onnx.ValueInfoProto]
) -> tuple[TensorSpec, ...]:
    """What the network says; only the names of its outputs' dynamic axes are the file's, the network keeps none."""
    axes = {info.name: [axis.dim_param for axis in info.type.tensor_type.shape.dim] for info in declared}
    specs = []
    for tensor in tensors:
        kind: DataType = tensor.dtype
        if kind.name not in DTYPES:
            raise BuildFailed(
                f"'{tensor.name}' is of type {kind.name}, which {library.module} cannot hand over to numpy",
                mend="let the file's inputs and outputs be float32, float16, or whole numbers",
            )
        names = axes.get(str(tensor.name), [])
        sizes = [int(size) for size in tensor.shape]
        shape = tuple(size if size >= 0 else _axis_name(names, axis) for axis, size in enumerate(sizes))
        specs.append(TensorSpec(str(tensor.name), DTYPES[kind.name], shape))
    return tuple(specs)


def _axis_name(names: Sequence[str], axis: int) -> str:
    name = names[axis] if axis < len(names) else ""
    return name if name.isidentifier() and len(name) <= 32 else f"axis{axis}"


def checked_ranges(inputs: Sequence[TensorSpec], profiles: Mapping[str, ShapeRange]) -> dict[str, ShapeRange]:
    """The profile of every dynamic input; raises ``UsageError`` for one that is absent, unknown or does not fit."""
    known = {spec.name: spec for spec in inputs}
    for name in profiles:
        if name not in known:
            raise UsageError(f"a profile is given for '{name}', which is no input", mend=suggest(name, list(known)))
    ranges = {}
    for spec in inputs:
        if all(isinstance(axis, int) for axis in spec.shape):
            continue
        shape = ", ".join(map(str, spec.shape))
        if spec.name not in profiles:
            raise UsageError(
                f"input '{spec.name}' ({shape}) has a dynamic axis and no profile",
                mend="give its smallest, best and largest shape",
            )
        ranges[spec.name] = profiles[spec.name]
        for axis, sizes in enumerate(zip(*_same_rank(spec, profiles[spec.name]), strict=True)):
            fixed = spec.shape[axis]
            if not 0 < sizes[0] <= sizes[1] <= sizes[2] or (isinstance(fixed, int) and set(sizes) != {fixed}):
                raise UsageError(
                    f"input '{spec.name}' ({shape}): axis {axis} cannot be {sizes[0]} to {sizes[2]}, best {sizes[1]}",
                    mend="sizes rise from smallest to best to largest, and a fixed axis keeps its size",
                )
    return ranges


def _same_rank(spec: TensorSpec, shapes: ShapeRange) -> ShapeRange:
    for shape in shapes:
        if len(shape) != len(spec.shape):
            raise UsageError(
                f"input '{spec.name}' has {len(spec.shape)} axes, a profile of {len(shape)} is given",
                mend=f"give {len(spec.shape)} sizes in each shape",
            )
    return shapes
