"""Plans built where they are first used: kept only if the self-test passes. The test's own engine is not run here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from local_bundle import write_local

from lpcnet_edge.backends.cuda.device import Properties
from lpcnet_edge.backends.cuda_driver import cuda_driver
from lpcnet_edge.backends.tensorrt import load_library
from lpcnet_edge.backends.tensorrt_plans import find_plans
from lpcnet_edge.build.golden import GOLDEN_FILE
from lpcnet_edge.bundle.cache import VARIABLE
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle
from lpcnet_edge.check import first_use
from lpcnet_edge.check.selftest import TOLERANCES, Drift, SelfTest
from lpcnet_edge.cli import main
from lpcnet_edge.errors import CheckFailed, PlanMismatch

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")

CARD = Properties("RTX 4070", "8.9", integrated=False, maps_host=True, memory_bytes=1)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    plain = write_local(tmp_path / "plain")
    models = {spec.file: plain.read(spec.file) for spec in plain.manifest.stages.values()}
    return write_bundle(tmp_path / "local", plain.manifest, {**models, GOLDEN_FILE: b"tiles"})


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build for a card by name, as with its driver here."""
    real = first_use.plans_for_station
    monkeypatch.setattr(
        first_use, "plans_for_station", lambda bundle, name, _, told: real(bundle, name, ("8.9",), told)
    )
    library = load_library("tensorrt_rtx")
    monkeypatch.setattr(first_use, "find_here", lambda bundle, module: find_plans(bundle, library, CARD))


def end_selftest(monkeypatch: pytest.MonkeyPatch, *drifts: Drift) -> list[str]:
    """Let the self-test end so; gives the backends that it is asked for."""
    asked: list[str] = []

    def run(bundle: Bundle, backend: str) -> SelfTest:
        asked.append(backend)
        find_plans(bundle, load_library("tensorrt_rtx"), CARD)
        return SelfTest(bundle.id, backend, 4, 0.1, TOLERANCES["fp32"], 0.0, 0.0, 0.0, drifts)

    monkeypatch.setattr(first_use, "run_selftest", run)
    return asked


def told(*_: Any) -> None:
    pass


@pytest.mark.usefixtures("card")
def test_plans_are_built_once_and_tested(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = end_selftest(monkeypatch)
    assert first_use.make_ready(bundle, "auto", told) is None
    made = first_use.make_ready(bundle, "tensorrt-rtx", told)
    assert made is not None
    assert made.lines()[-1] == "self-test passed: 4 golden tiles"
    assert made.to_json()["selftest"]["passed"] is True
    assert first_use.make_ready(bundle, "tensorrt-rtx", told) is None
    assert asked == ["tensorrt-rtx"]


@pytest.mark.usefixtures("card")
def test_plans_that_drift_are_not_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    end_selftest(monkeypatch, Drift(0, "score", 1.0, 0.1, "golden tile 0 scores 1"))
    for _ in range(2):
        with pytest.raises(CheckFailed, match=r"drifted on tensorrt-rtx: golden tile 0 scores 1"):
            first_use.make_ready(bundle, "tensorrt-rtx", told)
        with pytest.raises(PlanMismatch, match="has no plans; this machine is"):
            find_plans(bundle, load_library("tensorrt_rtx"), CARD)


@pytest.mark.skipif(bool(cuda_driver(None).devices), reason="there is a GPU")
def test_without_a_gpu_nothing_is_built(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by `build --from` without a card, nor by a run whose config allows it, nor without that."""
    (tmp_path / "run.yaml").write_text("build_at_first_use: true\n")
    config = ["--config", str(tmp_path / "run.yaml")]
    for argv in (
        ["build", "--from", str(bundle.path), "--backend", "tensorrt-rtx"],
        ["run", str(bundle.path), str(tmp_path), "--backend", "tensorrt-rtx", *config],
        ["run", str(bundle.path), str(tmp_path), "--backend", "tensorrt-rtx"],
        ["selftest", str(bundle.path), "--backend", "tensorrt-rtx"],
    ):
        assert main(argv) in (3, 4), argv
        error = capsys.readouterr().err
        assert error.startswith("error: "), argv
    assert not [path for path in (tmp_path / "cache").rglob("*.plan")]
