"""Every rule of where Q/DQ stands holds on the shipped network's own graphs, and each is seen to fail on one it breaks.

A rule's breach is made by changing the real graph; the rule must then name it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import placement_rules as rules
import pytest
from exported import STAGES, Exported, wide_ranges
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.quantise import LEVELS, PIXEL_SCALE, SCALE_FLOOR, place, quantise, weight_scales
from lpcnet_edge.errors import BuildFailed, UsageError

RULE_NAMES = [rule.__name__ for rule in rules.RULES]


def broken(graph: gs.Graph) -> dict[str, list[str]]:
    return {rule.__name__: found for rule in rules.RULES if (found := list(rule(graph)))}


def named(graph: gs.Graph, name: str) -> gs.Node:
    return next(node for node in graph.nodes if node.name == name)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("rule", rules.RULES, ids=RULE_NAMES)
def test_the_real_graphs_keep_every_rule(rule: rules.Rule, stage: str, real: Exported) -> None:
    assert list(rule(from_model(real.int8_models[stage]))) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_grey_network_keeps_every_rule(stage: str, small: Exported) -> None:
    assert broken(from_model(small.int8_models[stage])) == {}


def second_q(graph: gs.Graph) -> None:
    old = named(graph, "stage2/encoder/stem/relu.q")
    twin = gs.Variable("twin", np.int8, old.outputs[0].shape)
    graph.nodes.append(gs.Node("QuantizeLinear", "twin.q", {}, list(old.inputs), [twin]))
    named(graph, "stage2/encoder/stem/relu.dq_2").inputs[0] = twin


def shared_dq(graph: gs.Graph) -> None:
    named(graph, "stage2/decoder/up2/lateral").inputs[0] = named(graph, "stage2/encoder/level4/down").inputs[0]


def odd_zero_point(graph: gs.Graph) -> None:
    named(graph, "stage2/encoder/stem/relu.q").inputs[2].values = np.array(3, np.int8)


def unsigned(graph: gs.Graph) -> None:
    named(graph, "stage2/encoder/stem/relu.q").inputs[2].values = np.array(0, np.uint8)


def scales_by_channel(graph: gs.Graph) -> None:
    named(graph, "stage2/encoder/stem/relu.q").inputs[1].values = np.full(32, 0.1, np.float32)


def other_scale_in_dq(graph: gs.Graph) -> None:
    node = named(graph, "stage2/encoder/stem/relu.dq_1")
    node.inputs[1] = gs.Constant("other", np.asarray(node.inputs[1].values * np.float32(2)))


def one_weight_scale(graph: gs.Graph) -> None:
    named(graph, "stage2.encoder.stem.conv.weight.dq").inputs[1].values = np.full(1, 0.1, np.float32)


def float_weights(graph: gs.Graph) -> None:
    conv = named(graph, "stage2/encoder/stem")
    conv.inputs[1] = gs.Constant("float", np.zeros((32, 3, 3, 3), np.float32))


def int_bias(graph: gs.Graph) -> None:
    conv = named(graph, "stage2/encoder/stem")
    stored = gs.Constant("bias.int32", np.zeros(32, np.int32))
    real = gs.Variable("bias.real", np.float32, [32])
    scale = gs.Constant("bias.scale", np.full(32, 0.1, np.float32))
    zero = gs.Constant("bias.zero", np.zeros(32, np.int8))
    graph.nodes.append(gs.Node("DequantizeLinear", "bias.dq", {"axis": 0}, [stored, scale, zero], [real]))
    conv.inputs[2] = real


def dead_scale(graph: gs.Graph) -> None:
    named(graph, "stage2.encoder.stem.conv.weight.dq").inputs[1].values[5] = 0.0


def half_scale(graph: gs.Graph) -> None:
    scale = named(graph, "stage2/encoder/stem/relu.q").inputs[1]
    scale.values = scale.values.astype(np.float16)


def between(graph: gs.Graph, reader: gs.Node, index: int, name: str) -> None:
    """Q and DQ in front of one input of a node."""
    tensor = reader.inputs[index]
    scale, zero = gs.Constant(f"{name}.s", np.array(0.1, np.float32)), gs.Constant(f"{name}.z", np.array(0, np.int8))
    whole, real = gs.Variable(f"{name}.i", np.int8, tensor.shape), gs.Variable(f"{name}.r", np.float32, tensor.shape)
    graph.nodes.append(gs.Node("QuantizeLinear", f"{name}.q", {}, [tensor, scale, zero], [whole]))
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}.dq", {}, [whole, scale, zero], [real]))
    reader.inputs[index] = real


def q_before_relu(graph: gs.Graph) -> None:
    between(graph, named(graph, "stage2/encoder/stem/relu"), 0, "early")


def q_before_add(graph: gs.Graph) -> None:
    between(graph, named(graph, "stage2/encoder/level4/block1/add"), 0, "main")


def relu_gone(graph: gs.Graph) -> None:
    relu = named(graph, "stage2/encoder/stem/relu")
    relu.op = "Identity"


def float_skip(graph: gs.Graph) -> None:
    add = named(graph, "stage2/encoder/level4/block1/add")
    add.inputs[1] = rules.source(add.inputs[1].inputs[0]).inputs[0]


def skip_with_its_own_q(graph: gs.Graph) -> None:
    float_skip(graph)
    between(graph, named(graph, "stage2/encoder/level4/block1/add"), 1, "own")


def q_behind_resize(graph: gs.Graph) -> None:
    resize = named(graph, "stage2/decoder/up8/resize")
    resize.inputs[0] = rules.source(resize.inputs[0].inputs[0]).inputs[0]
    between(graph, named(graph, "stage2/decoder/up8/add"), 1, "late")


def bilinear_trunk(graph: gs.Graph) -> None:
    named(graph, "stage2/decoder/up8/resize").attrs["mode"] = "linear"


def int8_softmax(graph: gs.Graph) -> None:
    between(graph, named(graph, "stage2/pcm/softmax"), 0, "softmax")


def int8_pooled(graph: gs.Graph) -> None:
    between(graph, named(graph, "stage2/encoder/context/squeeze"), 0, "pooled")


def int8_final_resize(graph: gs.Graph) -> None:
    between(graph, named(graph, "output/resize"), 0, "final")


def int8_arg_max(graph: gs.Graph) -> None:
    between(graph, named(graph, "output/higher1"), 0, "planes")


def forgotten_layer(graph: gs.Graph) -> None:
    conv = named(graph, "stage2/decoder/up2/conv")
    conv.inputs[0] = rules.source(conv.inputs[0].inputs[0]).inputs[0]
    float_weights_of(conv)


def float_weights_of(conv: gs.Node) -> None:
    conv.inputs[1] = gs.Constant(f"{conv.name}.float", np.zeros((32, 32, 3, 3), np.float32))


def coarse_pixels(graph: gs.Graph) -> None:
    named(graph, "preprocess/normalise.q").inputs[1].values = np.array(1 / 64, np.float32)


def concat(graph: gs.Graph) -> None:
    node = named(graph, "stage2/decoder/up8/add")
    node.op, node.attrs = "Concat", {"axis": 1}


BREACHES: list[tuple[Callable[[gs.Graph], None], str]] = [
    (second_q, "one_q_for_a_tensor"),
    (shared_dq, "a_dq_for_every_reader"),
    (odd_zero_point, "zero_points_are_zero"),
    (unsigned, "zero_points_are_zero"),
    (scales_by_channel, "a_scale_for_a_tensor"),
    (other_scale_in_dq, "q_and_dq_agree"),
    (one_weight_scale, "weights_are_int8_by_channel"),
    (float_weights, "weights_are_int8_by_channel"),
    (int_bias, "biases_are_float"),
    (dead_scale, "scales_are_float32_above_the_floor"),
    (half_scale, "scales_are_float32_above_the_floor"),
    (q_before_relu, "q_stands_behind_a_relu_or_an_input"),
    (q_before_add, "q_stands_behind_a_relu_or_an_input"),
    (relu_gone, "no_dq_between_conv_and_relu"),
    (float_skip, "the_skip_is_int8"),
    (skip_with_its_own_q, "an_identity_skip_has_its_blocks_q"),
    (q_behind_resize, "a_merge_is_quantised_before_its_resize"),
    (bilinear_trunk, "a_merge_is_quantised_before_its_resize"),
    (int8_softmax, "float_parts_are_float"),
    (int8_pooled, "float_parts_are_float"),
    (int8_final_resize, "float_parts_are_float"),
    (int8_arg_max, "float_parts_are_float"),
    (forgotten_layer, "only_what_must_be_is_float"),
    (coarse_pixels, "pixels_lose_nothing"),
    (concat, "no_operator_that_does_not_fuse"),
]


@pytest.mark.parametrize(("breach", "rule"), BREACHES, ids=[breach.__name__ for breach, _ in BREACHES])
def test_a_graph_that_breaks_a_rule_is_caught_by_it(
    breach: Callable[[gs.Graph], None], rule: str, real: Exported
) -> None:
    graph = from_model(real.int8.confidence)
    breach(graph)
    assert rule in broken(graph)


def test_every_rule_has_a_breach() -> None:
    assert {rule for _, rule in BREACHES} == set(RULE_NAMES)


def test_both_files_are_small_and_hold_whole_bytes(real: Exported) -> None:
    sizes = {stage: len(model.SerializeToString()) for stage, model in real.int8_models.items()}
    floats = {stage: len(model.SerializeToString()) for stage, model in real.float_models.items()}
    assert sum(sizes.values()) < 4e6
    assert sum(sizes.values()) < 0.35 * sum(floats.values())


@given(st.integers(0, 255))
def test_every_byte_of_a_pixel_is_a_level(byte: int) -> None:
    level = np.rint(np.float32((np.float32(byte) - 128) / np.float32(127)) / np.float32(PIXEL_SCALE))
    assert level == byte - 128


@given(arrays.arrays(np.float32, (3, 2, 3, 3), elements=st.floats(-100, 100, width=32)))
def test_weights_lose_half_a_step_at_most(weights: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    scales = weight_scales(weights)[:, None, None, None]
    levels = np.clip(np.rint(weights / scales), -LEVELS, LEVELS)
    assert (scales >= SCALE_FLOOR).all()
    assert np.all(np.abs(levels * scales - weights) <= 0.5001 * scales)


def test_a_range_below_the_floor_is_floored(small: Exported) -> None:
    model = quantise(small.pair.localization, wide_ranges(small.pair.localization, 0.0))
    assert list(rules.scales_are_float32_above_the_floor(from_model(model))) == []


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1.0])
def test_a_range_that_is_none_names_the_tensor(value: float | None, small: Exported) -> None:
    ranges: dict[str, Any] = wide_ranges(small.pair.localization)
    ranges["stage1/stem/relu"] = value
    with pytest.raises(BuildFailed, match="stage1/stem/relu"):
        quantise(small.pair.localization, ranges)


def test_weights_that_are_not_finite_name_the_layer(small: Exported) -> None:
    model = type(small.pair.localization).FromString(small.pair.localization.SerializeToString())
    weight = next(w for w in model.graph.initializer if w.name == "stage1.stem.conv.weight")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[0] = np.nan
    weight.raw_data = values.tobytes()
    with pytest.raises(BuildFailed, match="stage1/stem/conv"):
        quantise(model, wide_ranges(small.pair.localization))


def test_only_a_quantisable_layer_can_be_kept_in_float(small: Exported) -> None:
    for name in ("stage1/head", "no such layer"):
        with pytest.raises(UsageError, match=name):
            quantise(small.pair.localization, wide_ranges(small.pair.localization), [name])


@pytest.mark.parametrize("stage", STAGES)
def test_any_layer_can_return_to_float_and_the_rest_keeps_the_rules(stage: str, small: Exported) -> None:
    """A layer kept in float is in float; nothing else changes but what it alone needed, such as a merge's Q."""
    model = small.float_models[stage]
    layers = place(from_model(model)).convs
    for layer in layers:
        allowed = {"only_what_must_be_is_float"}
        if layer.endswith(("stem", "stem/conv")):
            allowed.add("pixels_lose_nothing")
        if layer.endswith("lateral"):
            allowed.add("a_merge_is_quantised_before_its_resize")
        if layer.endswith("conv1"):  # the skip's Q stays, the block itself does not read it any more
            allowed.add("an_identity_skip_has_its_blocks_q")
        graph = from_model(quantise(model, small.ranges, [layer]))
        assert {conv.name for conv in rules.int8_convs(graph)} == {*layers} - {layer}
        assert set(broken(graph)) <= allowed, layer
    graph = from_model(quantise(model, small.ranges, layers))
    assert not [node for node in graph.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")]
