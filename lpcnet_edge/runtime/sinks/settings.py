"""Settings of sinks, as they stand in YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lpcnet_edge.config import refuse_non_finite


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How a sink is kept from holding up the line, and the line from losing what the sink owes.

    Attributes
    ----------
    queue_records
        Verdicts (with their pixels) that wait for one sink; fewer, down to one, of more than 256 MB in all.
    when_full
        ``block``: the line waits for a slow sink; ``drop``: the newest is left out and counted.
    longest_wait_s
        With ``block``: a sink that takes nothing for so long no longer holds the line up; what it misses is counted.
    flush_s
        What a sink holds is written at the latest so long after it came.
    retry_first_s, retry_largest_s
        A failed sink is tried again after the first, then twice as long, up to the largest.
    backlog_records
        Verdict lines a durable sink holds in memory while it fails. Pictures: ``queue_records``.
    spill
        A folder on another disk: beyond the backlog, or at the end, lines of a durable sink go to
        ``<spill>/<kind of sink>.spill.jsonl``. None: they are lost, counted and named in the error at the end.
    close_s
        How long closing waits for a failing sink.
    """

    queue_records: int = 64
    when_full: Literal["block", "drop"] = "block"
    longest_wait_s: float = 10.0
    flush_s: float = 0.5
    retry_first_s: float = 0.5
    retry_largest_s: float = 10.0
    backlog_records: int = 100_000
    spill: Path | None = None
    close_s: float = 5.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if self.queue_records < 1 or self.backlog_records < 1:
            raise ValueError("queue_records and backlog_records are at least 1")
        if not 0 < self.retry_first_s <= self.retry_largest_s:
            raise ValueError(f"retry_first_s is {self.retry_first_s}; it lies above 0 and at most at retry_largest_s")
        if min(self.longest_wait_s, self.flush_s, self.close_s) < 0:
            raise ValueError("longest_wait_s, flush_s and close_s are not negative")


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """Where verdicts go; None leaves a sink out.

    Attributes
    ----------
    jsonl, csv, sqlite
        Files; what they hold is kept and added to.
    masks, overlays
        Folders: the class map as a PNG of class indices; the image with contours, labels and the verdict.
    overlay_format
        ``jpg`` (quality 90) or ``png``.
    overlay_of
        ``all`` frames, or only those that do not pass.
    """

    jsonl: Path | None = None
    csv: Path | None = None
    sqlite: Path | None = None
    masks: Path | None = None
    overlays: Path | None = None
    overlay_format: Literal["jpg", "png"] = "jpg"
    overlay_of: Literal["all", "not-passed"] = "all"
    delivery: DeliverySettings = DeliverySettings()
