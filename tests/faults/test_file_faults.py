"""Folders, files and disks that fail: every frame taken is one item, and no verdict is lost without a word."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lpcnet_edge.errors import BadInput, SinkFailed
from lpcnet_edge.runtime.running import PartLines, Report
from lpcnet_edge.runtime.sinks import (
    CsvSink,
    DeliverySettings,
    JsonlSink,
    MaskSink,
    Sink,
    SinkRunner,
    Sinks,
    SinkSettings,
    SqliteSink,
    frames_written,
    open_sinks,
)
from lpcnet_edge.runtime.sources import BadFrame, Frame, SourceSettings, open_source
from lpcnet_edge.runtime.sources.base import now_ns
from lpcnet_edge.types import Verdict

NOBODY = 65534
FAST = DeliverySettings(flush_s=0.01, retry_first_s=0.01, retry_largest_s=0.05, close_s=0.2)


def as_nobody(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python without root's right to read and write everything."""
    head = "import os, sys\nfrom pathlib import Path\nfrom lpcnet_edge.errors import LpcnetError\n"
    head += "from lpcnet_edge.runtime.sinks import *\nfrom lpcnet_edge.runtime.sources import *\nimport cv2\n"
    head += f"if os.getuid() == 0:\n    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.fixture
def open_tmp(tmp_path: Path) -> Path:
    """A temporary folder that anyone can reach."""
    folder = tmp_path
    while folder != Path(tempfile.gettempdir()) and folder != folder.parent:  # as many as pytest and xdist made
        folder.chmod(0o755)
        folder = folder.parent
    return tmp_path


def frame(number: int, size: int = 16) -> Frame:
    name = f"{number:04d}.png"
    return Frame(np.full((size, size), number % 256, np.uint8), name, now_ns(), name, "cam", number)


def verdict(number: int) -> Verdict:
    return Verdict(f"{number:04d}.png", "pass", (), (), {"total": 1.0}, "null", "b")


# Sources ------------------------------------------------------------------------------------------------------------


def test_an_unreadable_folder_is_an_error_and_not_an_empty_one(open_tmp: Path) -> None:
    (open_tmp / "set/locked").mkdir(parents=True)
    cv2.imwrite(str(open_tmp / "set/a.png"), np.zeros((4, 4), np.uint8))
    (open_tmp / "set/locked").chmod(0)
    script = """
for recursive, path in ((False, "set/locked"), (True, "set"), (False, "set")):
    try:
        items = list(open_source(Path(sys.argv[1], path), SourceSettings(recursive=recursive), channels=1))
        print([type(item).__name__ for item in items])
    except LpcnetError as exc:
        print(exc.exit_code, exc)
"""
    done = as_nobody(script, open_tmp).stdout.splitlines()
    (open_tmp / "set/locked").chmod(0o755)
    assert done[0].startswith("3 ")
    assert "set/locked: Permission denied" in done[0]
    assert "set/locked: Permission denied" in done[1]
    assert done[2] == "['Frame']"


def test_an_unreadable_file_is_a_bad_frame(open_tmp: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(open_tmp / f"{number}.png"), np.zeros((4, 4), np.uint8))
    (open_tmp / "1.png").chmod(0)
    script = "print([getattr(item, 'reason', '') for item in open_source(Path(sys.argv[1]), channels=1)])"
    assert as_nobody(script, open_tmp).stdout.strip() == f"['', '{open_tmp}/1.png: Permission denied', '']"


def test_a_read_only_working_directory_is_no_hindrance(open_tmp: Path) -> None:
    images, out = open_tmp / "images", open_tmp / "out"
    images.mkdir()
    out.mkdir()
    out.chmod(0o777)
    cv2.imwrite(str(images / "0.png"), np.zeros((4, 4), np.uint8))
    images.chmod(0o555)
    script = """
from lpcnet_edge.types import Verdict
os.chdir(sys.argv[1])
try: open("probe", "w"); sys.exit("the folder can be written to")
except PermissionError: pass
out = Path(sys.argv[2])
files = {"jsonl": "v.jsonl", "csv": "v.csv", "sqlite": "v.db", "masks": "m", "overlays": "o"}
settings = SinkSettings(**{kind: out / name for kind, name in files.items()})
with open_sinks(settings, ("background", "a")) as sinks, open_source(".", channels=1) as source:
    for item in source:
        sinks.write(item, Verdict(item.part_id, "pass"), item.pixels)
for kind in files:
    try: open_sinks(SinkSettings(**{kind: Path("new") / kind}), ())
    except LpcnetError as exc: print(type(exc).__name__, exc.mend)
"""
    done = as_nobody(script, images, out)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["SinkFailed"] * 5
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"v.jsonl", "v.csv", "v.db", "m/0.png.png", "o/0.png.jpg"} <= written


def test_a_folder_of_100_000_files_starts_at_once() -> None:
    image = cv2.imencode(".png", np.full((4, 4), 7, np.uint8))[1].tobytes()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk takes seconds to make so many
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for number in range(100_000):
            os.mknod(f"{folder}/{number}.png")
        for number in (*range(20), 99_999):
            Path(folder, f"{number}.png").write_bytes(image)
        started_s = time.process_time()
        with open_source(folder, SourceSettings(decode_threads=1), channels=1) as source:
            assert source.total == 100_000
            iterator = iter(source)
            names = [next(iterator).name for _ in range(12)]
            spent_s = time.process_time() - started_s
        assert names == [f"{number}.png" for number in range(12)]
        assert spent_s < 3, "of processor time, before the first frames are there"
        done = set(os.listdir(folder)) - {"99999.png"}
        with open_source(folder, channels=1, skip=done) as source:
            assert [(item.name, item.sequence) for item in source] == [("99999.png", 99_999)]


def test_a_link_round_in_a_circle_is_a_bad_frame(tmp_path: Path) -> None:
    """The whole folder was refused for it."""
    (tmp_path / "0.png").symlink_to("0.png")
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4), np.uint8))
    with open_source(tmp_path, channels=1) as source:
        assert [type(item) for item in source] == [BadFrame, Frame]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parts"])
@pytest.mark.parametrize("content", [b"notes\nwithout a newline", b'{\n  "a": 1\n}', b"\x89PNG\r\n\x1a\n\0\0"])
def test_an_output_that_is_another_file_is_left_as_it_is(tmp_path: Path, kind: str, content: bytes) -> None:
    """What follows its last newline was cut off."""
    path = tmp_path / "named by mistake"
    path.write_bytes(content)
    with pytest.raises(SinkFailed, match=r"mistake (holds something else|has other columns)"):
        PartLines(path, Report()) if kind == "parts" else open_sinks(SinkSettings(**{kind: path}), ("none",))
    assert path.read_bytes() == content


def test_a_folder_that_goes_while_it_is_read(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(30):
        cv2.imwrite(str(images / f"{number}.png"), np.zeros((4, 4), np.uint8))
    with open_source(images, channels=1) as source:
        iterator = iter(source)
        items = [next(iterator)]
        images.rename(tmp_path / "moved")
        items += iterator
    assert [item.sequence for item in items] == list(range(30))
    assert isinstance(items[0], Frame)
    assert isinstance(items[-1], BadFrame)
    with pytest.raises(BadInput, match="there is no"):
        open_source(images, channels=1)


# Sinks --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", disk]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root; the tests on file size and /dev/full run without")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    assert os.statvfs(disk).f_bfree == 0


def sequences(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


def rows(path: Path) -> list[int]:
    with sqlite3.connect(path) as database:
        found = [number for (number,) in database.execute("SELECT sequence FROM verdicts ORDER BY id")]
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return found


@pytest.mark.parametrize("kind", ["jsonl", "csv", "sqlite", "masks"])
def test_a_disk_that_is_full_for_a_while_loses_nothing(small_disk: Path, kind: str) -> None:
    path = small_disk / kind
    makers = {"jsonl": JsonlSink, "csv": CsvSink, "sqlite": SqliteSink, "masks": MaskSink}
    sink: Sink = makers[kind](path)
    told: list[str] = []
    runner = SinkRunner(sink, FAST, on_written=told.extend)
    for number in range(20):
        runner.write(frame(number), verdict(number), frame(number).pixels)
    assert runner.flush(10)
    fill(small_disk)
    for number in range(20, 60):
        runner.write(frame(number), verdict(number), frame(number).pixels)
    assert not runner.flush(10)  # the block that was begun may take some, not all
    assert "No space" in runner.failure or "full" in runner.failure
    before = len(told)
    assert before < 60
    (small_disk / "ballast").unlink()
    for number in range(60, 70):
        runner.write(frame(number), verdict(number), frame(number).pixels)
    assert runner.flush(10)
    runner.close()
    assert told == [f"{number:04d}.png" for number in range(70)]
    if kind == "jsonl":
        assert sequences(path) == list(range(70))
    elif kind == "csv":
        assert len(path.read_text().splitlines()) == 71
    elif kind == "sqlite":
        assert rows(path) == list(range(70))
    else:
        masks = sorted(path.iterdir())
        assert [mask.name for mask in masks] == [f"{number:04d}.png.png" for number in range(70)]
        for number, mask in enumerate(masks):
            assert (cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) == number).all()


def test_a_disk_that_stays_full_spills_and_the_end_says_so(small_disk: Path, tmp_path: Path) -> None:
    spill = tmp_path / "other-disk"
    rule = DeliverySettings(flush_s=0.01, retry_first_s=0.01, retry_largest_s=0.05, close_s=0.1, spill=spill)
    sinks = Sinks([JsonlSink(small_disk / "v.jsonl"), SqliteSink(small_disk / "v.db")], rule)
    for number in range(10):
        sinks.write(frame(number), verdict(number))
    assert sinks.flush(10)
    fill(small_disk)
    for number in range(10, 200):
        sinks.write(frame(number), verdict(number))
    with pytest.raises(SinkFailed, match="spill") as caught:
        sinks.close()
    assert caught.value.mend
    written = sequences(small_disk / "v.jsonl")
    assert written + sequences(spill / "jsonl.spill.jsonl") == list(range(200))
    (small_disk / "ballast").unlink()  # SQLite needs room even to be read
    assert rows(small_disk / "v.db") + sequences(spill / "sqlite.spill.jsonl") == list(range(200))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from lpcnet_edge.errors import SinkFailed
from lpcnet_edge.runtime.sinks import *
from lpcnet_edge.runtime.sources import Frame
from lpcnet_edge.types import Verdict
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
runner = SinkRunner(JsonlSink(Path(sys.argv[1])), DeliverySettings(flush_s=0.01, close_s=0.05, queue_records=7))
for number in range(60):
    name = f"{number}.png"
    runner.write(Frame(np.zeros((2, 2), np.uint8), name, 0, name, "cam", number), Verdict(name, "pass"))
try: runner.close()
except SinkFailed as exc: print(exc)
print(dict(runner.counters()))
"""


def test_a_file_that_may_not_grow_holds_whole_lines_and_the_rest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    written = sequences(path)
    assert 3 <= len(written) < 60
    assert written == list(range(len(written)))
    assert f"{60 - len(written)} verdicts were not written, from {len(written)}.png to 59.png" in done[0]
    assert "File too large" in done[0]
    assert f"'written': {len(written)}" in done[1]


def test_dev_full(tmp_path: Path) -> None:
    runner = SinkRunner(JsonlSink(Path("/dev/full")), FAST)
    good = SinkRunner(JsonlSink(tmp_path / "v.jsonl"), FAST)
    for number in range(500):
        runner.write(frame(number), verdict(number))
        good.write(frame(number), verdict(number))
    good.close()
    assert sequences(tmp_path / "v.jsonl") == list(range(500))
    with pytest.raises(SinkFailed, match=r"500 verdicts were not written, from 0000.png to 0499.png.*No space"):
        runner.close()


WRITER = """
import os, sys
from pathlib import Path
from lpcnet_edge.runtime.sinks import *
from lpcnet_edge.runtime.sources import Frame
from lpcnet_edge.types import Verdict
import numpy as np
sinks = [JsonlSink(Path(sys.argv[1])), SqliteSink(Path(sys.argv[2]))]
rule = DeliverySettings(flush_s=0, queue_records=5)
def tell(number, names):
    os.write(1, " ".join([str(number), *names, "\\n"]).encode())  # one call, so that lines do not mix
runners = [SinkRunner(s, rule, on_written=lambda names, n=i: tell(n, names)) for i, s in enumerate(sinks)]
for number in range(10**9):
    name = f"{number}.png"
    for runner in runners:
        runner.write(Frame(np.zeros((2, 2), np.uint8), name, 0, name, "cam", number), Verdict(name, "pass"))
"""


def test_what_was_called_written_survives_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, tmp_path / "v.jsonl", tmp_path / "v.db"]
    told: list[list[str]] = [[], []]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while len(told[0]) < 50 or len(told[1]) < 50:
                which, *names = process.stdout.readline().split()
                told[int(which)] += names
        finally:
            process.kill()
        for line in process.stdout:
            if line.endswith("\n"):
                told[int(line.split()[0])] += line.split()[1:]
    in_jsonl = frames_written(tmp_path / "v.jsonl")
    JsonlSink(tmp_path / "v.jsonl").close()  # cuts off a torn line
    assert sequences(tmp_path / "v.jsonl") == list(range(len(in_jsonl)))
    assert set(told[0]) <= in_jsonl
    kept = rows(tmp_path / "v.db")
    assert kept == list(range(len(kept)))
    assert len(told[1]) <= len(kept)


def test_a_database_locked_by_a_reader_of_long_breath_is_tried_again(tmp_path: Path) -> None:
    runner = SinkRunner(SqliteSink(tmp_path / "v.db"), FAST)
    other = sqlite3.connect(tmp_path / "v.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(20):
        runner.write(frame(number), verdict(number))
    assert not runner.flush(10)
    assert "locked" in runner.failure
    other.execute("COMMIT")
    other.close()
    assert runner.flush(10)
    runner.close()
    assert rows(tmp_path / "v.db") == list(range(20))


def test_one_sink_that_fails_does_not_touch_the_others(tmp_path: Path) -> None:
    settings = SinkSettings(jsonl=tmp_path / "v.jsonl", masks=tmp_path / "masks", delivery=FAST)
    sinks = open_sinks(settings, ("background", "a"), extra=[JsonlSink(Path("/dev/full"))])
    (tmp_path / "masks").rmdir()
    (tmp_path / "masks").touch()  # a file where the folder was
    for number in range(200):
        sinks.write(frame(number), verdict(number), frame(number).pixels)
    with pytest.raises(SinkFailed, match=r"masks .*200 verdicts.*; jsonl /dev/full: 200 verdicts"):
        sinks.close()
    assert sequences(tmp_path / "v.jsonl") == list(range(200))
