"""Plans to bound stages on a played runtime: the order of calls, memory, kernels, errors. A GPU would execute them."""

from __future__ import annotations

import json
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from api_names import versions
from local_bundle import SIDE
from plain_device import PlainDevice
from played_plans import flip, plan_of, plans_of
from runtime_double import CLASSES, World, played

from lpcnet_edge.backends import tensorrt_open
from lpcnet_edge.backends.cuda.errors import cuda_error
from lpcnet_edge.backends.cuda_driver import cuda_driver
from lpcnet_edge.backends.tensorrt_open import open_tensorrt
from lpcnet_edge.backends.tensorrt_recorder import Recorded, make_recorder, runtime_error
from lpcnet_edge.backends.tensorrt_runtime import TensorRtStage
from lpcnet_edge.bundle.cache import VARIABLE
from lpcnet_edge.bundle.machine_plans import put_plans
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import (
    BackendFailed,
    BadArtifact,
    DeviceLost,
    LpcnetError,
    MissingDevice,
    StaleCache,
    UsageError,
)

RTX, TRT = "1.7.1.116", "10.3.0"
STAGES = ("localization", "confidence")
LOST = (214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999)
"""cudaError_t after which a process cannot go on with its GPU."""

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
without_gpu = pytest.mark.skipif(bool(cuda_driver(None).devices), reason="there is a GPU: the plan would load")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


# The played runtime has no name that the real ones lack.


@pytest.mark.parametrize(("module", "version", "classes"), versions(), ids=lambda value: str(value)[:24])
def test_the_played_runtime_has_only_real_names(module: str, version: str, classes: dict[str, list[str]]) -> None:
    runtime = played(module, version, World()).trt.Runtime
    for name, played_class in {**CLASSES[module], "Runtime": runtime}.items():
        names = {member for member in dir(played_class) if member[0] != "_"}
        assert names <= set(classes[name]) | {"name", "value"}, f"{name} of {module} {version}"


# Execution, played.

MODULES = [("tensorrt", TRT), ("tensorrt", "11.4.0.106"), ("tensorrt_rtx", RTX)]


@pytest.fixture(params=MODULES, ids="-".join)
def opened(
    request: pytest.FixtureRequest, bare: Bundle, world: World, device: PlainDevice, monkeypatch: pytest.MonkeyPatch
) -> tensorrt_open.TensorRtStages:
    module, version = request.param
    library = played(module, version, world)
    monkeypatch.setattr(tensorrt_open, "load_library", lambda name: library)
    put_plans(bare, plans_of(bare, module.replace("_", "-"), version, "sm89"))
    return open_tensorrt(bare, module, device)


def addresses(device: PlainDevice, *names: str) -> dict[str, int]:
    return {name: device.memory(1 << 16).address for name in names}


def test_both_stages_are_bound_and_enqueued(
    opened: tensorrt_open.TensorRtStages, world: World, device: PlainDevice
) -> None:
    assert "NVIDIA RTX 4070, plans of this machine's cache" in opened.about
    first, second = (opened.stages[stage] for stage in STAGES)
    assert first.largest == second.largest == 8
    ours = addresses(device, "pixels", "embedding", "score", "picked", "classes", "confidence")
    stream = device.stream()
    one = first.bind({name: ours[name] for name in ("pixels", "embedding", "score")}, {"pixels": 4})
    two = second.bind(
        {name: ours[name] for name in ("pixels", "embedding", "picked", "classes", "confidence")},
        {"pixels": 8, "embedding": 8, "picked": 2},
    )
    for bound in (one, two):
        bound.enqueue(stream)
        with stream.capture() as captured:
            bound.enqueue(stream)
        captured.graph.launch(stream)
    shapes = [call.partition(" ")[0] for call in world.calls]
    assert shapes == ["localization", "localization", "confidence", "confidence"]
    assert f"('picked', (2,)), ('pixels', (8, {SIDE}, {SIDE}))" in world.calls[-1]
    held = device.ledger.alive["memory"]
    two.close()
    opened.close()
    opened.close()
    # What the stages took is given back: working memory of each, and the heatmap, which nobody asked for.
    assert held - device.ledger.alive["memory"] == 3
    with pytest.raises(RuntimeError, match="was closed"):
        one.enqueue(stream)
    with pytest.raises(RuntimeError, match="was closed"):
        first.bind(ours, {"pixels": 1})


def test_bindings_of_a_lane_share_memory_and_lanes_do_not(
    opened: tensorrt_open.TensorRtStages, device: PlainDevice
) -> None:
    stage = opened.stages["localization"]
    ours = addresses(device, "pixels", "score")
    before = device.ledger.alive["memory"]
    for rows in (1, 8, 2):
        stage.bind(ours, {"pixels": rows}, lane=0)
    assert device.ledger.alive["memory"] - before == 3  # working memory, heatmap, embedding
    stage.bind(ours, {"pixels": 8}, lane=1)
    assert device.ledger.alive["memory"] - before == 6
    opened.close()


def test_the_profile_that_ends_lowest_is_taken(
    opened: tensorrt_open.TensorRtStages, world: World, device: PlainDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    for kind in {classes["IExecutionContext"] for classes in CLASSES.values()}:
        real = kind.set_optimization_profile_async  # type: ignore[attr-defined]

        def note(self: Any, index: int, stream: int, real: Any = real) -> bool:
            chosen.append(index)
            return bool(real(self, index, stream))

        monkeypatch.setattr(kind, "set_optimization_profile_async", note)
    stage, ours = opened.stages["localization"], addresses(device, "pixels")
    for rows in (1, 2, 3, 8):
        stage.bind(ours, {"pixels": rows})
    assert list(dict.fromkeys(chosen)) == [1, 0]
    assert chosen[: len(chosen) // 2] == [1] * (len(chosen) // 2)
    opened.close()


@pytest.mark.parametrize(
    ("stage", "names", "rows", "told"),
    [
        ("localization", ("pixels", "scor"), {"pixels": 1}, r"no tensor 'scor' \(mend: did you mean 'score'"),
        ("localization", ("score",), {"pixels": 1}, "no address for 'pixels'"),
        ("localization", ("pixels",), {}, "no rows for 'pixels'"),
        ("localization", ("pixels",), {"pixels": 9}, r"does not take 'pixels' \(9, 32, 32\) \(mend: give 1 to 8 rows"),
        ("localization", ("pixels",), {"pixels": 0}, r"does not take 'pixels' \(0, 32, 32\)"),
        (
            "confidence",
            ("pixels", "embedding", "picked"),
            {"pixels": 4, "embedding": 3, "picked": 1},
            "'embedding' has 3 rows where another input has 4",
        ),
    ],
)
def test_what_does_not_fit_is_a_fault_of_the_caller(
    opened: tensorrt_open.TensorRtStages,
    device: PlainDevice,
    stage: str,
    names: tuple[str, ...],
    rows: dict[str, int],
    told: str,
) -> None:
    with pytest.raises(UsageError, match=told):
        opened.stages[stage].bind(addresses(device, *names), rows)
    opened.close()


REPORTED = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (In enqueue at /_src/x.cpp:5 (cudaError 700: {}))"


@pytest.mark.parametrize(
    "method",
    [
        "create_execution_context",
        "set_optimization_profile_async",
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
    ],
)
def test_every_refusal_is_told_with_the_librarys_reason(
    opened: tensorrt_open.TensorRtStages, world: World, device: PlainDevice, method: str
) -> None:
    world.refuse[method] = "IExecutionContext::x: Error Code 3: API Usage Error (Parameter check failed, size < 9.)"
    stage, ours = opened.stages["localization"], addresses(device, "pixels")
    with pytest.raises(BackendFailed, match=r"(when|at) .*the localization plan.*: Parameter check failed, size < 9 "):
        stage.bind(ours, {"pixels": 1}).enqueue(device.stream())
    world.refuse[method] = REPORTED.format("an illegal memory access was encountered")
    with pytest.raises(DeviceLost, match=r"lost the GPU .*: CUDA error 700, an illegal memory access was"):
        stage.bind(ours, {"pixels": 1}).enqueue(device.stream())
    world.refuse.clear()
    stage.bind(ours, {"pixels": 1}).enqueue(device.stream())
    opened.close()
    device.close()
    assert device.ledger.empty


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"dtype": "float32"},
            r"'pixels' is INPUT float32 \(-1, 32, 32\) DEVICE, not INPUT uint8 \(-1, 32, 32\) DEV",
        ),
        ({"axes": ["N", 64, 32]}, r"'pixels' is INPUT uint8 \(-1, 64, 32\)"),
        ({"location": "HOST"}, r"'pixels' is INPUT uint8 \(-1, 32, 32\) HOST"),
        ({"name": "pixel"}, "'pixels' is no such tensor, not INPUT"),
    ],
)
def test_an_engine_with_other_tensors_is_refused(
    bare: Bundle, world: World, device: PlainDevice, change: dict[str, Any], told: str
) -> None:
    plan = json.loads(plan_of(bare, "localization"))
    plan["io"][0].update(change)
    options = {"what": "PLAN", "rebuild": "REBUILD"}
    with pytest.raises(BadArtifact, match=f"PLAN is of another stage: {told}"):
        TensorRtStage(
            played("tensorrt", TRT, world),
            json.dumps(plan).encode(),
            bare.manifest.localization,
            device,
            **options,
        )
    with pytest.raises(BadArtifact, match="PLAN is of another stage: 'heatmap' is no such tensor"):
        TensorRtStage(
            played("tensorrt", TRT, world),
            plan_of(bare, "confidence"),
            bare.manifest.localization,
            device,
            **options,
        )
    assert device.ledger.empty


def test_stages_swapped_by_a_faulty_build_are_refused_before_use(
    bare: Bundle, world: World, device: PlainDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = played("tensorrt", TRT, world)
    monkeypatch.setattr(tensorrt_open, "load_library", lambda name: library)
    other = {"localization": "confidence", "confidence": "localization"}
    put_plans(bare, plans_of(bare, "tensorrt", TRT, "sm89", lambda stage: plan_of(bare, other[stage])))
    with pytest.raises(BadArtifact, match="the localization plan of this machine's cache is of another stage"):
        open_tensorrt(bare, "tensorrt", device)
    assert not world.calls
    assert device.ledger.empty


def kernels_in(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.kernels"))


def test_kernels_are_compiled_eagerly_and_kept(
    bare: Bundle, world: World, device: PlainDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = played("tensorrt_rtx", RTX, world)
    monkeypatch.setattr(tensorrt_open, "load_library", lambda name: library)
    put_plans(bare, plans_of(bare, "tensorrt-rtx", RTX, "sm89"))

    def run(*sizes: int) -> set[str]:
        opened = open_tensorrt(bare, "tensorrt_rtx", device)
        loaded = set(world.configs[-2]._cache._kernels)
        for rows in sizes:
            bound = opened.stages["localization"].bind(addresses(device, "pixels"), {"pixels": rows})
            bound.enqueue(device.stream())
        opened.close()
        return loaded

    side = f"x{SIDE}x{SIDE}"
    assert run(4, 2) == set()
    assert {config.dynamic_shapes_kernel_specialization_strategy.name for config in world.configs} == {"EAGER"}
    kept = kernels_in(tmp_path / "cache")
    assert len(kept) == 2
    assert run(8) == {f"4{side}", f"2{side}"}
    assert run() == {f"4{side}", f"2{side}", f"8{side}"}
    world.driver = b"driver 590"
    assert run() == set()  # another driver: compiled anew
    for path in kernels_in(tmp_path / "cache"):
        flip(path)
    with pytest.raises(StaleCache):
        run()


def test_a_process_that_is_killed_keeps_what_earlier_bindings_compiled(
    opened: tensorrt_open.TensorRtStages, device: PlainDevice, tmp_path: Path
) -> None:
    stage, ours = opened.stages["localization"], addresses(device, "pixels")
    for rows in (1, 2):
        stage.bind(ours, {"pixels": rows}).enqueue(device.stream())
    kept = kernels_in(tmp_path / "cache")
    assert bool(kept) == opened.about.startswith("tensorrt-rtx")
    assert all(b",2x" not in path.read_bytes() for path in kept)
    stage.keep()
    assert all(b"|1x32x32,2x32x32" in path.read_bytes() for path in kernels_in(tmp_path / "cache"))
    opened.close()


def test_a_plan_that_no_graph_can_capture_is_told(
    bare: Bundle, world: World, device: PlainDevice, caplog: pytest.LogCaptureFixture
) -> None:
    world.capturable = False
    options = {"what": "PLAN", "rebuild": "REBUILD"}
    library = played("tensorrt_rtx", RTX, world)
    stage = TensorRtStage(library, plan_of(bare, "localization"), bare.manifest.localization, device, **options)
    stage.bind(addresses(device, "pixels"), {"pixels": 1})
    assert "PLAN cannot be captured into a CUDA graph; REBUILD" in caplog.text
    stage.close()


@pytest.mark.parametrize("code", LOST)
def test_a_lost_gpu_is_known_by_cudas_number(code: int) -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    error = runtime_error(played("tensorrt", TRT, World()), [f"y (cudaError {code}: it)"], "HERE", mend="MEND")
    assert type(error) is DeviceLost
    assert type(cuda_error(driver.CUresult(code).name, "it", "cuGraphLaunch")) is DeviceLost, "the driver's name of it"


@pytest.mark.parametrize("code", LOST)
def test_a_lost_gpu_is_known_by_cudas_words_too(code: int) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    _, words = runtime.cudaGetErrorString(runtime.cudaError_t(code))
    line = f"IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime ({words.decode()})"
    error = runtime_error(played("tensorrt", TRT, World()), ["another", line], "HERE", mend="MEND")
    assert type(error) is DeviceLost
    assert error.message.endswith(f"lost the GPU HERE: {words.decode()}")


def test_the_real_library_can_ask_the_recorder_all_it_wants_to(capfd: pytest.CaptureFixture[str]) -> None:
    """Its C++ calls our methods by names of its own, one of which its class does not list."""
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    recorded = Recorded()
    recorder, asked = make_recorder(trt, recorded), trt.IErrorRecorder  # the methods of the class go through C++
    assert asked.num_errors(recorder) == 0
    assert asked.report_error(recorder, trt.ErrorCodeTRT.INTERNAL_ERROR, "what it says")
    assert asked.num_errors(recorder) == 1
    assert asked.get_error_desc(recorder, 0) == "what it says"
    assert asked.get_error_code(recorder, 0) == trt.ErrorCodeTRT.INTERNAL_ERROR
    assert not asked.has_overflowed(recorder)
    asked.clear(recorder)
    assert asked.num_errors(recorder) == 0
    assert "pure virtual" not in capfd.readouterr().err


def test_kernels_are_given_back_after_what_runs_them(
    bare: Bundle, world: World, device: PlainDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, gone = played("tensorrt_rtx", RTX, world), list[str]()
    monkeypatch.setattr(tensorrt_open, "load_library", lambda name: library)
    put_plans(bare, plans_of(bare, "tensorrt-rtx", RTX, "sm89"))
    opened = open_tensorrt(bare, "tensorrt_rtx", device)
    stage = opened.stages["localization"]
    context = stage.bind(addresses(device, "pixels"), {"pixels": 1})._context
    config = world.configs[0]
    for name, made in (("context", context), ("config", config), ("kernels", config._cache), ("engine", stage._engine)):
        weakref.finalize(made, gone.append, name)
    world.configs.clear()
    config._cache = None  # the library's configuration does not keep it
    del context, config, made
    opened.close()
    assert gone == ["context", "config", "kernels", "engine"]


def test_the_played_runtime_wants_a_warm_up_before_a_capture(
    opened: tensorrt_open.TensorRtStages, device: PlainDevice
) -> None:
    bound = opened.stages["localization"].bind(addresses(device, "pixels"), {"pixels": 1})
    stream = device.stream()
    with pytest.raises(AssertionError, match="captured before it was warmed up"), stream.capture():
        bound.enqueue(stream)
    opened.close()


@pytest.mark.parametrize(
    ("lines", "error", "told"),
    [
        ([], BackendFailed, "failed HERE: it gave no reason"),
        (
            ["x (cudaError 100: no CUDA-capable device)"],
            MissingDevice,
            r"no NVIDIA GPU HERE \(CUDA error 100",
        ),
        (
            ["x (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"],
            MissingDevice,
            r"\(CUDA error 35\) .mend: .*; for a driver of CUDA 12 there is tensorrt-cu12",
        ),
        (["x", "y (cudaError 719: unspecified launch failure)"], DeviceLost, "CUDA error 719, unspecified launch"),
        # As TensorRT 10 writes it.
        (
            [
                "IExecutionContext::enqueueV3: Error Code 1: Myelin ([cask_fusion.cpp:exec:417] Platform (Cuda) error)",
                "[checkMacros.cpp::catchCudaError::212] Error Code 1: Cuda Runtime (an illegal memory access was "
                "encountered)",
            ],
            DeviceLost,
            "lost the GPU HERE: an illegal memory access was encountered",
        ),
        (
            ["[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"],
            BackendFailed,
            "ran out of device memory HERE: out of memory",
        ),
        (["[resizingAllocator] OutOfMemory (no further information)"], BackendFailed, "ran out of device memory HERE"),
        (["y (cudaError 2: out of memory)"], BackendFailed, "ran out of device memory HERE: CUDA error 2, out of"),
        (["y (cudaError 1: invalid argument)"], BackendFailed, "failed HERE: CUDA error 1, invalid argument"),
    ],
)
def test_messages_become_errors(lines: list[str], error: type[LpcnetError], told: str) -> None:
    found = runtime_error(played("tensorrt", TRT, World()), lines, "HERE", mend="MEND")
    assert type(found) is error
    with pytest.raises(error, match=told):
        raise found
