"""``lpcnet-edge run`` as a process whose outputs find no room: others are whole, and the end says what is missing."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
from local_bundle import frame_of, write_local

IMAGES = 300


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a folder of small images, and settings that give up soon."""
    root = tmp_path_factory.mktemp("run")
    write_local(root / "bundle")
    (root / "images").mkdir()
    blobs = [cv2.imencode(".png", frame_of(n, defects=n % 2))[1].tobytes() for n in range(10)]
    for number in range(IMAGES):
        (root / "images" / f"{number}.png").write_bytes(blobs[number % 10])
    delivery = "{flush_s: 0.02, retry_first_s: 0.02, retry_largest_s: 0.1, close_s: 0.3, spill: %s}"
    (root / "keep.yaml").write_text(f"sinks: {{delivery: {delivery % (root / 'spill')}}}\n")
    (root / "lose.yaml").write_text(f"sinks: {{delivery: {delivery % 'null'}}}\n")
    return root


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, which the verdicts on the images overfill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", disk]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root; the tests on file size and /dev/full run without")
    yield disk
    subprocess.run(["umount", disk], check=True)


def run(work: Path, config: str, jsonl: Path, out: Path, limit: Callable[[], None] | None = None) -> tuple[int, str]:
    """The exit code and what is said of errors, with a CSV beside the JSONL that is whole in any case."""
    command = [sys.executable, "-m", "lpcnet_edge.cli", "run", "bundle", "images", "--backend", "onnxruntime", "--json"]
    done = subprocess.run(
        [*command, "--config", config, "--jsonl", str(jsonl), "--csv", str(out / "v.csv")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=work,
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with (out / "v.csv").open(newline="") as lines:
        assert [row["frame"] for row in csv.DictReader(lines)] == [f"{number}.png" for number in range(IMAGES)]
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def frames_in(path: Path) -> list[str]:
    """Of whole lines; a torn one would be no JSON."""
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def test_a_device_that_is_always_full(work: Path, tmp_path: Path) -> None:
    code, errors = run(work, "lose.yaml", Path("/dev/full"), tmp_path)
    assert code == 1
    assert f"error: jsonl /dev/full: {IMAGES} verdicts were not written, from 0.png to {IMAGES - 1}.png" in errors
    assert "No space left on device" in errors
    assert "mend: " in errors


def test_a_file_that_may_not_grow(work: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    code, errors = run(work, "lose.yaml", tmp_path / "v.jsonl", tmp_path, limit)
    written = frames_in(tmp_path / "v.jsonl")
    assert code == 1
    assert 10 < len(written) < IMAGES
    assert written == [f"{number}.png" for number in range(len(written))]
    missing = f"{IMAGES - len(written)} verdicts were not written, from {len(written)}.png to {IMAGES - 1}.png"
    assert missing in errors
    assert "File too large" in errors


def test_a_disk_that_fills_up_spills_to_another(work: Path, tmp_path: Path, tiny_disk: Path) -> None:
    code, errors = run(work, "keep.yaml", tiny_disk / "v.jsonl", tmp_path)
    written, spilt = frames_in(tiny_disk / "v.jsonl"), frames_in(work / "spill" / "jsonl.spill.jsonl")
    assert code == 1
    assert len(written) > 10
    assert spilt, "the disk was large enough"
    assert written + spilt == [f"{number}.png" for number in range(IMAGES)]
    assert f"{work / 'spill'}" in errors
