"""The logits doubled row by row are those doubled at once, for every batch size, in float and INT8, on OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from exported import STAGES, Exported
from numpy.typing import NDArray

from lpcnet_edge.backends.doubling import double_by_rows
from lpcnet_edge.backends.graphs import from_model, to_model
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.backends.openvino import OpenVinoEngine


def logits_doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float part of stage 2 from its refined logits on, its class planes before the arg max as the only output."""
    graph = from_model(model)
    split = next(node for node in graph.nodes if node.op == "Split")
    graph.inputs = [next(node for node in graph.nodes if node.name == "output/resize").inputs[0]]
    graph.inputs[0].shape, graph.inputs[0].dtype = ["M", len(split.outputs), 128, 128], np.float32
    graph.inputs[0].inputs.clear()
    graph.cleanup()
    return to_model(graph)


def run(model: onnx.ModelProto, logits: NDArray[np.float32], *, static: bool) -> dict[str, NDArray[Any]]:
    name = model.graph.input[0].name
    return OpenVinoEngine(
        model.SerializeToString(), threads=1, shapes={name: logits.shape} if static else None, lower=False
    ).run({name: logits})


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("tiles", [1, 3, 8])
def test_verdicts_are_those_of_the_canonical_file(tiles: int, static: bool, real: Exported) -> None:
    tail = logits_doubled(real.pair.confidence)
    shape = (tiles, tail.graph.input[0].type.tensor_type.shape.dim[1].dim_value, 128, 128)
    rng = np.random.default_rng(tiles)
    logits = rng.normal(0.0, 3.0, shape).astype(np.float32)
    ours = run(tail, logits, static=static)
    theirs = OnnxRuntimeEngine(tail.SerializeToString(), threads=1).run({tail.graph.input[0].name: logits})
    assert np.mean(ours["classes"] != theirs["classes"]) < 1e-5  # sums in another order part only what is level
    assert np.abs(ours["confidence"].astype(int) - theirs["confidence"]).max() <= 1
    assert len(np.unique(ours["classes"])) == shape[1]


def test_corners_and_edges_repeat_the_border(real: Exported) -> None:
    """A lone corner pixel shows where an axis was confused with the other, or a border with its opposite."""
    tail = logits_doubled(real.pair.confidence)
    classes = tail.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    logits = np.zeros((2, classes, 128, 128), np.float32)
    logits[0, 1, 0, 127], logits[1, 2, 90, 3] = 8.0, 8.0
    found = run(tail, logits, static=True)["classes"]
    wanted = np.zeros_like(found)
    wanted[0, :3, 253:], wanted[1, 179:183, 5:9] = 1, 2
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("quantised", [True, False])
def test_openvino_doubles_rows_as_vectors(quantised: bool, real: Exported) -> None:
    model = real.int8_models["confidence"] if quantised else real.pair.confidence
    rows = OpenVinoEngine(model.SerializeToString(), threads=1).executed()
    assert not [row["name"] for row in rows if row["name"] == "output/resize"]
    assert {"output/columns"} <= {row["name"] for row in rows if row["layerType"] == "Transpose"}


def test_what_does_not_double_is_left_alone(real: Exported) -> None:
    stage1 = real.pair.localization
    assert double_by_rows(stage1) is stage1


@pytest.mark.parametrize("stage", STAGES)
def test_doubling_twice_changes_nothing_more(stage: str, real: Exported) -> None:
    once = double_by_rows(getattr(real.pair, stage))
    assert double_by_rows(once) is once
