"""Sinks: what they write, read back by other means, and what becomes of every record."""

from __future__ import annotations

import csv
import errno
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadConfig, SinkFailed
from lpcnet_edge.imaging import PALETTE
from lpcnet_edge.runtime.sinks import (
    CallbackSink,
    CsvSink,
    DeliverySettings,
    JsonlSink,
    MaskSink,
    OverlaySink,
    Sink,
    SinkRunner,
    Sinks,
    SinkSettings,
    SqliteSink,
    draw_verdict,
    frames_written,
    open_sinks,
)
from lpcnet_edge.runtime.sinks.appendfile import AppendFile
from lpcnet_edge.runtime.sinks.pictures import picture_path
from lpcnet_edge.runtime.sources import BadFrame, Frame, Item
from lpcnet_edge.runtime.sources.base import now_ns
from lpcnet_edge.runtime.verdict_lines import from_json
from lpcnet_edge.types import ClassMap, Defect, Verdict

CLASSES = ("background", "crack", "dent")
DEFECT = Defect("crack", (10, 20, 8, 4), 30, 0.3, 0.91)
FAST = DeliverySettings(flush_s=0.01, retry_first_s=0.01, retry_largest_s=0.02, close_s=0.2)


def record(number: int, *, bad: bool = False, name: str = "") -> tuple[Item, Verdict, ClassMap | None]:
    """Frame ``number`` with its verdict: odd ones are rejects with a crack."""
    name = name or f"lot/{number:03d}.png"
    latency = {"total": 1.5 + number}
    if bad:
        verdict = Verdict(name, "reject", ("unreadable",), (), latency, "null", "b1")
        return BadFrame("unreadable", name, now_ns(), name, "cam", number), verdict, None
    frame = Frame(np.full((60, 80), 128, np.uint8), name, now_ns(), name, "cam", number)
    classes = np.zeros((60, 80), np.uint8)
    if number % 2 == 0:
        return frame, Verdict(name, "pass", (), (), latency, "null", "b1"), classes
    classes[20:24, 10:18] = 1
    return frame, Verdict(name, "reject", ("crack of 30 px",), (DEFECT,), latency, "null", "b1"), classes


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# What is written -----------------------------------------------------------------------------------------------------


def test_all_sinks_of_a_run(tmp_path: Path) -> None:
    settings = SinkSettings(
        jsonl=tmp_path / "new/v.jsonl",
        csv=tmp_path / "v.csv",
        sqlite=tmp_path / "v.db",
        masks=tmp_path / "masks",
        overlays=tmp_path / "overlays",
        overlay_of="not-passed",
    )
    seen: list[str] = []
    with open_sinks(settings, CLASSES, callback=lambda item, verdict, classes: seen.append(item.name)) as sinks:
        for number in range(10):
            sinks.write(*record(number, bad=number == 4))
        assert sinks.flush(10)
        assert all(counts["written"] == 10 and not counts["waiting"] for counts in sinks.counters().values())
    names = [f"lot/{number:03d}.png" for number in range(10)]
    assert seen == names

    lines = lines_of(tmp_path / "new/v.jsonl")
    assert [line["frame"] for line in lines] == names
    assert [line["sequence"] for line in lines] == list(range(10))
    assert [line["verdict"] for line in lines] == ["pass", "reject"] * 2 + ["reject"] * 2 + ["pass", "reject"] * 2
    assert lines[1]["size_px"] == [80, 60]
    assert lines[4]["size_px"] is None
    assert from_json(lines[1]) == record(1)[1]

    with (tmp_path / "v.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["frame"] for row in rows] == names
    assert (rows[1]["classes"], rows[1]["area_px"], rows[1]["latency_ms"]) == ("crack", "30", "2.5")

    database = sqlite3.connect(tmp_path / "v.db")
    assert database.execute("SELECT frame, sequence FROM verdicts ORDER BY id").fetchall() == list(
        zip(names, range(10), strict=True)
    )
    assert [json.loads(text) for (text,) in database.execute("SELECT line FROM verdicts ORDER BY id")][1] == {
        **lines[1],
        "taken_at": json.loads(database.execute("SELECT line FROM verdicts WHERE id=2").fetchone()[0])["taken_at"],
    }
    joined = "SELECT frame, x_px, area_mm2 FROM defects JOIN verdicts ON verdict_id = id"
    assert database.execute(joined).fetchall() == [(names[n], 10, 0.3) for n in (1, 3, 5, 7, 9)]
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()

    masks = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png"))
    assert masks == [f"{name}.png" for name in names if "004" not in name]
    mask = cv2.imread(str(tmp_path / "masks/lot/001.png.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, record(1)[2])
    overlays = sorted(path.name for path in (tmp_path / "overlays").rglob("*.jpg"))
    assert overlays == [f"00{n}.png.jpg" for n in (1, 3, 5, 7, 9)]


def test_a_block_that_could_not_be_cut_off_at_once_is_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OSError(errno.EIO, "the share is gone")

    file = AppendFile(tmp_path / "v.jsonl")
    file.append(b'{"a": 1}\n')
    with monkeypatch.context() as share:
        share.setattr(os, "fsync", gone)
        share.setattr(os, "ftruncate", gone)
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                file.append(b'{"a": 2}\n')
    file.append(b'{"a": 2}\n')
    file.close()
    assert [line["a"] for line in lines_of(tmp_path / "v.jsonl")] == [1, 2]


@pytest.mark.parametrize("sink_of", [JsonlSink, CsvSink, SqliteSink])
def test_what_went_into_a_removed_file_does_not_count_as_written(
    sink_of: Callable[[Path], Sink], tmp_path: Path
) -> None:
    runner = SinkRunner(sink_of(tmp_path / "v"), FAST)
    runner.write(*record(0))
    assert runner.flush(5)
    for path in tmp_path.iterdir():
        path.unlink()
    runner.write(*record(1))
    assert not runner.flush(5)
    with pytest.raises(SinkFailed, match=r"1 verdicts were not written.*removed"):
        runner.close()
    assert runner.counters()["written"] == 1


def test_a_database_that_another_program_holds_says_what_to_do(tmp_path: Path) -> None:
    SqliteSink(tmp_path / "v.db").close()
    with closing(sqlite3.connect(tmp_path / "v.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM verdicts")
        with pytest.raises(SinkFailed, match="locked") as caught:
            SqliteSink(tmp_path / "v.db")
    assert "close the program" in caught.value.mend


def test_files_are_added_to(tmp_path: Path) -> None:
    for run in range(2):
        with open_sinks(
            SinkSettings(jsonl=tmp_path / "v.jsonl", csv=tmp_path / "v.csv", sqlite=tmp_path / "v.db"), CLASSES
        ) as sinks:
            for number in range(3):
                sinks.write(*record(3 * run + number))
    assert [line["sequence"] for line in lines_of(tmp_path / "v.jsonl")] == list(range(6))
    assert len((tmp_path / "v.csv").read_text().splitlines()) == 7
    assert sqlite3.connect(tmp_path / "v.db").execute("SELECT count(*) FROM verdicts").fetchone() == (6,)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    sink = JsonlSink(path)
    for number in range(3):
        sink.write(*record(number))
    sink.flush()
    sink.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"frame": "lot/003.png", "reas' + b"x" * 200_000)
    assert frames_written(path) == {f"lot/{number:03d}.png" for number in range(3)}
    JsonlSink(path).close()
    assert path.read_bytes() == whole
    path.write_bytes(whole + bytes(100))
    JsonlSink(path).close()
    assert path.read_bytes() == whole, "as after a power cut"
    path.write_bytes(b'{"no newline at all')
    JsonlSink(path).close()
    assert path.read_bytes() == b""
    assert frames_written(tmp_path / "absent.jsonl") == set()
    with pytest.raises(SinkFailed, match="cannot be read"):
        frames_written(tmp_path)
    path.write_text('{"verdict": "pass"}\n')
    with pytest.raises(SinkFailed, match="line 1"):
        frames_written(path)


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    first = JsonlSink(tmp_path / "v.jsonl")
    with pytest.raises(SinkFailed, match="by another process"):
        JsonlSink(tmp_path / "v.jsonl")
    first.close()
    JsonlSink(tmp_path / "v.jsonl").close()


def test_lines_of_any_name_stay_lines(tmp_path: Path) -> None:
    name = 'a,"b"\nc\u2028d\udcff.png'
    for sink in (JsonlSink(tmp_path / "v.jsonl"), CsvSink(tmp_path / "v.csv")):
        sink.write(*record(1, name=name))
        sink.flush()
        sink.close()
    (line,) = lines_of(tmp_path / "v.jsonl")
    assert line["frame"] == name
    with (tmp_path / "v.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert row["frame"] == 'a,"b" c d\\udcff.png'


def test_a_pipe_takes_lines_without_promises(tmp_path: Path) -> None:
    script = "import sys\nfrom pathlib import Path\nfrom lpcnet_edge.runtime.sinks import JsonlSink\n"
    script += "s = JsonlSink(Path('/dev/stdout')); print(s.durable, file=sys.stderr)\n"
    script += "s.write_lines(['{\"a\": 1}']); s.flush(); s.close()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ('{"a": 1}\n', "False\n")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SinkFailed, match="other columns"):
        CsvSink(tmp_path / "v.csv")
    (tmp_path / "v.json").write_text(json.dumps({"a": 1}, indent=2) + "\n")
    with pytest.raises(SinkFailed, match="something else"):
        JsonlSink(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text()) == {"a": 1}
    (tmp_path / "v.db").write_bytes(b"this is no database, whatever its name says" * 30)
    with pytest.raises(SinkFailed, match="no database"):
        SqliteSink(tmp_path / "v.db")
    for version, words in ((0, "schema 0"), (1, "another program's")):
        path = tmp_path / f"{version}.db"
        other = sqlite3.connect(path)
        other.executescript(f"CREATE TABLE a (b); PRAGMA user_version={version};")
        other.close()
        before = path.read_bytes()
        with pytest.raises(SinkFailed, match=words):
            SqliteSink(path)
        assert path.read_bytes() == before
    (tmp_path / "file").touch()
    for make in (
        lambda: JsonlSink(tmp_path / "file/v.jsonl"),
        lambda: SqliteSink(tmp_path / "file/v.db"),
        lambda: MaskSink(tmp_path / "file/masks"),
        lambda: JsonlSink(tmp_path),
    ):
        with pytest.raises(SinkFailed, match="cannot be") as caught:
            make()
        assert caught.value.mend


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.png", "a.png.jpg"),
        ("../../etc/passwd", "__/__/etc/passwd.jpg"),
        ("/etc/passwd", "etc/passwd.jpg"),
        ("rtsp://host/x/000001", "rtsp:/host/x/000001.jpg"),
        ("a/./b", "a/b.jpg"),
        ("", "frame.jpg"),
        ("..", "__.jpg"),
        ("a\0b", "a_b.jpg"),
    ],
)
def test_pictures_stay_in_their_folder(name: str, path: str, tmp_path: Path) -> None:
    assert picture_path(tmp_path, name, ".jpg") == tmp_path / path


def test_names_too_long_for_a_file_system_stay_apart(tmp_path: Path) -> None:
    first, second = (picture_path(tmp_path, "é" * 300 + end, ".png") for end in "ab")
    assert first != second
    first.touch()


# Overlays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_is_readable_on_any_grey(grey: int, channels: int) -> None:
    shape = (400, 600) if channels == 1 else (400, 600, 3)
    image = np.full(shape, grey, np.uint8)
    classes = np.zeros((400, 600), np.uint8)
    classes[200:260, 300:360] = 1
    verdict = Verdict("p", "reject", ("crack of 3600 px",), (Defect("crack", (300, 200, 60, 60), 3600, None, 0.9),))
    drawn = draw_verdict(image, verdict, classes, CLASSES)
    assert drawn.shape == (400, 600, 3)
    assert (image == grey).all()
    assert np.array_equal(drawn[200, 330], PALETTE[1]), "the contour is in the class's colour"
    for part in (drawn[180:198, 300:380], drawn[0:14, 0:150]):  # the label, and the verdict in the corner
        levels = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
        assert np.percentile(levels, 98) - np.percentile(levels, 20) > 120, "light text on dark ground"
    assert (drawn[300:, 400:] == grey).all(), "the rest is as it was"


def test_labels_do_not_cover_each_other_and_stay_inside() -> None:
    defects = tuple(Defect("dent", (590, y, 8, 8), 64, None, 0.5) for y in (0, 4, 8, 390))
    verdict = Verdict("p", "reject", ("dents",), defects)
    drawn = draw_verdict(np.full((400, 600), 128, np.uint8), verdict, None, CLASSES)
    bars = (drawn[:, :580] == PALETTE[2]).all(axis=2).astype(np.uint8)  # one at the left of each label
    _, _, stats, _ = cv2.connectedComponentsWithStats(bars)
    assert stats[1:, cv2.CC_STAT_WIDTH].tolist() == [3] * 4
    assert len(set(stats[1:, cv2.CC_STAT_HEIGHT].tolist())) == 1, "whole, and apart"


def test_pictures_wait_for_a_share_that_went_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = {str(tmp_path), "/"}
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted)
    runner = SinkRunner(MaskSink(tmp_path / "masks"), FAST)
    mounted.remove(str(tmp_path))
    runner.write(*record(0))
    assert not runner.flush(5)
    assert "mounted" in runner.failure
    assert list(tmp_path.glob("masks/*")) == []
    mounted.add(str(tmp_path))
    assert runner.flush(5)
    runner.close()
    assert (tmp_path / "masks/lot/000.png.png").is_file()


def test_an_overlay_of_a_tiny_frame() -> None:
    _, verdict, _ = record(1)
    assert draw_verdict(np.zeros((1, 1), np.uint8), verdict, None, CLASSES).shape == (1, 1, 3)


# What becomes of every record -------------------------------------------------------------------------------------


class Held(Sink):
    """A durable sink that holds records and can be told to fail, or to wait."""

    name = "held"
    durable = True

    def __init__(self) -> None:
        self.held: list[str] = []
        self.done: list[str] = []
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0

    @property
    def pending(self) -> int:
        return len(self.held)

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        self.gate.wait()
        self.held.append(item.name)

    def flush(self) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        self.done += self.held
        self.held.clear()

    def surrender(self) -> Sequence[str]:
        held, self.held = self.held, []
        return [json.dumps({"frame": name}) for name in held]

    def close(self) -> None:
        self.closed += 1


def names(count: int) -> list[str]:
    return [record(number)[0].name for number in range(count)]


def total(runner: SinkRunner) -> int:
    counts = runner.counters()
    return sum(counts[key] for key in ("written", "spilled", "dropped", "lost", "waiting"))


def test_a_failing_sink_is_tried_again_and_loses_nothing() -> None:
    sink, told = Held(), []
    runner = SinkRunner(sink, FAST, on_written=told.extend)
    for number in range(300):
        sink.failing = 50 <= number < 250
        runner.write(*record(number))
    assert runner.flush(5)
    assert sink.done == told == names(300)
    assert total(runner) == 300
    runner.close()
    runner.close()
    assert sink.closed == 1


def test_the_line_goes_on_while_a_sink_fails_and_the_end_says_what_is_missing() -> None:
    sink = Held()
    sink.failing = True
    runner = SinkRunner(sink, FAST)
    for number in range(200):  # far more than the queue of 64 holds
        runner.write(*record(number))
    assert not runner.flush(5)
    assert "No space left" in runner.failure
    with pytest.raises(SinkFailed, match=r"200 verdicts were not written, from lot/000.png to lot/199.png.*No space"):
        runner.close()
    assert runner.counters()["lost"] == total(runner) == 200


def test_beyond_the_backlog_and_at_the_end_lines_are_spilled(tmp_path: Path) -> None:
    sink = Held()
    sink.failing = True
    rule = from_mapping(DeliverySettings, {"flush_s": 0.01, "close_s": 0.05, "backlog_records": 30}, "")
    runner = SinkRunner(sink, DeliverySettings(**{**vars_of(rule), "spill": tmp_path}))
    for number in range(100):
        runner.write(*record(number))
    with pytest.raises(SinkFailed, match="100 went to the spill"):
        runner.close()
    assert [line["frame"] for line in lines_of(tmp_path / "held.spill.jsonl")] == names(100)


def vars_of(settings: DeliverySettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def test_a_slow_sink_holds_the_line_up_or_drops_as_asked() -> None:
    for when_full, written in (("block", 50), ("drop", None)):
        sink = Held()
        sink.gate.clear()
        rule = DeliverySettings(queue_records=4, when_full=when_full, flush_s=0.01)  # type: ignore[arg-type]
        runner = SinkRunner(sink, rule)
        threading.Timer(0.1, sink.gate.set).start()
        for number in range(50):
            runner.write(*record(number))
        runner.flush(5)
        counts = runner.counters()
        assert total(runner) == 50
        if written:
            assert counts["written"] == written
            runner.close()
        else:
            assert counts["dropped"] == 50 - counts["written"] > 30
            with pytest.raises(SinkFailed, match=f"{counts['dropped']} verdicts were not written"):
                runner.close()


def test_a_sink_that_hangs_holds_the_line_up_only_so_long() -> None:
    sink = Held()
    sink.gate.clear()
    runner = SinkRunner(sink, DeliverySettings(queue_records=4, longest_wait_s=0.05, close_s=0))
    for number in range(20):
        runner.write(*record(number))
    assert runner.counters()["dropped"] == 15
    with pytest.raises(SinkFailed, match=r"20 verdicts were not written, from lot/0.*it hangs over lot/000.png"):
        runner.close()
    sink.gate.set()


def test_a_sink_that_is_slow_at_the_end_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    go, went = threading.Semaphore(0), threading.Semaphore(0)

    class Slow(Held):
        def flush(self) -> None:
            while self.held:
                go.acquire()
                self.done.append(self.held.pop(0))
                went.release()

    sink = Slow()
    runner = SinkRunner(sink, DeliverySettings(flush_s=60))
    for number in range(3):
        runner.write(*record(number))
    while sink.pending < 3:
        time.sleep(0.001)
    really = runner._thread.join

    def one_more(_: float) -> None:
        """One record is written while closing waits; the last time, the thread ends."""
        if not sink.held:
            return really()
        go.release()
        went.acquire()

    monkeypatch.setattr(runner._thread, "join", one_more)
    runner.close()
    assert sink.done == names(3)
    assert runner.counters()["written"] == 3


def test_a_callback_that_raises_loses_its_own_record_and_no_other() -> None:
    seen: list[str] = []

    def callback(item: Item, verdict: Verdict, classes: NDArray[np.uint8] | None) -> None:
        if item.sequence == 3:
            raise KeyError("mine")
        seen.append(item.name)

    runner = SinkRunner(CallbackSink(callback), FAST)
    for number in range(6):
        runner.write(*record(number))
    with pytest.raises(SinkFailed, match=r"1 verdicts were not written, from lot/003.png.*KeyError: 'mine'"):
        runner.close()
    assert seen == [name for name in names(6) if "003" not in name]


def test_a_number_that_json_lacks_is_one_lost_record(tmp_path: Path) -> None:
    sinks = Sinks([JsonlSink(tmp_path / "v.jsonl"), SqliteSink(tmp_path / "v.db")], FAST)
    frame, _, _ = record(0)
    sinks.write(frame, Verdict("p", "pass", latency_ms={"total": float("nan")}))
    for number in range(1, 4):
        sinks.write(*record(number))
    with pytest.raises(SinkFailed, match=r"jsonl.*1 verdicts.*sqlite.*1 verdicts"):
        sinks.close()
    assert [line["sequence"] for line in lines_of(tmp_path / "v.jsonl")] == [1, 2, 3]


def test_a_fault_of_the_runner_stops_no_line() -> None:
    def broken(_: Sequence[str]) -> None:
        raise RuntimeError("journal gone")

    runner = SinkRunner(Held(), FAST, on_written=broken)
    for number in range(100):
        runner.write(*record(number))
    assert total(runner) == 100
    runner.flush(1)
    if not runner.counters()["lost"]:
        runner.write(*record(100))
    with pytest.raises(SinkFailed, match="journal gone"):
        runner.close()


def test_an_error_of_the_run_is_not_hidden_by_a_sink(tmp_path: Path) -> None:
    sink = Held()
    sink.failing = True

    def run() -> None:
        with Sinks([sink], FAST) as sinks:
            sinks.write(*record(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


def test_a_sink_that_does_not_close_keeps_no_other_from_it() -> None:
    class Stuck(Held):
        def close(self) -> None:
            raise OSError(122, "Disk quota exceeded")

    stuck, other = Stuck(), Held()
    sinks = Sinks([stuck, other], DeliverySettings(flush_s=60))
    sinks.write(*record(0))
    sinks.close()
    assert stuck.done == other.done == names(1)
    assert other.closed == 1


def test_writing_to_a_closed_sink_is_a_fault_of_the_caller() -> None:
    runner = SinkRunner(Held(), FAST)
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.write(*record(0))


@pytest.mark.parametrize("mapping", [{"queue_records": 0}, {"retry_first_s": 0}, {"close_s": -1}, {"when_full": "x"}])
def test_settings_that_cannot_be(mapping: dict[str, Any]) -> None:
    with pytest.raises(BadConfig):
        from_mapping(DeliverySettings, mapping, "station.yaml")


def test_overlay_sink_alone(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path, CLASSES, picture="png")
    sink.write(*record(2))
    sink.write(*record(3, bad=True))
    assert sink.pending == 1
    sink.flush()
    assert [path.name for path in (tmp_path / "lot").iterdir()] == ["002.png.png"]
