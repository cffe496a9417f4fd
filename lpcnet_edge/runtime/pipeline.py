"""What is done to frames between a source and a sink, without any scheduling: ``bulk`` and ``live`` drive it."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Slot
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.decision import ask_review, decide
from lpcnet_edge.errors import BadConfig, BadInput, LpcnetError
from lpcnet_edge.runtime.cascade import overload, select, uncertain
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.settings import MAX_SLOT_TILES, RunSettings
from lpcnet_edge.runtime.sources.frame import Frame, Item
from lpcnet_edge.runtime.stitching import Stitcher
from lpcnet_edge.runtime.tile_plan import TilePlan, plan_tiles, write_tiles
from lpcnet_edge.types import ClassMap, Verdict

TILED_FROM = 4
"""A frame of more than this many tiles along a side is cut up: resized to one tile, a defect would lose more than three
quarters of its length."""

REFUSALS = ("not inspected", "engine failed", "unreadable", "overload", "late", "dropped")
"""How the reason begins of a frame that is rejected for something else than its defects."""

_BEGINS = tuple(f"{word}: " for word in REFUSALS)  # a path may begin with such a word

_STITCHERS = 8


def framing_for(height: int, width: int, tile_px: int, mode: Literal["resize", "tile"] | None = None) -> Framing:
    """How a frame becomes tiles where no settings say so; ``mode`` overrides what its size would decide."""
    if mode is None:
        mode = "tile" if max(height, width) > TILED_FROM * tile_px else "resize"
    return Framing(mode, tile_px, min(Framing().overlap_px, tile_px // 8))


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One frame taken and what was decided; ``classes`` (H, W) uint8 is a copy, where asked for and there is one."""

    item: Item
    verdict: Verdict
    classes: ClassMap | None = None


@dataclass(slots=True, eq=False)
class Work:
    """A frame on its way. Times are ``time.monotonic_ns``.

    Attributes
    ----------
    item, taken_ns
        What was taken, and when; not later than when we got it.
    plan, tiles, first
        Its tiles, their number, and where they begin in the slot. None and 0 where it has none.
    picked, picked_first
        (M,) int32, those for stage 2, by their number in the plan; and where they begin among the slot's picked ones.
    latency_ms
        By stage.
    result
        Set as soon as nothing more is to be computed.
    """

    item: Item
    taken_ns: int
    plan: TilePlan | None = None
    tiles: int = 0
    first: int = 0
    picked: NDArray[np.int32] | None = None
    picked_first: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)
    result: Result | None = None


@dataclass(slots=True)
class Totals:
    """What has gone through.

    Attributes
    ----------
    outcomes
        Frames by outcome.
    refused
        Those rejected for something else than their defects, by the first word of the reason.
    tiles, picked
        Of the frames that stage 1 saw: their tiles, and those that stage 2 saw.
    """

    outcomes: Counter[str] = field(default_factory=lambda: Counter({"pass": 0, "reject": 0, "review": 0}))
    refused: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REFUSALS, 0)))
    tiles: int = 0
    picked: int = 0

    @property
    def frames(self) -> int:
        """All verdicts."""
        return sum(self.outcomes.values())


class Pipeline:
    """The steps of a frame. One thread uses it.

    Parameters
    ----------
    bundle
        Whose classes, tile size, gate and rules hold.
    settings
        Of the run.
    backend_name
        Recorded in verdicts.
    keep_maps
        Whether results carry class maps.

    Raises
    ------
    BadConfig
        The settings do not fit the bundle: the tile's size, or a class that a rule names.
    """

    def __init__(self, bundle: Bundle, settings: RunSettings, backend_name: str, *, keep_maps: bool = False) -> None:
        manifest = bundle.manifest
        self.bundle_id, self.backend_name = bundle.id, backend_name
        self.classes, self.tile_px = manifest.classes, manifest.tile_px
        self._channels = () if manifest.channels == 1 else (3,)
        self._depth = "" if manifest.channels == 1 else ", 3"
        self.settings, self.keep_maps = settings, keep_maps
        self.rules = settings.rules or manifest.rules
        self.rules.check_classes(self.classes)
        if settings.framing is not None and settings.framing.tile_px != self.tile_px:
            raise BadConfig(
                f"framing.tile_px is {settings.framing.tile_px}, the bundle's tiles have {self.tile_px} px",
                mend=f"write tile_px: {self.tile_px}",
            )
        gate = manifest.gate
        self.threshold = settings.gate if not isinstance(settings.gate, str) else None
        if settings.gate == "auto":
            self.threshold = gate.threshold
        self.totals = Totals()
        self._plans: dict[tuple[int, ...], TilePlan] = {}
        self._stitchers: OrderedDict[int, Stitcher] = OrderedDict()

    def begin(self, item: Item) -> Work:
        """Take an item: its tiles are planned, or its result is set where it cannot be inspected."""
        now_ns = time.monotonic_ns()
        work = Work(item, min(item.taken_ns, now_ns))  # a source's clock that runs ahead must not buy time
        work.latency_ms["waiting"] = (now_ns - work.taken_ns) / 1e6
        if not isinstance(item, Frame):
            own = item.reason.startswith(_BEGINS)
            self.reject(work, item.reason if own else f"unreadable: {item.reason}")
            return work
        try:
            work.plan = self._plan(item)
            work.tiles = len(work.plan)
        except LpcnetError as exc:
            self.reject(work, f"not inspected: {exc.message}")
        return work

    def _plan(self, frame: Frame) -> TilePlan:
        shape, dtype = frame.pixels.shape, frame.pixels.dtype
        plan = self._plans.get(shape) if dtype == np.uint8 else None
        if plan is not None:
            return plan
        if dtype != np.uint8 or len(shape) < 2 or shape[2:] != self._channels or 0 in shape:
            raise BadInput(f"the frame is {dtype} of shape {shape}, the network takes uint8 (H, W{self._depth})")
        plan = plan_tiles(shape[0], shape[1], self.settings.framing or framing_for(shape[0], shape[1], self.tile_px))
        self.rules.check_frame(*plan.map_shape, plan.shown_px)
        if len(plan) > MAX_SLOT_TILES:
            raise BadInput(f"{shape[1]} x {shape[0]} px are {len(plan)} tiles; the most is {MAX_SLOT_TILES}")
        if len(self._plans) >= 64:
            self._plans.clear()
        self._plans[shape] = plan
        return plan

    def write(self, work: Work, slot: Slot, first: int) -> None:
        """Write a frame's tiles into the slot from ``first`` on."""
        assert isinstance(work.item, Frame)
        assert work.plan is not None
        started = time.perf_counter()
        work.first = first
        write_tiles(work.item.pixels, work.plan, slot.pixels[first:], 0, work.tiles)
        work.latency_ms["tiling"] = 1e3 * (time.perf_counter() - started)

    def gate(self, works: Sequence[Work], slot: Slot) -> NDArray[np.int32]:
        """Pick tiles by stage 1's scores: (M,) int32, places in the slot, ascending. Rejects frames over budget."""
        chosen: list[NDArray[np.int32]] = []
        count = 0
        for work in works:
            if work.result is not None or work.plan is None:
                continue
            started = time.perf_counter()
            picked = select(slot.score[work.first : work.first + work.tiles], self.threshold, work.plan)
            why = overload(len(picked), work.tiles, self.settings.budget_tiles)
            if why is not None:
                self.reject(work, why)
                continue
            work.picked, work.picked_first = picked, count
            if len(picked):
                count += len(picked)
                chosen.append(picked + np.int32(work.first) if work.first else picked)
            work.latency_ms["gate"] = 1e3 * (time.perf_counter() - started)
        if not chosen:
            return np.zeros(0, np.int32)
        return chosen[0] if len(chosen) == 1 else np.concatenate(chosen)

    def finish(self, work: Work, slot: Slot) -> Result:
        """Stitch and decide a frame whose stages are through; the result of one that has one already."""
        if work.result is not None:
            return work.result
        assert work.plan is not None
        assert work.picked is not None
        started = time.perf_counter()
        plan, picked = work.plan, work.picked
        scores = slot.score[work.first : work.first + work.tiles]
        stitcher = self._stitcher(plan)
        stitcher.begin(scores if len(picked) < work.tiles else None)
        rows = slice(work.picked_first, work.picked_first + len(picked))
        stitcher.add(picked, slot.classes[rows], slot.confidence[rows])
        classes, confidence = stitcher.finish()
        stitched = time.perf_counter()
        verdict = decide(
            classes, confidence, self.classes, self.rules, part_id=work.item.part_id, shown_px=plan.shown_px
        )
        unsure = uncertain(scores, self.settings.uncertain)
        if len(unsure) and verdict.outcome == "pass":
            verdict = ask_review(
                verdict, f"uncertain: {len(unsure)} tile(s) score in {list(self.settings.uncertain or ())}"
            )
        work.latency_ms["stitch"] = 1e3 * (stitched - started)
        work.latency_ms["decide"] = 1e3 * (time.perf_counter() - stitched)
        self._close(work, verdict, classes.copy() if self.keep_maps else None)
        assert work.result is not None
        return work.result

    def reject(self, work: Work, reason: str) -> Result:
        """Make a frame a reject for something else than its defects."""
        self._close(work, Verdict(work.item.part_id, "reject", (reason,)), None)
        assert work.result is not None
        return work.result

    def late(self, work: Work, deadline_ms: float) -> Result:
        """Make a decided frame whose verdict came too late a reject; its defects stay."""
        assert work.result is not None
        verdict = work.result.verdict
        reason = f"late: {verdict.latency_ms['total']:.1f} ms, the deadline is {deadline_ms:g} ms"
        work.result = replace(
            work.result, verdict=replace(verdict, outcome="reject", reasons=(reason, *verdict.reasons))
        )
        return work.result

    def count(self, work: Work) -> None:
        """Add a frame whose result is given out to the totals."""
        assert work.result is not None
        totals, verdict = self.totals, work.result.verdict
        totals.outcomes[verdict.outcome] += 1
        if verdict.outcome != "pass" and verdict.reasons:
            kind = verdict.reasons[0].partition(":")[0]
            if kind in totals.refused:
                totals.refused[kind] += 1
        if work.plan is not None and work.picked is not None:
            totals.tiles += work.tiles
            totals.picked += len(work.picked)

    def _close(self, work: Work, verdict: Verdict, classes: ClassMap | None) -> None:
        work.latency_ms["total"] = (time.monotonic_ns() - work.taken_ns) / 1e6
        said = verdict.part_id, verdict.outcome, verdict.reasons, verdict.defects
        verdict = Verdict(*said, work.latency_ms, self.backend_name, self.bundle_id)  # a third of what replace() takes
        work.result = Result(work.item, verdict, classes)

    def _stitcher(self, plan: TilePlan) -> Stitcher:
        """Kept for the plans used last; each takes up to 4 bytes a pixel."""
        key = id(plan.window)  # plans with the same windows share it; it holds its plan, so no others get this id
        stitcher = self._stitchers.get(key)
        if stitcher is None:
            if len(self._stitchers) >= _STITCHERS:
                self._stitchers.popitem(last=False)
            stitcher = self._stitchers[key] = Stitcher(plan)
        else:
            self._stitchers.move_to_end(key)
        return stitcher
