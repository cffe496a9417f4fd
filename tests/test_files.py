"""Atomic writes: the old content or the new, and nothing left beside it."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import pytest

from lpcnet_edge.files import finite, write_atomically


def test_replaces_and_makes_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    write_atomically(target, "first")
    write_atomically(target, b"second")
    assert target.read_text() == "second"
    assert [p.name for p in target.parent.iterdir()] == ["b.txt"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "b.txt"
    write_atomically(target, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_as_long_a_name_as_a_file_may_have(tmp_path: Path) -> None:
    """The temporary file beside it had a longer one."""
    for target in (tmp_path / ("a" * 251 + ".txt"), tmp_path / ("\u6f22" * 83 + ".txt")):
        write_atomically(target, "text")
        assert target.read_text() == "text"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """A rename would have put a file in the place of a pipe, or of /dev/full."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "text")
        assert os.read(reading, 10) == b"text"
    finally:
        os.close(reading)
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="No space left"):
        write_atomically(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no shared memory to write files to")
def test_files_in_shared_memory_are_files() -> None:
    """It lies below /dev and is a file system as any other: a cache or a run's folder may well be there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        target = Path(folder) / "run" / "checkpoint"
        write_atomically(target, "first")
        write_atomically(target, "second")
        assert target.read_text() == "second"


@pytest.mark.parametrize("name", ["folder", "file/below"])
def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises((IsADirectoryError, NotADirectoryError, FileExistsError)) as caught:
        write_atomically(tmp_path / name, "text")
    assert caught.value.filename == str(tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "b.txt", tmp_path / "a.txt"
    link.symlink_to(target)
    for text in ("first", "second"):  # to begin with it leads nowhere
        write_atomically(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert [p.name for p in target.parent.iterdir()] == ["b.txt"]


def test_a_name_that_is_no_utf8_costs_no_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_atomically(tmp_path / "page", f"<p>{name}\u00e9</p>")
    assert (tmp_path / "page").read_text("utf-8") == "<p>caf\\udce9\u00e9</p>"
    assert finite({name: [name, "\u00e9", math.nan, 1]}) == {"caf\\xe9": ["caf\\xe9", "\u00e9", None, 1]}
