"""The operators of our graphs in torch say what ONNX Runtime says, node for node, and so do whole stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported import Exported
from local_bundle import SIDE, frame_of, local_network
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lpcnet_edge.backends.torch_graph import TorchGraph
from lpcnet_edge.errors import BadModel
from lpcnet_edge.network.stages import ConfidenceStage, LocalizationStage, tensor_specs

Arrays = dict[str, NDArray[Any]]


def plain_onnxruntime(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    """Every tensor that ONNX Runtime computes, with its optimisations off."""
    probe = onnx.shape_inference.infer_shapes(model)
    there = {value.name for value in probe.graph.output}
    probe.graph.output.extend(value for value in probe.graph.value_info if value.name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: feeds[name] for name in wanted}), strict=True))


def run(graph: TorchGraph, feeds: Arrays) -> Arrays:
    with torch.inference_mode():
        made = graph(**{name: torch.from_numpy(feeds[name]) for name in graph.inputs})
    return {name: tensor.numpy() for name, tensor in made.items()}


def both_stages(models: dict[str, onnx.ModelProto], tiles: NDArray[np.uint8]) -> list[tuple[onnx.ModelProto, Arrays]]:
    first = plain_onnxruntime(models["localization"], {"pixels": tiles})
    feeds = {"pixels": tiles, "embedding": first["embedding"], "picked": np.array([1, 0], np.int32)}
    return [(models["localization"], feeds), (models["confidence"], feeds)]


def test_each_operator_on_the_real_graphs(real: Exported) -> None:
    """Each node gets what ONNX Runtime gave its inputs, so that nothing adds up."""
    for models in (real.float_models, real.int8_models):
        for model, feeds in both_stages(models, real.tiles[:2]):
            wanted = {**plain_onnxruntime(model, feeds), **feeds}
            graph = TorchGraph(model)
            unquantised = {before: after for after, before in graph._same.items()}
            seen = set()
            for node, function, names, _ in graph._steps:
                known = [None if name is None else wanted.get(unquantised.get(name, name)) for name in names]
                inputs = [
                    (getattr(graph, name) if name else None) if value is None else torch.from_numpy(value)
                    for name, value in zip(names, known, strict=True)
                ]
                with torch.inference_mode():
                    made = function(*inputs)
                for name, tensor in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=True):
                    expected, found = wanted[unquantised.get(name, name)], tensor.numpy()
                    assert found.shape == expected.shape, node.name
                    largest = max(1e-6, float(np.abs(expected.astype(np.float64)).max()))
                    if node.op == "QuantizeLinear":  # x * (1 / scale) and x / scale may fall on two sides of a tie
                        assert np.mean(np.abs(found - expected) > 1e-6 * largest) < 1e-5, node.name
                    elif expected.dtype == np.uint8:
                        assert np.abs(found.astype(int) - expected).max() <= 1, node.name
                    else:
                        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * largest, err_msg=node.name)
                seen.add(node.op)
            assert {"Conv", "Relu", "Resize", "Add"} <= seen


def test_whole_float_stages(real: Exported) -> None:
    for model, feeds in both_stages(real.float_models, real.tiles[:2]):
        wanted, found = plain_onnxruntime(model, feeds), run(TorchGraph(model), feeds)
        for name, value in found.items():
            assert value.dtype == wanted[name].dtype
            if value.dtype == np.uint8:
                assert np.mean(value != wanted[name]) < 1e-3
            else:
                np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-5 * np.abs(wanted[name]).max())


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_what_float16_costs(real: Exported, precision: str) -> None:
    """The trunk in float16 decides as float32 does, but for pixels on the fence."""
    models = real.float_models if precision == "float" else real.int8_models
    for model, feeds in both_stages(models, real.tiles[:2]):
        full, half = run(TorchGraph(model), feeds), run(TorchGraph(model, half=True), feeds)
        for name in full:
            assert full[name].dtype == half[name].dtype
        if "score" in full:
            np.testing.assert_allclose(half["score"], full["score"], atol=0.02)
        else:
            assert np.mean(full["classes"] != half["classes"]) < 0.005


@pytest.mark.parametrize("quantised", [False, True])
def test_the_network_in_closed_form(quantised: bool) -> None:
    tiles = np.stack([frame_of(seed, defects=seed) for seed in range(3)])
    for model, feeds in both_stages(local_network(quantised), tiles):
        wanted = plain_onnxruntime(model, feeds)
        for half in (False, True):
            for name, value in run(TorchGraph(model, half=half), feeds).items():
                np.testing.assert_allclose(value, wanted[name], rtol=1e-6)


def test_tensors_go_when_they_are_not_read_any_more(small: Exported) -> None:
    for model in (*small.float_models.values(), *small.int8_models.values()):
        graph = TorchGraph(model)
        held = set(graph.inputs)
        most = 0
        for node, _, _, _ in graph._steps:
            held |= set(node.outputs)
            most = max(most, len(held))
            held -= set(node.drop)
        assert held - set(graph.inputs) == {graph._same.get(name, name) for name in graph.outputs}
        assert most < len(graph._steps) / 2


def model_of(nodes: list[Any], **constants: Any) -> onnx.ModelProto:
    values = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], values))


def test_constants_whose_names_differ_in_a_dot_alone() -> None:
    nodes = [helper.make_node("Add", ["x", "a.b"], ["t"], name="n"), helper.make_node("Add", ["t", "a_b"], ["y"])]
    graph = TorchGraph(model_of(nodes, **{"a.b": np.float32(1), "a_b": np.float32(10)}))
    assert float(graph(x=torch.zeros(1, 2, SIDE, SIDE))["y"].max()) == 11


def test_an_output_that_is_dequantised() -> None:
    """What was quantised is read by its dequantised name, here as an output and by a node behind it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="d"),
        helper.make_node("Relu", ["y"], ["after"], name="n"),
    ]
    graph = TorchGraph(model_of(nodes, s=np.float32(0.5), z=np.int8(0)))
    assert float(graph(x=torch.full((1, 2, SIDE, SIDE), 0.6))["y"].max()) == 0.5


def test_a_concatenation_of_many() -> None:
    graph = TorchGraph(model_of([helper.make_node("Concat", ["x"] * 9, ["y"], name="n", axis=1)]))
    assert graph(x=torch.zeros(1, 2, SIDE, SIDE))["y"].shape[1] == 18


def test_the_last_part_of_a_split_is_the_smaller_one() -> None:
    """As ONNX defines it, where torch would make the parts as equal as can be."""
    split = helper.make_node("Split", ["seven"], ["a", "b", "y"], name="n", axis=1, num_outputs=3)
    graph = TorchGraph(model_of([helper.make_node("Concat", ["x", "x", "x", "k"], ["seven"], axis=1), split],
                                k=np.ones((1, 1, SIDE, SIDE), np.float32)))  # fmt: skip
    assert graph(x=torch.zeros(1, 2, SIDE, SIDE))["y"].shape[1] == 1


@pytest.mark.parametrize(
    ("nodes", "constants", "why"),
    [
        ([helper.make_node("Tan", ["x"], ["y"], name="n")], {}, "this operator is not known here"),
        (
            [helper.make_node("MaxPool", ["x"], ["y"], name="n", kernel_shape=[3, 3], pads=[0, 0, 1, 1])],
            {},
            "paddings differ between ends",
        ),
        (
            [helper.make_node("Resize", ["x", "", "s"], ["y"], name="n")],
            {"s": np.array([1, 1, 1.5, 2], np.float32)},
            "known whole factors",
        ),
        (
            [helper.make_node("Resize", ["x", "", "s"], ["y"], name="n", nearest_mode="ceil")],
            {"s": np.array([1, 1, 2, 2], np.float32)},
            "is not known here",
        ),
        (
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
                helper.make_node("DequantizeLinear", ["q", "t", "z"], ["y"], name="n"),
            ],
            {"s": np.float32(0.5), "t": np.float32(0.25), "z": np.int8(0)},
            "its scale is not its quantiser's",
        ),
        (
            [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], name="n")],
            {"s": np.float32(0.5), "z": np.uint8(3)},
            "a zero point of 0",
        ),
        (
            [helper.make_node("Slice", ["x", "a", "b", "c", "d"], ["y"], name="n")],
            {"a": np.array([0]), "b": np.array([9]), "c": np.array([2]), "d": np.array([2])},
            "steps other than 1",
        ),
        ([helper.make_node("Gather", ["x", "i"], ["y"], name="n", axis=1)], {"i": np.array(1)}, "a list of indices"),
        ([helper.make_node("Unsqueeze", ["x", "a"], ["y"], name="n")], {"a": np.array([0, 1])}, "one axis is expected"),
        ([helper.make_node("Squeeze", ["x", "a"], ["y"], name="n")], {"a": np.array([0, 1])}, "one axis is expected"),
    ],
)
def test_a_form_that_no_graph_of_ours_has_is_refused(nodes: list[Any], constants: dict[str, Any], why: str) -> None:
    with pytest.raises(BadModel, match=rf"node 'n' \(\w+\): .*{why}"):
        TorchGraph(model_of(nodes, **constants))


@pytest.mark.parametrize("which", ["real", "small"])
def test_the_network_itself_as_stages(which: str, request: pytest.FixtureRequest) -> None:
    known: Exported = request.getfixturevalue(which)
    tiles, picked = known.tiles[:3], [2, 0]
    wanted = known.network.predict(tiles)
    specs = tensor_specs(known.network)
    net = known.network.network
    with torch.inference_mode():
        first = LocalizationStage(net)(torch.from_numpy(tiles))
        second = ConfidenceStage(net)(
            torch.from_numpy(tiles), first["embedding"], torch.tensor(picked, dtype=torch.int32)
        )
    np.testing.assert_allclose(first["score"].numpy(), wanted.score, atol=1e-5)
    assert np.mean(second["classes"].numpy() != wanted.classes[picked]) < 1e-4
    np.testing.assert_allclose(second["confidence"].numpy().astype(int), wanted.confidence[picked], atol=1)
    for name, tensor in {**first, **second}.items():
        assert tuple(tensor.shape[1:]) == specs[name].shape[1:]
        assert str(tensor.dtype) == f"torch.{specs[name].dtype}"
