"""Where a run's time goes: a backend and frames that keep account, and sums that must come to the whole."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.imaging import read_image
from lpcnet_edge.runtime.sources.frame import Frame
from lpcnet_edge.types import Image

PARTS = ("decode", "waiting", "tiling", "stage1", "gate", "stage2", "stitch", "decide", "sink")
"""What time is attributed to; ``rest`` is what none of them explains."""


LEAST_FRAMES = 8
"""Of a measurement, however slow the machine is."""


class TimedBackend:
    """A backend whose caller's time is counted by stage, s. Whoever opened the backend closes it."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.about, self.make_slot = backend.name, backend.about, backend.make_slot
        self.spent_s: Counter[str] = Counter()
        self._backend = backend

    def submit(self, slot: Slot, count: int) -> None:
        started = time.perf_counter()
        self._backend.submit(slot, count)
        self._add("stage1", started)

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        started = time.perf_counter()
        done = self._backend.collect(slot, timeout_s)
        self._add("stage1", started)
        return done

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        started = time.perf_counter()
        self._backend.submit_picked(slot, picked)
        self._add("stage2", started)

    def collect_picked(self, slot: Slot, timeout_s: float | None = None) -> bool:
        started = time.perf_counter()
        done = self._backend.collect_picked(slot, timeout_s)
        self._add("stage2", started)
        return done

    def close(self) -> None:
        pass

    def _add(self, stage: str, started: float) -> None:
        self.spent_s[stage] += time.perf_counter() - started  # type: ignore[assignment]  # a sum of seconds


class TimedFiles:
    """Frames decoded from files, over and over, with the time that each took to decode.

    Parameters
    ----------
    files, channels
        What to decode, and how.
    most
        Frames in all.
    period_s
        A frame begins to be read every so often; None: as soon as there is room.
    seconds
        From the first frame on, after which no frame begins; ``LEAST_FRAMES`` come in any case.
    """

    def __init__(
        self,
        files: Sequence[Path],
        channels: int,
        most: int,
        *,
        period_s: float | None = None,
        seconds: float | None = None,
    ) -> None:
        self.decode_ms: list[float] = []
        self._files, self._channels, self._most = files, channels, most
        self._period_s, self._seconds = period_s, seconds

    def __iter__(self) -> Iterator[Frame]:
        start_ns = time.monotonic_ns() + 10_000_000
        until_s = math.inf if self._seconds is None else time.perf_counter() + self._seconds
        for number in range(self._most):
            if number >= LEAST_FRAMES and time.perf_counter() >= until_s:
                return
            if self._period_s is not None:
                due_ns = start_ns + int(number * self._period_s * 1e9)
                time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            taken_ns = time.monotonic_ns()
            pixels = read_image(self._files[number % len(self._files)], self._channels)
            self.decode_ms.append((time.monotonic_ns() - taken_ns) / 1e6)
            yield Frame(pixels, str(number), taken_ns, str(number), "bench", number)


def in_memory(images: Sequence[Image], seconds: float, least: int) -> Iterator[Image]:
    """Decoded frames, over and over the same, for so long from the first on; ``least`` of them in any case."""
    until_s = time.perf_counter() + seconds
    for number in count():
        if number >= least and time.perf_counter() >= until_s:
            return
        yield images[number % len(images)]


def attribution(whole_ms: float, parts_ms: dict[str, float], frames: int) -> dict[str, object]:
    """By part: ms a frame, and share of the whole (0 to 1); ``rest`` makes them add up to the whole exactly."""
    rows = {name: parts_ms.get(name, 0.0) for name in PARTS}
    rows["rest"] = whole_ms - sum(rows.values())
    number = max(frames, 1)
    return {
        "whole_ms": whole_ms / number,
        "parts": {
            name: {"ms": value / number, "share": value / whole_ms if whole_ms > 0 else 0.0}
            for name, value in rows.items()
        },
    }
