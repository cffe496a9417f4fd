"""The engines in a process of their own, killed and stopped during a run: every frame gets one verdict, in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from local_bundle import frame_of
from numpy.typing import NDArray

from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import UsageError
from lpcnet_edge.runtime.pipeline import Result
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import BulkSettings, LiveSettings, RunSettings

MODES = pytest.mark.parametrize("is_live", [False, True], ids=["bulk", "live"])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def children(pid: int) -> list[int]:
    """Processes that this one has started and not yet reaped."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def run(
    bundle: Bundle, is_live: bool, faults: list[Callable[[int], None]], settings: RunSettings
) -> tuple[list[Result], Session]:
    """Run frames with OpenVINO in a child: 20, what is done to the child, frames until the next one works, 20 more."""
    before = set(children(os.getpid()))
    until_s = time.monotonic() + 60

    def frames() -> Iterator[NDArray[np.uint8]]:
        numbers = count()
        for done in range(len(faults) + 1):
            while session.reopened < done:
                assert time.monotonic() < until_s
                time.sleep(0.02)
                yield frame_for(next(numbers))
            for number in islice(numbers, 20):
                time.sleep(0.005 if is_live else 0)
                yield frame_for(number)
            if done < len(faults):
                (child,) = set(children(os.getpid())) - before
                faults[done](child)

    with Session(bundle, [frames()], settings, backend="openvino", live=is_live) as session:
        results = list(session)
    assert [result.item.sequence for result in results] == list(range(len(results)))
    assert session.reopened == len(faults)
    while set(children(os.getpid())) - before:  # one that hangs is closed in the background
        assert time.monotonic() < until_s, "a child is left, maybe a dead one"
        time.sleep(0.01)
    assert not wrong_ones(results[-15:])
    return results, session


def frame_for(number: int) -> NDArray[np.uint8]:
    return frame_of(number, defects=number % 2)


def wrong_ones(results: list[Result]) -> list[Result]:
    """Results that are not what the frames are; the others are passes and rejects as they must be."""
    return [
        result
        for result in results
        if result.verdict.outcome != ("reject" if result.item.sequence % 2 else "pass")
        or bool(result.verdict.defects) != bool(result.item.sequence % 2)
    ]


@MODES
def test_with_nothing_done_to_it_all_is_as_in_this_process(bundle: Bundle, is_live: bool) -> None:
    results, session = run(bundle, is_live, [], RunSettings(isolate=True))
    assert len(results) == 20
    assert not wrong_ones(results)
    assert "in a process of its own" in session.about
    assert {result.verdict.backend for result in results} == {"openvino"}


@pytest.mark.parametrize(("is_live", "number"), [(False, signal.SIGKILL), (True, signal.SIGSEGV)], ids=["bulk", "live"])
def test_a_killed_engine_costs_rejects_at_most_and_a_restart(
    bundle: Bundle, is_live: bool, number: signal.Signals
) -> None:
    def kill(child: int) -> None:
        os.kill(child, number)

    settings = RunSettings(isolate=True, bulk=BulkSettings(tiles=4), live=LiveSettings(reopen_first_s=0.01))
    results, session = run(bundle, is_live, [kill], settings)
    wrong = wrong_ones(results)
    reason = f"engine failed: the engine process was ended by {number.name}"
    assert all(result.verdict.reasons == (reason,) for result in wrong)
    if is_live:  # the line goes on, and is told
        assert wrong
        assert wrong[0].item.sequence >= 17  # two may wait while it is killed, and one be at work
        assert session.pipeline.totals.refused["engine failed"] == len(wrong)
    else:  # it waits, and computes the frames in flight once more
        assert not wrong


@MODES
def test_a_stopped_engine_is_killed_after_its_limit_and_replaced(bundle: Bundle, is_live: bool) -> None:
    def stop(child: int) -> None:
        os.kill(child, signal.SIGSTOP)

    live = LiveSettings(deadline_ms=20_000, hang_s=1.0, reopen_first_s=0.01)  # more than a slow host's pauses
    settings = RunSettings(isolate=True, bulk=BulkSettings(tiles=1), live=live)
    results, _ = run(bundle, is_live, [stop], settings)
    wrong = wrong_ones(results)
    assert bool(wrong) == is_live
    assert all(result.verdict.reasons[0].startswith("engine failed: the ") for result in wrong)


@MODES
def test_an_engine_killed_again_and_again(bundle: Bundle, is_live: bool) -> None:
    def kill(child: int) -> None:
        os.kill(child, signal.SIGKILL)

    files = len(os.listdir("/proc/self/fd"))
    settings = RunSettings(isolate=True, bulk=BulkSettings(tiles=1), live=LiveSettings(reopen_first_s=0.01))
    results, _ = run(bundle, is_live, [kill, kill, kill], settings)
    assert all("was ended by SIGKILL" in result.verdict.reasons[0] for result in wrong_ones(results))
    assert len(os.listdir("/proc/self/fd")) <= files + 4  # slots that the results still hold


def test_a_function_cannot_be_isolated(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="process of its own"):
        Session(bundle, [iter(())], RunSettings(isolate=True), backend=lambda: pytest.fail("opened"))


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(bundle: Bundle, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    blobs = [cv2.imencode(".png", frame_of(n, defects=n % 2))[1].tobytes() for n in range(10)]
    for number in range(1500):
        (tmp_path / "images" / f"{number}.png").write_bytes(blobs[number % 10])
    return tmp_path


def start(bundle: Bundle, work: Path) -> tuple[subprocess.Popen[str], int]:
    """``lpcnet-edge run --isolate`` in a process group of its own, at work, and its child."""
    command = [sys.executable, "-m", "lpcnet_edge.cli", "run", str(bundle.path), "images", "--isolate", "--json"]
    process = subprocess.Popen(
        [*command, "--backend", "openvino", "--jsonl", "v.jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=work,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until_s = time.monotonic() + 60
    while not (work / "v.jsonl").exists() or not (work / "v.jsonl").read_bytes():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.005)
    (child,) = children(process.pid)
    return process, child


def is_gone(pid: int) -> bool:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True  # whoever adopts orphans here may be slow to reap them
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def verdicts(work: Path) -> list[dict[str, object]]:
    with (work / "v.jsonl").open() as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]


def test_ctrl_c_drains_with_the_engine_still_there(bundle: Bundle, work: Path) -> None:
    process, child = start(bundle, work)
    os.killpg(process.pid, signal.SIGINT)
    os.kill(child, signal.SIGTERM)  # and the service manager asks everyone to end
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    report = json.loads(text)
    assert report["stopped"] is True
    assert report["reopened"] == 0
    found = verdicts(work)
    assert [line["frame"] for line in found] == [f"{n}.png" for n in range(report["frames"])]
    assert {(line["verdict"], bool(line["defects"])) for line in found} <= {("pass", False), ("reject", True)}
    assert is_gone(child)


def test_a_killed_engine_of_the_command(bundle: Bundle, work: Path) -> None:
    process, child = start(bundle, work)
    os.kill(child, signal.SIGKILL)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    report = json.loads(text)
    assert report["reopened"] == 1
    assert report["counts"] == {"pass": 750, "reject": 750, "review": 0}
    assert [line["frame"] for line in verdicts(work)] == [f"{n}.png" for n in range(1500)]
    assert "the engine process was ended by SIGKILL" in errors


def test_a_killed_command_takes_its_engine_along(bundle: Bundle, work: Path) -> None:
    process, child = start(bundle, work)
    process.kill()
    process.communicate()
    assert is_gone(child)
