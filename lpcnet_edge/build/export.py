"""The float ONNX pair of a trained network: camera bytes in, class and confidence bytes out.

torch exports the two networks with their batch normalisation folded; onnx-graphsurgeon puts the preprocessing before
them, the arg max behind them, folds constants and gives nodes and tensors names that a person can read.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from lpcnet_edge.backends.graphs import OPSET, to_model
from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.build.names import name_nodes, name_tensors
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.network.folding import folded
from lpcnet_edge.network.inference import FloatNetwork

silence_libraries()  # folding constants runs ONNX Runtime


class _Stages(nn.Module):
    """Both stages in one module: torch's exporter takes seconds to start, whatever it exports."""

    def __init__(self, localization: nn.Module, confidence: nn.Module) -> None:
        super().__init__()
        self.stage1 = localization
        self.stage2 = confidence

    def forward(self, x: Tensor, x_picked: Tensor, embedding_picked: Tensor) -> tuple[Tensor, ...]:
        logits, embedding = self.stage1(x)
        heatmap = torch.sigmoid(logits)
        refined: Tensor = self.stage2(x_picked, embedding_picked)[1]
        return heatmap, embedding, heatmap.amax(dim=(1, 2, 3)), refined


def export_network(network: FloatNetwork) -> OnnxPair:
    """Export both stages in float32, opset 20, N and M dynamic, the tile's size fixed.

    ``localization``: ``pixels`` (N, S, S[, 3]) uint8 to ``heatmap`` (N, 1, S/16, S/16) and ``embedding``
    (N, E, S/16, S/16) float32 and ``score`` (N,) float32. ``confidence``: ``pixels``, ``embedding`` (N, ...) and
    ``picked`` (M,) int32, indices into N, to ``classes`` and ``confidence`` (M, S, S) uint8.
    """
    config, side = network.network.config, network.tile_px
    plain = folded(network.network)
    x = torch.zeros(2, config.channels, side, side)
    embedding = torch.zeros(2, config.localization_widths[-1], side // 16, side // 16)
    both = _exported(
        _Stages(plain.localization, plain.confidence),
        {"x": x, "x_picked": x.clone(), "embedding_picked": embedding},
        ["heatmap", "embedding", "score", "refined"],
    )
    stage1 = _part(both, inputs=slice(0, 1), outputs=slice(0, 3))
    stage2 = _part(both, inputs=slice(1, 3), outputs=slice(3, 4))
    _localization(stage1, config.channels, side)
    _confidence(stage2, config.channels, side)
    return OnnxPair(_finished(stage1, "localization"), _finished(stage2, "confidence"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs and prints about packages that it does not find and that are of no concern here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _exported(module: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    batch = torch.export.Dim("M", min=1, max=4096)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    name_nodes(model)
    return model


def _part(model: onnx.ModelProto, inputs: slice, outputs: slice) -> gs.Graph:
    """What computes some of the outputs from some of the inputs, as a graph of its own."""
    graph = gs.import_onnx(model)
    graph.inputs, graph.outputs = graph.inputs[inputs], graph.outputs[outputs]
    return graph.cleanup()


def _pixels(graph: gs.Graph, channels: int, side: int, rows: str) -> gs.Variable:
    shape = [rows, side, side] if channels == 1 else [rows, side, side, 3]
    return gs.Variable("pixels", np.uint8, shape)


def _normalised(graph: gs.Graph, pixels: gs.Variable, channels: int, x: gs.Variable) -> None:
    """(p - 128) / 127 of bytes, as planes: what the networks were trained on. ``x`` stops being an input."""
    if channels == 1:
        planes = gs.Variable("preprocess/planes", np.float32)
        axes = gs.Constant("preprocess/axes", np.array([1], np.int64))
        graph.nodes.append(gs.Node("Unsqueeze", "preprocess/planes", {}, [pixels, axes], [planes]))
    else:
        planes = gs.Variable("preprocess/planes", np.float32)
        graph.nodes.append(gs.Node("Transpose", "preprocess/planes", {"perm": [0, 3, 1, 2]}, [pixels], [planes]))
    centred = gs.Variable("preprocess/centred", np.float32)
    middle = gs.Constant("preprocess/middle", np.array(128.0, np.float32))
    scale = gs.Constant("preprocess/scale", np.array(127.0, np.float32))
    graph.nodes.append(gs.Node("Sub", "preprocess/centre", {}, [planes, middle], [centred]))
    x.inputs.clear()
    graph.nodes.append(gs.Node("Div", "preprocess/normalise", {}, [centred, scale], [x]))


def _floats(graph: gs.Graph, pixels: gs.Variable) -> gs.Variable:
    """TensorRT lets a uint8 input feed a Cast only, so the Cast comes before everything else."""
    floats = gs.Variable("preprocess/floats", np.float32)
    graph.nodes.append(gs.Node("Cast", "preprocess/cast", {"to": onnx.TensorProto.FLOAT}, [pixels], [floats]))
    return floats


def _localization(graph: gs.Graph, channels: int, side: int) -> None:
    x = graph.inputs[0]
    pixels = _pixels(graph, channels, side, "N")
    _normalised(graph, _floats(graph, pixels), channels, x)
    graph.inputs = [pixels]
    heatmap, embedding, score = graph.outputs
    for tensor in (heatmap, embedding):
        tensor.shape = ["N", *tensor.shape[1:]]
    score.shape = ["N"]


def _confidence(graph: gs.Graph, channels: int, side: int) -> None:
    x, embedding = graph.inputs
    pixels = _pixels(graph, channels, side, "N")
    picked = gs.Variable("picked", np.int32, ["M"])
    floats = _floats(graph, pixels)
    chosen = gs.Variable("preprocess/picked_pixels", np.float32)
    graph.nodes.append(gs.Node("Gather", "preprocess/pick_pixels", {"axis": 0}, [floats, picked], [chosen]))
    _normalised(graph, chosen, channels, x)
    every = gs.Variable("embedding", np.float32, ["N", *embedding.shape[1:]])
    embedding.name = "preprocess/picked_embedding"
    graph.nodes.append(gs.Node("Gather", "preprocess/pick_embedding", {"axis": 0}, [every, picked], [embedding]))
    graph.inputs = [pixels, every, picked]
    _bytes_out(graph, graph.outputs[0], side)


def _bytes_out(graph: gs.Graph, refined: gs.Variable, side: int) -> None:
    """Bilinear doubling of the logits, arg max, and the chosen class's probability, as bytes.

    Arg max and softmax are written out over the class planes: every runtime fuses elementwise operations into one pass,
    while ArgMax and Softmax over a channel of few values cost OpenVINO a third of stage 2's INT8 time.
    """
    classes_of = refined.shape[1]

    def node(op: str, name: str, inputs: list[Any], dtype: Any = np.float32, **attrs: Any) -> gs.Variable:
        out = gs.Variable(f"output/{name}", dtype)
        graph.nodes.append(gs.Node(op, f"output/{name}", attrs, inputs, [out]))
        return out

    def constant(name: str, value: Any, dtype: Any = np.float32) -> gs.Constant:
        return gs.Constant(f"output/{name}", np.array(value, dtype))

    scales = constant("scales", [1, 1, 2, 2])
    half_pixel = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    logits = node("Resize", "resize", [refined, gs.Variable.empty(), scales], **half_pixel)
    planes = [gs.Variable(f"output/plane{k}", np.float32) for k in range(classes_of)]
    flat = node("Reshape", "flat", [logits, constant("flat_shape", [0, classes_of, side * side], np.int64)])
    graph.nodes.append(gs.Node("Split", "output/planes", {"axis": 1, "num_outputs": classes_of}, [flat], planes))
    highest, winner = planes[0], constant("class0", 0.0)
    for k in range(1, classes_of):
        higher = node("Greater", f"higher{k}", [planes[k], highest], np.bool_)
        winner = node("Where", f"winner{k}", [higher, constant(f"class{k}", float(k)), winner])
        highest = node("Max", f"highest{k}", [highest, planes[k]])
    total = None
    for k in range(classes_of):
        share = node("Exp", f"share{k}", [node("Sub", f"below{k}", [planes[k], highest])])
        total = share if total is None else node("Add", f"total{k}", [total, share])
    shape = constant("shape", [-1, side, side], np.int64)
    total = node("Reshape", "total", [total, shape])
    scaled = node("Div", "scaled", [constant("byte", 255.0), total])
    planes_out = {
        "classes": node("Reshape", "winner", [winner, shape]),
        "confidence": node("Round", "rounded", [scaled]),
    }
    outputs = []
    for name, plane in planes_out.items():  # the Cast comes last: TensorRT has uint8 at its borders only
        out = gs.Variable(name, np.uint8, ["M", side, side])
        graph.nodes.append(gs.Node("Cast", f"output/{name}", {"to": onnx.TensorProto.UINT8}, [plane], [out]))
        outputs.append(out)
    graph.outputs = outputs


def _finished(graph: gs.Graph, name: str) -> onnx.ModelProto:
    graph.name = name
    graph.opset = OPSET
    with _quiet():
        graph.cleanup().toposort().fold_constants().cleanup().toposort()
    name_tensors(graph)
    return to_model(graph)
