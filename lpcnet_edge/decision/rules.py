"""The verdict rules of a station, as settings. ``docs/verdicts.md`` is for those who write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.config import refuse_non_finite, suggest
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import Defect

Box: TypeAlias = tuple[int, int, int, int]
"""x, y, width, height, as in ``Defect.box_px``."""

_FURTHEST_PX = 1 << 30
"""OpenCV draws in 32 bits."""
LARGEST_MM_PER_PX = 1e6
"""A kilometre: beyond it an area is no number any more."""


@dataclass(frozen=True, slots=True)
class ClassRule:
    """When defects of a class reject a frame; by default a single pixel does.

    Attributes
    ----------
    min_area_px, min_area_mm2
        A component that is smaller by either does not count.
    min_confidence
        0..1; a component of lower mean confidence does not count.
    count
        How many components that count it takes to reject.
    review_below
        0..1; a component that counts, but at a lower mean confidence than this, is uncertain. Where the others are too
        few to reject and the uncertain ones make up the number, the outcome is ``review``.
    """

    min_area_px: int = 1
    min_confidence: float = 0.0
    count: int = 1
    min_area_mm2: float = 0.0
    review_below: float = 0.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if self.min_area_px < 1:
            raise ValueError(f"min_area_px is {self.min_area_px}; the smallest area is 1")
        if self.min_area_mm2 < 0:
            raise ValueError(f"min_area_mm2 is {self.min_area_mm2}; it is 0 or more")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it lies between 0 and 1")
        if not 0 <= self.review_below <= 1:
            raise ValueError(f"review_below is {self.review_below}; it lies between 0 and 1")
        if 0 < self.review_below <= self.min_confidence:
            raise ValueError(f"review_below, {self.review_below}, is not above min_confidence, {self.min_confidence}")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it takes at least 1 defect to reject")

    def counts(self, defect: Defect) -> bool:
        """Whether a defect is large and sure enough."""
        large = defect.area_px >= self.min_area_px and (defect.area_mm2 or 0.0) >= self.min_area_mm2
        return large and defect.confidence >= self.min_confidence


@dataclass(frozen=True, slots=True)
class Zone:
    """A named part of the frame with rules of its own, or one that is ignored.

    Attributes
    ----------
    name
        Stands in reasons and defects.
    box_px
        (x, y, width, height) in px of the frame; this or ``polygon_px``.
    polygon_px
        Corners (x, y), three or more; the pixels on its outline belong to it.
    ignore
        No pixel of the zone is ever a defect, whatever other zones say of it.
    default, per_class
        As in :class:`Rules`; what neither names keeps the general rule.
    """

    name: str
    box_px: tuple[int, int, int, int] | None = None
    polygon_px: tuple[tuple[int, int], ...] | None = None
    ignore: bool = False
    default: ClassRule | None = None
    per_class: Mapping[str, ClassRule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if (self.box_px is None) == (self.polygon_px is None):
            raise ValueError(f"the zone '{self.name}' has one of box_px and polygon_px")
        if self.box_px is not None and min(self.box_px[2:]) < 1:
            raise ValueError(f"the box of the zone '{self.name}' is empty")
        if self.polygon_px is not None and len(self.polygon_px) < 3:
            raise ValueError(f"the polygon of the zone '{self.name}' has {len(self.polygon_px)} corners; 3 at least")
        if any(abs(place) > _FURTHEST_PX for corner in self.polygon_px or () for place in corner):
            raise ValueError(f"the polygon of the zone '{self.name}' has a corner beyond {_FURTHEST_PX} px")
        if self.ignore == (self.default is not None or bool(self.per_class)):
            raise ValueError(f"the zone '{self.name}' has either rules or ignore: true")

    def on_map(self, height: int, width: int, shown_px: Box | None) -> Zone:
        """The zone in px of a class map (height, width) that shows a box of the frame, to the nearest px.

        A box has one px at least. ``shown_px`` is (x, y, width, height), or None where the map is the frame's.
        """
        if shown_px is None:
            return self
        x, y, wide, high = shown_px

        def edges(start: int, size: int, begins: int, shown: int, side: int) -> tuple[int, int]:
            first = round((start - begins) * side / shown)
            return first, max(round((start + size - begins) * side / shown) - first, 1)

        def corner(place: int, begins: int, shown: int, side: int) -> int:  # a pixel's middle
            return min(max(round((place - begins + 0.5) * side / shown - 0.5), -_FURTHEST_PX), _FURTHEST_PX)

        if self.polygon_px is not None:
            corners = ((corner(cx, x, wide, width), corner(cy, y, high, height)) for cx, cy in self.polygon_px)
            return replace(self, polygon_px=tuple(corners))
        assert self.box_px is not None
        (left, across), (top, down) = (
            edges(self.box_px[axis], self.box_px[axis + 2], *of)
            for axis, of in enumerate(((x, wide, width), (y, high, height)))
        )
        return replace(self, box_px=(left, top, across, down))

    def mask(self, y: int, x: int, height: int, width: int, *, frame: tuple[int, int]) -> NDArray[np.bool_]:
        """(height, width) bool, the zone's pixels in the window that begins at y and x of a map (height, width)."""
        inside = np.zeros((height, width), dtype=np.uint8)
        if self.box_px is not None:
            left, top, wide, high = self.box_px
            inside[max(top - y, 0) : max(top + high - y, 0), max(left - x, 0) : max(left + wide - x, 0)] = 1
        elif self.polygon_px is not None:
            top, left, drawn = _drawn(self.polygon_px, *frame)
            y0, y1 = max(top, y), min(top + drawn.shape[0], y + height)
            x0, x1 = max(left, x), min(left + drawn.shape[1], x + width)
            if y0 < y1 and x0 < x1:
                inside[y0 - y : y1 - y, x0 - x : x1 - x] = drawn[y0 - top : y1 - top, x0 - left : x1 - left]
        return inside.view(np.bool_)


@dataclass(frozen=True, slots=True)
class Rules:
    """The verdict rules of a station: ``default`` for every defect class that ``per_class`` does not name.

    Areas are px of the class map that is decided on, zones px of the frame. ``mm_per_px``, the side of a frame's pixel,
    adds areas in mm2.
    A defect is judged by the rules of every zone in which it has a pixel, and by the general rules if it has one
    outside all zones; its area is its whole area each time. ``contours`` adds the outlines of defects.
    """

    default: ClassRule = ClassRule()
    per_class: Mapping[str, ClassRule] = field(default_factory=dict)
    mm_per_px: float | None = None
    zones: tuple[Zone, ...] = ()
    contours: bool = False

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if self.mm_per_px is not None and not 0 < self.mm_per_px <= LARGEST_MM_PER_PX:
            raise ValueError(f"mm_per_px is {self.mm_per_px}; it is above 0, and {LARGEST_MM_PER_PX:g} at most")
        in_mm2 = any(rule.min_area_mm2 for rule in self.each())
        if in_mm2 and self.mm_per_px is None:
            raise ValueError("a rule has min_area_mm2, and mm_per_px is not given")
        names = [zone.name for zone in self.zones]
        if len(set(names)) < len(names):
            raise ValueError(f"two zones have the same name: {', '.join(names)}")

    def of(self, name: str, zone: Zone | None = None) -> ClassRule:
        """The rule for one class, in a zone or outside all of them."""
        general = self.per_class.get(name, self.default)
        return general if zone is None else zone.per_class.get(name, zone.default or general)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ``BadConfig`` if a rule names a class that is not among the defect ``classes[1:]``."""
        for name in [*self.per_class, *(name for zone in self.zones for name in zone.per_class)]:
            if name not in classes[1:]:
                raise BadConfig(
                    f"a verdict rule names the class '{name}', which the network does not have",
                    mend=suggest(name, classes[1:]),
                )

    def check_frame(self, height: int, width: int, shown_px: Box | None = None) -> None:
        """Raise ``BadConfig`` if a zone has no pixel in class maps of this size, which show that box of the frame."""
        for zone in self.zones:
            if not zone.on_map(height, width, shown_px).mask(0, 0, height, width, frame=(height, width)).any():
                x, y, wide, high = shown_px or (0, 0, width, height)
                raise BadConfig(
                    f"the zone '{zone.name}' lies outside the {wide} x {high} px at x={x}, y={y} that are inspected",
                    mend="give zones in px of the frame",
                )

    def each(self) -> Iterator[ClassRule]:
        """Every rule, general ones first."""
        yield from (self.default, *self.per_class.values())
        for zone in self.zones:
            yield from (*filter(None, [zone.default]), *zone.per_class.values())


@lru_cache(maxsize=64)
def _drawn(polygon: tuple[tuple[int, int], ...], height: int, width: int) -> tuple[int, int, NDArray[np.uint8]]:
    """The part of a polygon's box that lies in a frame: y, x, and 1 where the polygon is.

    It is drawn once and whole: where OpenCV cuts an outline, the rest of it may move by a pixel, so that one drawn
    around each defect would depend on where the others are.
    """
    corners = np.array(polygon, dtype=np.int32)
    (left, top), (right, bottom) = (
        np.clip(corner, 0, (width, height)).tolist() for corner in (corners.min(axis=0), corners.max(axis=0) + 1)
    )
    drawn = np.zeros((bottom - top, right - left), dtype=np.uint8)
    if drawn.size:
        cv2.fillPoly(drawn, [corners], (1,), offset=(-left, -top))
    drawn.setflags(write=False)
    return top, left, drawn
