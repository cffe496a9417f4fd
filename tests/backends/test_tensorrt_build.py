"""Plans by the real builder of TensorRT-RTX, which needs no GPU to build; none is run here, for that needs one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import plan_graphs
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcnet_edge.backends.tensorrt import load_library
from lpcnet_edge.backends.tensorrt_build import Plan, build_plan
from lpcnet_edge.backends.tensorrt_progress import Phases
from lpcnet_edge.errors import BadArtifact, BuildFailed, MissingDevice, MissingLibrary, UsageError

SIDE = plan_graphs.SIDE
MAX = 8
CARDS = ("7.5", "8.0", "8.6", "8.9", "12.0")
TYPED: dict[str, dict[str, Any]] = {
    "fp16": {"typed": "float16", "int8": False},
    "int8": {"typed": "float32", "int8": True},
    "int8 in fp16": {"typed": "float16", "int8": True},
}
PIXELS = ((1, SIDE, SIDE), (4, SIDE, SIDE), (MAX, SIDE, SIDE))
PROFILES = {
    "pixels": PIXELS,
    "embedding": tuple((n, plan_graphs.EMBEDDING, 4, 4) for n in (1, 4, MAX)),
    "picked": ((1,), (2,), (MAX,)),
}

# One card takes every precision by default; Q/DQ in float16 is built for the others in the slow tier.
MATRIX = [
    pytest.param(card, precision, marks=[pytest.mark.slow] if precision == "int8 in fp16" and card != "8.9" else [])
    for precision in TYPED
    for card in CARDS
]

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


def build(data: bytes, compute_capability: str | None = "8.9", **options: Any) -> Plan:
    options = {"profiles": {"pixels": PIXELS}, **options}
    return build_plan(data, module="tensorrt_rtx", compute_capability=compute_capability, **options)


def specs(tensors: tuple[Any, ...]) -> list[str]:
    return [str(tensor) for tensor in tensors]


@needs_rtx
@pytest.mark.parametrize(("card", "precision"), MATRIX)
def test_both_stages_build_ahead_for_a_card(card: str, precision: str) -> None:
    first = build(plan_graphs.localization(**TYPED[precision]), card)
    assert specs(first.inputs) == ["pixels uint8 (N, 64, 64)"]
    heatmap, embedding, score = specs(first.outputs)
    assert (heatmap, score) == ("heatmap float32 (N, 1, 4, 4)", "score float32 (N)")
    second = build(plan_graphs.confidence(**TYPED[precision]), card, profiles=PROFILES)
    assert embedding == "embedding float32 (N, 32, 4, 4)"
    assert specs(second.inputs) == ["pixels uint8 (N, 64, 64)", embedding, "picked int32 (M)"]
    assert specs(second.outputs) == ["classes uint8 (M, 64, 64)", "confidence uint8 (M, 64, 64)"]
    for plan in (first, second):
        # The weights are in it (no plan stripped of them), and it took time.
        assert len(plan.data) > 900_000
        assert plan.seconds > 0


@needs_rtx
@pytest.mark.parametrize("card", CARDS)
def test_int8_weights_take_one_byte_and_half_floats_two(card: str) -> None:
    """By the difference of a deep and a shallow net, which leaves out the kernels that an INT8 plan brings along."""
    sizes = {}
    for precision in ("fp16", "int8"):
        (shallow, few), (deep, many) = (plan_graphs.chain(depth=depth, **TYPED[precision]) for depth in (1, 3))
        sizes[precision] = len(build(deep, card).data)
        sizes[f"{precision} a weight"] = (sizes[precision] - len(build(shallow, card).data)) / (many - few)
    assert sizes["int8"] < 0.75 * sizes["fp16"]
    assert 1.0 <= sizes["int8 a weight"] < 1.25
    assert 2.0 <= sizes["fp16 a weight"] < 2.1


@needs_rtx
def test_the_library_knows_the_bytes_for_a_plan_of_its_own() -> None:
    library = load_library("tensorrt_rtx")
    malformed = int(library.trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    runtime = library.trt.Runtime(library.logger)
    data = build(plan_graphs.localization()).data
    for given, bad in ((data, 0), (bytes(len(data)), malformed)):
        _, diagnostics = runtime.get_engine_validity(given)  # reads the header; other bits speak of the GPU
        assert int(diagnostics) & malformed == bad
    assert build(plan_graphs.localization(), "12.0").data != data


@needs_rtx
def test_a_static_file_needs_no_profile() -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"], name="relu")],
            "static",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    plan = build(model.SerializeToString(), profiles={})
    assert specs(plan.inputs) == ["x float32 (2, 3)"]
    assert plan.data


@needs_rtx
@pytest.mark.parametrize(
    ("profiles", "told"),
    [
        ({}, r"input 'pixels' \(N, 64, 64\) has a dynamic axis and no profile"),
        ({"pixel": PIXELS}, r"'pixel', which is no input \(mend: did you mean 'pixels'"),
        ({"pixels": ((1, 64), (4, 64), (8, 64))}, "'pixels' has 3 axes, a profile of 2"),
        ({"pixels": ((4, 64, 64), (2, 64, 64), (8, 64, 64))}, "axis 0 cannot be 4 to 8, best 2"),
        ({"pixels": ((0, 64, 64), (2, 64, 64), (8, 64, 64))}, "axis 0 cannot be 0 to 8"),
        ({"pixels": ((1, 64, 64), (2, 64, 64), (8, 128, 64))}, "axis 1 cannot be 64 to 128"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(profiles: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build(plan_graphs.localization(), profiles=profiles)


@needs_rtx
def test_a_target_that_the_library_cannot_build_for_is_refused(tmp_path: Path) -> None:
    data = plan_graphs.localization()
    with pytest.raises(UsageError, match=r"does not build for compute capability 8\.7 .*7\.5, 8\.0, 8\.6, 8\.9"):
        build(data, "8.7")
    with pytest.raises(UsageError, match="tensorrt_rtx has no use for a timing cache"):
        build(data, timing_cache=tmp_path / "timing.cache")
    if os.path.exists("/dev/nvidia0") or os.path.exists("/dev/nvhost-gpu"):
        return  # with a GPU, leaving the card out is no fault
    with pytest.raises(MissingDevice, match=r"finds no NVIDIA GPU to build for \(CUDA error 35\).*name the card"):
        build(data, None)


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_a_library_that_is_not_there_is_named_with_its_mend(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(MissingLibrary, match=f"library {module} is not installed") as caught:
        load_library.__wrapped__(module)
    assert caught.value.mend == f"pip install -e '.[{module.replace('_', '-')}]' (in the repository)"
    assert caught.value.exit_code == 4
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(MissingLibrary) as caught:
        load_library.__wrapped__(module)
    assert ("nvidia-jetpack" in str(caught.value)) == (module == "tensorrt")


def test_a_library_that_does_not_load_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingLibrary, match=r"tensorrt is installed but does not load: libnvinfer\.so\.10"):
        load_library.__wrapped__("tensorrt")


def test_another_module_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="'onnxruntime' is no module that builds plans"):
        load_library("onnxruntime")


def changed(**changes: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(plan_graphs.localization())
    for change in changes.values():
        change(model)
    return model.SerializeToString()


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def weight(model: onnx.ModelProto, name: str, value: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def float_weights(model: onnx.ModelProto) -> None:
    conv = node(model, "stage1/heat")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 128, 1, 1), np.float16), "half"))
    conv.input[1] = "half"


def integer_bias(model: onnx.ModelProto) -> None:
    weights = {"b": np.zeros(1, np.int32), "b.scale": np.full(1, 0.1, np.float32), "b.zero": np.zeros(1, np.int32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    at = list(model.graph.node).index(node(model, "stage1/heat"))
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", list(weights), ["b.out"], name="stage1/heat/bias"))
    node(model, "stage1/heat").input[2] = "b.out"


def bytes_into_gather(model: onnx.ModelProto) -> None:
    first = node(model, "pixels/cast")
    first.CopyFrom(helper.make_node("Transpose", ["pixels"], list(first.output), name="pixels/cast", perm=[0, 2, 1]))


@needs_rtx
@pytest.mark.parametrize(
    ("change", "told", "mend"),
    [
        (
            lambda m: weight(m, "stage1/stem/relu.zero_point", np.int8(3)),
            r"node 'stage1/stem/relu/quantize' \(QuantizeLinear\): Non-zero zero point is not supported",
            "every zero point 0",
        ),
        (
            lambda m: weight(m, "stage1/stem/relu.scale", np.float32(0)),
            r"node 'stage1/stem/relu/quantize' \(QuantizeLinear\): Scale coefficients must all be positive",
            "a scale above 0",
        ),
        (
            float_weights,
            r"node 'stage1/heat' \(Conv\): .*must be of same type",
            "put a Cast where float16 meets float32",
        ),
        (
            integer_bias,
            r"node 'stage1/heat/bias' \(DequantizeLinear\): .*input has type Int32",
            "keep biases in float",
        ),
        (
            bytes_into_gather,
            r"node 'pixels/cast' \(Transpose\): .*first input has type UInt8 but must have type Float",
            "cast first",
        ),
        (
            lambda m: setattr(node(m, "stage1/heat"), "op_type", "Conv5"),
            r"node 'stage1/heat' \(Conv5\): Plugin not found",
            "operators of ONNX's own opset",
        ),
    ],
)
def test_what_the_parser_refuses_is_told_with_node_reason_and_mend(
    change: Callable[[onnx.ModelProto], None], told: str, mend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BuildFailed, match=told) as caught:
        build(changed(change=change))
    assert mend in str(caught.value.mend)
    for noise in ("cudaError", "/_src/", "Assertion", "\n"):
        assert noise not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "the library prints nothing itself"


@needs_rtx
@pytest.mark.parametrize("how", ["zero point", "no zero point", "weights"])
def test_unsigned_quantisation_is_refused_where_the_parser_would_take_it_for_signed(how: str) -> None:
    def unsigned(model: onnx.ModelProto) -> None:
        if how == "zero point":
            weight(model, "stage1/stem/relu.zero_point", np.uint8(0))
        elif how == "no zero point":
            del node(model, "stage1/stem/relu/quantize").input[2]
        else:
            weight(model, "stage1/heat.weight", np.zeros((1, 128, 1, 1), np.uint8))
            del node(model, "stage1/heat/weight/dequantize").input[2]

    with pytest.raises(BuildFailed, match="is unsigned, which TensorRT reads as signed"):
        build(changed(change=unsigned))


@needs_rtx
def test_bytes_that_are_no_model_are_a_bad_artifact() -> None:
    for data in (b"", b"not an ONNX file", plan_graphs.localization()[:-5000]):
        with pytest.raises(BadArtifact, match="ONNX"):
            build(data)


@needs_rtx
def test_after_a_failure_the_next_build_holds_none_of_its_messages() -> None:
    with pytest.raises(BuildFailed):
        build(changed(change=integer_bias))
    assert build(plan_graphs.localization()).notes == ()
    with pytest.raises(BuildFailed, match="zero point"):
        build(changed(change=lambda m: weight(m, "stage1/stem/relu.zero_point", np.int8(3))))


@needs_rtx
def test_progress_rises_to_one() -> None:
    told: list[tuple[float, str]] = []
    build(plan_graphs.confidence(), profiles=PROFILES, progress=lambda share, phase: told.append((share, phase)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(set(shares)) > 10
    assert "Building engine" in {phase for _, phase in told}


@needs_rtx
def test_what_progress_raises_ends_the_build_and_is_raised(capfd: pytest.CaptureFixture[str]) -> None:
    calls = []

    def fail(share: float, phase: str) -> None:
        calls.append(phase)
        raise ZeroDivisionError(phase)

    with pytest.raises(ZeroDivisionError):
        build(plan_graphs.confidence(), profiles=PROFILES, progress=fail)
    assert len(calls) == 1
    assert capfd.readouterr() == ("", "")


INTERRUPTED = """
import os, signal, sys, threading, time
import plan_graphs
from lpcnet_edge.backends.tensorrt_build import build_plan

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us in the background may ignore it
told, turn = [], threading.Lock()

def report(share, phase):
    with turn:  # the builder has several threads
        told.append(share)
        if len(told) == 20:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # the builder is busy here; the main thread must hear the signal meanwhile

sizes = ((1, 64, 64), (4, 64, 64), (8, 64, 64))
try:
    build_plan(plan_graphs.localization(), module="tensorrt_rtx", compute_capability="8.9",
               profiles={"pixels": sizes}, progress=report)
except KeyboardInterrupt:
    print("interrupted after", len(told))
"""


@needs_rtx
def test_ctrl_c_ends_a_build_and_nothing_is_printed() -> None:
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(Path(__file__).parents[2])])}
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted after 20\n", "")


def test_nested_phases_add_up_and_never_fall() -> None:
    phases = Phases()
    assert phases.start("all", None, 2) == 0.0
    phases.start("half", "all", 4)
    assert phases.step("half", 0) == pytest.approx(0.125)
    phases.start("quarter", "half", 2)
    assert phases.step("quarter", 0) == pytest.approx((1 + 0.5) / 4 / 2)
    phases.finish("quarter")
    assert phases.step("half", 3) == pytest.approx(0.5)
    phases.start("again", "all", 100)
    assert phases.step("again", 0) == pytest.approx(0.5)  # the builder tells of inner steps late
    phases.finish("half")
    assert phases.step("all", 1) == 1.0
    phases.start("ring", "ring", 3)
    assert phases.step("ring", 0) == 1.0
