"""How ``lpcnet-edge run`` ends where its settings fit no frame, what it prints, and under which locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from local_bundle import frame_of, write_local

from lpcnet_edge.backends.choice import BACKENDS
from lpcnet_edge.cli.command import main
from lpcnet_edge.runtime import running
from lpcnet_edge.runtime.session import inspect
from lpcnet_edge.yamlfile import dump_yaml

MODES = pytest.mark.parametrize("mode", [(), ("--live",)], ids=["bulk", "live"])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a bundle and a folder of three images of 64 x 48 px."""
    write_local(tmp_path / "engine")
    (tmp_path / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), frame_of(number, 48, 64, defects=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def framing(**settings: Any) -> list[str]:
    """The options of a run with this framing."""
    tiles = {"mode": "tile", "tile_px": 32, "overlap_px": 4}
    Path("run.yaml").write_text(dump_yaml({"framing": {**tiles, **settings}}), encoding="utf-8")
    return ["run", "engine", "images", "--backend", "onnxruntime", "--config", "run.yaml"]


def apart(argv: list[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lpcnet_edge.cli", *argv]
    return subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, **environment})


@MODES
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "mask.png: No such file"), (b"no picture", "decode as no known image"), ("black", "is black all over")],
    ids=["missing", "unreadable", "black"],
)
def test_a_mask_that_serves_no_frame_ends_the_run_before_it_starts(
    work: Path, capsys: pytest.CaptureFixture[str], content: bytes | str | None, says: str, mode: tuple[str, ...]
) -> None:
    if content == "black":
        cv2.imwrite("mask.png", np.zeros((48, 64), np.uint8))
    elif isinstance(content, bytes):
        Path("mask.png").write_bytes(content)
    assert main([*framing(inspect_mask="mask.png"), "--jsonl", "v.jsonl", *mode]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: framing.inspect_mask: mask.png")
    assert says in told.err
    assert not Path("v.jsonl").exists()


@MODES
@pytest.mark.parametrize("unfit", ["region", "mask", "zone"])
def test_settings_that_fit_no_frame_are_told_at_the_end(
    work: Path, capsys: pytest.CaptureFixture[str], unfit: str, mode: tuple[str, ...]
) -> None:
    Path("images", "9.png").write_bytes(b"unreadable")
    argv = framing()
    if unfit == "region":
        argv = framing(region={"y": 40, "x": 0, "height": 20, "width": 64})
    elif unfit == "mask":
        cv2.imwrite("mask.png", np.full((64, 48), 255, np.uint8))
        argv = framing(inspect_mask="mask.png")
    else:
        zone = {"name": "rim", "box_px": [100, 100, 9, 9], "ignore": True}
        Path("rules.yaml").write_text(dump_yaml({"zones": [zone]}), encoding="utf-8")
        argv += ["--rules", "rules.yaml"]
    assert main([*argv, "--jsonl", "v.jsonl", "--json", *mode]) == 3
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["counts"] == {"pass": 0, "reject": 4, "review": 0}
    assert (found["refused"]["not inspected"], found["refused"]["unreadable"]) == (3, 1)
    assert len(Path("v.jsonl").read_text().splitlines()) == 4, "every frame has its verdict all the same"
    assert told.err.startswith(f"error: none of 4 frame(s) was inspected, all are rejects; not inspected: the {unfit}")
    assert told.err.count("\n") == 2


def test_a_frame_that_fits_among_others_that_do_not_is_no_error(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("images/small.png", frame_of(7, 20, 20))
    assert main([*framing(region={"y": 0, "x": 0, "height": 40, "width": 60}), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["refused"]["not inspected"] == 1
    assert found["tiles"] > 0


def test_a_live_run_in_which_every_frame_is_late_is_a_failure(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "engine", "images", "--backend", "onnxruntime", "--live"]
    assert main([*argv, "--deadline-ms", "0.001"]) == 1
    told = capsys.readouterr()
    assert "3 frames: 0 pass, 3 reject" in told.out
    assert told.err.startswith("error: none of 3 frame(s) was decided within 0.001 ms, all are rejects; late: ")
    assert main([*argv, "--deadline-ms", "60000"]) == 0


@MODES
def test_a_source_that_ends_without_a_frame_is_an_error(work: Path, mode: tuple[str, ...]) -> None:
    argv = ["run", "engine", "stdin:32x32", "--backend", "onnxruntime", "--jsonl", "v.jsonl", *mode]
    command = [sys.executable, "-m", "lpcnet_edge.cli", *argv]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[0] == "error: stdin ended without a frame"


def test_the_option_framing_keeps_region_and_mask_of_the_config(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = framing(region={"y": 0, "x": 0, "height": 32, "width": 32}, mode="resize")
    tiles = []
    for option in ([], ["--framing", "tile"], ["--framing", "resize"]):
        assert main([*argv, *option, "--json"]) == 0
        tiles.append(json.loads(capsys.readouterr().out)["tiles"])
    assert tiles == [3, 3, 3], "a region of one tile; the whole frame is more"
    assert main([*framing(inspect_mask="none.png"), "--framing", "tile"]) == 3


@pytest.mark.parametrize("source", ["rtsp://127.0.0.1:1/x", "v4l2:/dev/null", "broken.avi"])
def test_a_source_that_does_not_open_says_one_error_and_its_mend(work: Path, source: str) -> None:
    Path("broken.avi").write_bytes(b"RIFF" + bytes(range(256)) * 40)
    unset = {"OPENCV_LOG_LEVEL": "", "OPENCV_FFMPEG_LOGLEVEL": ""}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-m", "lpcnet_edge.cli", "run", "engine", source, "--backend", "onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == (3 if source == "broken.avi" else 4), done.stderr
    error, mend, *more = done.stderr.splitlines()
    assert error.startswith(f"error: {source.removeprefix('v4l2:')}")
    assert mend.startswith("mend: ")
    assert more == []
    assert done.stdout == ""


def test_who_asks_for_the_lines_of_opencv_gets_them(work: Path) -> None:
    done = apart(["run", "engine", "rtsp://127.0.0.1:1/x", "--backend", "onnxruntime"], OPENCV_LOG_LEVEL="WARNING")
    assert b"VIDEOIO(FFMPEG)" in done.stderr


def test_lines_on_standard_output_stand_there_alone(work: Path) -> None:
    command = [sys.executable, "-m", "lpcnet_edge.cli", "run", "engine", "images", "--backend", "onnxruntime"]
    with Path("lines.jsonl").open("wb") as lines:
        done = subprocess.run([*command, "--jsonl", "/dev/stdout"], stdout=lines, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0
    frames = [json.loads(line)["frame"] for line in Path("lines.jsonl").read_text("utf-8").splitlines()]
    assert frames == ["0.png", "1.png", "2.png"]
    assert b"3 frames: " in done.stderr


def test_an_ascii_locale_loses_no_picture(work: Path) -> None:
    """Not one that Python or a POSIX system replaces by UTF-8: the locale is set, and the UTF-8 mode is off."""
    Path("images").rename("Bänder")
    for number in range(3):
        Path("Bänder", f"{number}.png").rename(Path("Bänder", f"Stück-{number}.png"))
    Path("run.yaml").write_text("sinks: {masks: Masken-ä, csv: ä.csv}\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    probe = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"],
        capture_output=True,
        text=True,
        env={**os.environ, **ascii_only},
    )
    assert probe.stdout == "ascii\n", "the test tests something"
    argv = ["run", "engine", "Bänder", "--backend", "onnxruntime", "--config", "run.yaml"]
    outputs = ["--overlays", "Bilder-ö", "--jsonl", "v.jsonl", "--sqlite", "v.db"]
    done = apart([*argv, *outputs], **ascii_only)
    assert (done.stderr.decode(), done.returncode) == ("", 0)
    assert "Stück-1.png" in done.stdout.decode()
    names = [f"Stück-{number}.png" for number in range(3)]
    assert sorted(os.listdir("Masken-ä")) == [f"{name}.png" for name in names]
    assert sorted(os.listdir("Bilder-ö")) == [f"{name}.jpg" for name in names]
    lines = [json.loads(line) for line in Path("v.jsonl").read_text("utf-8").splitlines()]
    assert [(line["frame"], line["source"]) for line in lines] == [(name, "Bänder") for name in names]
    assert Path("ä.csv").read_text("utf-8").count("Bänder,") == 3
    told = apart([*argv, "--json"], **ascii_only)
    assert json.loads(told.stdout.decode())["sources"]["Bänder"]["frames"] == 3


@pytest.mark.parametrize("region", [None, {"y": 8, "x": 16, "height": 40, "width": 48}], ids=["whole", "region"])
def test_overlays_of_resized_frames_have_the_frames_size(work: Path, region: dict[str, int] | None) -> None:
    """They failed for every frame that was not of the tile's size."""
    image = np.full((48, 64), 60, np.uint8)
    image[34:46, 30:46] = 255
    cv2.imwrite("images/0.png", image)
    options = [*framing(mode="resize", region=region), "--overlays", "o", "--gate", "off"]
    assert main([*options, "--json"]) == 0
    drawn = cv2.imread("o/0.png.jpg")
    assert drawn is not None
    assert drawn.shape == (48, 64, 3)
    tinted = np.ptp(drawn.astype(int), axis=2) > 40
    columns, rows = np.flatnonzero(tinted[40]), np.flatnonzero(tinted[:, 32])  # above it is its label
    assert abs(rows[-1] - 45) <= 3
    assert abs(columns[[0, -1]] - (30, 45)).max() <= 3


def test_an_ascii_locale_is_nothing_to_predict_either(work: Path) -> None:
    os.rename("images/0.png", "images/Stück-0.png")
    argv = ["predict", "--weights", "magnetic-tile", "images/Stück-0.png", "--out", "ä"]
    done = apart(argv, LC_ALL="C", PYTHONUTF8="0")
    assert (done.stderr.decode(), done.returncode) == ("", 0)
    assert os.listdir("ä/overlays") == ["Stück-0.png.png"]
    assert json.loads(Path("ä/verdicts.jsonl").read_text("utf-8"))["image"] == "Stück-0.png"


def test_the_backends_that_are_named_are_those_there_are() -> None:
    for name in BACKENDS:
        assert f"``{name}``" in (inspect.__doc__ or "")


@MODES
def test_a_run_of_nothing_but_unreadable_files_is_bad_input(
    work: Path, capsys: pytest.CaptureFixture[str], mode: tuple[str, ...]
) -> None:
    for number in range(3):
        Path("images", f"{number}.png").write_bytes(b"")
    assert main([*framing(), "--jsonl", "v.jsonl", "--json", *mode]) == 3
    told = capsys.readouterr()
    assert json.loads(told.out)["refused"]["unreadable"] == 3
    assert len(Path("v.jsonl").read_text().splitlines()) == 3
    assert told.err.startswith("error: none of 3 frame(s) was inspected, all are rejects; unreadable: images/0.png")
    assert told.err.count("\n") == 2


@pytest.mark.parametrize("name", ["late", "dropped parts", "overload"])
def test_a_folder_named_as_a_refusal_is_read_as_any(work: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The path at the head of its files' reasons was taken for the word, and the run ended with 0."""
    Path(name).mkdir()
    Path(name, "0.png").write_bytes(b"")
    assert main(["run", "engine", name, "--backend", "onnxruntime", "--json"]) == 3
    told = capsys.readouterr()
    assert {kind: count for kind, count in json.loads(told.out)["refused"].items() if count} == {"unreadable": 1}
    assert f"all are rejects; unreadable: {name}/0.png" in told.err


def test_a_resumed_run_counts_what_was_inspected_before(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of its own frames is unreadable; whether that is all depends on those before."""
    argv = [*framing(), "--journal", "journal", "--jsonl", "v.jsonl"]
    assert main(argv) == 0
    assert main(argv) == 0, "nothing was left"
    Path("images", "9.png").write_bytes(b"")
    assert main(argv) == 0
    for number in range(3):
        Path("images", f"{number}.png").write_bytes(b"")
    bad = [*framing(), "--journal", "bad"]
    assert main(bad) == 3
    capsys.readouterr()
    for _ in range(2):
        assert main(bad) == 3, "nothing was left, and nothing was inspected"
        told = capsys.readouterr()
        assert "0 frames: " in told.out
        assert "none of 4 frame(s) was inspected, all are rejects; 4 of them before this run (journal)" in told.err
        assert "name another" in told.err
    Path("images", "10.png").write_bytes(b"")
    assert main(bad) == 3
    assert "none of 5 frame(s) was inspected, all are rejects; unreadable: images/10.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting",
    ["framing: {mode: tile, tile_px: 32, overlap_px: 4, inspect_mask: m.png}", "source: {correction: {dark: m.png}}"],
)
def test_a_journal_belongs_to_what_its_settings_name(
    work: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    """A mask that was painted anew between kill and resume would have inspected half the frames by each."""
    Path("c.yaml").write_text(setting + "\n")
    argv = ["run", "engine", "images", "--backend", "onnxruntime", "--config", "c.yaml", "--journal", "journal"]
    mask = np.full(cv2.imread("images/0.png").shape[:2], 9, np.uint8)
    for value in (9, 10):
        mask[0, 0] = value
        cv2.imwrite("m.png", mask)
        assert main(argv) == (0 if value == 9 else 3)
    assert main([*argv, "--json"]) == 3
    assert "is the journal of a run with SHA-256 of " in capsys.readouterr().err
    Path("m.png").unlink()
    assert main(argv) == 3


def test_a_journal_belongs_to_its_source(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images called alike in another folder were taken for done, and so were those of a second source."""
    (work / "elsewhere" / "images").mkdir(parents=True)
    cv2.imwrite("elsewhere/images/0.png", frame_of(0, 48, 64))
    argv = ["run", str(work / "engine"), "images", "--backend", "onnxruntime", "--journal", str(work / "journal")]
    assert main(argv) == 0
    assert main([*argv[:2], "./images/", *argv[3:]]) == 0, "the same folder"
    capsys.readouterr()
    assert main([*argv[:2], "elsewhere/images", *argv[3:]]) == 3
    assert "is the journal of a run with source ['" in capsys.readouterr().err
    os.chdir("elsewhere")
    assert main(argv) == 3, "the same words in another working directory"
    assert "is the journal of a run with source ['" in capsys.readouterr().err
    os.chdir(work)
    assert main([*argv[:3], "elsewhere/images", "--live", *argv[3:]]) == 2
    assert "--journal is for one source" in capsys.readouterr().err


def test_a_journal_belongs_to_its_outputs_wherever_it_runs(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "elsewhere").mkdir()
    argv = ["run", str(work / "engine"), str(work / "images"), "--backend", "onnxruntime", "--jsonl", "v.jsonl"]
    argv += ["--journal", str(work / "journal")]
    assert main(argv) == 0
    os.chdir("elsewhere")
    assert main(argv) == 3
    assert "is the journal of a run with outputs" in capsys.readouterr().err
    assert not Path("v.jsonl").exists()


@pytest.mark.parametrize(
    ("source", "settings"),
    [("images", {}), ("images/*.png", {}), (".", {"recursive": True})],
    ids=["folder", "glob", "above"],
)
@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_pictures_do_not_go_where_images_are_read(
    work: Path, capsys: pytest.CaptureFixture[str], source: str, settings: dict[str, Any], kind: str
) -> None:
    Path("run.yaml").write_text(dump_yaml({"source": settings}), encoding="utf-8")
    argv = ["run", "engine", source, "--backend", "onnxruntime", "--config", "run.yaml", f"--{kind}", "images"]
    assert main(argv) == 2
    assert f"error: images is where the images of {source} are read" in capsys.readouterr().err
    assert len(os.listdir("images")) == 3
    assert main([*argv[:2], "images", *argv[3:5], f"--{kind}", "images/found"]) == 0, "not read without recursive"


def test_pictures_of_several_sources_do_not_replace_each_other(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "other").mkdir()
    cv2.imwrite("other/0.png", frame_of(8, 48, 64))
    argv = ["run", "engine", "images", "other", "--live", "--backend", "onnxruntime", "--overlays", "o", "--masks", "m"]
    assert main(argv) == 0
    assert sorted(path.relative_to("o").as_posix() for path in Path("o").rglob("*.jpg")) == [
        *(f"images/{number}.png.jpg" for number in range(3)),
        "other/0.png.jpg",
    ]
    assert len(list(Path("m").rglob("*.png"))) == 4
    (work / "other" / "images").mkdir()
    cv2.imwrite("other/images/0.png", frame_of(8, 48, 64))
    assert main([*argv[:3], "other/images", *argv[4:]]) == 2
    assert "sources have the same name (images, images)" in capsys.readouterr().err
    assert main([*argv[:3], "other/images", *argv[4:7]]) == 0, "without pictures nothing is replaced"


@pytest.mark.parametrize("journal", ["/dev/full", "/dev/null", "images", "notes.txt", "torn"])
def test_a_journal_is_a_file_of_its_own(work: Path, capsys: pytest.CaptureFixture[str], journal: str) -> None:
    """A device was read without end, and a text that is no journal lost what follows its last newline."""
    Path("notes.txt").write_bytes(b"first line\nsecond line")
    Path("torn").write_bytes(b'{"format": "lpcnet-edge jou')
    code = main([*framing(), "--journal", journal])
    assert code == (0 if journal == "torn" else 3), "a kill while the first line was written leaves such a file"
    if code:
        error, mend = capsys.readouterr().err.splitlines()
        assert error.startswith(f"error: {journal} is no ")
        assert mend.startswith("mend: name a")
    assert Path("notes.txt").read_bytes() == b"first line\nsecond line"


def test_a_journal_of_a_source_that_cannot_be_resumed_is_refused_at_once(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "engine", "stdin:32x32", "--backend", "onnxruntime", "--journal", "journal"]) == 2
    assert "only image files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--jsonl", "v", "--csv", "./v"], "jsonl and for csv"),
        (["--jsonl", "v", "--journal", "v"], "journal and for jsonl"),
        (["--masks", "m", "--overlays", "m"], "overlays and for masks"),
    ],
)
def test_two_outputs_in_one_place_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str], options: list[str], names: str
) -> None:
    Path("run.yaml").write_text("sinks: {overlay_format: png}\n")
    argv = ["run", "engine", "images", "--backend", "onnxruntime"]
    assert main([*argv, "--config", "run.yaml", *options]) == 2
    assert f"is named for {names}" in capsys.readouterr().err
    if "--masks" in options:
        assert main([*argv, "--framing", "resize", *options]) == 0, "jpg and png have names of their own"
        assert len(os.listdir("m")) == 6


def test_a_sink_that_fails_costs_no_report(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"delivery": {"close_s": 0.1, "flush_s": 0.01}}
    argv = framing()
    Path("run.yaml").write_text(Path("run.yaml").read_text() + dump_yaml({"sinks": settings}))
    assert main([*argv, "--jsonl", "/dev/full", "--json"]) == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["frames"] == 3
    assert found["sinks"]["jsonl /dev/full"]["lost"] == 3
    assert "error: jsonl /dev/full: 3 verdicts were not written" in told.err


def test_verdicts_on_parts_that_find_no_room_do_not_stop_the_line(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_PARTS_S", 0.01)
    Path("run.yaml").write_text("views: [left, right]\n")
    argv = ["run", "engine", "images", "images", "--backend", "onnxruntime", "--live", "--config", "run.yaml"]
    assert main([*argv, "--parts", "/dev/full", "--json"]) == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["frames"], sum(found["parts"].values())) == (6, 3)
    assert "error: /dev/full: 3 verdicts on parts were not written: No space left on device" in told.err
    assert main([*argv, "--parts", "parts.jsonl"]) == 0
    assert len(Path("parts.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("isolate", [(), ("--isolate",)], ids=["here", "isolated"])
def test_memory_of_a_gpu_is_refused_on_the_processor(
    work: Path, capsys: pytest.CaptureFixture[str], isolate: tuple[str, ...]
) -> None:
    assert main([*framing(), "--memory", "mapped", "--jsonl", "v.jsonl", *isolate]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --memory mapped is for a GPU, and onnxruntime computes on the processor")
    assert not Path("v.jsonl").exists()
