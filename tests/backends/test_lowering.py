"""The CPU's file computes the canonical file's integers, every one of them, also where ranges are too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from exported import STAGES, Exported
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lpcnet_edge.backends.graphs import OPSET, from_model, to_model
from lpcnet_edge.backends.lowering import behind_relu, lower_for_cpu, with_channels_last, without_picking
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.build.quantise import quantise

Feeds = dict[str, NDArray[Any]]


def integers(model: onnx.ModelProto, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Every quantised tensor and every output, computed node by node as written."""
    bytes_ = [node for node in model.graph.node if node.op_type == "Clip" and node.output[0].endswith(".int8")]
    whole = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear" or node in bytes_]
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1, optimise=False, extra_outputs=whole)
    return engine.run(feeds)


def assert_equal_integers(canonical: onnx.ModelProto, feeds: Feeds) -> dict[str, NDArray[Any]]:
    theirs, ours = integers(canonical, feeds), {}
    for clip_bytes in (True, False):
        lowered = lower_for_cpu(canonical, clip_bytes=clip_bytes)
        ours = integers(lowered, feeds)
        assert ours.keys() >= theirs.keys() if clip_bytes else ours.keys() == theirs.keys()
        for name, signed in theirs.items():
            if signed.dtype == np.int8:
                np.testing.assert_array_equal(ours[name].astype(np.int16), signed.astype(np.int16), err_msg=name)
            else:
                np.testing.assert_array_equal(ours[name], signed, err_msg=name)
    return ours


def feeds_for(network: Exported, tiles: NDArray[np.uint8]) -> dict[str, Feeds]:
    embedding = OnnxRuntimeEngine(network.pair.localization.SerializeToString()).run({"pixels": tiles})["embedding"]
    picked = np.arange(len(tiles), dtype=np.int32)[::-1].copy()
    return {
        "localization": {"pixels": tiles},
        "confidence": {"pixels": tiles, "embedding": embedding, "picked": picked},
    }


@pytest.mark.parametrize("stage", STAGES)
def test_integers_of_the_real_network(stage: str, real: Exported) -> None:
    found = assert_equal_integers(real.int8_models[stage], feeds_for(real, real.tiles[:2])[stage])
    unsigned = [name for name, values in found.items() if values.dtype == np.uint8 and name.endswith(".int8")]
    signed = [name for name, values in found.items() if values.dtype == np.int8]
    assert signed == (["preprocess/normalise.int8"] if stage == "localization" else SIGNED_IN_STAGE_2)
    assert len(unsigned) > 5


@pytest.mark.parametrize("stage", STAGES)
def test_onnx_runtime_computes_convolutions_of_bytes_in_integers(stage: str, real: Exported, tmp_path: Path) -> None:
    """All but those that an addition follows, which has no Q between, and those that read signed bytes."""
    lowered = lower_for_cpu(real.int8_models[stage], clip_bytes=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(lowered.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = onnx.load(tmp_path / "optimised.onnx").graph
    integer = [node for node in made.node if node.op_type == "QLinearConv"]
    byte_clips = [node for node in lowered.graph.node if node.op_type == "Clip" and node.output[0].endswith(".int8")]
    assert len(integer) == len(byte_clips) == {"localization": 5, "confidence": 16}[stage]
    types = {each.name: each.data_type for each in made.initializer}
    # 255 x 127 twice is more than 16 bits hold, which is what kernels for processors without VNNI add in.
    assert all(types[node.input[2]] == TensorProto.UINT8 for node in integer)
    zeros = {each.name: numpy_helper.to_array(each) for each in made.initializer}
    assert all(not zeros[node.input[2]].any() for node in integer), "bytes shifted by 128"


SIGNED_IN_STAGE_2 = ["preprocess/pick_embedding.int8", "preprocess/normalise.int8"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0, 40.0])
def test_integers_where_ranges_are_too_small_or_too_large(share: float, stage: str, small: Exported) -> None:
    """Random bytes reach further than any photograph; at small shares nearly everything saturates."""
    noise = np.random.default_rng(1).integers(0, 256, (4, 64, 64), dtype=np.uint8)
    noise[0], noise[1] = 0, 255
    model = quantise(small.float_models[stage], {name: share * value for name, value in small.ranges.items()})
    found = assert_equal_integers(model, feeds_for(small, noise)[stage])
    highest = [int(v.max()) for name, v in found.items() if v.dtype == np.uint8 and name.endswith(".int8")]
    assert max(highest) <= 127
    if share < 0.1:
        assert min(highest) == 127, "every tensor saturates somewhere"


@pytest.mark.parametrize("stage", STAGES)
def test_integers_with_layers_in_float(stage: str, small: Exported) -> None:
    """Where a float layer reads a quantised tensor too, the Clip may not change what that layer sees."""
    layers = {"localization": "stage1/down32/conv", "confidence": "stage2/decoder/up2/lateral"}
    ranges = {name: value / 4 for name, value in small.ranges.items()}
    model = quantise(small.float_models[stage], ranges, [layers[stage]])
    assert_equal_integers(model, feeds_for(small, small.tiles[:4])[stage])
    clips = [node for node in from_model(lower_for_cpu(model)).nodes if node.op == "Clip"]
    assert [node for node in clips if node.name.endswith(".clip")], "no ReLU has a reader in float"


def test_a_lowered_file_without_its_clip_is_caught(small: Exported) -> None:
    """uint8 reaches 255 where int8 stops at 127: the Clip is what the equality hangs on."""
    model = quantise(small.pair.localization, {name: value / 4 for name, value in small.ranges.items()})
    graph = from_model(lower_for_cpu(model))
    for node in graph.nodes:
        if node.op == "Clip":
            node.op, node.inputs = "Relu", [node.inputs[0]]
    feeds = {"pixels": small.tiles[:4]}
    ours, theirs = integers(to_model(graph.cleanup()), feeds), integers(model, feeds)
    assert any(int(ours[name].max()) > 127 for name in ours if ours[name].dtype == np.uint8)
    assert any(not np.array_equal(ours[n].astype(float), theirs[n].astype(float)) for n in ours)


def test_a_float_file_is_left_as_it_is(small: Exported) -> None:
    model = small.pair.confidence
    assert [n.op_type for n in lower_for_cpu(model).graph.node] == [n.op_type for n in model.graph.node]


def chain(*ops: tuple[str, dict[str, Any]]) -> gs.Variable:
    nodes = [helper.make_node(op, [f"t{i}"], [f"t{i + 1}"], **attrs) for i, (op, attrs) in enumerate(ops)]
    shape = ["N", 2, 8, 8]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{len(ops)}", TensorProto.FLOAT, None)],
    )
    return gs.import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])).outputs[0]


POOL = ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]})


@pytest.mark.parametrize(
    ("ops", "proven"),
    [
        ([("Relu", {})], True),
        ([("Relu", {}), POOL, POOL], True),
        ([("Relu", {}), ("Resize", {"mode": "nearest"})], True),
        ([("Relu", {}), ("Resize", {"mode": "cubic"})], False),  # a cubic overshoots below zero
        ([("Relu", {}), ("Neg", {})], False),
        ([POOL], False),
        ([], False),
    ],
)
def test_what_is_proven_not_negative(ops: list[tuple[str, dict[str, Any]]], proven: bool) -> None:
    assert behind_relu(chain(*ops)) is proven


def test_a_clip_stands_behind_a_pool_and_not_in_place_of_it() -> None:
    """A quantiser that reads a MaxPool of a ReLU: integers agree there as well."""
    t = TensorProto
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="r"),
        helper.make_node("MaxPool", ["r"], ["p"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"], name="p.q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="p.dq"),
    ]
    constants = [helper.make_tensor("s", t.FLOAT, [], [0.01]), helper.make_tensor("z", t.INT8, [], [0])]
    graph = helper.make_graph(
        nodes,
        "pool",
        [helper.make_tensor_value_info("x", t.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("y", t.FLOAT, ["N", 1, 2, 2])],
        constants,
    )
    model = to_model(gs.import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])))
    x = np.random.default_rng(2).normal(0, 2, (3, 1, 4, 4)).astype(np.float32)
    found = assert_equal_integers(model, {"x": x})
    assert found["q"].dtype == np.uint8
    assert [n.op_type for n in lower_for_cpu(model).graph.node][:3] == ["Relu", "MaxPool", "Clip"]


def test_without_picking_every_tile_is_computed(small: Exported) -> None:
    whole = without_picking(small.pair.confidence)
    assert [value.name for value in whole.graph.input] == ["pixels", "embedding"]
    feeds = feeds_for(small, small.tiles[:4])["confidence"]
    with_picking = OnnxRuntimeEngine(small.pair.confidence.SerializeToString()).run(
        {**feeds, "picked": np.arange(4, dtype=np.int32)}
    )
    feeds.pop("picked")
    without = OnnxRuntimeEngine(whole.SerializeToString()).run(feeds)
    assert all(np.array_equal(with_picking[name], without[name]) for name in without)


def test_an_embedding_handed_on_channels_last_is_the_same_embedding(small: Exported) -> None:
    first, second = (OnnxRuntimeEngine(small.float_models[stage].SerializeToString()) for stage in STAGES)
    turned = [OnnxRuntimeEngine(with_channels_last(small.float_models[stage]).SerializeToString()) for stage in STAGES]
    tiles, picked = small.tiles[:3], np.array([2, 0], np.int32)
    plain = first.run({"pixels": tiles})
    last = turned[0].run({"pixels": tiles})
    np.testing.assert_array_equal(last["embedding"], np.moveaxis(plain["embedding"], 1, 3))
    np.testing.assert_array_equal(last["score"], plain["score"])
    found = turned[1].run({"pixels": tiles, "embedding": last["embedding"], "picked": picked})
    wanted = second.run({"pixels": tiles, "embedding": plain["embedding"], "picked": picked})
    assert wanted["classes"].any(), "nothing but background proves nothing"
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
