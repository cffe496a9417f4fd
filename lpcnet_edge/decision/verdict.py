"""From a class map to a frame's verdict, and from the views' verdicts to a part's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.decision.rules import Box, Rules, Zone
from lpcnet_edge.types import ClassMap, ConfidenceMap, Defect, Outcome, PartVerdict, Verdict

GAP_PX = 32
"""Defects with less background than this between them are looked at together: a box for every speck costs more."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A defect, and whether it has a pixel outside all zones that have rules."""

    defect: Defect
    outside: bool


def find_defects(
    class_map: ClassMap, confidence_map: ConfidenceMap, classes: Sequence[str], *, mm_per_px: float | None = None
) -> list[Defect]:
    """All 8-connected components of every defect class, largest first; of equal ones by class, then from the top left.

    Parameters
    ----------
    class_map, confidence_map
        (H, W) uint8 as in :mod:`lpcnet_edge.types`.
    classes
        Class names by index; index 0, the background, has no defects.
    mm_per_px
        Side of a pixel in mm, if known.
    """
    return [found.defect for found in _find(class_map, confidence_map, classes, Rules(mm_per_px=mm_per_px), None)]


def decide(
    class_map: ClassMap,
    confidence_map: ConfidenceMap,
    classes: Sequence[str],
    rules: Rules,
    *,
    part_id: str = "",
    shown_px: Box | None = None,
) -> Verdict:
    """Decide one frame: reject where a class has as many counting defects as its rule says, else review or pass.

    The arguments are those of :func:`find_defects`; they are trusted. ``shown_px`` is the box of the frame that the
    maps show, where they are not the frame's pixel by pixel: zones and ``rules.mm_per_px`` are about the frame's.
    """
    # Most frames of a line are free, and seeing that takes a tenth of the time that looking for boxes does.
    found = _find(class_map, confidence_map, classes, rules, shown_px) if cv2.hasNonZero(class_map) else []
    if not found:
        return Verdict(part_id, "pass")
    rejects, reviews, counting = [], [], set()
    for zone in (None, *(zone for zone in rules.zones if not zone.ignore)):
        here = [item.defect for item in found if (item.outside if zone is None else zone.name in item.defect.zones)]
        for name in classes[1:]:
            rule = rules.of(name, zone)
            counted = [defect for defect in here if defect.name == name and rule.counts(defect)]
            counting.update(counted)
            sure = [defect for defect in counted if defect.confidence >= rule.review_below]
            if len(sure) >= rule.count:
                rejects.append(_reason(sure, zone))
            elif len(counted) >= rule.count:
                reviews.append(f"uncertain: {_reason(counted, zone)}")
    outcome: Outcome = "reject" if rejects else "review" if reviews else "pass"
    defects = tuple(item.defect for item in found if item.defect in counting)
    return Verdict(part_id, outcome, (*rejects, *reviews), defects)


def counting_map(
    class_map: ClassMap, verdict: Verdict, classes: Sequence[str], rules: Rules, *, shown_px: Box | None = None
) -> ClassMap:
    """What is left of a class map when only the defects of its verdict by ``rules`` stay: (H, W) uint8."""
    seen, frame = class_map.copy(), (class_map.shape[0], class_map.shape[1])
    for zone in rules.zones:
        if zone.ignore:
            seen[zone.on_map(*frame, shown_px).mask(0, 0, *frame, frame=frame)] = 0
    left_over = np.zeros_like(class_map)
    for defect in verdict.defects:
        x, y, width, height = defect.box_px
        window = (slice(y, y + height), slice(x, x + width))
        index = list(classes).index(defect.name)
        count, components, stats, _ = cv2.connectedComponentsWithStats((seen[window] == index).view(np.uint8))
        for label in range(1, count):  # others reach into the window, and are cut by it
            if stats[label].tolist() == [0, 0, width, height, defect.area_px]:
                left_over[window][components == label] = index
    return left_over


def ask_review(verdict: Verdict, reason: str) -> Verdict:
    """The verdict with a reason to look again: a pass becomes ``review``, a reject stays one."""
    outcome: Outcome = "reject" if verdict.outcome == "reject" else "review"
    return replace(verdict, outcome=outcome, reasons=(*verdict.reasons, reason))


def join_views(
    part_id: str, expected: Sequence[str], views: Mapping[str, Verdict], *, late: Collection[str] = ()
) -> PartVerdict:
    """Join the views of one part: any reject rejects, and so does a view that is missing, late or not expected.

    Parameters
    ----------
    part_id
        The physical part.
    expected
        Names of the views that a part must have; with none, nothing was inspected and the part is rejected.
    views
        The verdict of each view that came, late ones too.
    late
        Names of those that came after the part's deadline: a reject, whatever they say.
    """
    names = [*expected, *(name for name in views if name not in expected)]
    reasons = [] if expected else ["no view is expected of this part, so nothing vouches for it"]
    rejected = not expected
    for name in names:
        verdict = views.get(name)
        if verdict is None or name in late or name not in expected:
            what = "missing" if verdict is None else "late" if name in late else "not expected"
            reasons.append(f"{name}: the view is {what}")
            rejected = True
        if verdict is not None:
            reasons += [f"{name}: {reason}" for reason in verdict.reasons]
            rejected |= verdict.outcome == "reject"
    review = any(verdict.outcome == "review" for verdict in views.values())
    return PartVerdict(part_id, "reject" if rejected else "review" if review else "pass", tuple(reasons), dict(views))


def _find(
    class_map: ClassMap, confidence_map: ConfidenceMap, classes: Sequence[str], rules: Rules, shown_px: Box | None
) -> list[_Found]:
    """All defects, in the order of :func:`find_defects`; those too small for every rule may be left out."""
    smallest = min(rule.min_area_px for rule in rules.each())
    if shown_px == (0, 0, class_map.shape[1], class_map.shape[0]):
        shown_px = None
    mm2_per_px = None if rules.mm_per_px is None else rules.mm_per_px**2
    if shown_px is not None and mm2_per_px is not None:
        mm2_per_px *= shown_px[2] * shown_px[3] / class_map.size
    frame = class_map.shape[0], class_map.shape[1]
    zones = [zone.on_map(*frame, shown_px) for zone in rules.zones]
    ignored = [zone for zone in zones if zone.ignore]
    judged = [zone for zone in zones if not zone.ignore]
    rows: list[tuple[int, int, int, int, _Found]] = []
    for top, left, height, width in _boxes(class_map):
        inside = class_map[top : top + height, left : left + width]
        confidence = confidence_map[top : top + height, left : left + width]
        for zone in ignored:
            inside = np.where(zone.mask(top, left, height, width, frame=frame), np.uint8(0), inside)
        masks = [zone.mask(top, left, height, width, frame=frame) for zone in judged]
        free = ~np.logical_or.reduce(masks) if masks else None
        for index, flags in _planes(inside):
            count, labels, stats, _ = cv2.connectedComponentsWithStats(flags.view(np.uint8))
            components = np.asarray(labels, dtype=np.int32)
            means = _means(components, flags, confidence, count).tolist()
            touched = [_holds(components[mask], count) for mask in masks]
            outside = np.ones(count, dtype=np.bool_) if free is None else _holds(components[free], count)
            for label, (x, y, wide, high, area) in enumerate(stats.tolist()):
                if label == 0 or area < smallest:
                    continue
                shape = components[y : y + high, x : x + wide] == label if rules.contours else None
                defect = Defect(
                    name=classes[index],
                    box_px=(left + x, top + y, wide, high),
                    area_px=area,
                    area_mm2=None if mm2_per_px is None else area * mm2_per_px,
                    confidence=means[label],
                    zones=tuple(zone.name for zone, hit in zip(judged, touched, strict=True) if hit[label]),
                    contour_px=None if shape is None else _contour(shape, top + y, left + x),
                    frame_box_px=None
                    if shown_px is None
                    else _in_frame((left + x, top + y, wide, high), class_map.shape, shown_px),
                )
                rows.append((-area, index, top + y, left + x, _Found(defect, bool(outside[label]))))
    return [row[-1] for row in sorted(rows, key=lambda row: row[:-1])]


def _in_frame(box: Box, shape: tuple[int, ...], shown: Box) -> Box:
    """The least box of the frame that holds a box of a map of ``shape``, which shows the frame's box ``shown``."""
    x, y, width, height = box
    left, right = x * shown[2] // shape[1], -(-(x + width) * shown[2] // shape[1])
    top, bottom = y * shown[3] // shape[0], -(-(y + height) * shown[3] // shape[0])
    return shown[0] + left, shown[1] + top, right - left, bottom - top


def _boxes(class_map: ClassMap) -> Iterator[tuple[int, int, int, int]]:
    """(y, x, height, width) of boxes that hold every defect pixel and cut no component; fast where there are few.

    They are the bands of rows that are not all background, cut into runs of columns that are not.
    """
    for top, bottom in _runs(class_map.max(axis=1)):
        for left, right in _runs(class_map[top:bottom].max(axis=0)):
            yield top, left, bottom - top, right - left


def _runs(highest: NDArray[np.uint8]) -> list[list[int]]:
    """[start, end) of each run of values that are not 0, runs closer than ``GAP_PX`` being one."""
    flags = np.zeros(len(highest) + 2, np.bool_)
    np.not_equal(highest, 0, out=flags[1:-1])
    edges = (flags[1:] != flags[:-1]).nonzero()[0]
    if edges.size > 2:
        apart = edges[2::2] - edges[1:-1:2] >= GAP_PX
        edges = np.concatenate([edges[:1], edges[1:-1][np.repeat(apart, 2)], edges[-1:]])
    runs: list[list[int]] = edges.reshape(-1, 2).tolist()
    return runs


def _planes(inside: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Each defect class in a box, and where it is. The usual box holds one, and is then searched for no other."""
    highest, pixels = int(inside.max()), cv2.countNonZero(inside)
    for index in (highest, *range(1, highest)):
        flags = inside == index
        found = cv2.countNonZero(flags.view(np.uint8)) if pixels else 0
        if found:
            pixels -= found
            yield index, flags


def _means(
    components: NDArray[np.int32], flags: NDArray[np.bool_], confidence: ConfidenceMap, count: int
) -> NDArray[np.float64]:
    """(count,) mean confidence of each component, 0..1; that of the background is 0.

    Whole sums divided once: a defect that is as sure as a rule asks must not miss it by what rounding takes.
    """
    if count == 2:  # one component, the usual case, ten times as fast
        mask = flags.view(np.uint8)
        pixels = cv2.countNonZero(mask)
        total = round(cv2.mean(confidence, mask=mask)[0] * pixels)  # OpenCV multiplies by 1 / pixels, which is rounded
        return np.array([0.0, total / (255 * pixels)])
    labels = components[flags]
    totals = np.bincount(labels, weights=confidence[flags], minlength=count)
    means: NDArray[np.float64] = totals / (255 * np.maximum(np.bincount(labels, minlength=count), 1))
    return means


def _holds(labels: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    """(count,) whether each label occurs."""
    present = np.zeros(count, dtype=np.bool_)
    present[labels] = True
    return present


def _contour(shape: NDArray[np.bool_], y: int, x: int) -> tuple[tuple[int, int], ...]:
    """The outer contour of one component, its window beginning at y and x: corners (x, y), straight runs left out."""
    lines, _ = cv2.findContours(shape.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    return tuple((int(corner[0]), int(corner[1])) for corner in lines[0].reshape(-1, 2))


def _reason(defects: Sequence[Defect], zone: Zone | None) -> str:
    """One sentence on the defects of one class, largest first."""
    largest = defects[0]
    area = f"{largest.area_px} px" if largest.area_mm2 is None else f"{largest.area_mm2:.3g} mm2"
    what = f"{largest.name} of {area}" if len(defects) == 1 else f"{len(defects)} x {largest.name}, the largest {area}"
    where = "" if zone is None else f" in zone '{zone.name}'"
    return f"{what} at confidence {largest.confidence:.2f}{where}"
