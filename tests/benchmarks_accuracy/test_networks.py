"""The comparison with peers: what is exported says what torch says, and the report says what the rates say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import networks_report
import numpy as np
import pytest
import torch
from networks import build_peer
from networks_report import front, judge, text_of
from peer_models import Bytes, Peer, export, peer_module

from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import BadData


def row(per_s: float | None, iou: float | None, **more: Any) -> dict[str, Any]:
    return {"int8_per_s": per_s, "mean_iou": iou, "mean_iou_bounds": [iou, iou], "weights": "study", **more}


ROWS = {
    "lpc-net": row(100.0, 70.0, by_gate={"gate off": 100.0, "own mix": 160.0, "line mix": 500.0}, weights="bundle"),
    "quick": row(150.0, 60.0, fp32_per_s=80.0),
    "close": row(80.0, 69.2, fp32_per_s=40.0),
    "best": row(20.0, 72.0, fp32_per_s=9.0),
    "beaten": row(19.0, 71.0, fp32_per_s=9.0),
    "boxes": row(90.0, None, weights="random"),
}
RATES = {
    "lpc-net gate off": [100.0, 90.0, 100.0],
    "lpc-net own mix": [160.0, 144.0, 160.0],
    "lpc-net line mix": [500.0, 450.0, 500.0],
    "close int8": [80.0, 72.0, 80.0],
    "best int8": [20.0, 18.0, 20.0],
}


def test_the_front_holds_what_nothing_beats() -> None:
    assert front(ROWS) == ["best", "lpc-net", "quick"]


def test_we_are_held_against_the_fastest_peer_that_is_as_good() -> None:
    found = judge(ROWS, RATES)
    assert found is not None
    assert found["peer"] == "close"
    assert found["ratio"] == pytest.approx({"gate off": 1.25, "own mix": 2.0, "line mix": 6.25})
    assert found["reached"]
    worse = {**ROWS, "close": row(80.0, 60.0), "best": row(20.0, 68.0), "beaten": row(19.0, 67.0)}
    found = judge(worse, RATES)
    assert found is not None
    assert found["peer"] == "best"
    assert "most accurate" in found["chosen_as"]
    assert judge({"lpc-net": row(1.0, None)}, RATES) is None


def test_the_text_and_the_plot_say_what_is_missing(tmp_path: Path) -> None:
    record = {
        "networks": ROWS, "front": front(ROWS), "targets": judge(ROWS, RATES), "missing": {"unet": "no wheel"},
        "study": None, "quick": True, "threads": 2, "processor": "a processor",
        "bundle": {"gate_from": "the fold that it is measured on"},
    }  # fmt: skip
    text = text_of(record)
    for wanted in (
        "unet: missing (no wheel)",
        "was calibrated on the fold that it is measured on",
        "Speed alone, random weights: boxes.",
        "mean nothing",
        "no study",
    ):
        assert wanted in text
    networks_report.plot(record, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_mix_needs_free_images_and_defective_parts(tiles: Path) -> None:
    path = Path(networks_report.__file__).with_name("networks.py")  # the package beside it has its name
    spec = importlib.util.spec_from_file_location("networks_script", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    data = open_dataset(tiles)
    assert {name: len(images) for name, images in script.mixes(data, 10).items()} == {"own": 10, "line": 10}
    free = [index for index, entry in enumerate(data.entries) if entry.label == 0]
    with pytest.raises(BadData, match="8 free images and 0 defective parts"):
        script.mixes(data.select(free), 10)


@pytest.mark.slow
def test_an_exported_peer_says_what_torch_says(tmp_path: Path) -> None:
    module = peer_module("ddrnet23slim", 3, None)
    export(module, 64, tmp_path / "peer.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    with torch.no_grad():
        classes, confidence = module(torch.from_numpy(images))
    found = np.concatenate(Peer(tmp_path / "peer.onnx", 64, 2, "LATENCY", 1).run(list(images)))[:5]
    assert (found == classes.numpy()).mean() > 0.999
    x = (torch.from_numpy(images).float()[:, None] - 128) / 127
    torch.manual_seed(0)
    network = build_peer("ddrnet23slim", 1, 3).eval()
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(network(x), size=(64, 64), mode="bilinear")
    best, expected = torch.softmax(logits, 1).max(1)
    assert isinstance(module, Bytes)
    assert (classes == expected).float().mean() > 0.999
    assert (confidence.float() - 255 * best).abs().max() <= 1
