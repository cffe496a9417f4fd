"""The float16-typed file: its trunk computes in float16, its borders are the canonical file's, its answers float's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from exported import STAGES, Exported
from numpy.typing import NDArray

from lpcnet_edge.backends import openvino
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.backends.openvino import OpenVinoEngine, slot_parts
from lpcnet_edge.build.half import to_half
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import quantise
from lpcnet_edge.machine import multiplies_bfloat16

TRUNK = ("stage1/", "stage2/encoder/", "stage2/decoder/")


def halves(pair: OnnxPair) -> dict[str, onnx.ModelProto]:
    return {stage: to_half(getattr(pair, stage)) for stage in STAGES}


def run(models: dict[str, onnx.ModelProto], tiles: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    first, second = (OnnxRuntimeEngine(m.SerializeToString(), threads=1, lower=False) for m in models.values())
    found = first.run({"pixels": tiles})
    picked = np.arange(len(tiles), dtype=np.int32)
    return {**found, **second.run({"pixels": tiles, "embedding": found["embedding"], "picked": picked})}


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_the_trunk_is_float16_and_the_rest_float32(stage: str, int8: bool, real: Exported) -> None:
    model = to_half((real.int8_models if int8 else real.float_models)[stage])
    graph = from_model(model)
    convs = [node for node in graph.nodes if node.op == "Conv"]
    assert convs
    for node in graph.nodes:
        types = {t.dtype for t in [*node.inputs, *node.outputs] if t.dtype in (np.float16, np.float32)}
        if node.op == "Cast":
            continue
        scales = node.op == "Resize" and types == {np.dtype(np.float16), np.dtype(np.float32)}
        assert len(types) <= 1 or scales, f"{node.name} mixes {types}"
        if node.name.startswith(TRUNK) and node.op != "Resize":
            assert types == {np.dtype(np.float16)}, node.name
        if node.name.startswith(("stage2/pcm/", "output/")):
            assert np.dtype(np.float16) not in types, node.name
    assert not [c.name for c in convs if c.outputs[0].dtype != np.float16 and not c.name.startswith("stage2/pcm/")]


@pytest.mark.parametrize("int8", [False, True])
def test_inputs_and_outputs_are_kept(int8: bool, real: Exported) -> None:
    for stage, model in (real.int8_models if int8 else real.float_models).items():
        half = to_half(model)
        for ours, theirs in ((half.graph.input, model.graph.input), (half.graph.output, model.graph.output)):
            assert [v.SerializeToString() for v in ours] == [v.SerializeToString() for v in theirs], stage


def test_weights_take_half_the_bytes(real: Exported) -> None:
    for stage, model in real.float_models.items():
        assert len(to_half(model).SerializeToString()) < 0.6 * len(model.SerializeToString()), stage


def test_it_decides_as_float_does(small: Exported, real: Exported) -> None:
    for network, tiles, agreement in ((small, small.tiles[:4], 0.995), (real, real.tiles[:2], 0.999)):
        ours, theirs = run(halves(network.pair), tiles), run(network.float_models, tiles)
        assert (ours["classes"] == theirs["classes"]).mean() >= agreement
        assert np.abs(ours["heatmap"] - theirs["heatmap"]).max() < 0.02
        assert not np.array_equal(ours["heatmap"], theirs["heatmap"]), "nothing was rounded to float16"


@pytest.mark.parametrize("has", [True, False])
def test_openvino_computes_its_trunk_in_bfloat16_where_the_processor_does(
    real: Exported, monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    monkeypatch.setattr(openvino, "multiplies_bfloat16", lambda: has)
    for stage, model in real.float_models.items():
        hints = [extra.get(openvino.PRECISION) for _, extra in slot_parts(model.SerializeToString(), stage, "fp16")]
        assert hints == ([None] if not has else ["bf16"] if stage == STAGES[0] else ["bf16", None]), "the tail is not"
    for precision, models in (("fp32", real.float_models), ("int8", real.int8_models)):
        for stage, model in models.items():
            parts = slot_parts(model.SerializeToString(), stage, precision)
            assert not [extra for _, extra in parts if openvino.PRECISION in extra], precision


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply in bfloat16")
def test_bfloat16_decides_as_float_does(real: Exported) -> None:
    def run_openvino(models: Mapping[str, onnx.ModelProto]) -> dict[str, NDArray[Any]]:
        first, second = (OpenVinoEngine(m.SerializeToString(), threads=1) for m in models.values())
        found = first.run({"pixels": tiles})
        picked = np.arange(len(tiles), dtype=np.int32)
        return {**found, **second.run({"pixels": tiles, "embedding": found["embedding"], "picked": picked})}

    tiles = real.tiles[:2]
    ours, theirs = run_openvino(halves(real.pair)), run_openvino(real.float_models)
    assert (ours["classes"] == theirs["classes"]).mean() >= 0.999
    apart = np.abs(ours["heatmap"] - theirs["heatmap"]).max()
    assert 1e-4 < apart < 0.03, "narrower than float16, and within the self-test's tolerance"


def test_the_quantised_file_typed_float16_decides_as_the_canonical_one(small: Exported) -> None:
    tiles = small.tiles[:4]
    ours, theirs = run(halves(small.int8), tiles), run(small.int8_models, tiles)
    agreed = (ours["classes"] == theirs["classes"]).mean()
    assert agreed > 0.97, "few pixels of an untrained network are far from a tie, where a rounding decides"
    assert np.abs(ours["heatmap"] - theirs["heatmap"]).max() < 0.05


def test_no_scale_becomes_zero(small: Exported) -> None:
    """The least scale, 2^-24, is the least number that float16 can hold; what rounds to 0 is refused by TensorRT."""
    model = quantise(small.pair.confidence, {name: 0.0 for name in small.ranges})
    scales = [
        node.inputs[1].values
        for node in from_model(to_half(model)).nodes
        if node.op in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert min(float(values.min()) for values in scales) == 2.0**-24
    assert {values.dtype for values in scales} == {np.dtype(np.float16)}


def test_the_canonical_file_is_not_touched(small: Exported) -> None:
    before = small.pair.confidence.SerializeToString()
    to_half(small.pair.confidence)
    assert small.pair.confidence.SerializeToString() == before
    assert all(t.dtype != np.float16 for t in from_model(small.pair.confidence).tensors().values())


def test_every_cast_is_needed(real: Exported) -> None:
    """No tensor is cast back and forth: the trunk is entered and left once at each of its borders."""
    graph = from_model(to_half(real.pair.confidence))
    casts = [node for node in graph.nodes if node.op == "Cast" and node.name.endswith((".to_half", ".to_single"))]
    assert sorted(node.name for node in casts) == [
        "preprocess/normalise.to_half",
        "preprocess/pick_embedding.to_half",
        "stage2/decoder/classify.to_single",
    ]
    assert not [n for n in casts if isinstance(n.inputs[0], gs.Constant)]
