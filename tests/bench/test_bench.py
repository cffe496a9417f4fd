"""``bench`` through the command line, on a small real bundle: every part runs, and no time is asserted."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from chromium import open_page
from local_bundle import write_local

from lpcnet_edge.backends import choice
from lpcnet_edge.backends.tuning import default_tuning
from lpcnet_edge.bench import measure as measure_module
from lpcnet_edge.bench import opening, versus
from lpcnet_edge.bench.compare import schema
from lpcnet_edge.bench.frames import open_frames
from lpcnet_edge.bench.options import Options, quick
from lpcnet_edge.bench.raw import Inputs, open_raw, run_tool
from lpcnet_edge.bench.timed import PARTS
from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.cli import main
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.datasets.export import write_folder
from lpcnet_edge.errors import UsageError

LOOK = """
  const rects = Array.from(document.querySelectorAll("svg rect"));
  return {width: document.documentElement.scrollWidth, svgs: document.querySelectorAll("svg").length,
    back: getComputedStyle(document.body).backgroundColor, text: document.body.innerText,
    fills: new Set(rects.map((rect) => getComputedStyle(rect).fill)).size};
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bench") / "local", quantised=True)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPCNET_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def bench(bundle: Bundle, *more: str, code: int = 0) -> dict[str, Any]:
    """The record of a quick benchmark, which the schema describes."""
    out = bundle.path.parent / "record.json"
    assert main(["bench", str(bundle.path), "--quick", "--seconds", "0.1", "--record", str(out), *more]) == code
    record: dict[str, Any] = json.loads(out.read_text())
    jsonschema.validate(record, schema(), cls=jsonschema.Draft202012Validator)
    return record


@pytest.fixture(scope="module")
def record(bundle: Bundle) -> dict[str, Any]:
    page, table = bundle.path.parent / "page.html", bundle.path.parent / "table.md"
    return bench(bundle, "--batches", "1,4", "--html", str(page), "--markdown", str(table))


def test_stages_are_measured_beside_benchmark_app(record: dict[str, Any]) -> None:
    assert [(row["stage"], row["batch"]) for row in record["stages"]] == [
        ("localization", 1), ("confidence", 1), ("localization", 4), ("confidence", 4),
    ]  # fmt: skip
    for row in record["stages"]:
        assert row["tiles_per_s"] > 0
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["largest"]
        assert row["load_ms"] > 0
        assert row["first_ms"] > 0
        assert row["peak_memory_mb"] > row["memory_before_mb"] > 10
        assert row["ratio_to_raw"] == pytest.approx(row["tiles_per_s"] / row["raw_tiles_per_s"])
    assert record["raw_engine"]["name"] == "benchmark_app"
    assert record["raw_engine"]["why"] is None
    rates = [row["raw_tiles_per_s"] for row in record["stages"][2:]]
    assert record["raw_engine"]["tiles_per_s"] == pytest.approx(1 / sum(1 / rate for rate in rates))
    ours = record["pipeline"]["memory_tiles_per_s"]
    assert record["ratio_to_raw"] == pytest.approx(ours / record["raw_engine"]["tiles_per_s"])


@pytest.mark.parametrize("mode", ["bulk", "live"])
def test_the_parts_add_up_to_the_whole(record: dict[str, Any], mode: str) -> None:
    found = record["pipeline"][mode]["attribution"]
    assert set(found["parts"]) == {*PARTS, "rest"}
    assert sum(part["ms"] for part in found["parts"].values()) == pytest.approx(found["whole_ms"])
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    assert found["parts"]["rest"]["share"] < 0.5  # what is left would otherwise explain nothing
    assert all(part["ms"] >= 0 for name, part in found["parts"].items() if name not in ("rest", "waiting"))
    for name in ("tiling", "stage1", "sink"):
        assert found["parts"][name]["ms"] > 0
    assert (found["parts"]["decode"]["ms"] > 0) == (mode == "live")
    assert record["pipeline"]["bulk"]["decode_in_its_thread_ms"] > 0


def test_the_record_says_what_was_measured(record: dict[str, Any]) -> None:
    assert "generated carbon fabric" in record["frames"]["says"]
    assert "not what this bundle was made for" in record["frames"]["says"]
    assert record["quick"] is True
    assert record["stable"] in (False, "unknown", True)
    assert bool(record["stability"]["reasons"]) == (record["stable"] is not True)
    assert {row["phase"] for row in record["readings"]}


def test_the_page_opens_in_a_browser(record: dict[str, Any], bundle: Bundle) -> None:
    page = bundle.path.parent / "page.html"
    text = page.read_text("utf-8")
    assert len(text.encode()) < 300_000
    assert "http:" not in text
    assert "https:" not in text
    seen = open_page(page, LOOK)
    assert seen.console == []
    assert seen.value["svgs"] >= 3
    assert seen.value["fills"] >= 4
    assert seen.value["width"] <= 1024
    for words in (
        "Where the time of a frame goes",
        "benchmark_app",
        "of the raw engine's speed",
        record["bundle"]["id"],
    ):
        assert words in seen.value["text"]
    dark = open_page(page, LOOK, dark=True).value
    assert dark["back"] != seen.value["back"] == "rgb(255, 255, 255)"
    table = (bundle.path.parent / "table.md").read_text("utf-8")
    assert "| localization | 4 |" in table
    assert "| the whole |" in table


def test_two_bundles_in_turn(bundle: Bundle, tmp_path: Path) -> None:
    other = write_local(tmp_path / "other", gate=GateSpec("threshold", 0.5, 0.1, 99))
    page = tmp_path / "vs.html"
    found = bench(bundle, "--vs", str(other.path), "--html", str(page))["vs"]
    assert found["other"]["id"] == other.id
    ratios = [a / b for a, b, _ in found["pairs"]]
    assert found["ratio"] == pytest.approx(float(np.exp(np.mean(np.log(ratios)))))
    assert found["low"] <= found["ratio"] <= found["high"]
    text = page.read_text("utf-8")
    assert f"frames/s over those of {other.id}: ratio {found['ratio']:.3f}" in text
    assert f">{found['ratio']:.3f}</text>" in text, "a ratio of 0.95 is not told from 1 by one digit"


def test_a_budget_leaves_the_gate_alone(bundle: Bundle) -> None:
    found = bench(bundle, "--budget-ms", "10000", "--frame-size", "200x150")["budget"]
    assert found["frame_px"] == [200, 150]
    chosen = found["chosen"]
    assert chosen["picked"] == chosen["tiles"] > 1
    assert chosen["overlap_px"] == 16
    assert found["settings"] == {"framing": {"mode": "tile", "overlap_px": 16}, "budget_tiles": chosen["tiles"]}
    assert "gate" not in found["settings"]
    assert bench(bundle, "--budget-ms", "0.0001", "--frame-size", "200x150")["budget"]["chosen"] is None


@pytest.mark.parametrize("device", ["orin-nx", "this-cpu"])
def test_an_estimate_says_how_far_off_it_is_here(
    bundle: Bundle, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench(bundle, "--estimate", device)["estimate"]
    text = capsys.readouterr().out
    assert "ESTIMATE" in text
    assert "assumed:" in text
    assert "validated on this processor" in text
    assert ("data sheet" in text, "measured there" in text) == (device != "this-cpu",) * 2
    for row in found["validation"]["stages"].values():
        assert row["error"] == pytest.approx(row["estimated_tiles_per_s"] / row["measured_tiles_per_s"] - 1)
    for stage, row in found["stages"].items():
        layers = [layer["us"] for layer in found["layers"] if layer["stage"] == stage]
        assert row["ms_a_tile"] == pytest.approx(sum(layers) / 1e3)


def test_sustained_stops_with_what_was_measured(bundle: Bundle) -> None:
    """Ctrl-C once the sustained run has begun: the record holds it, and the exit code says interrupted."""

    def interrupt() -> None:
        if begun.wait(60):
            while signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # the run takes it in a moment
                time.sleep(0.01)
            time.sleep(1.0)
            signal.raise_signal(signal.SIGINT)

    begun = threading.Event()
    original = vars(measure_module)["measure_sustained"]

    def told(*args: Any, **more: Any) -> Any:
        begun.set()
        return original(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "measure_sustained", told)
        thread = threading.Thread(target=interrupt)
        thread.start()
        found = bench(bundle, "--batches", "4", "--sustained", "5", code=130)["sustained"]
        thread.join()
    assert found["interrupted"] is True
    assert found["seconds"] < found["asked_s"] == 300
    assert found["frames"] > 0
    assert found["burst_frames_per_s"] > 0


def test_an_interrupt_while_two_bundles_warm_up_ends_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versus, "measure_bulk", lambda *_: False)  # as where a signal ended the round
    with pytest.raises(KeyboardInterrupt):
        versus.measure_against(bundle, bundle, None, quick(Options(backend="null")))


def test_the_onnxruntime_loop_is_named_as_what_it_is(bundle: Bundle) -> None:
    raw = bench(bundle, "--backend", "onnxruntime", "--batches", "4")["raw_engine"]
    assert raw["name"] == "plain onnxruntime loop"
    assert raw["why"] == "onnxruntime's package for Python has no benchmark tool"


def test_the_null_backend_has_nothing_to_compare_with(bundle: Bundle) -> None:
    found = bench(bundle, "--backend", "null", "--batches", "4")
    assert found["ratio_to_raw"] is None
    assert found["raw_engine"]["name"] is None
    assert "no engine of its own" in found["raw_engine"]["why"]


@pytest.mark.parametrize(
    ("tool", "says"), [("\x7fELF", "Exec format error"), ("#!/no/such/shell\n", "No such file or directory")]
)
def test_a_trtexec_that_cannot_start_is_told(
    tool: str, says: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One built for another machine, say: the benchmark goes on without it."""
    (tmp_path / "trtexec").write_text(tool)
    (tmp_path / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    inputs = Inputs(np.zeros((1, 32, 32), np.uint8), np.zeros((1, 8, 2, 2), np.float32))
    found = open_raw(bundle, "tensorrt", default_tuning(), 1, inputs, tmp_path)
    assert found == (None, f"trtexec cannot be started: {says}")


def test_what_a_tool_prints_need_not_be_utf8() -> None:
    said = run_tool([sys.executable, "-c", r"import os; os.write(1, b'caf\xe9')"], "tool", 1.0)
    assert said == "caf\ufffd"


def test_auto_takes_the_tuning_of_what_is_installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (choice, opening):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    assert opening.kept_tuning(bundle, Options()) == default_tuning()
    assert bench(bundle, "--batches", "4")["backend"]["name"] == "onnxruntime"


@pytest.mark.parametrize(
    ("name", "batches", "largest"), [("openvino", None, 8), ("torch-cuda", None, 32), ("torch-cuda", (1, 4), 4)]
)
def test_a_gpu_is_measured_up_to_its_own_batches(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, batches: tuple[int, ...] | None, largest: int
) -> None:
    """A processor's tuning ends at 8; a run on a GPU takes 32."""
    seen = []

    def opened(_bundle: Bundle, _name: str, *, tuning: Any) -> Any:
        seen.append(tuning)
        return SimpleNamespace(name=name, about="", close=lambda: None)

    monkeypatch.setattr(opening, "open_backend", opened)
    with opening.opened(bundle, None, quick(Options(backend=name, batches=batches))) as found:
        assert found.tuning.batch == largest
    assert seen == ([None] if batches is None else [found.tuning])


@pytest.mark.parametrize("spoil", ["classes.yaml", "parts.csv", "images"])
def test_masks_of_a_damaged_dataset_are_no_frames(
    spoil: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(CarbonFabric(2, 5, size=128), tmp_path / "data")
    (tmp_path / "data" / spoil).rename(tmp_path / spoil)
    if spoil == "parts.csv":
        (tmp_path / "data" / spoil).write_text("no,header\n")
    assert main(["bench", str(bundle.path), "--quick", "--backend", "null", "--data", str(tmp_path / "data")]) == 3
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'data'}")


def test_frames_are_real_ones(bundle: Bundle, tmp_path: Path) -> None:
    data = CarbonFabric(6, 5, size=128)
    with pytest.raises(UsageError, match="3 channel"):
        open_frames(bundle, data, tmp_path, count=4)
    frames = open_frames(bundle, None, tmp_path, count=4, size_px=(200, 150))
    assert {image.shape for image in frames.images} == {(150, 200)}
    assert len(frames.files) == 4
    assert len({image.tobytes() for image in frames.images}) == 4
    tiles = frames.tiles(9, 32)
    assert tiles.shape == (9, 32, 32)
    again = open_frames(bundle, tmp_path, tmp_path, count=3)
    assert "3 of the 4 images" in again.says
    np.testing.assert_array_equal(again.images[0], frames.images[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench"], "no bundle is given"),
        (["bench", "B", "--max-slowdown", "3"], "--max-slowdown is for --compare"),
        (["bench", "B", "--vs", "C", "--estimate", "orin-nx"], "--vs and --estimate are separate"),
        (["bench", "B", "--record", "/no/such/folder/r.json"], "there is no folder"),
        (["bench", "--compare", "a.json", "b.json", "B"], "no bundle"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (2, 3)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batches", "3"], "the batch size 3"),
        (["--batches", "x"], "--batches x"),
        (["--frame-size", "10"], "--frame-size 10"),
        (["--estimate", "orin-nano-x"], "did you mean 'orin-nano'"),
        (["--sustained", "0"], "--sustained 0"),
        (["--budget-ms", "-1"], "a budget of -1 ms"),
        (["--data", "/no/such/data"], "/no/such/data"),
    ],
)
def test_wrong_values_are_told(
    bundle: Bundle, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(bundle.path), "--quick", *options]) in (2, 3)
    assert says in capsys.readouterr().err
