"""``lpcnet-edge run`` on a folder of 100,000 files: every one decided once, in order, in memory that does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from local_bundle import frame_of, write_local

FILES = 100_000
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def folder() -> Iterator[Path]:
    """Twenty small images under so many names, every second one with a defect."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk takes long to make so many
    with tempfile.TemporaryDirectory(dir=memory) as path:
        root = Path(path)
        (root / "kinds").mkdir()
        (root / "images").mkdir()
        for kind in range(20):
            cv2.imwrite(str(root / "kinds" / f"{kind}.png"), frame_of(kind, defects=kind % 2))
        for number in range(FILES):  # a file of its own every 10,000: file systems limit names of one file
            kind = root / "kinds" / f"{number % 20}.png"
            if number % 10_000 < 20:
                blob = kind.read_bytes()
                kind.unlink()
                kind.write_bytes(blob)
            os.link(kind, root / "images" / f"{number}.png")
        yield root / "images"


@pytest.mark.soak
def test_a_run_on_100_000_files(folder: Path, tmp_path: Path) -> None:
    bundle = write_local(tmp_path / "bundle")
    lines, journal = tmp_path / "v.jsonl", tmp_path / "journal"
    command = [sys.executable, "-m", "lpcnet_edge.cli", "run", str(bundle.path), str(folder), "--json"]
    process = subprocess.Popen(
        [*command, "--backend", "onnxruntime", "--jsonl", str(lines), "--journal", str(journal)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LPCNET_EDGE_CACHE": str(tmp_path / "cache")},
    )
    # (bytes of verdicts so far, resident MB, threads, files)
    seen: list[tuple[int, float, int, int]] = []
    own = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            pages = int((own / "statm").read_text().split()[1])
            threads, files = len(os.listdir(own / "task")), len(os.listdir(own / "fd"))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        seen.append((lines.stat().st_size if lines.exists() else 0, pages * PAGE_MB, threads, files))
        time.sleep(0.1)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    report = json.loads(text)
    assert report["counts"] == {"pass": FILES // 2, "reject": FILES // 2, "review": 0}
    with lines.open() as stream:
        for number, line in enumerate(stream):
            assert json.loads(line)["frame"] == f"{number}.png"
    assert number == FILES - 1
    # From a tenth of the verdicts on; the journal holds the names of all that are done, 100 bytes or so each.
    total = lines.stat().st_size
    steady = [row for row in seen if 0.1 * total < row[0] < 0.97 * total]
    assert len(steady) > 20
    first, last = steady[0], steady[-1]
    assert last[1] - first[1] < 0.02 * first[1] + 0.15e-3 * FILES, f"{first[1]:.0f} to {last[1]:.0f} MB"
    assert max(row[2] for row in steady) <= first[2] + 1
    assert max(row[3] for row in steady) <= first[3] + 2
