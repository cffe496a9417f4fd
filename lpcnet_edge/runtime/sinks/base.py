"""What a sink is, and the record of one frame that all of them write."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from lpcnet_edge.runtime.sources.frame import Frame, Item
from lpcnet_edge.runtime.verdict_lines import to_json
from lpcnet_edge.types import ClassMap, Verdict


class Sink(ABC):
    """Takes verdicts. One thread at a time calls it.

    ``write`` takes a record and may hold it; it writes nothing that a full disk can break. ``flush`` writes all that is
    held, or raises and still holds what was not written, to be flushed again. An exception from ``write`` means that
    the one record is refused.

    Attributes
    ----------
    name
        In errors and counters.
    durable
        What a flush has written survives a killed process and a power cut.
    """

    name = "sink"
    durable = False

    @property
    def pending(self) -> int:
        """Records held, the newest; 0 after a flush that did not raise."""
        return 0

    @abstractmethod
    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        """Take the verdict on one frame; ``classes`` (H, W) uint8, where the frame got that far, is not copied."""

    def flush(self) -> None:  # noqa: B027  # a sink that holds nothing has nothing to write
        """Write what is held; raises what the operating system or the library raised."""

    def surrender(self) -> Sequence[str]:
        """Give up what is held: its verdict lines (JSON) where there are any to save, in order."""
        return ()

    def close(self) -> None:  # noqa: B027
        """Let go of the file; does not flush. Closing twice is fine."""


def record_line(item: Item, verdict: Verdict) -> dict[str, Any]:
    """The verdict's line (``verdict_lines.to_json``) and, of its frame, name, source, sequence, size and moment.

    ``size_px`` is [width, height], null for a bad frame; ``taken_at`` is UTC, from the wall clock as it stands now.
    """
    size = list(item.size_px) if isinstance(item, Frame) else None
    ago_ns = max(0, time.monotonic_ns() - item.taken_ns)  # as in latencies: a clock that runs ahead counts as now
    taken_s = (time.time_ns() - ago_ns) / 1e9
    taken_at = datetime.fromtimestamp(taken_s, timezone.utc).isoformat(timespec="milliseconds")
    return {
        **to_json(verdict),
        "frame": item.name,
        "source": item.source,
        "sequence": item.sequence,
        "size_px": size,
        "taken_at": taken_at,
    }


def encode_line(line: dict[str, Any]) -> str:
    """A verdict line as JSON (ASCII, no newline); raises ``ValueError`` for a number that JSON does not have."""
    return json.dumps(line, allow_nan=False)
