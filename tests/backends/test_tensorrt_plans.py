"""Which plans are loaded, and which are refused before anything is deserialised, with the real TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from local_bundle import SIDE, local_network
from plain_device import PlainDevice
from played_plans import flip, plan_of, plans_of, with_plans
from runtime_double import World, played

from lpcnet_edge.backends import tensorrt_open
from lpcnet_edge.backends.cuda_driver import Cuda, CudaDevice, cuda_driver
from lpcnet_edge.backends.tensorrt import load_library
from lpcnet_edge.backends.tensorrt_build import build_plan
from lpcnet_edge.backends.tensorrt_open import is_ready, open_tensorrt
from lpcnet_edge.backends.tensorrt_plans import find_plans
from lpcnet_edge.backends.tensorrt_runtime import TensorRtStage
from lpcnet_edge.build.station import plans_for_station
from lpcnet_edge.bundle.cache import VARIABLE, cache_root
from lpcnet_edge.bundle.machine_plans import put_plans
from lpcnet_edge.bundle.plans import plan_files
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.errors import (
    BadArtifact,
    ChangedFile,
    LpcnetError,
    MissingDevice,
    PlanMismatch,
    StaleCache,
    WrongSize,
)

RTX, TRT = "1.7.1.116", "10.3.0"
STAGES = ("localization", "confidence")

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
without_gpu = pytest.mark.skipif(bool(cuda_driver(None).devices), reason="there is a GPU: the plan would load")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


@contextmanager
def no_deserialising(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever makes a runtime of the real library fails the test."""
    import tensorrt_rtx

    def made(*_: object) -> None:
        raise AssertionError("a runtime was made before the refusal")

    with monkeypatch.context() as patched:
        patched.setattr(tensorrt_rtx, "Runtime", made)
        yield


@needs_rtx
def test_auto_says_why_it_leaves_out_plans_that_are_there(
    bare: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = Cuda("580", "13.0", (CudaDevice("Card", "8.9"),), None)
    monkeypatch.setattr(tensorrt_open, "cuda_driver", lambda _: here)
    assert not is_ready(bare, "tensorrt_rtx")
    assert caplog.text == "", "no plans are nothing to be told"
    put_plans(bare, plans_of(bare, "tensorrt-rtx", RTX, "sm89"))
    assert is_ready(bare, "tensorrt_rtx")
    next(cache_root().glob("*/*/localization-*.plan")).unlink()
    assert not is_ready(bare, "tensorrt_rtx")
    assert "tensorrt-rtx is left out: " in caplog.text
    assert "rm -r " in caplog.text


# Refusals, with the real library: nothing is deserialised.


@needs_rtx
@pytest.mark.parametrize(
    ("runtime", "version", "device", "capability", "told"),
    [
        ("tensorrt-rtx", RTX, "sm86", "8.9", r"has plans for tensorrt-rtx 1\.7\.1\.116 on sm86; .* on sm89 \(Card\)"),
        ("tensorrt-rtx", "1.7.0.99", "sm89", "8.9", r"has plans for tensorrt-rtx 1\.7\.0\.99 on sm89; .* 1\.7\.1\.116"),
        (
            "tensorrt",
            "10.16.1",
            "sm89",
            "8.9",
            r"has plans for tensorrt 10\.16\.1 on sm89; this machine is tensorrt-rtx",
        ),
    ],
)
def test_a_plan_for_something_else_is_never_tried(
    bare: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    version: str,
    device: str,
    capability: str,
    told: str,
) -> None:
    bundle = with_plans(bare, tmp_path / "b", plans_of(bare, runtime, version, device))
    with no_deserialising(monkeypatch), pytest.raises(PlanMismatch, match=told) as caught:
        open_tensorrt(bundle, "tensorrt_rtx", PlainDevice("Card", capability))
    assert caught.value.mend == f"lpcnet-edge build --from {bundle.path} --backend tensorrt-rtx"
    assert caught.value.exit_code == 3


@needs_rtx
def test_no_plan_at_all_and_no_card_for_it(bare: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_deserialising(monkeypatch):
        with pytest.raises(PlanMismatch, match=r"local has no plans; this machine is tensorrt-rtx .* on sm89 \(Card\)"):
            open_tensorrt(bare, "tensorrt_rtx", PlainDevice("Card", "8.9"))
        with pytest.raises(MissingDevice, match=r"does not serve Orin, of compute capability 8\.7; it serves 7\.5"):
            open_tensorrt(bare, "tensorrt_rtx", PlainDevice("Orin", "8.7"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def swap(path: Path) -> None:
    other = path.with_name("confidence.plan")
    ours = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(ours)


@needs_rtx
@pytest.mark.parametrize(("spoil", "error"), [(truncate, WrongSize), (flip, ChangedFile), (swap, WrongSize)])
def test_a_spoiled_plan_is_never_tried(
    bare: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], error: type[Exception]
) -> None:
    bundle = with_plans(bare, tmp_path / "b", plans_of(bare, "tensorrt-rtx", RTX, "sm89"))
    spoil(bundle.path / f"plans/tensorrt-rtx-{RTX}-sm89/localization.plan")
    with no_deserialising(monkeypatch):
        with pytest.raises(error):  # changed after the bundle was opened
            open_tensorrt(bundle, "tensorrt_rtx", PlainDevice("Card", "8.9"))
        with pytest.raises(error):
            open_bundle(bundle.path)


@needs_rtx
@pytest.mark.parametrize("spoil", [truncate, flip])
def test_a_spoiled_cache_is_never_tried(
    bare: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    kept = put_plans(bare, plans_of(bare, "tensorrt-rtx", RTX, "sm89"))
    spoil(next(path for path in kept if path.name.startswith("confidence")))
    with no_deserialising(monkeypatch), pytest.raises(StaleCache, match=r"rm -r .*tensorrt-rtx-1\.7\.1\.116-sm89"):
        open_tensorrt(bare, "tensorrt_rtx", PlainDevice("Card", "8.9"))


def test_plans_of_an_older_library_are_named(bare: Bundle, world: World, device: PlainDevice) -> None:
    put_plans(bare, plans_of(bare, "tensorrt", "10.3.0", "sm89"))
    with pytest.raises(PlanMismatch, match=r"cache has plans for tensorrt 10\.3\.0 on sm89; .* tensorrt 10\.16\.1 on"):
        find_plans(bare, played("tensorrt", "10.16.1", world), device.properties)
    assert not world.deserialised


def test_tensorrt_wants_the_very_card_and_rtx_its_kind(bare: Bundle, tmp_path: Path, world: World) -> None:
    """Orin Nano and AGX Orin are both 8.7; TensorRT chose its kernels by measuring on one of them."""
    orin = PlainDevice("Orin", "8.7").properties
    elsewhere = plans_of(bare, "tensorrt", TRT, "sm87", device_name="Orin Nano")
    bundle = with_plans(bare, tmp_path / "b", elsewhere)
    library = played("tensorrt", TRT, world)
    with pytest.raises(PlanMismatch, match=r"plans for tensorrt 10\.3\.0 on sm87 \(Orin Nano\); .* on sm87 \(Orin\)"):
        find_plans(bundle, library, orin)
    put_plans(bundle, plans_of(bare, "tensorrt", TRT, "sm87", device_name="Orin"))
    found = find_plans(bundle, library, orin)
    assert found.where == "this machine's cache"
    with pytest.raises(PlanMismatch):
        find_plans(bundle, library, orin, use_cache=False)
    rtx = with_plans(bare, tmp_path / "c", plans_of(bare, "tensorrt-rtx", RTX, "sm89", device_name="RTX 4060"))
    card = PlainDevice("RTX 4070", "8.9").properties
    assert find_plans(rtx, played("tensorrt_rtx", RTX, world), card).where == "the bundle"


def test_a_cache_of_another_onnx_file_is_stale(bare: Bundle, world: World, device: PlainDevice) -> None:
    stages = {stage: (plan_of(bare, stage), b"other") for stage in STAGES}
    put_plans(bare, plan_files("tensorrt", TRT, "sm89", stages))
    with pytest.raises(StaleCache, match="localization plan was made from another ONNX file"):
        find_plans(bare, played("tensorrt", TRT, world), device.properties)
    half = {stage: (plan_of(bare, stage), bare.read(bare.manifest.stages[stage].file)) for stage in STAGES[:1]}
    put_plans(bare, plan_files("tensorrt", TRT, "sm89", half))
    with pytest.raises(StaleCache, match="names no confidence plan"):
        find_plans(bare, played("tensorrt", TRT, world), device.properties)


# The real library without a GPU.


def real_plan() -> bytes:
    profile = tuple((n, SIDE, SIDE) for n in (1, 2, 4))
    model = local_network(False)["localization"].SerializeToString()
    return build_plan(model, module="tensorrt_rtx", profiles={"pixels": profile}, compute_capability="8.9").data


@needs_rtx
@without_gpu
@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda plan: plan, MissingDevice, r"finds no NVIDIA GPU to load PLAN \(CUDA error \d+\)"),
        (lambda plan: plan[:5000], BadArtifact, r"failed to load PLAN: Serialization assertion plan\.header\.size == "),
        (lambda plan: bytes(5000), BadArtifact, r"failed to load PLAN: Serialization assertion header\.magicTag == "),
    ],
)
def test_what_the_real_library_says_without_a_gpu(
    bare: Bundle,
    make: Callable[[bytes], bytes],
    error: type[LpcnetError],
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    device = PlainDevice("Card", "8.9")
    library = load_library("tensorrt_rtx")
    with pytest.raises(error, match=told) as caught:
        TensorRtStage(library, make(real_plan()), bare.manifest.localization, device, what="PLAN", rebuild="REBUILD")
    assert caught.value.mend == "REBUILD" or error is MissingDevice
    assert device.ledger.empty
    assert capfd.readouterr() == ("", "")


@needs_rtx
def test_build_from_makes_plans_that_are_found(bare: Bundle) -> None:
    made = plans_for_station(bare, "tensorrt-rtx", ("8.9", "8.6"), lambda *_: None)
    assert len(made.files) == 6
    library = load_library("tensorrt_rtx")
    found = {card: find_plans(bare, library, PlainDevice("Card", card).properties) for card in ("8.9", "8.6")}
    assert {each.where for each in found.values()} == {"this machine's cache"}
    assert found["8.9"].plans != found["8.6"].plans
    with pytest.raises(PlanMismatch, match=r"has plans for tensorrt-rtx .* on sm86; tensorrt-rtx .* on sm89; .* sm75"):
        find_plans(bare, library, PlainDevice("Card", "7.5").properties)
