"""A write that is killed at any moment leaves the old bundle or the new, and the next write clears up behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_making import tiny_files, write_tiny

from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.bundle.write import write_bundle

# Forks a writer for each moment: before its n-th change to the file system that a Python audit hook sees, which says
# what a killed process leaves. Flushing to disk is for lost power, and is left out here. Prints what each left behind.
KILLER = """
import json, os, pathlib, shutil, signal, sys
sys.path.insert(0, sys.argv[1])
import onnx, cryptography.hazmat.primitives.asymmetric.ed25519
import lpcnet_edge.bundle.model, lpcnet_edge.bundle.sign
from bundle_making import tiny_files, tiny_manifest
from lpcnet_edge.bundle import write
from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.errors import NotABundle

out, exchange, old = pathlib.Path(sys.argv[2]), sys.argv[3] == "exchange", int(sys.argv[4])
names = ("localization.onnx", "confidence.onnx", "accuracy.json")
first = {name: tiny_files()[name] for name in names}
second = {**first, "accuracy.json": b"{}"}
os.fsync = lambda _: None
CHANGES = ("os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "ctypes.dlsym")
if not exchange:
    write._exchange = lambda *_: False
ids = [write.write_bundle(out.parent / f"{which}-aside", tiny_manifest(), files).id
       for which, files in (("first", first), ("second", second))]
for moment in range(1, 1000):
    if old:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(out.parent / "first-aside", out)
    child = os.fork()
    if not child:
        count = 0
        def hook(event, args):
            global count
            if event in CHANGES or (event == "open" and args[2] & os.O_CREAT):
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write.write_bundle(out, tiny_manifest(), second)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    try:
        left = ("old", "new")[ids.index(open_bundle(out).id)]
    except NotABundle as exc:
        left = "moved aside" if exc.mend.startswith("mv ") else "none"
    beside = sorted(p.name for p in out.parent.iterdir() if p != out and not p.name.endswith("-aside"))
    if left == "moved aside":
        write._recover(out)
        assert open_bundle(out).id == ids[0]
    print(json.dumps([left, len(beside)]))
    assert write.write_bundle(out, tiny_manifest(), second).id == ids[1]
    assert sorted(p.name for p in out.parent.iterdir()) == sorted([out.name, "first-aside", "second-aside"])
    if os.WIFEXITED(status):
        break
    if not old:
        shutil.rmtree(out)
"""


@pytest.mark.parametrize(
    ("way", "old", "left"),
    [("exchange", 1, {"old", "new"}), ("aside", 1, {"old", "moved aside", "new"}), ("exchange", 0, {"none", "new"})],
)
def test_killed_at_every_moment(way: str, old: int, left: set[str], tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLER, str(Path(__file__).parent), str(tmp_path / "out"), way, str(old)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    moments = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(moments) > 10
    assert {state for state, _ in moments} == left
    assert moments[-1] == ["new", 0]
    assert any(beside for _, beside in moments), "no moment was inside the write"


def test_two_writers_take_turns(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from bundle_making import write_tiny\n"
        "for _ in range(4): write_tiny(Path(sys.argv[2]))"
    )
    argv = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "out")]
    writers = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(writer.communicate(timeout=60)[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    open_bundle(tmp_path / "out")


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    names = [".out.short.old", ".out.abcdefgh.tmp", ".other.abcdefgh.old", ".out.x.abcdefgh.old"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.abcdefgh.writing").mkdir()
    (tmp_path / ".out.abcdefgi.old").symlink_to(tmp_path)
    write_tiny(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "out", ".out.abcdefgi.old"])


def test_a_bundle_that_was_moved_aside_comes_back_before_it_is_replaced(tmp_path: Path) -> None:
    held = write_tiny(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.abcdefgh.old")
    with pytest.raises(OSError, match="absent"):
        write_bundle(tmp_path / "out", held.manifest, {**tiny_files(), "golden/x": tmp_path / "absent"})
    assert open_bundle(tmp_path / "out").id == held.id
