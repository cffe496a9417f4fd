"""A thread that reads a source into a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from lpcnet_edge.runtime.sources.base import Source
from lpcnet_edge.runtime.sources.frame import BadFrame, Frame, Item

_DRAIN_S = 1.0
_MOST_BYTES = 256 << 20
"""Beyond two frames, no more wait than take this: 16 in colour of 8192 x 6000 px would be 2.4 GB."""


class Inbox:
    """Items of one source in order.

    Parameters
    ----------
    source
        Read to its end, or until :meth:`stop`.
    waiting
        Frames (items with pixels) that may wait here; with ``block`` fewer, down to two, of more than 256 MB in all.
    when_full
        ``block``: the source waits. ``drop-oldest``: the oldest frame that waits gives its pixels up and becomes a bad
        frame in its place.
    changed
        Shared by several inboxes that one thread reads.
    small_bytes
        Four times as many may wait while their pixels take less than this in all: to wake the reading thread costs more
        than a small frame does.
    """

    def __init__(
        self,
        source: Source | Iterable[Item],
        waiting: int,
        when_full: Literal["block", "drop-oldest"] = "block",
        changed: threading.Condition | None = None,
        small_bytes: int = 0,
    ) -> None:
        self.source = source
        self.error: BaseException | None = None
        self.dropped = 0
        self.waited_s = 0.0
        """How long :meth:`wait` has held its caller up."""
        self.changed = changed or threading.Condition()
        self._waiting, self._drop, self._small_bytes = waiting, when_full == "drop-oldest", small_bytes
        self._items: deque[Item] = deque()
        self._frames = self._bytes = 0
        self._asked = self._stopped = self._ended = False
        self._thread = threading.Thread(target=self._read, name="read the source", daemon=True)
        self._thread.start()

    def take(self) -> Item | None:
        """The oldest item, or None where none waits."""
        with self.changed:
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Frame):
                self._frames -= 1
                self._bytes -= item.pixels.nbytes
            if self._frames <= self._waiting // 2:  # not for each: a switch of threads costs more than a tile
                self.changed.notify_all()
            return item

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there is an item or the end; False where the time is up."""
        started = time.perf_counter()
        with self.changed:
            came = self.changed.wait_for(lambda: self._items or self._ended, timeout_s) is not False
        self.waited_s += time.perf_counter() - started
        return came

    @property
    def done(self) -> bool:
        """Whether all items were taken and no more will come."""
        return self._ended and not self._items

    @property
    def has_item(self) -> bool:
        """Whether an item waits."""
        return bool(self._items)

    def ask_to_stop(self) -> None:
        """Have the source take no more, without waiting for it; may be called from a signal handler.

        What it has taken by then is still read; a source that is stuck is left behind after a second.
        """
        self._asked = True
        threading.Thread(target=self._drain, name="stop reading", daemon=True).start()

    def _drain(self) -> None:
        with self.changed:
            self.changed.notify_all()
        if isinstance(self.source, Source):
            self.source.stop()
        self._thread.join(_DRAIN_S)
        self.stop()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Read no further. What was read stays to be taken; a source that is stuck is left behind after the time."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()
        if isinstance(self.source, Source):
            self.source.close()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        with self.changed:
            self._ended = True
            self.changed.notify_all()

    def _read(self) -> None:
        try:
            for item in self.source:
                with self.changed:
                    if self._ended:  # given up on: nobody would take it
                        return
                    if isinstance(item, Frame):
                        self._make_room()
                        self._frames += 1
                        self._bytes += item.pixels.nbytes
                    self._items.append(item)
                    if len(self._items) == 1:
                        self.changed.notify_all()
                    if self._stopped or (self._asked and not isinstance(self.source, Source)):
                        return
        except BaseException as exc:  # the reader must hear of it, after what came before; of a SystemExit too
            self.error = exc
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()

    def _make_room(self) -> None:
        if self._drop:
            while self._frames >= self._waiting:
                self._drop_oldest()
            return
        self.changed.wait_for(lambda: self._has_room or self._asked or self._stopped)

    @property
    def _has_room(self) -> bool:
        small = self._bytes < self._small_bytes and self._frames < 4 * self._waiting
        large = self._bytes >= _MOST_BYTES and self._frames >= 2
        return small or (self._frames < self._waiting and not large)

    def _drop_oldest(self) -> None:
        for place, item in enumerate(self._items):
            if isinstance(item, Frame):
                reason = f"dropped: {self._waiting} newer frame(s) were waiting to be inspected"
                self._items[place] = BadFrame(
                    reason, item.part_id, item.taken_ns, item.name, item.source, item.sequence
                )
                self._frames -= 1
                self._bytes -= item.pixels.nbytes
                self.dropped += 1
                return


def wait_any(inboxes: Sequence[Inbox], timeout_s: float | None = None) -> None:
    """Wait until one of the inboxes, which share ``changed``, has an item or all have ended."""
    changed = inboxes[0].changed
    with changed:
        changed.wait_for(
            lambda: any(inbox.has_item for inbox in inboxes) or all(inbox.done for inbox in inboxes), timeout_s
        )
