"""The shipped network's own files, exported and quantised as a build does it, are taken by TensorRT-RTX."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.export import export_network
from lpcnet_edge.build.half import to_half
from lpcnet_edge.build.plans import Batch, StageOnnx, build_plans
from lpcnet_edge.build.quantise import place, quantise
from lpcnet_edge.network.weights import load_network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


def test_every_precision_builds_for_every_card() -> None:
    pair = export_network(load_network("carbon-fabric"))
    for int8 in (False, True):
        stages = {}
        for stage in ("localization", "confidence"):
            model = getattr(pair, stage)
            if int8:
                model = quantise(model, dict.fromkeys(place(from_model(model)).tensors, 4.0))
            stages[stage] = StageOnnx(model.SerializeToString(), to_half(model).SerializeToString())
        cards = ["7.5", "8.0", "8.6", "8.9", "12.0"]
        for kind in (stages, {stage: StageOnnx(onnx.canonical) for stage, onnx in stages.items()}):
            built = build_plans(kind, module="tensorrt_rtx", compute_capabilities=cards, batch=Batch(8, 32))
            assert len(built.files) == 3 * len(cards)
            assert not [note for note in built.notes if "refused" in note]
