"""The smaller tools beside the study: what they refuse, and that a record is not taken for another run's."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import average
import by_image
import gate
import numpy as np
import pytest
import results
import rules
import yaml

from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.runtime.rules_calibration import Seen
from lpcnet_edge.runtime.running import Percentiles

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_main(module: Any, monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, argv)])
    code: int = module.main()
    return code


def test_the_gate_needs_folds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(gate, monkeypatch, "--data", "carbon-fabric:count=4,seed=1") == 3
    assert "carbon-fabric has 0 folds" in capsys.readouterr().err


def test_scores_of_the_gate_are_not_taken_from_other_weights_or_images(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shipped weights keep their name when they change."""
    start, out, row = tmp_path / "start.safetensors", tmp_path / "out", {"class": "free", "defective": False}
    start.write_bytes(b"first")
    trained: list[Any] = []

    def train(*args: Any, **kwargs: Any) -> Any:
        trained.append(args)
        return SimpleNamespace(weights=start)

    scored = SimpleNamespace(tile_px=64, predict=lambda tile: SimpleNamespace(score=np.ones(1)))
    monkeypatch.setattr(gate, "train", train)
    monkeypatch.setattr(gate, "load_network", lambda name: scored)
    argv = ["--data", tiles, "--out", out, "--steps", "1", "--start", start, "--json"]
    assert run_main(gate, monkeypatch, *argv) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 16
    assert run_main(gate, monkeypatch, *argv) == 0
    assert len(trained) == 4, "found again"
    capsys.readouterr()

    start.write_bytes(b"second")
    assert run_main(gate, monkeypatch, *argv) == 2
    assert "fold-1.json was made with other settings: start_sha256" in capsys.readouterr().err
    (out / "fold-1.json").write_text(json.dumps({"made": {"steps": 1, "start": "start"}, "rows": [row]}))
    assert run_main(gate, monkeypatch, *argv) == 2
    assert "data_digest" in capsys.readouterr().err


def seen(bad: int, good: int) -> Seen:
    defective = np.arange(bad + good) < bad
    names = [f"p{number}" for number in range(bad + good)]
    return Seen(names, names, defective, defective.copy(), np.where(defective, 0.9, -1.0))


def test_halves_need_parts_of_both_kinds() -> None:
    rules.check_halves(seen(2, 2))
    for bad, good in ((1, 5), (5, 1), (0, 0)):
        with pytest.raises(BadData, match=f"{bad} defective and {good} good"):
            rules.check_halves(seen(bad, good))


def test_no_halves_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run_main(rules, monkeypatch, "bundle", "--data", "x", "--halves", 0)


def test_a_class_or_an_exposure_without_defects_is_a_dash_on_the_page_of_results() -> None:
    exposures = {"1": {"mean_iou": 100.0, "mean_pixel_accuracy": 100.0, "defect_iou": None}}
    classes = {"fray": {"images": 0, "iou": None, "pixel_accuracy": None, "defects": {"caught": 0, "count": 0}}}
    found = {"candidate": {"per_exposure": exposures, "per_class": classes}}
    assert results.per_exposure(found)[-1] == "| 1 | 100.0 | 100.0 | - |"
    assert results.per_class(found)[-1] == "| fray | 0 | - | - | 0 of 0 |"


def test_runs_of_different_images_are_not_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card would name those of the last one alone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.yaml").write_text(yaml.safe_dump({"data": {"digest": name}}))
    network = SimpleNamespace(network=SimpleNamespace(config=0, state_dict=dict), tile_px=64)
    monkeypatch.setattr(average, "load_network", lambda path: network)
    with pytest.raises(UsageError, match="different images"):
        average.average([tmp_path / "a", tmp_path / "b"], tmp_path / "out", "")


def test_folds_by_image_of_a_table_as_spreadsheets_save_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a byte order mark, and paths that begin with ``./``: what the dataset reads."""
    data, out = tmp_path / "data", tmp_path / "data" / "by-image"
    rows = ["\ufeffimage,mask,class,tile,exposure,fold"]
    rows += [f"./MT_Free/{n}.jpg,MT_Free/{n}.png,free,{n},1,1" for n in range(8)]
    (data / "MT_Free").mkdir(parents=True)
    (data / "tiles.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert run_main(by_image, monkeypatch, "--data", data, "--out", out) == 0
    with (out / "tiles.csv").open(newline="") as stream:
        folds = sorted(row["fold"] for row in csv.DictReader(stream))
    assert folds == ["1", "1", "2", "2", "3", "3", "4", "4"]
    assert [path.name for path in out.iterdir() if path.is_symlink()] == ["MT_Free"]


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("quantisation", ["--weights", "nonsense"]),
        ("corrections", ["--weights", "nonsense"]),
        ("pipeline", ["no-bundle", "--quick"]),
    ],
)
def test_a_wrong_name_is_an_error_and_no_traceback(
    name: str, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert run_main(importlib.import_module(name), monkeypatch, *argv) == 3
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", ["quantisation", "pcm"])
def test_no_rounds_are_refused_before_anything_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with pytest.raises(SystemExit):
        run_main(importlib.import_module(name), monkeypatch, "--rounds", 0)


def test_the_pipeline_is_measured_on_carbon_fabric_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pipeline

    manifest = SimpleNamespace(channels=1, classes=("background", "dot"))
    monkeypatch.setattr(pipeline, "open_bundle", lambda path: SimpleNamespace(manifest=manifest))
    with pytest.raises(UsageError, match="not for carbon fabric"):
        pipeline.measure(SimpleNamespace(bundle=Path("grey"), threshold=None, quick=True, only=("bulk",)))


def test_engines_alone_take_tiles_of_the_bundles_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pipeline_live

    slot, times = SimpleNamespace(pixels=np.zeros((1, 128, 128, 3), np.uint8)), Percentiles()
    backend: Any = SimpleNamespace(make_slot=lambda tiles: slot)
    for name in ("submit", "collect", "submit_picked", "collect_picked"):
        setattr(backend, name, lambda *args: None)
    pipeline_live.engines_alone(backend, [np.full((256, 256, 3), 7, np.uint8)], 3, 0.0, times)
    assert slot.pixels.min() == 7
    assert times.count == 3


def test_a_peer_that_cannot_be_installed_is_missing_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import quantisation

    monkeypatch.setattr(quantisation, "PEERS", quantisation.HERE.parent / ".peers" / "none")

    def no_ensurepip(*args: Any, **kwargs: Any) -> None:
        raise subprocess.CalledProcessError(1, ["ensurepip"])

    monkeypatch.setattr(quantisation.venv, "create", no_ensurepip)
    with pytest.raises(RuntimeError, match="python3-venv"):
        quantisation.environment("nncf")

    monkeypatch.setattr(quantisation.venv, "create", lambda *args, **kwargs: None)
    killed = SimpleNamespace(returncode=-9, stderr="")
    monkeypatch.setattr(quantisation.subprocess, "run", lambda *args, **kwargs: killed)
    with pytest.raises(RuntimeError, match="pip ended with -9"):
        quantisation.environment("nncf")
