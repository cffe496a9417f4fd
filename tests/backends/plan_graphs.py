"""Small ONNX files of the shape that the two stages have, for the builders of plans.

Built by hand and not by the package's own export, so that a mistake there cannot hide here: a stem, residual blocks
with Q/DQ on their skip only, a decoder whose merge has its Q behind the ReLU, heads in float.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Typed = Literal["float32", "float16"]

SIDE = 64
CLASSES = 4
EMBEDDING = 32


class Net:
    """Nodes and weights, appended one after the other; every method returns the name of its output."""

    def __init__(self, typed: Typed, int8: bool, seed: int = 7) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.typed = np.dtype(typed)
        self.int8 = int8
        self.random = np.random.default_rng(seed)

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def quantised(self, x: str, name: str) -> str:
        """One Q and one DQ, symmetric; the tensor as it is in a float network."""
        if not self.int8:
            return x
        scale = self.constant(f"{name}.scale", self.typed.type(0.05))
        zero = self.constant(f"{name}.zero_point", np.int8(0))
        q = self.add("QuantizeLinear", [x, scale, zero], f"{name}/quantize")
        return self.add("DequantizeLinear", [q, scale, zero], f"{name}/dequantize")

    def conv(self, x: str, wide: tuple[int, int], name: str, *, size: int = 3, stride: int = 1) -> str:
        """A convolution with per-channel int8 weights (or float ones) and a float bias; its input is taken as it is."""
        inner, outer = wide
        values = self.random.normal(0, (inner * size * size) ** -0.5, (outer, inner, size, size)).astype(np.float32)
        if self.int8:
            scales = np.abs(values).max(axis=(1, 2, 3)) / 127
            levels = np.clip(np.round(values / scales[:, None, None, None]), -127, 127).astype(np.int8)
            weight = self.add(
                "DequantizeLinear",
                [
                    self.constant(f"{name}.weight", levels),
                    self.constant(f"{name}.weight.scale", scales.astype(self.typed)),
                    self.constant(f"{name}.weight.zero_point", np.zeros(outer, np.int8)),
                ],
                f"{name}/weight/dequantize",
                axis=0,
            )
        else:
            weight = self.constant(f"{name}.weight", values.astype(self.typed))
        bias = self.constant(f"{name}.bias", self.random.normal(0, 0.1, outer).astype(self.typed))
        shape = {"kernel_shape": [size, size], "pads": [size // 2] * 4, "strides": [stride, stride]}
        return self.add("Conv", [x, weight, bias], name, **shape)

    def block(self, x: str, wide: tuple[int, int], name: str, stride: int = 1) -> str:
        """A residual block; ``x`` is quantised already, an identity skip reads it through the same DQ."""
        first = self.add("Relu", [self.conv(x, wide, f"{name}/conv1", stride=stride)], f"{name}/relu1")
        main = self.conv(self.quantised(first, f"{name}/relu1"), (wide[1], wide[1]), f"{name}/conv2")
        skip = x
        if stride != 1:
            skip = self.quantised(self.conv(x, wide, f"{name}/skip", size=1, stride=stride), f"{name}/skip")
        merged = self.add("Relu", [self.add("Add", [main, skip], f"{name}/add")], f"{name}/relu2")
        return self.quantised(merged, f"{name}/relu2")

    def pixels(self, picked: bool) -> str:
        """Camera bytes to (M, 1, S, S) of the net's type: Cast first, then the gather, then the normalisation."""
        kind = helper.np_dtype_to_tensor_dtype(self.typed)
        x = self.add("Cast", ["pixels"], "pixels/cast", to=kind)
        if picked:
            x = self.add("Gather", [x, "picked"], "pixels/gather", axis=0)
        x = self.add("Unsqueeze", [x, self.constant("pixels.axis", np.int64([1]))], "pixels/channel")
        x = self.add("Sub", [x, self.constant("pixels.middle", self.typed.type(128))], "pixels/centre")
        x = self.add("Div", [x, self.constant("pixels.half_range", self.typed.type(127))], "pixels/normalise")
        return self.quantised(x, "pixels")

    def trunk(self, x: str, name: str) -> tuple[str, str]:
        """(N, 1, S, S) to (N, 64, S/4, S/4) and (N, 128, S/16, S/16)."""
        x = self.add("Relu", [self.conv(x, (1, 32), f"{name}/stem", stride=2)], f"{name}/stem/relu")
        fine = self.block(self.quantised(x, f"{name}/stem/relu"), (32, 64), f"{name}/block1", stride=2)
        coarse = self.block(fine, (64, 128), f"{name}/block2", stride=2)
        coarse = self.block(coarse, (128, 128), f"{name}/block3", stride=2)
        return fine, self.block(coarse, (128, 128), f"{name}/block4")

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        graph = helper.make_graph(self.nodes, "stage", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data


def chain(typed: Typed, depth: int, *, int8: bool, wide: int = 256) -> tuple[bytes, int]:
    """``depth`` residual blocks of ``wide`` channels, the most of a plan; and how many weights they have."""
    net = Net(typed, int8)
    x = net.add("Relu", [net.conv(net.pixels(picked=False), (1, wide), "stem", stride=2)], "stem/relu")
    x = net.quantised(x, "stem/relu")
    for number in range(depth):
        x = net.block(x, (wide, wide), f"block{number}")
    head = net.conv(x, (wide, 1), "head", size=1)
    net.nodes.append(helper.make_node("Cast", [head], ["heat"], name="heat/cast", to=TensorProto.FLOAT))
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("heat", TensorProto.FLOAT, ["N", 1, SIDE // 2, SIDE // 2])]
    return net.model(inputs, outputs), depth * 2 * 9 * wide * wide


def localization(typed: Typed = "float32", *, int8: bool = True) -> bytes:
    """Stage 1: pixels (N, S, S) to heatmap, embedding (N, ...) and score (N,) float32."""
    net = Net(typed, int8)
    _, x = net.trunk(net.pixels(picked=False), "stage1")
    embedding = net.conv(x, (128, EMBEDDING), "stage1/embed", size=1)
    heatmap = net.add("Sigmoid", [net.conv(x, (128, 1), "stage1/heat", size=1)], "stage1/probability")
    outputs = []
    shapes = {"heatmap": (heatmap, ["N", 1, 4, 4]), "embedding": (embedding, ["N", EMBEDDING, 4, 4])}
    for name, (tensor, shape) in shapes.items():
        net.nodes.append(helper.make_node("Cast", [tensor], [name], name=f"{name}/cast", to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    axes = net.constant("score.axes", np.int64([1, 2, 3]))
    net.nodes.append(helper.make_node("ReduceMax", ["heatmap", axes], ["score"], name="score", keepdims=0))
    outputs.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]))
    return net.model([helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE])], outputs)


def confidence(typed: Typed = "float32", *, int8: bool = True) -> bytes:
    """Stage 2: pixels (N, S, S), embedding (N, ...) and picked (M,) int32 to classes and confidence (M, S, S) uint8."""
    net = Net(typed, int8)
    fine, coarse = net.trunk(net.pixels(picked=True), "stage2")
    kind = helper.np_dtype_to_tensor_dtype(net.typed)
    given = net.add("Cast", ["embedding"], "embedding/cast", to=kind)
    given = net.quantised(net.add("Gather", [given, "picked"], "embedding/gather", axis=0), "embedding")
    coarse = net.add("Add", [net.conv(given, (EMBEDDING, 128), "stage2/embed", size=1), coarse], "stage2/embed/add")
    coarse = net.quantised(net.add("Relu", [coarse], "stage2/embed/relu"), "stage2/embed")
    # coarse -> ReLU -> Q/DQ -> Resize -> Add <- lateral Conv (no Q) -> ReLU -> Q
    up = net.add("Relu", [net.conv(coarse, (128, 64), "stage2/decoder/reduce", size=1)], "stage2/decoder/relu")
    scales = net.constant("stage2.decoder.scales", np.float32([1, 1, 4, 4]))
    nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    up = net.add("Resize", [net.quantised(up, "stage2/decoder"), "", scales], "stage2/decoder/up", **nearest)
    merged = net.add("Add", [net.conv(fine, (64, 64), "stage2/decoder/lateral", size=1), up], "stage2/decoder/add")
    merged = net.quantised(net.add("Relu", [merged], "stage2/decoder/merge"), "stage2/decoder/merge")
    logits = net.conv(merged, (64, CLASSES), "stage2/head", size=1)
    logits = net.add("Cast", [logits], "stage2/head/cast", to=TensorProto.FLOAT)
    logits = net.add("Resize", [logits, "", scales], "stage2/head/up", mode="linear")
    share = net.add("Softmax", [logits], "stage2/softmax", axis=1)
    best = net.add("ArgMax", [share], "stage2/argmax", axis=1, keepdims=0)
    net.nodes.append(helper.make_node("Cast", [best], ["classes"], name="classes/cast", to=TensorProto.UINT8))
    axis = net.constant("confidence.axis", np.int64([1]))
    top = net.add("ReduceMax", [share, axis], "stage2/top", keepdims=0)
    top = net.add("Mul", [top, net.constant("confidence.levels", np.float32(255))], "stage2/top/levels")
    top = net.add("Round", [top], "stage2/top/round")
    net.nodes.append(helper.make_node("Cast", [top], ["confidence"], name="confidence/cast", to=TensorProto.UINT8))
    inputs = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", EMBEDDING, 4, 4]),
        helper.make_tensor_value_info("picked", TensorProto.INT32, ["M"]),
    ]
    maps = ("classes", "confidence")
    outputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["M", SIDE, SIDE]) for name in maps]
    return net.model(inputs, outputs)
