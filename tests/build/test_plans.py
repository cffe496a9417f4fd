"""Plans for a bundle, by the real builder of TensorRT-RTX; none is run here, for that needs a GPU."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import plan_graphs
import pytest
from onnx import numpy_helper

from lpcnet_edge.backends.cuda_driver import Cuda, CudaDevice
from lpcnet_edge.backends.tensorrt import load_library
from lpcnet_edge.build import plans
from lpcnet_edge.build.plans import Batch, BuiltPlans, StageOnnx, build_plans
from lpcnet_edge.bundle.plans import PlanSet
from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BuildFailed, MissingDevice, UsageError
from lpcnet_edge.yamlfile import parse

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")

BATCH = Batch(best=4, largest=8)


def build(stages: dict[str, StageOnnx], *cards: str, **options: Any) -> BuiltPlans:
    return build_plans(stages, module="tensorrt_rtx", compute_capabilities=cards, batch=BATCH, **options)


def plan_yaml(built: BuiltPlans, folder: str) -> PlanSet:
    name = f"plans/{folder}/plan.yaml"
    return from_mapping(PlanSet, parse(built.files[name]), name)


def with_dead_channel(data: bytes) -> bytes:
    """Float16 holds nothing below 6e-8: the scale of a nearly dead channel becomes 0 in the float16-typed file."""
    model = onnx.load_model_from_string(data)
    tensor = next(t for t in model.graph.initializer if t.name == "stage1/stem/relu.scale")
    kind = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(1e-9, kind), tensor.name))
    return bytes(model.SerializeToString())


def test_every_stage_is_built_for_every_card() -> None:
    stages = {
        "localization": StageOnnx(plan_graphs.localization(), plan_graphs.localization("float16")),
        "confidence": StageOnnx(plan_graphs.confidence()),
    }
    told: list[tuple[float, str]] = []
    built = build(stages, "8.9", "12.0", progress=lambda share, text: told.append((share, text)))

    version = load_library("tensorrt_rtx").version
    folders = [f"tensorrt-rtx-{version}-{device}" for device in ("sm89", "sm120")]
    names = ("plan.yaml", "localization.plan", "confidence.plan")
    assert list(built.files) == [f"plans/{folder}/{name}" for folder in folders for name in names]
    for folder, device in zip(folders, ("sm89", "sm120"), strict=True):
        found = plan_yaml(built, folder)
        assert (found.runtime, found.version, found.device) == ("tensorrt-rtx", version, device)
        assert found.settings["device_name"] is None
        assert found.settings["batch"] == {"least": 1, "best": 4, "largest": 8}
        for stage, onnx_files in stages.items():
            # The bundle holds the canonical file, so a plan is bound to that one.
            assert found.plans[stage].onnx_sha256 == hashlib.sha256(onnx_files.canonical).hexdigest()
        first, second = (found.settings["stages"][stage] for stage in stages)
        assert (first["typed"], first["float16_refused"]) == ("float16", None)
        assert first["built_from_sha256"] == hashlib.sha256(stages["localization"].float16 or b"").hexdigest()
        assert (second["typed"], second["float16_refused"]) == ("float32", None)
        assert second["inputs"][2] == {"name": "picked", "dtype": "int32", "shape": ["M"]}
        assert second["outputs"][0] == {"name": "classes", "dtype": "uint8", "shape": ["M", 64, 64]}
    assert built.seconds > 0

    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert {text.partition(":")[0] for _, text in told} == {f"{s} for {d}" for s in stages for d in ("sm89", "sm120")}


def test_a_refused_float16_file_gives_way_to_the_canonical_one_and_that_is_told() -> None:
    canonical, float16 = plan_graphs.localization(), with_dead_channel(plan_graphs.localization("float16"))
    built = build({"localization": StageOnnx(canonical, float16)}, "8.9")
    (folder,) = {name.split("/")[1] for name in built.files}
    record = plan_yaml(built, folder).settings["stages"]["localization"]
    assert record["typed"] == "float32"
    assert record["built_from_sha256"] == hashlib.sha256(canonical).hexdigest()
    assert "Scale coefficients must all be positive" in record["float16_refused"]
    assert any("the canonical file serves" in note and "localization for sm89" in note for note in built.notes)


def test_a_refused_canonical_file_is_a_failure() -> None:
    bad = onnx.load_model_from_string(plan_graphs.localization())
    bad.graph.node[-1].op_type = "Conv5"
    with pytest.raises(BuildFailed, match="Plugin not found"):
        build({"localization": StageOnnx(bad.SerializeToString(), bad.SerializeToString())}, "8.9")


def test_a_float16_file_with_other_tensors_is_a_failure() -> None:
    other = onnx.load_model_from_string(plan_graphs.localization("float16"))
    other.graph.output.pop()
    with pytest.raises(BuildFailed, match="the plan's outputs are heatmap"):
        build({"localization": StageOnnx(plan_graphs.localization(), other.SerializeToString())}, "8.9")


def test_this_machine_is_asked_for_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"localization": StageOnnx(plan_graphs.localization())}
    card = CudaDevice("NVIDIA GeForce RTX 4070", "8.9")
    monkeypatch.setattr(plans, "cuda_driver", lambda _: Cuda(None, "13.0", (card,), None))
    built = build(stages)
    (folder,) = {name.split("/")[1] for name in built.files}
    assert folder.endswith("-sm89")
    assert plan_yaml(built, folder).settings["device_name"] == "NVIDIA GeForce RTX 4070"

    card = CudaDevice("Orin", "8.7")
    with pytest.raises(UsageError, match=r"does not build for compute capability 8\.7"):
        build(stages)

    monkeypatch.setattr(plans, "cuda_driver", lambda _: Cuda(None, None, (), "libcuda.so.1 is not there"))
    with pytest.raises(
        MissingDevice, match=r"libcuda\.so\.1 is not there.*name the cards to build for with --sm: 7\.5"
    ):
        build(stages)


def test_a_batch_must_rise() -> None:
    for best, largest in ((0, 8), (9, 8)):
        with pytest.raises(UsageError, match="cannot be best at"):
            Batch(best, largest)
