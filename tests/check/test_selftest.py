"""The self-test of a real bundle: it passes where it should, and says what drifted and where."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spoiled import rewritten, wrong_weights

from lpcnet_edge.backends import choice
from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.backends.choice import Wishes, open_backend
from lpcnet_edge.build.golden import GOLDEN_FILE
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check import selftest
from lpcnet_edge.check.selftest import TOLERANCES, read_golden, run_selftest
from lpcnet_edge.cli import main
from lpcnet_edge.errors import BadBundle, UsageError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))


def with_golden(bundle: Bundle, out: Path, **changes: Any) -> Bundle:
    """The bundle with other golden arrays; None leaves one out."""
    golden = {**read_golden(bundle), **changes}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array for name, array in golden.items() if array is not None})
    return rewritten(bundle, out, {GOLDEN_FILE: buffer.getvalue()})


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "canonical"])
def test_a_sound_bundle_passes_on_every_backend(good: Bundle, capsys: pytest.CaptureFixture[str], backend: str) -> None:
    assert main(["selftest", str(good.path), "--backend", backend, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["drifts"] == []
    assert found["tiles"] == 6
    assert found["bundle"] == good.id
    assert backend in found["backend"]
    for key, value in found["largest"].items():
        assert value <= found["tolerance"][key]
    if backend == "canonical":
        assert found["largest"]["classes"] == 0


class WrongTogether:
    """A GPU's backend whose kernels for more than one tile at once compute something else."""

    name, about = "torch-cuda", "torch-cuda on a card"

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, slot: Slot, count: int) -> None:
        self._count = count
        self._inner.submit(slot, count)

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        done = self._inner.collect(slot, timeout_s)
        slot.score[:] += 0.5 * (self._count > 1)
        return done


@pytest.mark.parametrize("wrong", [False, True])
def test_a_gpus_plans_are_tested_with_more_than_one_tile_at_once(
    good: Bundle, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    opened = open_backend(good, "onnxruntime")
    gpu = WrongTogether(opened)
    if not wrong:
        monkeypatch.setattr(WrongTogether, "collect", lambda self, *args: self._inner.collect(*args))
    monkeypatch.setattr(selftest, "check_backend", lambda *_, **__: gpu)
    found = run_selftest(good, "torch-cuda")
    assert found.backend == "torch-cuda on a card, 6 tiles at once"
    assert {drift.output for drift in found.drifts} == ({"score"} if wrong else set())


@pytest.mark.parametrize("name", ["tensorrt", "auto"])
def test_on_a_gpu_the_tiles_go_through_in_a_stations_batches(
    good: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Bounded to batches of one, as on a processor, six tiles at once would be six times one."""
    asked: list[Wishes] = []

    def opening(bundle: Bundle, wishes: Wishes) -> Backend:
        asked.append(wishes)
        return open_backend(bundle, "onnxruntime")

    monkeypatch.setitem(choice.BACKENDS, "tensorrt", opening)
    monkeypatch.setitem(choice.GPU_AUTO, "tensorrt", lambda *_: True)
    run_selftest(good, name)
    assert [wishes.tuning for wishes in asked] == [None]


def test_a_drifted_bundle_fails_and_says_where(
    good: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spoiled = wrong_weights(good, tmp_path / "spoiled")
    assert main(["selftest", str(spoiled.path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    for part in (f"error: {spoiled.id} has drifted on openvino", "golden tile", "at x ", "of 6 golden tiles", "mend: "):
        assert part in err
    assert main(["selftest", str(spoiled.path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"]
    assert {drift["output"] for drift in found["drifts"]} >= {"classes"}


@pytest.mark.parametrize("output", ["score", "classes", "confidence"])
def test_each_output_is_compared_on_each_tile(good: Bundle, tmp_path: Path, output: str) -> None:
    recorded = read_golden(good)[output].copy()
    if output == "score":
        recorded[3] += 2 * TOLERANCES["int8"].score
    elif output == "classes":
        recorded[3, 10:20, 30:40] = (recorded[3, 10:20, 30:40] + 1) % len(good.manifest.classes)
    else:
        recorded[3, 10:30, 30:50] ^= 0x80
    found = run_selftest(with_golden(good, tmp_path / output, **{output: recorded}), "onnxruntime")
    assert [(drift.tile, drift.output) for drift in found.drifts] == [(3, output)]
    error = found.error()
    assert error is not None
    assert "golden tile 3" in error.message
    if output == "classes":
        x, y = (int(error.message.split(f" {axis} ")[1].split(",")[0].split(" ")[0]) for axis in "xy")
        assert (30 <= x < 40, 10 <= y < 20) == (True, True)


def test_a_score_that_is_no_number_is_a_drift(good: Bundle, tmp_path: Path) -> None:
    recorded = read_golden(good)["score"].copy()
    recorded[0] = np.nan
    found = run_selftest(with_golden(good, tmp_path / "nan", score=recorded), "onnxruntime")
    assert [(drift.tile, drift.output) for drift in found.drifts] == [(0, "score")]


def test_a_bundle_without_usable_golden_tiles(good: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="has no golden tiles"):
        run_selftest(rewritten(good, tmp_path / "none", without=("golden/",)))
    with pytest.raises(BadBundle, match="cannot be used"):
        run_selftest(with_golden(good, tmp_path / "short", score=None))
    with pytest.raises(BadBundle, match="has the shape"):
        run_selftest(with_golden(good, tmp_path / "shape", score=np.zeros(2, np.float32)))
    with pytest.raises(BadBundle, match="cannot be used"):
        run_selftest(rewritten(good, tmp_path / "junk", {GOLDEN_FILE: b"not a zip"}))
    with pytest.raises(UsageError, match="'null'"):
        run_selftest(good, "null")


def test_damaged_golden_tiles_are_refused(good: Bundle, tmp_path: Path) -> None:
    """A zip file without its directory, one whose data do not inflate, and numbers of another type."""
    whole = good.read(GOLDEN_FILE)
    flipped = bytearray(whole)
    flipped[200:260] = bytes(byte ^ 0xFF for byte in flipped[200:260])
    for name, data in (("cut", whole[:-100]), ("flipped", bytes(flipped))):
        with pytest.raises(BadBundle, match="cannot be used"):
            run_selftest(rewritten(good, tmp_path / name, {GOLDEN_FILE: data}))
    with pytest.raises(BadBundle, match=r"'classes' in .* is of <U1"):
        run_selftest(with_golden(good, tmp_path / "text", classes=read_golden(good)["classes"].astype("<U1")))


def test_pickled_golden_tiles_are_refused(good: Bundle, tmp_path: Path) -> None:
    hostile = np.array([print], dtype=object)
    with pytest.raises(BadBundle, match="cannot be used"):
        run_selftest(with_golden(good, tmp_path / "hostile", score=hostile))


def test_it_takes_two_seconds_of_a_core_at_most(good: Bundle) -> None:
    """From the command to its answer, as at every shift start but a machine's first."""
    command = [sys.executable, "-m", "lpcnet_edge.cli", "selftest", str(good.path), "--backend", "openvino"]
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "computes what was recorded: 6 golden tiles" in done.stdout
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert seconds[1] < 2.0
