"""What fits into a latency budget: tile overlap, picked tiles and batch, by measurement. The gate is never touched.

The search prefers, in this order: that the tiles that the gate picks on these frames all fit; a larger overlap (a
defect on a seam is seen whole by one tile); more picked tiles; a larger batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

SCREENED, CONFIRMED = 12, 200
"""Frames for each step of the search, of which the slowest counts; and for the p99 of what is chosen."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run a frame of ``tiles`` tiles, which overlap by ``overlap_px``; stage 2 sees ``picked`` of them."""

    batch: int
    overlap_px: int
    tiles: int
    picked: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the search found for an overlap and a batch: the most picked tiles that held the budget, None for none.

    ``slowest_ms`` is that of the frames screened with so many picked, or with none where none held.
    """

    overlap_px: int
    tiles: int
    batch: int
    picked: int | None
    needed: int
    slowest_ms: float


@dataclass(frozen=True)
class Budget:
    """The result; ``chosen`` and ``p99_ms`` are None where nothing holds."""

    budget_ms: float
    chosen: Candidate | None
    p99_ms: float | None
    needed: int | None
    rows: tuple[Row, ...]
    says: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        chosen = asdict(self.chosen) if self.chosen else None
        return {
            "budget_ms": self.budget_ms,
            "chosen": chosen,
            "p99_ms": self.p99_ms,
            "needed": self.needed,
            "rows": [asdict(row) for row in self.rows],
            "says": list(self.says),
            "settings": {
                "framing": {"mode": "tile", "overlap_px": self.chosen.overlap_px},
                "budget_tiles": self.chosen.picked,
            }
            if self.chosen and self.chosen.tiles > 1 and self.chosen.picked
            else None,
        }


Measure = Callable[[Candidate, int], Sequence[float]]
"""Latencies (ms) of so many frames, run as the candidate says."""


def find_budget(
    measure: Measure,
    budget_ms: float,
    *,
    overlaps: Sequence[tuple[int, int, int]],
    batches: Sequence[int],
    screened: int = SCREENED,
    confirmed: int = CONFIRMED,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Budget:
    """Search.

    Parameters
    ----------
    measure
        What runs frames.
    budget_ms
        That p99 must hold.
    overlaps
        (overlap px, tiles a frame, tiles that the gate picks on these frames at the most).
    batches
        Sizes to try.
    """
    rows: list[Row] = []
    tried: dict[Row, tuple[Candidate | None, float]] = {}  # those that many frames were run for

    def confirm(row: Row) -> tuple[Candidate | None, float]:
        if row not in tried:
            tried[row] = _confirm(measure, budget_ms, row, confirmed)
        return tried[row]

    def found(row: Row, chosen: Candidate, p99_ms: float) -> Budget:
        says = tuple(_say(budget_ms, chosen, p99_ms, row, rows))
        return Budget(budget_ms, chosen, p99_ms, row.needed, tuple(rows), says)

    def worth(row: Row) -> tuple[float, ...]:
        chosen = tried[row][0] if row in tried else None
        return _worth(row if chosen is None else replace(row, picked=chosen.picked))

    total = len(overlaps) * len(batches)
    for overlap_px, tiles, needed in sorted(overlaps, reverse=True):
        for batch in sorted(batches, reverse=True):
            progress(f"overlap {overlap_px} px, batch {batch}", len(rows), total)
            rows.append(_most_picked(measure, budget_ms, batch, overlap_px, tiles, needed, screened))
        enough = [row for row in rows[-len(batches) :] if row.picked is not None and row.picked >= needed]
        for row in sorted(enough, key=_worth, reverse=True):
            chosen, p99_ms = confirm(row)
            if chosen is not None and chosen.picked >= needed:
                return found(row, chosen, p99_ms)
    holding = [row for row in rows if row.picked is not None]
    while holding:
        best = max(holding, key=worth)
        chosen, p99_ms = confirm(best)
        if chosen is not None:
            return found(best, chosen, p99_ms)
        holding.remove(best)
    least = min(rows, key=lambda row: row.slowest_ms)
    says = (
        f"nothing holds {budget_ms:g} ms: stage 1 alone on {least.tiles} tile(s) takes {least.slowest_ms:.1f} ms "
        f"(overlap {least.overlap_px} px, batch {least.batch})",
        "a smaller frame or region to inspect, a faster machine, or a larger budget is needed",
    )
    return Budget(budget_ms, None, None, None, tuple(rows), says)


def _most_picked(
    measure: Measure, budget_ms: float, batch: int, overlap_px: int, tiles: int, needed: int, screened: int
) -> Row:
    """The most picked tiles whose slowest screened frame holds, by bisection: more picked tiles take no less time."""

    def slowest(picked: int) -> float:
        return max(measure(Candidate(batch, overlap_px, tiles, picked), screened))

    least_ms = slowest(0)
    if least_ms > budget_ms:
        return Row(overlap_px, tiles, batch, None, needed, least_ms)
    all_ms = slowest(tiles)
    if all_ms <= budget_ms:
        return Row(overlap_px, tiles, batch, tiles, needed, all_ms)
    low, high, at_ms = 0, tiles, least_ms
    while high - low > 1:
        middle = (low + high) // 2
        now_ms = slowest(middle)
        if now_ms <= budget_ms:
            low, at_ms = middle, now_ms
        else:
            high = middle
    return Row(overlap_px, tiles, batch, low, needed, at_ms)


def _worth(row: Row) -> tuple[float, ...]:
    """What is preferred, first things first."""
    picked = row.picked or 0
    enough = picked >= row.needed
    short = 0 if enough else -(row.needed - picked) / max(row.needed, 1)
    return (short, row.overlap_px, picked, row.batch)


def _confirm(measure: Measure, budget_ms: float, row: Row, confirmed: int) -> tuple[Candidate | None, float]:
    """The row's candidate with as many picked tiles as hold p99 over many frames; None where none does."""
    picked = row.picked or 0
    while True:
        candidate = Candidate(row.batch, row.overlap_px, row.tiles, picked)
        p99_ms = float(np.quantile(measure(candidate, confirmed), 0.99))
        if p99_ms <= budget_ms:
            return candidate, p99_ms
        if picked == 0:
            return None, p99_ms
        picked -= max(1, picked // 10)


def _say(budget_ms: float, chosen: Candidate, p99_ms: float, best: Row, rows: Sequence[Row]) -> list[str]:
    overlap = f", tiles overlap by {chosen.overlap_px} px" if chosen.tiles > 1 else " (the frame is resized to one)"
    says = [
        f"{chosen.picked} of {chosen.tiles} tiles may go to stage 2{overlap}, batches of up to {chosen.batch}: "
        f"p99 {p99_ms:.1f} ms of {budget_ms:g} ms"
    ]
    if best.picked is not None and chosen.picked < best.picked:
        says.append(f"{best.picked} fit on the few frames that were screened, and not by the p99 of many")
    if chosen.picked >= best.needed:
        says.append(f"the gate picks at most {best.needed} tile(s) of these frames, so all that it picks are seen")
    else:
        says.append(
            f"the gate picks up to {best.needed} tile(s) of these frames: frames that pick more than {chosen.picked} "
            "would be rejects (overload); the gate's threshold is not what to change for that"
        )
    for row in rows:
        if row.overlap_px > chosen.overlap_px:
            if row.picked is None:
                fits = "not even stage 1 would fit"
            elif row.picked < row.needed:
                fits = f"only {row.picked} of {row.needed} picked tiles would fit"
            else:
                fits = f"{row.needed} picked tiles fit on the few frames that were screened, and not by the p99 of many"
            says.append(f"with {row.overlap_px} px ({row.tiles} tiles) and batches of {row.batch} {fits}")
    same = [row for row in rows if row.overlap_px == chosen.overlap_px and row.batch != chosen.batch]
    for row in same:
        held = "nothing" if row.picked is None else f"{row.picked} picked"
        says.append(f"batches of {row.batch} hold {held} at this overlap, on the frames that were screened")
    return says
