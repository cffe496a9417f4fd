"""From a class map to a verdict: a pure function of arrays and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from lpcnet_edge.config import suggest
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import ClassMap, ConfidenceMap, Defect, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class ClassRule:
    """When defects of a class reject a frame; by default a single pixel does.

    Attributes
    ----------
    min_area_px
        A smaller component does not count.
    min_confidence
        0..1; a component of lower mean confidence does not count.
    count
        How many components that count it takes to reject.
    """

    min_area_px: int = 1
    min_confidence: float = 0.0
    count: int = 1

    def __post_init__(self) -> None:
        if self.min_area_px < 1:
            raise ValueError(f"min_area_px is {self.min_area_px}; the smallest area is 1")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it lies between 0 and 1")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it takes at least 1 defect to reject")


@dataclass(frozen=True, slots=True)
class Rules:
    """The verdict rules of a station: ``default`` for every defect class that ``per_class`` does not name.

    Areas are px of the class map that is decided on. ``mm_per_px``, the side of such a pixel, adds areas in mm2.
    """

    default: ClassRule = ClassRule()
    per_class: Mapping[str, ClassRule] = field(default_factory=dict)
    mm_per_px: float | None = None

    def __post_init__(self) -> None:
        if self.mm_per_px is not None and self.mm_per_px <= 0:
            raise ValueError(f"mm_per_px is {self.mm_per_px}; it is above 0")

    def of(self, name: str) -> ClassRule:
        """The rule for one class."""
        return self.per_class.get(name, self.default)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ``BadConfig`` if a rule names a class that is not among the defect ``classes[1:]``."""
        for name in self.per_class:
            if name not in classes[1:]:
                raise BadConfig(
                    f"a verdict rule names the class '{name}', which the network does not have",
                    mend=suggest(name, classes[1:]),
                )


def find_defects(
    class_map: ClassMap, confidence_map: ConfidenceMap, classes: Sequence[str], *, mm_per_px: float | None = None
) -> list[Defect]:
    """All 8-connected components of every defect class, largest first.

    Parameters
    ----------
    class_map, confidence_map
        (H, W) uint8 as in :mod:`lpcnet_edge.types`.
    classes
        Class names by index; index 0, the background, has no defects.
    mm_per_px
        Side of a pixel in mm, if known.
    """
    defects = []
    for index in (np.flatnonzero(np.bincount(class_map.ravel())[1:]) + 1).tolist():
        count, components, stats, _ = cv2.connectedComponentsWithStats((class_map == index).astype(np.uint8))
        total = np.bincount(components.ravel(), weights=confidence_map.ravel(), minlength=count)
        for row, confidence in zip(stats[1:].tolist(), total[1:].tolist(), strict=True):
            x, y, width, height, area = row
            area_mm2 = None if mm_per_px is None else area * mm_per_px**2
            defects.append(Defect(classes[index], (x, y, width, height), area, area_mm2, confidence / area / 255))
    return sorted(defects, key=lambda defect: -defect.area_px)


def decide(
    class_map: ClassMap, confidence_map: ConfidenceMap, classes: Sequence[str], rules: Rules, *, part_id: str = ""
) -> Verdict:
    """Decide one frame: reject where a class has as many counting defects as its rule says, else pass.

    The arguments are those of :func:`find_defects`; they are trusted.
    """
    found = find_defects(class_map, confidence_map, classes, mm_per_px=rules.mm_per_px)
    defects = tuple(defect for defect in found if _counts(defect, rules.of(defect.name)))
    reasons = []
    for name in classes[1:]:
        of_class = [defect for defect in defects if defect.name == name]
        if len(of_class) >= rules.of(name).count:
            reasons.append(_reason(of_class))
    outcome: Outcome = "reject" if reasons else "pass"
    return Verdict(part_id, outcome, tuple(reasons), defects)


def _counts(defect: Defect, rule: ClassRule) -> bool:
    return defect.area_px >= rule.min_area_px and defect.confidence >= rule.min_confidence


def _reason(defects: Sequence[Defect]) -> str:
    """One sentence on the defects of one class, largest first."""
    largest = defects[0]
    area = f"{largest.area_px} px" if largest.area_mm2 is None else f"{largest.area_mm2:.3g} mm2"
    what = f"{largest.name} of {area}" if len(defects) == 1 else f"{len(defects)} x {largest.name}, the largest {area}"
    return f"{what} at confidence {largest.confidence:.2f}"
