"""Sinks beside the line: each in a thread of its own, behind a queue, so that none stops it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from lpcnet_edge.errors import LpcnetError, SinkFailed
from lpcnet_edge.runtime.sinks.base import Sink
from lpcnet_edge.runtime.sinks.lines import JsonlSink
from lpcnet_edge.runtime.sinks.settings import DeliverySettings
from lpcnet_edge.runtime.sources.frame import Frame, Item
from lpcnet_edge.types import ClassMap, Verdict

log = logging.getLogger(__name__)

_HANG_S = 2.0
"""Beyond ``close_s``: a sink that gets nothing done for so long, when it is closed, hangs."""

_Record: TypeAlias = tuple[Item, Verdict, ClassMap | None]

_QUEUE_BYTES = 256 << 20
"""Beyond one record, no more wait than take this: 64 of 8192 x 6000 px with their maps would be 6 GB."""


class SinkRunner:
    """Gives one sink its records from a thread, and answers for each of them.

    Every record ends in exactly one counter: ``written``, ``spilled``, ``dropped`` (the queue was full) or ``lost``. A
    flush that fails is tried again, with what it held; meanwhile records are held up to the backlog. Nothing that
    counted as ``written`` by a durable sink is lost afterwards. ``DeliverySettings`` has the limits.

    Parameters
    ----------
    sink
        Owned from here on: closed by :meth:`close`.
    on_written
        Called from the thread with the names of frames whose records a flush has written, in order.
    """

    def __init__(
        self,
        sink: Sink,
        settings: DeliverySettings | None = None,
        *,
        on_written: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self.sink = sink
        self.settings = settings or DeliverySettings()
        self.durable = sink.durable
        self.failure = ""
        """Why the sink fails at present, empty while it works."""
        self.missed: set[str] | None = None
        """Names of the records that count as missing in the error at the end; None: they are not kept."""
        self._on_written = on_written
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter(written=0, spilled=0, dropped=0, lost=0, retries=0)
        # A record's way: the queue, in hand, held by the sink.
        self._queue: deque[_Record] = deque()
        self._bytes = 0
        self._in_hand = ""
        self._held: deque[str] = deque()
        self._held_since_s = 0.0
        self._last_failure = ""
        self._first_missed = self._last_missed = ""
        self._spill: JsonlSink | None = None
        self._pause_s = self._retry_at_s = 0.0
        self._flush_asked = self._flush_done = 0
        self._stalled = self._dead = False
        self._end_s: float | None = None  # set by close: until when a failing sink is tried again
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def counters(self) -> Mapping[str, int]:
        """Records by what became of them, ``waiting`` for those of which nothing has yet, and ``retries``."""
        with self._changed:
            return {**self._counts, "waiting": len(self._queue) + bool(self._in_hand) + len(self._held)}

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        """Hand one record over; never raises for what the sink does. The arrays must not be written to afterwards."""
        rule = self.settings
        with self._changed:
            if self._end_s is not None:
                raise RuntimeError("the sink was closed")
            if self._dead:
                self._miss("lost", [item.name])
                return
            waits = rule.when_full == "block" and not self._stalled
            record = item, verdict, classes
            if waits and not self._has_room(record):
                self._changed.wait_for(lambda: self._has_room(record), rule.longest_wait_s)
            if self._has_room(record):
                self._queue.append(record)
                self._bytes += _size(record)
                self._changed.notify_all()
                return
            if waits:
                self._stalled = True  # until it takes a record again
                self._last_failure = f"it took nothing for {rule.longest_wait_s:g} s"
                log.error("sink %s is passed by: %s", self.sink.name, self._last_failure)
            self._miss("dropped", [item.name])

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all handed over before is written (True), or the sink fails or the time is up (False)."""
        with self._changed:
            self._flush_asked += 1
            asked = self._flush_asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._flush_done >= asked or self._dead, timeout_s)
            return self._flush_done >= asked and not self.failure

    def close(self) -> None:
        """Write what waits, for ``close_s`` at most where the sink fails, and close it; twice is fine.

        Raises ``SinkFailed`` that says how many verdicts were not written and which, or where they were spilled to.
        What a sink that is not durable dropped by policy is no error: it is counted.
        """
        with self._changed:
            if self._end_s is not None:
                return
            self._end_s = time.monotonic() + self.settings.close_s
            self._retry_at_s = 0.0
            self._changed.notify_all()
        before: object = None
        # A slow flush of pictures is no hang: each that is written leaves the sink.
        while self._thread.is_alive() and before != (now := (self.counters(), self.sink.pending)):
            before = now
            self._thread.join(self.settings.close_s + _HANG_S)
        if self._thread.is_alive():  # hung inside the sink, which is left to it
            with self._changed:
                self._dead = True
                self._last_failure = f"it hangs over {self._in_hand or 'a flush'}"
                self._lose_all()
        else:
            try:
                self.sink.close()
            except Exception:  # what was flushed is written, and the other sinks must be closed, too
                log.exception("closing sink %s", self.sink.name)
        self._complain()

    def _run(self) -> None:
        try:
            while not self._step():
                pass
        except BaseException as exc:  # on_written, or a fault of ours: the line goes on, and the end says so
            log.exception("sink %s", self.sink.name)
            with self._changed:
                self._dead = True
                self.failure = self._last_failure = f"{type(exc).__name__}: {exc}"
                self._lose_all()
                self._flush_done = self._flush_asked
                self._changed.notify_all()

    def _step(self) -> bool:
        """Take one record, or flush, or wait; True at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_due(), self._wait_s())
            if self._dead:  # closed while the sink hung
                return True
            record = self._queue.popleft() if self._queue else None
            if record is not None:
                self._bytes -= _size(record)
                self._in_hand = record[0].name
                self._stalled = False
                self._changed.notify_all()
        if record is not None:
            self._take(*record)
        with self._changed:
            due, asked = self._is_due(), 0 if self._queue else self._flush_asked
        if due:
            self._flush(asked)  # not what is asked from here on: records may have come before it
        with self._changed:
            if self._end_s is None or self._queue or (self._held and time.monotonic() < self._end_s):
                return False
        if self._held:
            self._give_up()
        if self._spill is not None:
            self._spill.close()
        return True

    def _has_room(self, record: _Record) -> bool:
        few = not self._queue or self._bytes + _size(record) <= _QUEUE_BYTES
        return few and len(self._queue) < self.settings.queue_records

    def _is_due(self) -> bool:
        """Whether to flush now."""
        asked = self._flush_asked > self._flush_done and not self._queue
        if not self._held:
            return asked or self._end_s is not None
        if self.failure:
            return asked or time.monotonic() >= self._retry_at_s
        waited = time.monotonic() - self._held_since_s >= self.settings.flush_s
        ending = self._end_s is not None and not self._queue
        return asked or waited or ending or len(self._held) >= self.settings.queue_records

    def _wait_s(self) -> float | None:
        if not self._held:
            return None
        until_s = self._retry_at_s if self.failure else self._held_since_s + self.settings.flush_s
        return max(0.0, until_s - time.monotonic())

    def _take(self, item: Item, verdict: Verdict, classes: ClassMap | None) -> None:
        before = self.sink.pending
        try:
            self.sink.write(item, verdict, classes)
        except BaseException as exc:  # a callback (even its sys.exit) or an encoder: this record's fault
            with self._changed:
                self._in_hand = ""
                self._last_failure = f"{item.name}: {type(exc).__name__}: {exc}"
                self._miss("lost", [item.name])
            log.error("sink %s refused %s", self.sink.name, self._last_failure)
            return
        with self._changed:
            self._in_hand = ""
            if self.sink.pending == before:  # done at once, or nothing to write for this frame
                self._counts["written"] += 1
                return
            if not self._held:
                self._held_since_s = time.monotonic()
            self._held.append(item.name)
        limit = self.settings.backlog_records if self.durable else self.settings.queue_records
        if self.failure and len(self._held) >= limit:
            self._give_up()

    def _flush(self, asked: int) -> None:
        failure = ""
        try:
            self.sink.flush()
        except Exception as exc:  # a full disk, a lost share, a locked database: the line goes on
            failure = f"{type(exc).__name__}: {exc}"
        rule = self.settings
        with self._changed:
            done = [self._held.popleft() for _ in range(len(self._held) - self.sink.pending)]
            self._counts["written"] += len(done)
            if failure:
                self._counts["retries"] += 1
                self._pause_s = min(2 * self._pause_s, rule.retry_largest_s) if self.failure else rule.retry_first_s
                self._retry_at_s = min(time.monotonic() + self._pause_s, self._end_s or float("inf"))
                self._last_failure = failure
            changed = bool(failure) != bool(self.failure)
            self.failure = failure
        if changed:
            log.error("sink %s %s", self.sink.name, f"fails: {failure}; trying again" if failure else "works again")
        try:
            if done and self._on_written is not None:
                self._on_written(done)
        finally:  # who waits in flush() may rely on on_written having been called
            with self._changed:
                self._flush_done = max(self._flush_done, asked)
                self._changed.notify_all()

    def _give_up(self) -> None:
        """Spill what the sink holds, or count it as lost."""
        lines = self.sink.surrender()
        saved = bool(lines) and self._save(lines)
        with self._changed:
            if saved:
                self._counts["spilled"] += len(self._held)
            else:
                self._miss("lost", self._held)
            self._held.clear()

    def _save(self, lines: Sequence[str]) -> bool:
        if self.settings.spill is None:
            return False
        try:
            if self._spill is None:
                self._spill = JsonlSink(self.settings.spill / f"{self.sink.name.split()[0]}.spill.jsonl")
            self._spill.write_lines(lines)
            self._spill.flush()
        except (OSError, LpcnetError) as exc:
            log.error("sink %s cannot spill either: %s", self.sink.name, exc)
            if self._spill is not None:
                self._spill.surrender()
            return False
        return True

    def _lose_all(self) -> None:
        names = [*self._held, self._in_hand, *(item.name for item, _, _ in self._queue)]
        self._miss("lost", [name for name in names if name])
        self._held.clear()
        self._queue.clear()
        self._in_hand = ""

    def _miss(self, counter: str, names: Sequence[str]) -> None:
        if names:
            self._counts[counter] += len(names)
            if self.missed is not None and (counter == "lost" or self.durable):
                self.missed.update(names)
            self._first_missed = self._first_missed or names[0]
            self._last_missed = names[-1]

    def _complain(self) -> None:
        counts, why = self._counts, f": {self._last_failure}" if self._last_failure else ""
        missing = counts["lost"] + (counts["dropped"] if self.durable else 0)
        spill = f"{counts['spilled']} went to the spill in {self.settings.spill}" if counts["spilled"] else ""
        if missing:
            raise SinkFailed(
                f"{self.sink.name}: {missing} verdicts were not written, from {self._first_missed} to "
                f"{self._last_missed}{why}{'; ' + spill if spill else ''}",
                mend="make room or mend the path, then inspect those frames again",
            )
        if spill:
            raise SinkFailed(
                f"{self.sink.name}: {spill}{why}", mend="make room, then add the spilled lines to the rest"
            )


def _size(record: _Record) -> int:
    """Bytes of its arrays."""
    item, _, classes = record
    return (item.pixels.nbytes if isinstance(item, Frame) else 0) + (0 if classes is None else classes.nbytes)
