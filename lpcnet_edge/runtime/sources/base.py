"""What every source does alike: numbering, part ids, counters, and for live ones the thread that never waits."""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import LpcnetError, MissingDevice, UnreadableImage, UsageError
from lpcnet_edge.files import name_as_text
from lpcnet_edge.runtime.sources.correction import Correction
from lpcnet_edge.runtime.sources.frame import BadFrame, Frame, Item
from lpcnet_edge.runtime.sources.pixels import to_channels
from lpcnet_edge.runtime.sources.settings import SourceSettings
from lpcnet_edge.types import Image

log = logging.getLogger(__name__)

PartNamer: TypeAlias = Callable[[str, int], str]
"""(frame's name, sequence) -> part id, called once per item in order: a PLC's, a barcode's, a trigger counter's.
Where it raises, or gives no text or an empty one, the frame is a bad frame, whose part has the frame's name."""

Raw: TypeAlias = tuple[str, Image | str | None, int]
"""A frame's own name (empty: numbered), its pixels, why there are none, or None to leave it out; ``taken_ns``. What is
left out under its name was skipped, without one never taken."""


class Source(ABC):
    """Frames in order: a context manager and an iterator that is read once.

    ``stop`` ends it from another thread or a signal handler; what was taken by then still comes.

    Attributes
    ----------
    name
        As in ``Frame.source``.
    channels
        Of every frame: 1 for (H, W), 3 for (H, W, 3) BGR.
    total
        Items it will yield, where that is known beforehand.
    live
        True where frames come at their own pace.
    """

    live = False
    total: int | None = None

    def __init__(self, name: str, channels: int, settings: SourceSettings, part_id: PartNamer | None) -> None:
        if channels not in (1, 3):
            raise UsageError(f"a source of {channels} channels was asked for", mend="give 1 (grey) or 3 (BGR)")
        self.name = name_as_text(settings.name or name)
        self.channels = channels
        self.settings = settings
        self._part_id = part_id
        self._pattern = re.compile(settings.part_pattern) if settings.part_pattern else None
        self._correction = Correction.load(settings.correction, channels)
        self._stopped = threading.Event()  # take no more
        self._closed = threading.Event()  # and yield no more
        self._started = False
        self._counts: Counter[str] = Counter(frames=0, bad=0)

    def counters(self) -> Mapping[str, int]:
        """How many so far: ``frames`` and ``bad`` always, what else its kind counts (docs/sources.md)."""
        return dict(self._counts)

    def stop(self) -> None:
        """Take no more frames; does not wait. Files that were only decoded ahead do not count as taken."""
        self._stopped.set()

    def close(self) -> None:
        """Let go of files, devices and threads, and of frames not yet yielded; closing twice is fine."""
        self._stopped.set()
        self._closed.set()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        """Yield every item once; raises ``LpcnetError`` where the source as a whole fails for good."""
        if self._started:
            raise UsageError(f"source {self.name} was read already", mend="open it again")
        self._started = True
        return self._items()

    def _items(self) -> Iterator[Item]:
        for sequence, (own, what, taken_ns) in enumerate(self._read()):
            if self._closed.is_set():
                return
            if what is None:
                if own:
                    self._counts["skipped"] += 1
                continue
            yield self._item(own or f"{self.name}/{sequence:06d}", what, taken_ns, sequence)

    def _item(self, name: str, what: Image | str, taken_ns: int, sequence: int) -> Item:
        part = name
        if self._part_id is not None:
            try:
                given = self._part_id(name, sequence)
                if not isinstance(given, str) or not given:  # no read: such frames are not one part
                    raise ValueError(f"{given!r} is no name of one")
                part = given
            except Exception as exc:  # a PLC that does not answer costs this frame, not the camera
                if not isinstance(what, str):
                    what = f"its part is not known: {type(exc).__name__}: {exc}"
        elif self._pattern is not None:
            match = self._pattern.search(name)
            found = match["part" if "part" in self._pattern.groupindex else 1] if match else None
            if found:
                part = found
            elif not isinstance(what, str):
                what = f"part_pattern {self._pattern.pattern!r} finds no part in {name}"
        if isinstance(what, str):
            self._counts["bad"] += 1
            return BadFrame(what, part, taken_ns, name, self.name, sequence)
        self._counts["frames"] += 1
        return Frame(what, part, taken_ns, name, self.name, sequence)

    def _prepare(self, array: NDArray[Any]) -> Image | str:
        """Channels, depth and correction; where that cannot be, the reason."""
        try:
            return self._correction.apply(to_channels(np.asarray(array), self.channels, bits=self.settings.bits))
        except UnreadableImage as exc:
            return exc.message

    @abstractmethod
    def _read(self) -> Iterator[Raw]:
        """Every item in order."""


class LiveSource(Source):
    """A source that does not wait for us: a thread of its own takes frames, and after a loss connects again.

    At most ``queue_frames`` images wait. One more, and the oldest of them gives its pixels up and becomes a bad frame
    in its place: what was taken is never passed over in silence.
    """

    live = True

    def __init__(self, name: str, channels: int, settings: SourceSettings, part_id: PartNamer | None) -> None:
        super().__init__(name, channels, settings, part_id)
        self._counts.update(overruns=0, losses=0, reconnects=0)
        self._changed = threading.Condition()
        self._passed: deque[Raw] = deque()  # before the oldest image that waits: no pixels in here
        self._waiting: deque[Raw] = deque()
        self._images = 0
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"source {self.name}", daemon=True)
        self._connect()
        self._thread.start()

    @abstractmethod
    def _connect(self) -> None:
        """Open the device; raises ``MissingDevice`` where it does not answer."""

    @abstractmethod
    def _grab(self) -> Iterator[Raw]:
        """Frames until the connection is lost (``_lost`` says how) or the source is stopped."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of the device, in whatever state it is."""

    _lost = "no more frames"

    def close(self) -> None:
        """Let go of the device and of frames that wait; waits for the thread. Not for a signal handler."""
        super().close()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _read(self) -> Iterator[Raw]:
        while True:
            with self._changed:
                while not (self._passed or self._waiting or self._ended or self._closed.is_set()):
                    self._changed.wait()
                if self._passed:
                    raw = self._passed.popleft()
                elif self._waiting:
                    raw = self._waiting.popleft()
                    self._images -= not isinstance(raw[1], str)
                elif self._error is not None:
                    raise self._error
                else:
                    return
            yield raw

    def _put(self, raw: Raw) -> None:
        with self._changed:
            self._waiting.append(raw)
            self._images += not isinstance(raw[1], str)
            if self._images > self.settings.queue_frames:
                while isinstance(self._waiting[0][1], str):
                    self._passed.append(self._waiting.popleft())
                name, _, taken_ns = self._waiting.popleft()
                reason = f"not inspected: {self.settings.queue_frames} newer frames were waiting already"
                self._passed.append((name, reason, taken_ns))
                self._images -= 1
                self._counts["overruns"] += 1
            self._changed.notify()

    def _run(self) -> None:
        try:
            while True:
                for raw in self._grab():
                    self._put(raw)  # all of them: one that was taken may come after those that were lost before it
                self._disconnect()
                if self._stopped.is_set():
                    return
                self._counts["losses"] += 1
                log.warning("source %s lost: %s; connecting again", self.name, self._lost)
                if not self._reconnect():
                    return
        except Exception as exc:  # whatever it is, the reader must hear of it
            self._error = exc
            log.error("source %s ended: %s", self.name, exc)  # who reads several hears of it only at their end
            self._disconnect()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _reconnect(self) -> bool:
        """Try until it is back (True) or the source is stopped (False)."""
        rule, pause_s, tried, said = self.settings.reconnect, self.settings.reconnect.first_s, 0, ""
        while not self._stopped.wait(pause_s):
            try:
                self._connect()
            except LpcnetError as exc:
                self._disconnect()
                if exc.message != said:  # not at every attempt
                    said = exc.message
                    log.warning("source %s does not come back: %s; trying on", self.name, exc)
                tried += 1
                if rule.attempts is not None and tried >= rule.attempts:
                    raise MissingDevice(
                        f"source {self.name} was lost ({self._lost}) and {tried} attempts did not bring it back: {exc}",
                        mend="look at its power, cable and network; source.reconnect.attempts: null tries for ever",
                    ) from exc
                pause_s = min(2 * pause_s, rule.largest_s)
            else:
                self._counts["reconnects"] += 1
                log.warning("source %s is back after %d attempts", self.name, tried + 1)
                return True
        return False


def now_ns() -> int:
    """The clock of ``Frame.taken_ns``."""
    return time.monotonic_ns()
