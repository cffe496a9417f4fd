"""The report as a reader meets it: one file, in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from check_doubles import ArrayDataset, Mask, Reader, mask_with
from chromium import Seen, open_page
from spoiled import raised_gate

from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.agreement import compare, measure
from lpcnet_edge.check.bundle_check import gate_report
from lpcnet_edge.check.flips import LISTED, MAX_BYTES, flip_table, pictures
from lpcnet_edge.check.page import _confidence
from lpcnet_edge.cli import main

DATA = "carbon-fabric:count=16,seed=78,size=128"
SLIDE = """
  const figure = document.querySelector("figure"), slider = figure.querySelector("input");
  const cuts = [];
  const look = () => cuts.push([getComputedStyle(figure.querySelector(".reference")).clipPath,
    getComputedStyle(figure.querySelector(".candidate")).clipPath, slider.value]);
  look();
  slider.value = 20; slider.dispatchEvent(new Event("input")); look();
  const all = document.getElementById("all");
  all.value = 75; all.dispatchEvent(new Event("input")); look();
  const stack = figure.querySelector(".stack"), box = stack.getBoundingClientRect();
  stack.dispatchEvent(new PointerEvent("pointerdown", {clientX: box.left + box.width / 4, buttons: 1})); look();
  const grab = new DragEvent("dragstart", {bubbles: true, cancelable: true});
  figure.querySelector("img").dispatchEvent(grab);
  const shown = () => getComputedStyle(figure.querySelector(".truth")).display;
  const truth = [shown()]; document.getElementById("truth").click(); truth.push(shown());
  const images = Array.from(document.images);
  return {cuts, truth, grabbed: !grab.defaultPrevented, touch: getComputedStyle(stack).touchAction,
    left: figure.querySelector("i").getBoundingClientRect().left - box.left, wide: box.width,
    broken: images.filter((image) => !image.naturalWidth).length, images: images.length,
    outside: images.filter((image) => !image.src.startsWith("data:")).length,
    width: document.documentElement.scrollWidth, svgs: document.querySelectorAll("svg").length,
    back: getComputedStyle(document.body).backgroundColor, text: document.body.innerText};
"""


@pytest.fixture(scope="module")
def report(good: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a bundle whose gate lets defective parts pass."""
    folder = tmp_path_factory.mktemp("report")
    spoiled = raised_gate(good, folder / "gate", 0.999)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPCNET_EDGE_CACHE", str(folder / "cache"))
        command = ["check", str(spoiled.path), "--data", DATA, "--backend", "onnxruntime", "--max-new-escapes", "0"]
        assert main([*command, "--html", str(folder / "report.html")]) == 1
    return folder / "report.html"


@pytest.fixture(scope="module")
def seen(report: Path) -> Seen:
    return open_page(report, SLIDE)


def test_it_is_one_small_file_that_asks_for_nothing(report: Path) -> None:
    text = report.read_text("utf-8")
    assert len(text.encode()) < 5_000_000
    assert "http:" not in text
    assert "https:" not in text
    assert "default-src 'none'" in text


def test_it_opens_without_a_console_error(seen: Seen) -> None:
    assert seen.console == []
    assert seen.value["images"] >= 4
    assert seen.value["broken"] == seen.value["outside"] == 0
    assert seen.value["svgs"] >= 3


def test_the_browser_would_tell_an_error(report: Path) -> None:
    """The test above can fail: a script's error and a forbidden image are both on the console."""
    broken = report.with_name("broken.html")
    broken.write_text(report.read_text("utf-8").replace("const figures", "nothing.at_all; const figures", 1), "utf-8")
    assert any("ReferenceError" in line for line in open_page(broken, "return 1;").console)
    asking = "new Image().src = 'http://127.0.0.1:9/x.png'; return 1;"
    assert any("Content Security Policy" in line for line in open_page(report, asking).console)


def test_the_slider_moves_the_line(seen: Seen) -> None:
    first, *moved = seen.value["cuts"]
    for (reference, candidate, value), cut in zip(moved, (20, 75, 25), strict=True):  # slider, all, dragged
        assert reference == f"inset(0px {100 - cut}% 0px 0px)"
        assert candidate == f"inset(0px 0px 0px {cut}%)"
        assert value == str(cut)
    assert first not in moved
    assert seen.value["left"] == pytest.approx(seen.value["wide"] / 4, abs=3)
    assert seen.value["truth"] == ["none", "block"]


def test_the_browser_does_not_drag_the_picture_or_scroll_instead(seen: Seen) -> None:
    """Either ends the moves of the pointer after the first."""
    assert not seen.value["grabbed"]
    assert seen.value["touch"] == "pan-y"


def test_it_says_what_is_broken_and_fits_a_panel(seen: Seen, report: Path) -> None:
    text = seen.value["text"]
    for part in ("1 of 2 limits broken", "Found: the gate at 0.999 clears", "Try: calibrate the gate again", "worse"):
        assert part in text
    assert seen.value["width"] <= 1024
    dark = open_page(report, "return getComputedStyle(document.body).backgroundColor;", dark=True).value
    assert dark != seen.value["back"] == "rgb(255, 255, 255)"


def test_pictures_show_flips_first_and_stay_small() -> None:
    masks = [mask_with((1, 5 * i, 5, 9, 9)) for i in range(6)] + [mask_with()] * 6
    dataset = ArrayDataset(masks, [f"part {i}" for i in range(12)])
    calls = iter(range(100))

    def spoil(classes: Mask) -> Mask:
        number = next(calls)
        if number in (2, 8):  # misses a defect, finds one that is none
            return np.zeros_like(classes) if number == 2 else mask_with((2, 30, 30, 20, 20))
        return np.roll(classes, number, axis=0)

    before = measure(Reader(), dataset)
    after = measure(Reader(spoil=spoil), dataset)
    agreement = compare(before, after)
    shown = pictures(agreement, before, after, dataset)
    assert [(picture.index, picture.kind) for picture in shown[:2]] == [(2, "wrong"), (8, "wrong")]
    assert {picture.kind for picture in shown[2:]} == {"same"}
    assert [picture.index for picture in shown[2:4]] == [5, 4]  # those moved furthest
    assert len({picture.index for picture in shown}) == len(shown)
    assert sum(picture.size_bytes for picture in shown) < MAX_BYTES
    assert shown[0].cut > 100 * (10 + 9) / 64 > 100 * 30 / 64 - 20  # right of what float alone sees
    assert shown[1].cut < 100 * 30 / 64  # left of what the bundle alone sees
    few = pictures(agreement, before, after, dataset, max_bytes=3 * shown[0].size_bytes)
    assert 0 < len(few) < len(shown)


def test_thousands_of_parts_fit_on_the_page() -> None:
    masks = [mask_with((1, 5, 5, 9, 9)), mask_with()]
    dataset = ArrayDataset(masks, ["bad", "good"])
    found = compare(measure(Reader(), dataset), measure(Reader(spoil=np.zeros_like), dataset))
    (flip,) = found.to_json()["agreement"]["flips"]
    many = 30_000
    flips = [{**flip, "part": f"a part of a long name, number {number}"} for number in range(many)]
    told = flip_table(flips, "float", "bundle")
    assert "number 999<" in told
    assert f"and {many - LISTED} more (--json has all)" in told
    assert "more (--json" not in flip_table(flips[:LISTED], "float", "bundle")
    report = found.to_json() | {"bundle_gate": gate_report(found.candidate, GateSpec())}
    curve = [{"missed_parts": k, "threshold": k / many, "cleared": 100 * k / many} for k in range(many)]
    report["candidate"]["gate"]["curve"] = curve
    plotted = _confidence(report)
    assert "each point gives up 60 more parts" in plotted
    assert len(told) + len(plotted) < 1_000_000
