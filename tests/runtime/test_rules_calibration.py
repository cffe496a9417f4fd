"""``calibrate rules`` on a network known in closed form: a defect's confidence is its brightness / 255."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from local_bundle import frame_of, write_local

from lpcnet_edge.cli.command import main
from lpcnet_edge.config import load_config
from lpcnet_edge.decision import Rules

PARTS = 24


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    write_local(tmp_path / "x")
    return tmp_path


def labelled(root: Path, bad: Sequence[Sequence[int]], good: Sequence[int]) -> None:
    """Parts with a defect, an image for each of its brightnesses; and good ones with a false alarm (0: none)."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rows = ["image,part"]
    for part, values in enumerate([*bad, *([value] for value in good)]):
        for view, value in enumerate(values):
            name, image, mask = f"{part:03}-{view}.png", frame_of(part, 64, 64) // 2, np.zeros((64, 64), np.uint8)
            image[18:30, 20:31] = value or image[18:30, 20:31]
            mask[18:30, 20:31] = part < len(bad)
            cv2.imwrite(str(root / "images" / name), image)
            cv2.imwrite(str(root / "masks" / name), mask)
            rows.append(f"{name},{part:03}")
    (root / "parts.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.yaml").write_text("names: [background, bright]\n")


def calibrate(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    base = ["calibrate", "rules", "x", "--data", "data", "--channels", "1", "--framing", "tile"]
    assert main([*base, "--backend", "onnxruntime", "--out", "rules.yaml", *argv]) == code
    said = capsys.readouterr()
    return json.loads(said.out) if code == 0 and "--json" in argv else said.out + said.err


def test_the_bound_is_kept_and_good_parts_are_saved(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [[205 + 2 * part, 202] for part in range(PARTS)]  # the first image of each part is the surer
    labelled(work / "data", bad, [0, 0, 203, 206, 209, 250])
    found = calibrate(capsys, "--alpha", "0.1", "--json")
    # 24 defective parts: (1 + 1) / 25 <= 0.1 and (2 + 1) / 25 is not, so one escapes, the one at 205.
    assert (found["parts"], found["misses"]) == (24, 1)
    assert found["threshold"] == int(207 / 255 * 1e4) / 1e4
    assert found["before"]["escapes"] == {"count": 0, "total": 24, "rate": 0.0}
    assert found["after"]["escapes"]["count"] == 1
    assert found["before"]["overkill"]["count"] == 4
    assert found["after"]["overkill"]["count"] == 2  # 209 and 250
    rules = load_config("rules.yaml", Rules)
    assert rules.default.min_confidence == found["threshold"]
    text = Path("rules.yaml").read_text()
    assert "at most 10 % (alpha = 0.1) are expected to pass" in text
    assert "Overkill of the parts it was calibrated on: 4 of 6 before, 2 after." in text
    assert "min_area_px" not in text
    assert main(["run", "x", "data/images", "--rules", "rules.yaml", "--framing", "tile", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["pass"], counts["reject"]) == (PARTS + 1 + 4, PARTS - 1 + 2)


def test_the_image_view_asks_every_image(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", [[250, 205 + 2 * part] for part in range(PARTS)], [0])
    assert calibrate(capsys, "--alpha", "0.1", "--json")["threshold"] == int(250 / 255 * 1e4) / 1e4
    found = calibrate(capsys, "--alpha", "0.1", "--view", "image", "--json")
    assert found["threshold"] == int(207 / 255 * 1e4) / 1e4
    assert found["after"]["escapes"]["count"] == 1


def test_rules_to_start_from_and_a_confidence(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", [[205 + 2 * part] for part in range(PARTS)], [206])
    start = "default: {min_area_px: 12, review_below: 0.97}\nper_class: {bright: {min_area_px: 30, count: 1}}\n"
    Path("start.yaml").write_text(start)
    found = calibrate(capsys, "--rules", "start.yaml", "--confidence", "0.9", "--alpha", "0.2", "--json")
    # P[Binomial(24, 0.2) <= 1] = 0.033 and <= 2 is 0.115.
    assert (found["misses"], found["confidence"]) == (1, 0.9)
    rules = load_config("rules.yaml", Rules)
    assert rules.default.review_below == 0.97
    assert rules.per_class["bright"].min_area_px == 30
    assert rules.per_class["bright"].min_confidence == found["threshold"]
    assert "With 90 % confidence, of new defective parts, at most 20 %" in Path("rules.yaml").read_text()
    said = calibrate(capsys)
    assert "rules.yaml: min_confidence 0.8039 or more in every rule" in said
    assert "alpha: auto took 1 / (24 + 1) = 0.04" in said


def test_refusals(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", [[150], [150], *([240] for _ in range(8))], [0])
    said = calibrate(capsys, "--alpha", "0.2", code=2)
    assert "2 of 10 defective parts pass already" in said
    assert "(0.2727 at least)" in said
    assert calibrate(capsys, "--alpha", "0.28", "--json")["after"]["escapes"]["count"] == 2
    assert "bring 99 defective parts" in calibrate(capsys, "--alpha", "0.01", code=2)
    assert "no share above 0" in calibrate(capsys, "--alpha", "1.5", code=2)
    assert "computes nothing" in calibrate(capsys, "--backend", "null", code=2)
    assert "inside the bundle" in calibrate(capsys, "--out", "x/rules.yaml", code=2)
    assert "names the class 'pit'" in _with_rules(capsys, "per_class: {pit: {count: 2}}\n")
    labelled(work / "free", [], [0, 210])
    assert "no escape to bound" in calibrate(capsys, "--data", "free", code=3)
    labelled(work / "colour", [[240]], [0])
    assert "3 channel(s)" in calibrate(capsys, "--data", "colour", "--channels", "3", code=3)


def _with_rules(capsys: pytest.CaptureFixture[str], text: str) -> str:
    Path("odd.yaml").write_text(text)
    said: str = calibrate(capsys, "--rules", "odd.yaml", code=3)
    return said


def test_a_frame_that_is_not_inspected_is_no_catch(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(work / "data", [[240] for _ in range(4)], [0])
    Path("zones.yaml").write_text("zones: [{name: far, box_px: [900, 900, 5, 5], default: {min_area_px: 2}}]\n")
    said = calibrate(capsys, "--rules", "zones.yaml", code=3)
    assert "the zone 'far' lies outside" in said
    assert not Path("rules.yaml").exists()
