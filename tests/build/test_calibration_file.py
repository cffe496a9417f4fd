"""calibration.json: exact, addressed by content, and honest about why it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpcnet_edge.build.calibration_file import (
    Calibration,
    CalibrationKey,
    calibration_of,
    load_calibration,
    read_calibration,
    save_calibration,
)
from lpcnet_edge.build.histogram import Histogram
from lpcnet_edge.build.ranges import METHODS, range_of
from lpcnet_edge.errors import BadArtifact

KEY = CalibrationKey("a" * 64, "(p - 128) / 127", "b" * 64, "auto", 256)


@pytest.fixture
def histograms() -> dict[str, Histogram]:
    rng = np.random.default_rng(3)
    found = {}
    for name in ("stage1/stem/relu", "stage2/decoder/up1/relu", "stage2/dead"):
        found[name] = Histogram(name)
        found[name].update(np.maximum(rng.standard_normal(5000), 0).astype(np.float32) * (name != "stage2/dead"))
    return found


@pytest.fixture
def calibration(histograms: dict[str, Histogram]) -> Calibration:
    return calibration_of(KEY, histograms, "entropy")


@pytest.fixture
def path(tmp_path: Path, calibration: Calibration) -> Path:
    save_calibration(tmp_path / "calibration.json", calibration)
    return tmp_path / "calibration.json"


def test_it_holds_every_method_and_the_chosen_one(calibration: Calibration, histograms: dict[str, Histogram]) -> None:
    for name, tensor in calibration.tensors.items():
        assert tensor.ranges == {method: range_of(histograms[name], method) for method in METHODS}
        assert (tensor.method, tensor.maximum) == ("entropy", histograms[name].maximum)
        assert calibration.scales()[name] == range_of(histograms[name], "entropy") / 127 > 0
        assert calibration.with_method("mse").tensors[name].range == range_of(histograms[name], "mse")


def test_it_reads_back_exactly(path: Path, calibration: Calibration) -> None:
    assert load_calibration(path, KEY) == (calibration, "")
    assert json.loads(path.read_text())["address"] == KEY.digest


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weights", "c" * 64, "weights aaaaaaaaaaaa... instead of cccccccccccc..."),
        ("preprocessing", "p / 255", "preprocessing (p - 128) / 127 instead of p / 255"),
        ("calibration_set", "d" * 64, "calibration_set bbbbbbbbbbbb... instead of dddddddddddd..."),
        ("method", "mse", "method auto instead of mse"),
        ("percentile", 99.9, "percentile 99.99 instead of 99.9"),
        ("levels", 255, "levels 127 instead of 255"),
        ("tile_px", 128, "tile_px 256 instead of 128"),
        ("observer", 2, "observer 1 instead of 2"),
    ],
)
def test_another_key_is_a_reason(path: Path, name: str, value: Any, said: str) -> None:
    key = replace(KEY, **{name: value})
    assert key.digest != KEY.digest
    assert load_calibration(path, key) == (None, f"{path} was measured with another {said}")


def test_all_differences_are_told(path: Path) -> None:
    found, reason = load_calibration(path, replace(KEY, tile_px=128, method="minmax"))
    assert found is None
    assert "method auto instead of minmax; another tile_px 256 instead of 128" in reason


def test_none_yet(tmp_path: Path) -> None:
    found, reason = load_calibration(tmp_path / "no.json", KEY)
    assert found is None
    assert "nothing is kept in " in reason


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-40], "cannot be read as JSON"),
        (lambda text: "", "cannot be read as JSON"),
        (lambda text: "[" * 100_000, "cannot be read as JSON"),
        (lambda text: "[]", "format is None"),
        (edit(lambda c: c.update(format="lpcnet-edge calibration 9")), "format is 'lpcnet-edge calibration 9'"),
        (edit(lambda c: c["tensors"]["stage2/dead"].update(maximum=0.5)), "digest does not fit"),
        (edit(lambda c: c["tensors"].pop("stage2/dead")), "digest does not fit"),
        (edit(lambda c: c["key"].update(tile_px=128)), "digest does not fit"),
        (lambda text: text.replace('"maximum": 0.0', '"maximum": NaN'), "NaN is no number"),
        (lambda text: text.replace("maximum", "maximim"), "digest does not fit"),
    ],
)
def test_a_damaged_file_is_an_error(path: Path, damage: Callable[[str], str], said: str) -> None:
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BadArtifact, match=said) as error:
        load_calibration(path, KEY)
    assert str(path) in error.value.message
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ranges", {"minmax": 1.0}, "ranges of"),
        ("method", "max", "ranges of"),
        ("count", "many", "whole number"),
    ],
)
def test_wrong_content_under_a_right_digest_is_an_error(path: Path, key: str, value: Any, said: str) -> None:
    from lpcnet_edge.build.calibration_file import _digest

    content = json.loads(path.read_text())
    content["tensors"]["stage2/dead"][key] = value
    content["digest"] = _digest({k: content[k] for k in ("key", "tensors")})
    path.write_text(json.dumps(content))
    with pytest.raises(BadArtifact, match=said):
        read_calibration(path)


def test_a_tensor_that_was_never_seen_has_no_range() -> None:
    with pytest.raises(BadArtifact, match="never observed, such as stage1/lost"):
        calibration_of(KEY, {"stage1/lost": Histogram("stage1/lost")}, "mse")
