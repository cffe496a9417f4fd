"""OpenVINO computes what is quantised in INT8, with ReLU and addition inside: read from the graph that it runs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import STAGES, Exported

from lpcnet_edge.backends import openvino
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.backends.openvino import OpenVinoEngine
from lpcnet_edge.build.quantise import CLASSIFIER, place

OWN_INPUT = "stage1/block16/conv"
"""The one layer whose addition OpenVINO leaves apart. It fuses an addition by accumulating onto the skip in place, and
this convolution's skip is the very tensor that it reads. The addition takes its ReLU and Q along, and writes uint8."""


def compiled(model: onnx.ModelProto, tiles: int, *, lower: bool = True) -> OpenVinoEngine:
    values = {
        value.name: [d.dim_value or tiles for d in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    return OpenVinoEngine(model.SerializeToString(), threads=1, shapes=values, lower=lower)


@lru_cache
def layers(model_bytes: bytes) -> dict[str, tuple[dict[str, str], set[str]]]:
    """Convolution -> the primitive that OpenVINO runs it as, and all nodes that it takes in."""
    engine = compiled(onnx.load_model_from_string(model_bytes), 2)
    found = {}
    for row in engine.executed():
        inside = set(row.get("originalLayersNames", "").split(","))
        for name in inside:
            if row["layerType"] == "Convolution":
                found[name] = (row, inside)
    return found


def wanted(model: onnx.ModelProto, name: str) -> dict[str, set[str]]:
    """What must be in a convolution's primitive: each of these, by one of its names (a Q swallows its ReLU)."""
    graph = from_model(model)
    conv = next(node for node in graph.nodes if node.name == name)
    last = conv.outputs[0].outputs[0]
    found = {}
    if last.op == "Add":
        found["addition"] = {last.name}
        last = last.outputs[0].outputs[0]
    tensor = last.outputs[0].name
    found["ReLU"] = {last.name, tensor, f"{tensor}.q"}
    return found


@pytest.mark.parametrize("kind", ["real", "small"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_quantised_convolution_is_int8(stage: str, kind: str, request: pytest.FixtureRequest) -> None:
    network: Exported = request.getfixturevalue(kind)
    executed = layers(network.int8_models[stage].SerializeToString())
    for name in place(from_model(network.float_models[stage])).convs:
        row, _ = executed[name]
        assert "I8" in row["primitiveType"], row
        assert row["runtimePrecision"] in ("u8", "i8"), row


@pytest.mark.parametrize("stage", STAGES)
def test_every_quantised_convolution_takes_its_addition_and_relu_in(stage: str, real: Exported) -> None:
    model = real.float_models[stage]
    executed = layers(real.int8_models[stage].SerializeToString())
    apart = []
    for name in place(from_model(model)).convs:
        _, inside = executed[name]
        if name != CLASSIFIER and not all(names & inside for names in wanted(model, name).values()):
            apart.append(name)
    assert apart == ([OWN_INPUT] if stage == "localization" else [])


def test_the_addition_left_apart_is_one_pass_with_its_relu_and_q(real: Exported) -> None:
    graph = from_model(real.pair.localization)
    conv = next(node for node in graph.nodes if node.name == OWN_INPUT)
    add = conv.outputs[0].outputs[0]
    assert conv.inputs[0] in list(add.inputs), "its skip is its own input"
    rows = compiled(real.int8.localization, 2).executed()
    row = next(row for row in rows if "stage1/add" in row.get("originalLayersNames", "").split(","))
    assert row["layerType"] == "Eltwise"
    assert "stage1/relu.q" in row["originalLayersNames"].split(",")
    assert row["outputPrecisions"] == "u8"


def test_what_stays_in_float_is_float(real: Exported) -> None:
    executed = layers(real.int8.confidence.SerializeToString())
    for name in ("stage2/encoder/context/squeeze", "stage2/pcm/conv"):
        assert executed[name][0]["runtimePrecision"] == "f32"


def test_with_its_code_generator_openvino_leaves_additions_apart(
    real: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the trunk is compiled without it, and the sight of a fusion that is missing."""
    monkeypatch.setattr(openvino, "_NO_SNIPPETS", {})
    engine = compiled(real.int8.confidence, 2)
    rows = [set(row.get("originalLayersNames", "").split(",")) for row in engine.executed()]
    model = real.pair.confidence
    apart = [
        name
        for name in place(from_model(model)).convs
        for inside in rows
        if name in inside and not all(names & inside for names in wanted(model, name).values())
    ]
    assert len(apart) > 3


def test_a_float_file_has_no_int8_primitive(real: Exported) -> None:
    """What the tests above look for is not there by itself."""
    rows = compiled(real.pair.localization, 2).executed()
    assert rows
    assert not [row for row in rows if "I8" in row.get("primitiveType", "") and row["layerType"] == "Convolution"]


@pytest.mark.parametrize("lower", [True, False])
def test_openvino_decides_as_onnx_runtime_does_of_the_same_file(lower: bool, real: Exported) -> None:
    tiles = real.tiles[:4]
    found = []
    for engine in (compiled, lambda model, _, lower: OnnxRuntimeEngine(model.SerializeToString(), optimise=False)):
        first = engine(real.int8.localization, 4, lower=lower).run({"pixels": tiles})
        feeds = {"pixels": tiles, "embedding": first["embedding"], "picked": np.arange(4, dtype=np.int32)}
        found.append((first["heatmap"], engine(real.int8.confidence, 4, lower=lower).run(feeds)["classes"]))
    (heat, classes), (canonical_heat, canonical) = found
    assert (classes == canonical).mean() > 0.998
    assert np.abs(heat - canonical_heat).max() < 0.1


def test_tiles_may_be_any_number_and_picked_in_any_order(small: Exported) -> None:
    """Without static shapes, the trunk and the tail that stage 2 is compiled as follow N and M."""
    first = OpenVinoEngine(small.int8.localization.SerializeToString(), threads=1)
    second = OpenVinoEngine(small.int8.confidence.SerializeToString(), threads=1)
    every = first.run({"pixels": small.tiles[:8]})["embedding"]
    feeds = {"pixels": small.tiles[:8], "embedding": every}
    whole = second.run({**feeds, "picked": np.arange(8, dtype=np.int32)})
    for picked in ([5], [7, 0, 7], [0, 1, 2]):
        some = second.run({**feeds, "picked": np.array(picked, np.int32)})
        assert all(np.array_equal(some[name], whole[name][picked]) for name in ("classes", "confidence"))
    one = first.run({"pixels": small.tiles[3:4]})["embedding"]
    np.testing.assert_array_equal(one, every[3:4])


def test_what_was_compiled_once_is_read_from_the_cache(small: Exported, tmp_path: Path) -> None:
    data = small.int8.localization.SerializeToString()
    feeds = {"pixels": small.tiles[:2]}
    shapes = {"pixels": (2, 64, 64)}
    first = OpenVinoEngine(data, threads=1, cache=tmp_path, shapes=shapes).run(feeds)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert kept
    again = OpenVinoEngine(data, threads=1, cache=tmp_path, shapes=shapes).run(feeds)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert all(np.array_equal(first[name], again[name]) for name in first)
