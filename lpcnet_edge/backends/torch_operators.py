"""The ONNX operators that our graphs use, as functions of torch; a form of one that no graph of ours has is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional

from lpcnet_edge.errors import BadModel

TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}

Run = Callable[..., Any]


@dataclass
class Node:
    """A node with its attributes, and the values of those inputs that are known (None for the others)."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any]
    known: list[NDArray[Any] | None]
    drop: list[str] = field(default_factory=list)  # not read after this node

    def ints(self, index: int) -> list[int]:
        """A known input as numbers."""
        value = self.known[index] if index < len(self.known) else None
        if value is None:
            raise self.refusal(f"input {index} must be known when the file is read")
        return [int(item) for item in np.ravel(value)]

    def want(self, what: str, holds: bool) -> None:
        """Raise ``BadModel`` for a form of the operator that no graph of ours has."""
        if not holds:
            raise self.refusal(what)

    def refusal(self, what: str) -> BadModel:
        return BadModel(f"node '{self.name}' ({self.op}): {what}", mend="build the bundle again with this version")


def read_node(proto: onnx.NodeProto, known: dict[str, NDArray[Any]]) -> Node:
    """A node of a file, with what is known of its inputs."""
    attrs = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    attrs = {name: value.decode() if isinstance(value, bytes) else value for name, value in attrs.items()}
    inputs = list(proto.input)
    return Node(proto.op_type, proto.name, inputs, list(proto.output), attrs, [known.get(name) for name in inputs])


def scale_of(node: Node) -> tuple[str, float]:
    """The type of the quantised values and the step size, of a node with one for the whole tensor and no offset."""
    scale, zero = node.known[1:3]
    if scale is None or zero is None or scale.size != 1 or zero.any():
        raise node.refusal("one known scale and a zero point of 0 are expected")
    return zero.dtype.name, float(scale.reshape(()))


def dequantised(node: Node) -> NDArray[Any]:
    """The float32 values of known integers."""
    value, scale, zero = node.known
    if value is None or scale is None or zero is None or zero.any():
        raise node.refusal("a known scale and a zero point of 0 are expected")
    if scale.ndim:
        shape = [1] * value.ndim
        shape[node.attrs.get("axis", 1)] = -1
        scale = scale.reshape(shape)
    return np.asarray(value.astype(np.float32) * scale.astype(np.float32), np.float32)


def _quantise(node: Node) -> Run:
    kind, scale = scale_of(node)
    limits = np.iinfo(kind)
    return lambda x: torch.fake_quantize_per_tensor_affine(x, scale, 0, int(limits.min), int(limits.max))


def _cast(node: Node) -> Run:
    dtype = TYPES[node.attrs["to"]]
    return lambda x: x.to(dtype)


def _axis(node: Node) -> int:
    axes = node.ints(1)
    node.want("one axis is expected", len(axes) == 1)
    return axes[0]


def _unsqueeze(node: Node) -> Run:
    axis = _axis(node)
    return lambda x: x.unsqueeze(axis)


def _squeeze(node: Node) -> Run:
    axis = _axis(node)
    return lambda x: x.squeeze(axis)


def _transpose(node: Node) -> Run:
    order = list(node.attrs["perm"])
    return lambda x: x.permute(order)


def _gather(node: Node) -> Run:
    axis, index = node.attrs.get("axis", 0), node.known[1]
    node.want("a list of indices is expected", index is None or index.ndim == 1)
    return lambda x, index: torch.index_select(x, axis, index)


def _concat(node: Node) -> Run:
    axis = node.attrs["axis"]
    return lambda *tensors: torch.cat(tensors, axis)


def _padding(node: Node) -> tuple[int, ...]:
    """Of a convolution or pooling, alike at both ends."""
    node.want("auto_pad is not known here", node.attrs.get("auto_pad", "NOTSET") == "NOTSET")
    pads = list(node.attrs.get("pads", [0, 0, 0, 0]))
    node.want("paddings differ between ends", pads[:2] == pads[2:])
    return tuple(pads[:2])


def _conv(node: Node) -> Run:
    padding, attrs = _padding(node), node.attrs
    strides, dilations = tuple(attrs.get("strides", [1, 1])), tuple(attrs.get("dilations", [1, 1]))
    groups = attrs.get("group", 1)
    return lambda x, weight, bias=None: functional.conv2d(x, weight, bias, strides, padding, dilations, groups)


def _max_pool(node: Node) -> Run:
    padding, attrs = _padding(node), node.attrs
    node.want("ceil_mode and dilations are not known here", not attrs.get("ceil_mode", 0))
    node.want("ceil_mode and dilations are not known here", set(attrs.get("dilations", [1])) == {1})
    kernel, strides = tuple(attrs["kernel_shape"]), tuple(attrs.get("strides", [1, 1]))
    return lambda x: functional.max_pool2d(x, kernel, strides, padding)


def _reduce(function: Callable[..., Tensor]) -> Callable[[Node], Run]:
    def build(node: Node) -> Run:
        axes, keep = node.ints(1), bool(node.attrs.get("keepdims", 1))
        return lambda x: function(x, dim=axes, keepdim=keep)

    return build


def _softmax(node: Node) -> Run:
    axis = node.attrs.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _pad(node: Node) -> Run:
    pads = node.ints(1)
    node.want("borders of four axes are replicated, no others", node.attrs.get("mode") == "edge" and len(pads) == 8)
    top, left, bottom, right = pads[2], pads[3], pads[6], pads[7]
    node.want("only height and width are padded", not any((*pads[:2], *pads[4:6])))
    return lambda x: functional.pad(x, (left, right, top, bottom), mode="replicate")


def _slice(node: Node) -> Run:
    starts, ends, axes = node.ints(1), node.ints(2), node.ints(3)
    steps = node.ints(4) if len(node.inputs) > 4 else [1] * len(axes)
    node.want("steps other than 1 are not known here", set(steps) == {1})
    spans = dict(zip(axes, (slice(start, end) for start, end in zip(starts, ends, strict=True)), strict=True))

    def run(x: Tensor) -> Tensor:
        return x[tuple(spans.get(axis, spans.get(axis - x.ndim, slice(None))) for axis in range(x.ndim))]

    return run


def _resize(node: Node) -> Run:
    scales = node.known[2] if len(node.inputs) > 2 else None
    if scales is None or scales.shape != (4,) or (scales[:2] != 1).any() or (scales != np.rint(scales)).any():
        raise node.refusal("height and width grow by known whole factors, nothing else does")
    factors = (float(scales[2]), float(scales[3]))
    mode = node.attrs.get("mode", "nearest")
    how = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if mode == "linear":
        node.want("linear is known with half_pixel", how == "half_pixel")
        return lambda x: functional.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)
    # By a whole factor each of these repeats every value so many times.
    nearest = (how, node.attrs.get("nearest_mode", "round_prefer_floor"))
    known = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
    node.want(f"{mode} by {nearest} is not known here", mode == "nearest" and nearest in known)
    return lambda x: functional.interpolate(x, scale_factor=factors, mode="nearest")


def _reshape(node: Node) -> Run:
    shape = node.ints(1)
    return lambda x: x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def _split(node: Node) -> Run:
    axis, count = node.attrs.get("axis", 0), len(node.outputs)
    node.want("parts of given sizes are not known here", node.attrs.get("num_outputs") == count)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            torch.split(x, -(-x.shape[axis] // count), axis)
        )  # the last part is the smaller one, as ONNX has it

    return run


def _maximum(node: Node) -> Run:
    node.want("two inputs are expected", len(node.inputs) == 2)
    return torch.maximum


def _plain(function: Run) -> Callable[[Node], Run]:
    return lambda node: function


OPERATORS: dict[str, tuple[int | None, Callable[[Node], Run]]] = {
    "Add": (2, _plain(torch.add)),
    "Cast": (1, _cast),
    "Concat": (None, _concat),
    "Conv": (3, _conv),
    "Div": (2, _plain(torch.div)),
    "Exp": (1, _plain(torch.exp)),
    "Gather": (2, _gather),
    "Greater": (2, _plain(torch.gt)),
    "Max": (2, _maximum),
    "MaxPool": (1, _max_pool),
    "Mul": (2, _plain(torch.mul)),
    "Pad": (1, _pad),
    "QuantizeLinear": (1, _quantise),
    "ReduceMax": (1, _reduce(torch.amax)),
    "ReduceMean": (1, _reduce(torch.mean)),
    "Relu": (1, _plain(functional.relu)),
    "Reshape": (1, _reshape),
    "Resize": (1, _resize),
    "Round": (1, _plain(torch.round)),
    "Sigmoid": (1, _plain(torch.sigmoid)),
    "Slice": (1, _slice),
    "Softmax": (1, _softmax),
    "Split": (1, _split),
    "Squeeze": (1, _squeeze),
    "Sub": (2, _plain(torch.sub)),
    "Transpose": (1, _transpose),
    "Unsqueeze": (1, _unsqueeze),
    "Where": (3, _plain(torch.where)),
}
"""Of an operator: how many of its inputs are tensors when it runs at most (None: all), and what makes the function of
them."""
