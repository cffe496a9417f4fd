"""The verbs ``run``, ``tune`` and ``calibrate gate``, and the examples of docs/running.md."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from local_bundle import frame_of, write_local

from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.bundle.sign import make_keys
from lpcnet_edge.bundle.write import write_bundle
from lpcnet_edge.cli.command import main
from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import BadConfig, ChangedFile
from lpcnet_edge.metrics.gate_threshold import GateCalibration
from lpcnet_edge.runtime import running
from lpcnet_edge.runtime.gate_calibration import write_with_gate
from lpcnet_edge.runtime.parts import PartJoiner
from lpcnet_edge.runtime.running import PartLines, Percentiles, Report
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sinks.appendfile import AppendFile
from lpcnet_edge.types import PartVerdict, Verdict
from lpcnet_edge.yamlfile import parse

DOCS = Path(__file__).parents[2] / "docs" / "running.md"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a bundle and a folder of images, every second one with a defect."""
    write_local(tmp_path / "engines" / "x")
    (tmp_path / "images").mkdir()
    for number in range(10):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), frame_of(number, defects=number % 2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    assert main([*argv, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_the_examples_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, str(DOCS), "exec"), {})
    text = capsys.readouterr().out
    assert text.count(" reject ") >= 10
    assert "1 (0, 0, 640, 480)" in text
    assert "'pass': 5, 'reject': 5" in text


def test_the_documented_defaults_are_the_defaults() -> None:
    block = re.search(r"All keys, with their defaults:\n\n((?:    .*\n)+)", DOCS.read_text("utf-8"))
    assert block
    said = parse("\n".join(line[4:] for line in block[1].splitlines()).encode())
    assert from_mapping(RunSettings, said, "docs") == RunSettings()
    assert set(said) == set(to_mapping(RunSettings()))
    for key in ("live", "bulk"):
        assert said[key] == to_mapping(RunSettings())[key]


@pytest.mark.parametrize("mode", [(), ("--live", "--deadline-ms", "10000")], ids=["bulk", "live"])
def test_run_writes_every_output(work: Path, capsys: pytest.CaptureFixture[str], mode: tuple[str, ...]) -> None:
    files = {"jsonl": "v.jsonl", "csv": "v.csv", "sqlite": "v.db", "overlays": "overlays", "masks": "masks"}
    outputs = [text for kind, name in files.items() for text in (f"--{kind}", f"o/{name}")]
    found = told(capsys, "run", "engines/x", "images", *outputs, *mode)
    assert found["counts"] == {"pass": 5, "reject": 5, "review": 0}
    assert found["frames"] == found["tiles"] == 10
    assert found["mode"] == ("live" if mode else "bulk")
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["largest"]
    assert {counts["written"] for counts in found["sinks"].values()} == {10}
    assert len(found["sinks"]) == 5
    lines = [json.loads(line) for line in Path("o/v.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [f"{n}.png" for n in range(10)]
    assert {line["backend"] for line in lines} == {"openvino"}
    for number in range(10):
        mask = cv2.imread(f"o/masks/{number}.png.png", cv2.IMREAD_UNCHANGED)
        assert mask.any() == bool(number % 2)
    with sqlite3.connect("o/v.db") as connection:
        assert connection.execute("SELECT count(*) FROM verdicts").fetchone() == (10,)
    connection.close()


def test_run_in_words(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/3.png").write_bytes(b"")
    assert main(["run", "engines/x", "images", "--gate", "0.7"]) == 0
    text = capsys.readouterr().out
    assert "openvino" in text
    assert "(auto)" in text
    assert "nothing is promised for it" in text
    assert "10 frames: 5 pass, 5 reject, 0 review (1 unreadable)" in text
    assert "frames/s" in text


def test_a_config_and_options_over_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("station.yaml").write_text("gate: 0.9\nrules: {default: {min_area_px: 26}}\nsinks: {jsonl: v.jsonl}\n")
    found = told(capsys, "run", "engines/x", "images", "--config", "station.yaml", "--gate", "off")
    assert found["gate"]["threshold"] is None
    assert found["counts"]["pass"] == 10
    assert Path("v.jsonl").exists()
    Path("station.yaml").write_text("gates: 0.9\n")
    assert main(["run", "engines/x", "images", "--config", "station.yaml"]) == BadConfig.exit_code
    assert "did you mean 'gate'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--gate", "2"], 2, "neither off, nor auto, nor a score"),
        (["--deadline-ms", "5"], 2, "--deadline-ms is for live running"),
        (["--live", "--deadline-ms", "-5"], 2, "deadline_ms is -5"),
        (["--backend", "cuda"], 2, "no backend is called 'cuda'"),
        (["--key", "k.pub"], 3, "signature"),
        (["images"], 2, "several sources share the engines only live"),
        (["--rules", "rules.yaml"], 3, "rules.yaml"),
    ],
)
def test_wrong_use(work: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, says: str) -> None:
    make_keys(Path("k"))
    assert main(["run", "engines/x", "images", *argv]) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


def test_tune_is_taken_by_run(work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trials", "tuning"):
        monkeypatch.setattr(f"lpcnet_edge.backends.{module}.allowed_cpus", lambda: 1)
    found = told(capsys, "tune", "engines/x", "--backend", "onnxruntime", "--seconds", "0.01")
    assert found["best"]["tiles_per_s"] > 0
    assert len(found["trials"]) == 4
    said = told(capsys, "run", "engines/x", "images", "--backend", "onnxruntime")["about"]
    assert "tuned here" in said
    assert f"batches up to {found['best']['batch']} " in said


def labelled(root: Path, parts: int) -> None:
    """A folder dataset: half of the parts have a defect, whose brightness rises with the part's number."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for part in range(parts):
        image, mask = frame_of(part, 64, 64), np.zeros((64, 64), np.uint8)
        if part % 2:
            mask[10:20, 10:20] = 1
            image[10:20, 10:20] = 100 + part
        cv2.imwrite(str(root / "images" / f"{part:03}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{part:03}.png"), mask)
    (root / "classes.yaml").write_text("names: [background, bright]\n")


def test_calibrate_gate_makes_a_new_bundle(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", 80)
    make_keys(Path("k"))
    before = open_bundle("engines/x")
    options = ["--data", "data", "--channels", "1", "--framing", "tile", "--backend", "onnxruntime"]
    found = told(capsys, "calibrate", "gate", "engines/x", *options, "--alpha", "0.1", "--out", "new", "--key", "k.key")
    # 40 defective parts: (3 + 1) / 41 <= 0.1, so three are missed, the weakest being 101, 103 and 105.
    assert (found["parts"], found["misses"]) == (40, 3)
    assert found["threshold"] == pytest.approx(107 / 255)
    assert found["bound"] == pytest.approx(4 / 41)
    assert any("at most 10 %" in line for line in found["guarantee"])
    made = open_bundle("new", trusted_key=Path("k.pub"))
    assert made.id == found["id"] != before.id
    assert made.manifest.gate.threshold == found["threshold"]
    assert made.manifest.localization == before.manifest.localization
    assert made.manifest.provenance["gate"]["from_bundle"] == before.id
    assert open_bundle("engines/x").id == before.id
    says = told(capsys, "run", "new", "images")["gate"]["says"]
    assert says.endswith(
        "on 40 parts with framing tile, this run's is by size: it holds only where both make the same tiles)"
    )
    assert told(capsys, "run", "new", "images", "--framing", "tile")["gate"]["says"].endswith("on 40 parts)")
    assert main(["calibrate", "gate", "engines/x", *options, "--out", "engines/x"]) == 2
    assert "never changed" in capsys.readouterr().err
    assert main(["calibrate", "gate", "engines/x", *options, "--out", "other", "--alpha", "0.01"]) == 2
    assert "bring 99 defective parts" in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_bundle_that_changes_while_its_gate_is_calibrated(tmp_path: Path) -> None:
    bundle = write_local(tmp_path / "x")
    found = GateCalibration(
        threshold=0.5, alpha=0.1, alpha_is_auto=False, parts=40, misses=3, cleared=0.5, min_defect_px=20
    )
    made = write_with_gate(bundle, tmp_path / "new", found, data={"data": "data\u200d"})
    assert made.manifest.provenance["gate"]["data"] == r"data\u200d"
    with (tmp_path / "x" / "confidence.onnx").open("r+b") as stream:
        stream.write(b"another")
    with pytest.raises(ChangedFile, match=r"confidence\.onnx"):
        write_with_gate(bundle, tmp_path / "other", found, data={})
    assert not (tmp_path / "other").exists()


def test_calibrating_on_what_was_trained_on_is_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", 80)
    names = [f"{part:03}.png" for part in range(80)]
    rows = [f"{name},{name},{1 + number // 2 % 4}" for number, name in enumerate(names)]
    (work / "data" / "parts.csv").write_text("\n".join(["image,part,fold", *rows]) + "\n")
    before = open_bundle("engines/x")
    files: dict[str, bytes | Path] = {name: before.file(name) for name in before.manifest.files}
    for name, trained in (
        ("other-data", {"data": "elsewhere", "digest": "", "folds": ["2"]}),
        ("folds", {"data": "data", "digest": "", "folds": ["2", "3", "4"]}),
        ("whole", {"data": "data", "digest": open_dataset("data", channels=1).digest(), "folds": []}),
    ):
        provenance = {"weights": {"trained_on": trained}}
        write_bundle(work / name, replace(before.manifest, provenance=provenance), files)
    options = ["--data", "data", "--channels", "1", "--backend", "onnxruntime", "--alpha", "0.1"]
    said = {}
    for bundle in ("engines/x", "other-data", "folds", "whole"):
        assert main(["calibrate", "gate", bundle, *options, "--out", f"{bundle}-gated"]) == 0
        said[bundle] = capsys.readouterr().err
        marked = open_bundle(f"{bundle}-gated").manifest.provenance["gate"].get("seen_in_training", False)
        assert marked == ("warning" in said[bundle])
    assert "trained on" not in said["engines/x"] + said["other-data"]
    assert "trained on fold 2, 3, 4 of data;" in said["folds"]
    assert "trained on just these images of data;" in said["whole"]
    held_out = ["--fold", "1", "--alpha", "0.3", "--out", "held-out"]
    assert main(["calibrate", "gate", "folds", *options, *held_out]) == 0
    assert "warning" not in capsys.readouterr().err


def test_calibrate_gate_with_a_confidence(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", 80)
    options = ["--data", "data", "--channels", "1", "--framing", "tile", "--backend", "onnxruntime"]
    options += ["--confidence", "0.95"]
    found = told(capsys, "calibrate", "gate", "engines/x", *options, "--alpha", "0.12", "--out", "new")
    # 40 defective parts: P[Binomial(40, 0.12) <= 1] is 0.039 and <= 2 is 0.123, so 101 alone is missed.
    assert (found["parts"], found["misses"], found["confidence"]) == (40, 1, 0.95)
    assert found["threshold"] == pytest.approx(103 / 255)
    assert any("With 95 % confidence" in line for line in found["guarantee"])
    made = open_bundle("new")
    assert made.manifest.gate.confidence == 0.95
    assert "confidence" not in made.manifest.provenance["gate"]
    said = told(capsys, "run", "new", "images", "--framing", "tile")["gate"]["says"]
    assert "with 95 % confidence at most 12 % of defective parts are missed (calibrated on 40 parts)" in said
    assert main(["show", "new"]) == 0
    assert "alpha 0.12 on 40 parts, confidence 0.95" in capsys.readouterr().out
    found = told(capsys, "calibrate", "gate", "engines/x", *options, "--out", "auto")
    assert found["alpha"] == pytest.approx(1 - 0.05 ** (1 / 40))
    assert any("0.01 takes 299 defective parts" in line for line in found["guarantee"])
    assert main(["calibrate", "gate", "engines/x", *options, "--alpha", "0.05", "--out", "other"]) == 2
    assert "bring 59 defective parts" in capsys.readouterr().err
    assert not Path("other").exists()


def verdict(part: str, outcome: Any = "pass") -> Verdict:
    return Verdict(part, outcome, () if outcome == "pass" else ("a scratch",))


def test_parts_are_decided_once() -> None:
    joiner = PartJoiner(["top", "side"], timeout_ms=100)
    ms = 1_000_000
    assert joiner.next_due_s(0) is None
    assert joiner.add("top", verdict("a"), 0) == []
    assert joiner.next_due_s(0) == pytest.approx(0.101)
    assert [p.outcome for p in joiner.add("side", verdict("a"), 50 * ms)] == ["pass"]
    joiner.add("top", verdict("b"), 60 * ms)
    (late,) = joiner.due(161 * ms)
    assert (late.part_id, late.outcome, late.reasons) == ("b", "reject", ("side: the view is missing",))
    (straggler,) = joiner.add("side", verdict("b"), 170 * ms)
    assert straggler.outcome == "reject"
    assert "side: the view is late" in straggler.reasons
    joiner.add("top", verdict("c", "review"), 200 * ms)
    (again,) = joiner.add("top", verdict("c"), 210 * ms)
    assert again.outcome == "reject"
    assert [p.part_id for p in joiner.close()] == ["c"]
    assert joiner.close() == []


def test_percentiles_are_right_to_a_percent() -> None:
    values = np.random.default_rng(0).lognormal(2, 1.5, 5000)
    found = Percentiles()
    for value in values.tolist():
        found.add(value)
    for share in (0.5, 0.99, 0.999):
        assert found.at(share) == pytest.approx(np.quantile(values, share), rel=0.011)
    assert found.at(1.0) == found.largest == values.max()
    assert np.isnan(Percentiles().at(0.5))


def test_a_disk_that_hangs_keeps_no_verdict_on_a_part_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, hangs, goes_on = AppendFile.append, threading.Event(), threading.Event()

    def slow(file: AppendFile, data: bytes) -> None:
        hangs.set()
        assert goes_on.wait(30)
        written(file, data)

    monkeypatch.setattr(AppendFile, "append", slow)
    monkeypatch.setattr(running, "_PARTS_S", 0.001)
    report = Report()
    lines = PartLines(tmp_path / "parts.jsonl", report)
    lines.add(PartVerdict("1", "pass"))
    assert hangs.wait(30)
    lines.add(PartVerdict("2", "reject", ("left: late",)))  # returns, though the disk does not
    goes_on.set()
    lines.close()
    lines.close()
    found = [json.loads(line)["part_id"] for line in (tmp_path / "parts.jsonl").read_text("utf-8").splitlines()]
    assert found == ["1", "2"]
    assert report.parts == {"pass": 1, "reject": 1}
