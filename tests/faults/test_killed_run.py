"""``lpcnet-edge run`` as a process: stopped in an orderly way, killed, and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from local_bundle import frame_of, write_local

IMAGES = 1500


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and a folder of small images, one of them unreadable."""
    root = tmp_path_factory.mktemp("run")
    write_local(root / "bundle")
    (root / "images").mkdir()
    blobs = [cv2.imencode(".png", frame_of(n, defects=n % 2))[1].tobytes() for n in range(20)]
    for number in range(IMAGES):
        (root / "images" / f"{number}.png").write_bytes(blobs[number % 20])
    (root / "images" / "17.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def many(work: Path) -> int:
    """More images than any host gets through before it hears of a signal: in ``many``, the same ones by other names."""
    (work / "many").mkdir()
    for number in range(count := 20 * IMAGES):
        os.link(work / "images" / f"{number % 10}.png", work / "many" / f"{number}.png")
    return count


def start(work: Path, out: Path, *options: str, images: str = "images") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lpcnet_edge.cli", "run", str(work / "bundle"), str(work / images)]
    outputs = ["--jsonl", f"{out}/v.jsonl", "--csv", f"{out}/v.csv", "--sqlite", f"{out}/v.db"]
    environment = {**os.environ, "LPCNET_EDGE_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--backend", "onnxruntime", "--json", *outputs, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd="/",  # where nobody but root may write
    )


def wait_for_lines(process: subprocess.Popen[str], path: Path, lines: int) -> None:
    until_s = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.005)


def frames_of(out: Path) -> dict[str, list[str]]:
    """Frames by output, in order."""
    with (out / "v.jsonl").open() as lines:
        jsonl = [json.loads(line)["frame"] for line in lines]
    with (out / "v.csv").open(newline="") as lines:
        table = [row["frame"] for row in csv.DictReader(lines)]
    with sqlite3.connect(out / "v.db") as connection:
        rows = [row[0] for row in connection.execute("SELECT frame FROM verdicts ORDER BY id")]
    connection.close()
    return {"jsonl": jsonl, "csv": table, "sqlite": rows}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_drains_and_ends_well(work: Path, many: int, tmp_path: Path, number: signal.Signals) -> None:
    process = start(work, tmp_path, images="many")
    wait_for_lines(process, tmp_path / "v.jsonl", 50)
    process.send_signal(number)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    report = json.loads(text)
    assert report["stopped"] is True
    found = frames_of(tmp_path)
    assert 50 <= len(found["jsonl"]) == report["frames"] < many
    for frames in found.values():
        assert frames == [f"{n}.png" for n in range(report["frames"])]


def test_a_killed_run_is_gone_on_with_and_has_every_image_once(work: Path, tmp_path: Path) -> None:
    options = ("--journal", str(tmp_path / "journal"))
    (tmp_path / "v.jsonl").write_text('{"frame": "5.png", "of": "another day"}\n')
    for lines in (100, 600):
        process = start(work, tmp_path, *options)
        wait_for_lines(process, tmp_path / "v.jsonl", lines)
        wait_for_lines(process, tmp_path / "journal", 1 + (lines > 100))  # the second time with frames entered
        process.kill()
        process.communicate()
    process = start(work, tmp_path, *options)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    report = json.loads(text)
    assert report["resumed"] + report["frames"] == IMAGES
    assert report["resumed"] > 0
    found = frames_of(tmp_path)
    assert found["jsonl"].pop(0) == "5.png"
    for frames in found.values():
        assert sorted(frames) == sorted(f"{n}.png" for n in range(IMAGES))
    again = start(work, tmp_path, *options, "--gate", "off")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 3
    assert "journal of a run with gate 'auto', this one has 'off'" in errors
