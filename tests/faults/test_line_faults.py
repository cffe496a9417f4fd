"""What a line does to a run that goes on for a year: stops, clocks, counters that go round, hung disks."""

from __future__ import annotations

import errno
import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from local_bundle import frame_of, onnxruntime_of
from numpy.typing import NDArray

import lpcnet_edge
from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BadInput, SinkFailed
from lpcnet_edge.runtime.framing import Framing, check_mask
from lpcnet_edge.runtime.inbox import Inbox
from lpcnet_edge.runtime.journal import Journal
from lpcnet_edge.runtime.parts import PartJoiner
from lpcnet_edge.runtime.running import SHOWN, Report, run_session
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sinks import (
    CallbackSink,
    DeliverySettings,
    Sink,
    SinkRunner,
    Sinks,
    SinkSettings,
    open_sinks,
    record_line,
)
from lpcnet_edge.runtime.sinks.appendfile import AppendFile
from lpcnet_edge.runtime.sources import BadFrame, Frame, SourceSettings, open_source
from lpcnet_edge.runtime.sources.base import LiveSource, Raw
from lpcnet_edge.runtime.sources.video import StreamSource, VideoSource
from lpcnet_edge.runtime.tile_plan import plan_tiles
from lpcnet_edge.types import ClassMap, PartVerdict, Verdict


@pytest.fixture(scope="module")
def opener(bundle: Bundle) -> Callable[[], Backend]:
    return partial(onnxruntime_of, bundle)


def grey(number: int = 0) -> Frame:
    return Frame(np.zeros((32, 32), np.uint8), "p", time.monotonic_ns(), str(number), "s", number)


class Line(LiveSource):
    """A camera of 200 frames a second."""

    taken = 0

    def _connect(self) -> None: ...

    def _disconnect(self) -> None: ...

    def _grab(self) -> Iterator[Raw]:
        while not self._stopped.wait(0.005):
            self.taken += 1
            yield "", np.zeros((32, 32), np.uint8), time.monotonic_ns()


def test_a_stop_loses_no_frame_that_the_camera_has_given(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    camera = Line("line", 1, SourceSettings(queue_frames=8), None)
    sequences = []
    with Session(bundle, [camera], RunSettings(), backend=opener) as session:
        for result in session:
            sequences.append(result.item.sequence)
            if len(sequences) == 3:
                while not camera.counters()["overruns"]:  # a slow sink: the camera's own queue fills
                    time.sleep(0.005)
                session.stop()
    assert camera.taken > 8
    assert sequences == list(range(camera.taken))


@pytest.mark.parametrize("live", [False, True])
def test_a_stop_loses_no_item_that_the_iterable_has_given(
    bundle: Bundle, opener: Callable[[], Backend], live: bool
) -> None:
    given = 0

    def items() -> Iterator[NDArray[np.uint8]]:
        nonlocal given
        for number in range(1000):
            time.sleep(0.01)
            given += 1
            yield frame_of(number)

    with Session(bundle, [items()], RunSettings(), backend=opener, live=live) as session:
        results = iter(session)
        next(results)
        session.stop()
        count = 1 + sum(1 for _ in results)
    assert count == given < 1000


def test_a_source_that_leaves_by_sys_exit_does_not_end_in_silence(bundle: Bundle) -> None:
    def items() -> Iterator[NDArray[np.uint8]]:
        yield frame_of(0)
        sys.exit(3)

    verdicts = lpcnet_edge.inspect(bundle.path, items(), backend="onnxruntime")
    assert next(verdicts).outcome == "pass"
    with pytest.raises(SystemExit):
        next(verdicts)


def test_a_plc_that_does_not_answer_costs_its_frame_only() -> None:
    def part_of(name: str, sequence: int) -> str:
        if sequence == 1:
            raise TimeoutError("the PLC is silent")
        return f"part {sequence}"

    with open_source([np.zeros((4, 4), np.uint8)] * 3, channels=1, part_id=part_of) as source:
        first, second, third = source
    assert (first.part_id, third.part_id) == ("part 0", "part 2")
    assert isinstance(second, BadFrame)
    assert second.reason == "its part is not known: TimeoutError: the PLC is silent"
    assert second.part_id == second.name


def test_a_counter_of_parts_that_goes_round_is_no_late_view() -> None:
    joiner, outcomes = PartJoiner(["top", "side"], timeout_ms=100), Counter[str]()
    for number in range(1000):
        for view in ("top", "side"):
            now_ns = number * 50_000_000
            outcomes.update(part.outcome for part in joiner.add(view, Verdict(str(number % 256), "pass"), now_ns))
    assert outcomes == {"pass": 1000}


def test_a_view_given_twice_passes_no_part_alone() -> None:
    joiner = PartJoiner(["top", "side"], timeout_ms=100)
    for view in ("top", "side", "top"):
        decided = joiner.add(view, Verdict("a", "pass"), 0)
    assert decided == []
    (again,) = joiner.due(101_000_000)
    assert (again.outcome, again.reasons) == ("reject", ("side: the view is missing",))


def test_a_camera_that_ends_with_an_error_leaves_no_part_undecided(
    bundle: Bundle, opener: Callable[[], Backend]
) -> None:
    """The verdicts on parts that waited for its views were never given."""

    def views(name: str, count: int) -> Iterator[Frame]:
        for number in range(count):
            pixels = np.zeros((32, 32), np.uint8)
            yield Frame(pixels, f"part {number}", time.monotonic_ns(), f"{name}/{number}", name, number)
        if count < 2:
            raise BadInput("the camera is gone")

    parts: list[PartVerdict] = []
    settings = RunSettings(views=("left", "right"), view_timeout_ms=600_000)
    sources = [views("left", 2), views("right", 1)]
    with Session(bundle, sources, settings, backend=opener, live=True, on_part=parts.append) as session:
        results = iter(session)
        with pytest.raises(BadInput, match="camera is gone"):
            list(results)
    assert {part.part_id: part.outcome for part in parts} == {"part 0": "pass", "part 1": "reject"}


def test_a_view_whose_verdict_was_given_out_last_is_not_missing(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    """Its part was rejected for it, where whoever took the verdicts went no further."""

    def view() -> list[Frame]:
        return [replace(grey(), part_id="a")]

    parts: list[PartVerdict] = []
    settings = RunSettings(views=("left", "right"), view_timeout_ms=600_000)
    with Session(bundle, [view(), view()], settings, backend=opener, live=True, on_part=parts.append) as session:
        results = iter(session)
        next(results), next(results)
        results.close()  # type: ignore[attr-defined]  # a generator
    assert [(part.part_id, part.outcome, sorted(part.views)) for part in parts] == [("a", "pass", ["left", "right"])]


def test_a_flush_asked_for_while_one_begins_waits_for_the_next() -> None:
    """It was answered by one that had begun before, so that a journal named a frame that was on no disk."""

    class Holding(Sink):
        name, durable = "holding", True

        def __init__(self) -> None:
            self.held: list[str] = []
            self.done: list[str] = []

        @property
        def pending(self) -> int:
            return len(self.held)

        def write(self, item: Frame | BadFrame, verdict: Verdict, classes: ClassMap | None = None) -> None:
            self.held.append(item.name)

        def flush(self) -> None:
            self.done += self.held
            self.held.clear()

    class Interrupted(SinkRunner):
        """Takes a record and a wish to flush between the decision to flush and the flush, the first time."""

        wish: threading.Thread | None = None

        @property
        def _flush(self) -> Callable[[int], None]:
            if self.wish is None:
                self.wish = threading.Thread(target=ask, daemon=True)
                self.write(grey(2), Verdict("p", "pass"))
                self.wish.start()
                while not self._flush_asked:
                    time.sleep(0.001)
            return super()._flush

    def ask() -> None:
        assert runner.flush(10)
        written.append(list(sink.done))
        told.set()

    sink, written, told = Holding(), list[list[str]](), threading.Event()
    runner = Interrupted(sink, DeliverySettings(flush_s=0.05))
    runner.write(grey(1), Verdict("p", "pass"))
    assert told.wait(10)
    runner.close()
    assert written == [["1", "2"]]


def test_a_changed_mask_is_read_by_the_next_run(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), np.uint8)
    framing = Framing("tile", 32, 8, inspect_mask=tmp_path / "mask.png")
    for half in (slice(0, 50), slice(50, 100)):
        mask[:], mask[half] = 0, 255
        cv2.imwrite(str(tmp_path / "mask.png"), mask)
        check_mask(framing)
        plan = plan_tiles(100, 100, framing)
        np.testing.assert_array_equal(plan.inspected, mask)
        assert plan_tiles(100, 100, framing) is plan


def test_a_camera_clock_that_runs_ahead_dates_no_verdict_into_the_future() -> None:
    for taken_ns in (time.time_ns(), 1 << 63):  # of the wall, as PTP gives it, and of nothing at all
        frame = Frame(np.zeros((4, 4), np.uint8), "p", taken_ns, "n", "s", 0)
        taken_at = np.datetime64(record_line(frame, Verdict("p", "pass"))["taken_at"].removesuffix("+00:00"))
        assert abs(taken_at - np.datetime64(time.time_ns(), "ns")) < np.timedelta64(60, "s")


def test_what_a_hung_disk_kept_out_of_an_output_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, goes_on = AppendFile.append, threading.Event()

    def hang(file: AppendFile, data: bytes) -> None:
        if file.path.suffix == ".jsonl":
            assert goes_on.wait(30)
        append(file, data)

    rule = DeliverySettings(queue_records=2, longest_wait_s=1.0, flush_s=0)  # the other file's disk may be slow, too
    outputs = SinkSettings(jsonl=tmp_path / "out.jsonl", csv=tmp_path / "out.csv", delivery=rule)
    monkeypatch.setattr(AppendFile, "append", hang)

    def written() -> list[str]:
        return [json.loads(line)["frame"] for line in outputs.jsonl.read_text("utf-8").splitlines()]  # type: ignore[union-attr]

    def run_all() -> Journal:
        journal = Journal(tmp_path / "journal", {}, outputs)
        sinks = open_sinks(outputs, ["free", "crack"])
        journal.attach(sinks)
        for number in range(8):
            if str(number) not in journal.done:
                sinks.write(grey(number), Verdict("p", "pass"))
                journal.add(str(number), True)
        goes_on.set()
        assert sinks.flush(30)
        journal.commit({name for runner in sinks.runners for name in runner.missed or ()})
        journal.close()
        with suppress(SinkFailed):  # some verdicts were not written
            sinks.close()
        return journal

    first = run_all()
    assert 0 < len(first.done) < 8
    assert first.done == set(written())
    assert first.inspected == len(first.done)
    assert run_all().done == set(map(str, range(8)))
    assert sorted(written()) == list(map(str, range(8)))
    assert len((tmp_path / "out.csv").read_text("utf-8").splitlines()) == 1 + 8


def test_a_name_with_line_breaks_has_one_row_after_a_kill(tmp_path: Path) -> None:
    """A row of CSV is one line, so that the name stands there with blanks."""
    outputs = SinkSettings(jsonl=tmp_path / "out.jsonl", csv=tmp_path / "out.csv")
    for _ in range(2):  # the first never comes to its commit
        journal = Journal(tmp_path / "journal", {}, outputs)
        with open_sinks(outputs, ["free", "crack"]) as sinks:
            journal.attach(sinks)
            sinks.write(replace(grey(), name="a\u2028b\nc.png"), Verdict("p", "pass"))
        journal.close()
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 1
    assert len((tmp_path / "out.csv").read_bytes().splitlines()) == 1 + 1


@pytest.mark.parametrize(
    ("name", "other"),
    [("jsonl", b'{"frame": "of another run"}\n'), ("csv", b"of,another\n"), ("csv", b'"of another\n')],
)
def test_an_output_that_another_file_has_replaced_is_named(tmp_path: Path, name: str, other: bytes) -> None:
    """It ended in a JSONDecodeError, or in an IndexError: the place where the run began lies within a line."""
    path = tmp_path / f"out.{name}"
    outputs = SinkSettings(**{name: path})
    with open_sinks(outputs, ["free", "crack"]) as sinks:
        sinks.write(grey(), Verdict("p", "pass"))
    head = path.read_bytes() if name == "csv" else b""
    Journal(tmp_path / "journal", {}, outputs).close()
    path.write_bytes(head[: head.find(b"\n") + 1] + other * 100)
    journal = Journal(tmp_path / "journal", {}, outputs)
    with (
        pytest.raises(SinkFailed, match=rf"out.{name} holds no verdicts from where the run of the journal"),
        open_sinks(outputs, ["free", "crack"]) as sinks,
    ):
        journal.attach(sinks)
    journal.close()


@pytest.mark.parametrize("name", ["jsonl", "csv", "sqlite"])
def test_an_output_that_is_gone_is_not_begun_anew(tmp_path: Path, name: str) -> None:
    outputs = SinkSettings(**{name: tmp_path / f"out.{name}"})
    journal = Journal(tmp_path / "journal", {}, outputs)
    with open_sinks(outputs, ["free", "crack"]) as sinks:
        journal.attach(sinks)
        sinks.write(grey(), Verdict("p", "pass"))
        journal.add("0", True)
        assert sinks.flush(30)
        journal.commit()
    journal.close()
    (tmp_path / f"out.{name}").unlink()
    journal = Journal(tmp_path / "journal", {}, outputs)
    assert journal.done == {"0"}
    with (
        pytest.raises(SinkFailed, match=rf"out.{name} holds none of the 1 frames"),
        open_sinks(outputs, ["free", "crack"]) as sinks,
    ):
        journal.attach(sinks)
    journal.close()


@pytest.mark.parametrize("content", [b"", b"no database " * 100])
def test_a_journal_beside_a_file_that_is_no_database_yet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.sqlite").write_bytes(content)
    outputs = SinkSettings(sqlite=tmp_path / "out.sqlite")
    if content:
        with pytest.raises(SinkFailed, match="no database that can be written"):
            Journal(tmp_path / "journal", {}, outputs)
        return
    journal = Journal(tmp_path / "journal", {}, outputs)
    with open_sinks(outputs, ["free", "crack"]) as sinks:
        journal.attach(sinks)
        sinks.write(grey(), Verdict("p", "pass"))
    journal.close()
    connection = sqlite3.connect(tmp_path / "out.sqlite")
    assert connection.execute("SELECT count(*) FROM verdicts").fetchone() == (1,)
    connection.close()


def test_a_journal_that_finds_no_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(AppendFile, "append", full)
    with pytest.raises(SinkFailed, match="journal cannot be kept: No space left on device"):
        Journal(tmp_path / "journal", {}, SinkSettings())
    monkeypatch.undo()
    Journal(tmp_path / "journal", {}, SinkSettings()).close()


def test_a_callback_that_leaves_by_sys_exit_is_answered_for() -> None:
    def leave(*_: object) -> None:
        sys.exit(1)

    runner = SinkRunner(CallbackSink(leave), DeliverySettings(queue_records=2, longest_wait_s=5))
    for number in range(5):
        runner.write(grey(number), Verdict("p", "pass"))
    assert runner.flush(30)
    with pytest.raises(SinkFailed, match="5 verdicts were not written, from 0 to 4: 4: SystemExit: 1"):
        runner.close()
    assert runner.counters()["lost"] == 5


class Undecodable:
    """A capture whose every third frame OpenCV throws at, as it does at a USB camera's empty JPEG."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self.reads += 1
        if self.reads > 9:
            return False, None
        if self.reads % 3 == 0:
            cv2.imdecode(np.zeros(0, np.uint8), cv2.IMREAD_COLOR)
        return True, np.zeros((4, 4, 3), np.uint8)

    def isOpened(self) -> bool:  # OpenCV's name
        return True

    def get(self, _: int) -> float:
        return 9.0

    def release(self) -> None: ...


def test_a_frame_that_opencv_throws_at_ends_no_camera(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Undecodable())
    with StreamSource("/dev/null", 1, SourceSettings(queue_frames=100)) as camera:
        items = [next(items) for items in [iter(camera)] for _ in range(9)]
    assert [isinstance(item, BadFrame) for item in items] == [False, False, True] * 3
    assert "OpenCV could not decode the frame" in getattr(items[2], "reason", "")
    (tmp_path / "a.avi").write_bytes(b"x")
    with VideoSource(str(tmp_path / "a.avi"), 1, SourceSettings()) as video:
        assert [isinstance(item, BadFrame) for item in video][:3] == [False, False, True]


def test_a_camera_that_ends_among_others_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Line):
        def _grab(self) -> Iterator[Raw]:
            raise OSError("the driver is gone")

    with Broken("left", 1, SourceSettings(), None) as camera, pytest.raises(OSError, match="driver"):
        list(camera)
    assert "source left ended: the driver is gone" in caplog.text


_ENDS_WHILE_OPENING = """
import sys, time
from pathlib import Path
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.tuning import Tuning
from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.errors import BackendFailed
from lpcnet_edge.runtime.room import Room

bundle = open_bundle(Path(sys.argv[1]))

def opened():
    return open_backend(bundle, "openvino", tuning=Tuning(1, batch=64), use_cache=False)

room = Room(opened(), opened, background=True)
room.failed(BackendFailed("lost", mend=""))
room.ready()
time.sleep(0.05)
room.close()
"""


def test_a_run_that_ends_while_its_backend_is_opened_again_ends_well(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDS_WHILE_OPENING, str(bundle.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr  # it was aborted: "terminate called without an active exception"


def test_an_engine_process_of_a_program_with_many_files_open(bundle: Bundle) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        settings = RunSettings(isolate=True)
        verdicts = lpcnet_edge.inspect(bundle.path, [frame_of(0)] * 2, backend="onnxruntime", settings=settings)
        assert [verdict.outcome for verdict in verdicts] == ["pass", "pass"]
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as it is where the program was started with it closed
    with pytest.raises(BadInput, match="standard input is closed"):
        next(iter(open_source("stdin:4x4", channels=1)))


def large(number: int) -> Frame:
    """48 megapixels; the pages of zeros are not there until they are written to."""
    return Frame(np.zeros((6000, 8192), np.uint8), "p", 0, str(number), "s", number)


def test_large_frames_are_not_read_far_ahead() -> None:
    class Changed(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            full.set()  # it is the thread that reads, and waits for room
            return super().wait(timeout)

    full = threading.Event()
    inbox = Inbox(map(large, range(20)), 16, changed=Changed(), small_bytes=1 << 20)
    assert full.wait(60)
    assert 2 <= len(inbox._items) <= 7  # 16 of them would be 0.8 GB, in colour 2.4 GB
    while not inbox.done:
        if inbox.take() is None:
            inbox.wait()
            continue


def test_few_large_frames_wait_for_a_slow_sink() -> None:
    goes_on, most = threading.Event(), 0

    class Slow(Sink):
        name = "slow"

        def write(self, item: Any, verdict: Verdict, classes: ClassMap | None = None) -> None:
            assert goes_on.wait(30)

    sinks = Sinks([Slow()], DeliverySettings(longest_wait_s=0.1))
    for number in range(10):
        frame = large(number)
        sinks.write(frame, Verdict("p", "pass"), frame.pixels)
        most = max(most, sinks.counters()["slow"]["waiting"])
    assert 2 <= most <= 4  # 64 of them would be 6 GB
    goes_on.set()
    sinks.close()  # a sink that is not durable may drop: it is counted
    counts = sinks.counters()["slow"]
    assert counts["written"] + counts["dropped"] == 10


def test_the_report_of_a_run_holds_no_pixels(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    report = Report()
    frames = [frame_of(number, defects=1) for number in range(SHOWN + 5)]
    with Session(bundle, [frames], RunSettings(), backend=opener) as session, Sinks([]) as sinks:
        run_session(session, sinks, report)
    assert len(report.shown) == SHOWN
    assert [result.item.sequence for result in report.shown] == list(range(SHOWN))
    assert all(isinstance(result.item, Frame) and result.item.pixels.size == 0 for result in report.shown)
