"""Metrics that count defects: which connected components of the ground truth were caught, by their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.types import ClassMap

CAUGHT_OVERLAP = 0.3
"""Share of a defect's pixels that must be predicted as defect for it to count as caught."""

MIN_DEFECT_PX = 5
"""Smaller components of the ground truth are annotation noise: counted as ignored, neither caught nor missed."""

SIZE_EDGES_PX = (64, 256, 1024, 4096)
"""Borders between the size bins, in px of area at the tile's resolution; a defect on a border is in the upper bin."""


@dataclass(frozen=True, slots=True)
class Defects:
    """The defects of the ground truth, K of them, and how much of each was predicted.

    Attributes
    ----------
    label
        (K,) int64, class index.
    area_px
        (K,) int64, pixels.
    overlap
        (K,) float64, share of its pixels predicted as any defect.
    overlap_as_class
        (K,) float64, share of its pixels predicted as its own class.
    ignored
        Components too small to count.
    """

    label: NDArray[np.int64]
    area_px: NDArray[np.int64]
    overlap: NDArray[np.float64]
    overlap_as_class: NDArray[np.float64]
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.label)

    def of_class(self, label: int) -> Defects:
        """Only the defects of one class (``ignored`` is then 0)."""
        keep = self.label == label
        return Defects(self.label[keep], self.area_px[keep], self.overlap[keep], self.overlap_as_class[keep])


@dataclass(frozen=True, slots=True)
class Recall:
    """How many of some defects were caught as any defect, and as their own class.

    ``to_px`` is exclusive; None means that the bin is open above. The sizes are areas in px.
    """

    count: int
    caught: int
    caught_as_class: int
    from_px: int = 0
    to_px: int | None = None


def match_defects(truth: ClassMap, predicted: ClassMap, *, min_area_px: int = MIN_DEFECT_PX) -> Defects:
    """Find the defects of one ground truth and measure how much of each was predicted.

    A defect is an 8-connected component of one class; touching defects of two classes are two defects.
    """
    rows: list[tuple[NDArray[np.int64], ...]] = []
    overlaps: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    ignored = 0
    for label in (np.flatnonzero(np.bincount(truth.ravel())[1:]) + 1).tolist():
        count, components, stats, _ = cv2.connectedComponentsWithStats((truth == label).astype(np.uint8))
        area = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
        any_defect = np.bincount(components[predicted != 0], minlength=count)[1:] / area
        same_class = np.bincount(components[predicted == label], minlength=count)[1:] / area
        keep = area >= min_area_px
        ignored += int(np.count_nonzero(~keep))
        rows.append((np.full(np.count_nonzero(keep), label, dtype=np.int64), area[keep]))
        overlaps.append((any_defect[keep], same_class[keep]))
    if not rows:
        return join_defects([])
    labels, areas = (np.concatenate(column) for column in zip(*rows, strict=True))
    any_overlap, class_overlap = (np.concatenate(column) for column in zip(*overlaps, strict=True))
    return Defects(labels, areas, any_overlap, class_overlap, ignored)


def join_defects(images: Sequence[Defects]) -> Defects:
    """The defects of several images as one table; an empty table for none."""
    whole, real = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float64)
    return Defects(
        np.concatenate([whole, *(d.label for d in images)]),
        np.concatenate([whole, *(d.area_px for d in images)]),
        np.concatenate([real, *(d.overlap for d in images)]),
        np.concatenate([real, *(d.overlap_as_class for d in images)]),
        sum(d.ignored for d in images),
    )


def count_false_alarms(truth: ClassMap, predicted: ClassMap, *, min_area_px: int = MIN_DEFECT_PX) -> int:
    """Count predicted defects (8-connected, of any class) that touch no true defect pixel."""
    count, components, stats, _ = cv2.connectedComponentsWithStats((predicted != 0).astype(np.uint8))
    touched = np.bincount(components[truth != 0], minlength=count)[1:] > 0
    return int(np.count_nonzero(~touched & (stats[1:, cv2.CC_STAT_AREA] >= min_area_px)))


def defect_level_recall(defects: Defects, *, overlap: float = CAUGHT_OVERLAP) -> Recall:
    """How many defects were caught: at least ``overlap`` of their pixels predicted."""
    return Recall(
        count=len(defects),
        caught=int(np.count_nonzero(defects.overlap >= overlap)),
        caught_as_class=int(np.count_nonzero(defects.overlap_as_class >= overlap)),
    )


def recall_by_size(
    defects: Defects, *, overlap: float = CAUGHT_OVERLAP, edges_px: Sequence[int] = SIZE_EDGES_PX
) -> list[Recall]:
    """Recall in bins of area: below the first edge, between edges, and from the last edge on; empty bins included."""
    bins = []
    for low, high in zip((0, *edges_px), (*edges_px, None), strict=True):
        inside = defects.area_px >= low
        if high is not None:
            inside &= defects.area_px < high
        bins.append(
            Recall(
                count=int(np.count_nonzero(inside)),
                caught=int(np.count_nonzero(inside & (defects.overlap >= overlap))),
                caught_as_class=int(np.count_nonzero(inside & (defects.overlap_as_class >= overlap))),
                from_px=low,
                to_px=high,
            )
        )
    return bins


def smallest_caught_px(defects: Defects, *, overlap: float = CAUGHT_OVERLAP) -> int | None:
    """Area of the smallest defect that was caught as any defect; None if none was."""
    caught = defects.area_px[defects.overlap >= overlap]
    return int(caught.min()) if caught.size else None


def largest_missed_px(defects: Defects, *, overlap: float = CAUGHT_OVERLAP) -> int | None:
    """Area of the largest defect that was not caught; None if all were."""
    missed = defects.area_px[defects.overlap < overlap]
    return int(missed.max()) if missed.size else None
