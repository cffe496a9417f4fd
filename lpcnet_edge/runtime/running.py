"""A session run into sinks: signals that drain it, the journal kept, and what is told of it at the end."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from lpcnet_edge.errors import SinkFailed
from lpcnet_edge.runtime.journal import Journal
from lpcnet_edge.runtime.pipeline import Result
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.sinks import Sinks
from lpcnet_edge.runtime.sinks.appendfile import AppendFile
from lpcnet_edge.runtime.sources.frame import Frame
from lpcnet_edge.runtime.verdict_lines import to_json
from lpcnet_edge.types import PartVerdict

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

SHOWN = 20
"""Frames that do not pass of which the report keeps the verdict."""

_COMMIT_S, _COMMIT_FRAMES = 1.0, 1000
_PARTS_S = 0.5
_STEP = 0.01
_PARTS_HELD = 100_000
_NO_PIXELS = np.empty((0, 0), np.uint8)
_UNINSPECTED = ("not inspected: ", "unreadable: ")


class Percentiles:
    """Percentiles of positive numbers to within a percent, in memory that does not grow with their count."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.largest = 0.0

    def add(self, value: float) -> None:
        """Count one number."""
        self._counts[round(math.log(max(value, 1e-6)) / _STEP)] += 1
        self.largest = max(self.largest, value)

    @property
    def count(self) -> int:
        """How many."""
        return self._counts.total()

    def at(self, share: float) -> float:
        """The value that ``share`` (0..1) of the numbers do not exceed; nan where there are none."""
        wanted = share * self._counts.total()
        for step in sorted(self._counts):
            wanted -= self._counts[step]
            if wanted <= 0:
                return min(math.exp(step * _STEP), self.largest)
        return math.nan


@dataclass(slots=True)
class Report:
    """What a run came to. ``shown`` has the first ``SHOWN`` frames that did not pass, without their pixels.

    ``inspected`` counts frames that could be read and fit the settings, those that the journal had included.
    """

    seconds: float = 0.0
    resumed: int = 0
    inspected: int = 0
    stopped: bool = False
    latency_ms: Percentiles = field(default_factory=Percentiles)
    stage_ms: Counter[str] = field(default_factory=Counter)
    shown: list[Result] = field(default_factory=list)
    parts: Counter[str] = field(default_factory=Counter)


class PartLines:
    """Verdicts on parts, counted, and as JSON lines in a file where one is given.

    The file is written from a thread of its own, so that a slow disk keeps nobody waiting who decides. One that cannot
    be written does not stop the line: lines are held, 100,000 at most, and tried again.
    """

    def __init__(self, path: Path | None, report: Report) -> None:
        self._report = report
        self._held: list[str] = []
        self._lost = 0
        self._failure = ""
        self._ended = threading.Event()
        self._file = AppendFile(path, b"{") if path is not None else None
        self._thread: threading.Thread | None = None
        if self._file is not None:
            self._thread = threading.Thread(target=self._run, args=(self._file,), name="parts", daemon=True)
            self._thread.start()

    def add(self, part: PartVerdict) -> None:
        """Take one; it is on the disk within half a second and the time that the disk takes."""
        self._report.parts[part.outcome] += 1
        if self._file is not None:
            self._held.append(json.dumps(to_json(part)) + "\n")

    def _run(self, file: AppendFile) -> None:
        while not self._ended.wait(_PARTS_S):
            self._write(file)

    def _write(self, file: AppendFile) -> None:
        """Write what is held, or keep it where that fails."""
        held = self._held[:]  # others only append
        if not held:
            return
        try:
            file.append("".join(held).encode())
            del self._held[: len(held)]
        except OSError as exc:
            if not self._failure:
                log.error("verdicts on parts: %s: %s; trying again", file.path, exc.strerror or exc)
            self._failure = exc.strerror or str(exc)
            excess = max(0, len(self._held) - _PARTS_HELD)
            self._lost += excess
            del self._held[:excess]

    def close(self) -> None:
        """Write what is held and close the file, twice is fine; raises ``SinkFailed`` where lines are missing."""
        if self._file is None or self._thread is None:
            return
        file, self._file = self._file, None
        self._ended.set()
        self._thread.join()
        self._write(file)
        file.close()
        missing = self._lost + len(self._held)
        if missing:
            raise SinkFailed(
                f"{file.path}: {missing} verdicts on parts were not written: {self._failure}",
                mend="make room or mend the path; the verdicts on their frames are in the other outputs",
            )


def run_session(
    session: Session, sinks: Sinks, report: Report, *, journal: Journal | None = None, progress: Progress | None = None
) -> None:
    """Run a session to its end, or until SIGINT or SIGTERM ask it to drain; every verdict goes to the sinks.

    Parameters
    ----------
    report
        Filled in as it goes, so that it holds also where the run ends with an error.
    journal
        Already attached to the sinks.
    """
    committed_s = time.monotonic()
    done = 0
    if journal is not None:
        report.resumed, report.inspected = len(journal.done), journal.inspected
    total = session.total or 0
    with draining(session) as asked:
        try:
            for result in session:
                sinks.write(result.item, result.verdict, result.classes)
                inspected = _count(report, result)
                done += 1
                if journal is not None:
                    journal.add(result.item.name, inspected)
                    now_s = time.monotonic()
                    if now_s - committed_s >= _COMMIT_S or journal.pending >= _COMMIT_FRAMES:
                        _commit(journal, sinks)
                        committed_s = time.monotonic()
                if progress is not None:
                    progress(done, max(total, done))
        finally:
            report.seconds = session.ended_s - session.started_s
            report.stopped = asked.is_set()
            if journal is not None:
                _commit(journal, sinks)


def _commit(journal: Journal, sinks: Sinks) -> None:
    if sinks.flush(30.0):
        journal.commit({name for runner in sinks.runners for name in runner.missed or ()})


def _count(report: Report, result: Result) -> bool:
    """Add a result to the report; whether its frame was inspected."""
    verdict = result.verdict
    report.latency_ms.add(verdict.latency_ms["total"])
    for stage, value in verdict.latency_ms.items():
        report.stage_ms[stage] += value  # type: ignore[assignment]  # a sum of milliseconds
    if verdict.outcome != "pass" and len(report.shown) < SHOWN:
        item = result.item
        if isinstance(item, Frame):  # 20 of 8192 x 6000 px in colour would be 3 GB, held to the end
            item = replace(item, pixels=_NO_PIXELS)
        report.shown.append(Result(item, verdict))
    inspected = verdict.outcome == "pass" or not (verdict.reasons and verdict.reasons[0].startswith(_UNINSPECTED))
    report.inspected += inspected
    return inspected


@contextmanager
def draining(session: Session) -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM stop the session in an orderly way; the second one ends the process as usual.

    Yields an event that is set once one came. Does nothing outside the main thread, where Python has no signals.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {}

    def stop(number: int, _: FrameType | None) -> None:
        for known, handler in before.items():
            signal.signal(known, handler)
        asked.set()
        session.stop()

    for known in (signal.SIGINT, signal.SIGTERM):
        before[known] = signal.signal(known, stop)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
