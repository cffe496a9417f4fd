"""Regions as COCO writes them, drawn into masks: run lengths, packed run lengths, polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_PX = 1e6
"""Coordinates beyond this are not those of an image."""


def unpack_counts(text: str) -> list[int]:
    """Decode COCO's packed run lengths.

    Each number is written in groups of 5 bits, lowest first, one character (code 48 + bits) per group; bit 6 says that
    more follow, the sign is extended from the last group's highest bit. From the fourth number on, the difference to
    the number two places before is stored. Raises ``ValueError``.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"the character {character!r} does not occur in packed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if shift > 35:
            raise ValueError("a run length of more than 35 bits")
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the packed run lengths end within a number")
    return counts


def check_counts(counts: Sequence[object], height: int, width: int) -> list[int]:
    """The run lengths as a list of int, if they can be those of a mask; raises ``ValueError``."""
    numbers = [n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
    if len(numbers) != len(counts):
        raise ValueError("a run length is not a whole number from 0 on")
    if sum(numbers) != height * width:
        raise ValueError(f"the run lengths add up to {sum(numbers)}, not to {height} x {width} = {height * width}")
    return numbers


def draw_counts(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask (H, W) bool of run lengths: columns from left to right, outside and inside by turns, outside first."""
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def check_polygon(polygon: object) -> NDArray[np.float64]:
    """The points (P, 2) of a flat list x1, y1, x2, y2, ... of at least three points; raises ``ValueError``."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon is not a list of x and y of at least three points")
    for value in polygon:
        if not isinstance(value, int | float) or isinstance(value, bool) or not -MAX_PX <= value <= MAX_PX:
            raise ValueError(f"a coordinate of a polygon is {str(value)[:20]}, not a number of pixels")
    return np.array(polygon, np.float64).reshape(-1, 2)


def draw_polygon(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The mask (H, W) bool of the pixels whose centre lies inside a polygon (even-odd rule).

    (0, 0) is the upper left corner of the upper left pixel. A polygon too thin to hold any centre, as one drawn along a
    crack can be, marks the pixels under its outline instead of vanishing.
    """
    mask = np.zeros((height, width), bool)
    first = max(math.floor(points[:, 1].min()), 0)
    last = min(math.ceil(points[:, 1].max()), height)
    x, y = points.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    for row in range(first, last):
        centre = row + 0.5
        crossed = (y <= centre) != (next_y <= centre)
        slope = (next_x[crossed] - x[crossed]) / (next_y[crossed] - y[crossed])
        crossings = np.sort(x[crossed] + (centre - y[crossed]) * slope)
        for left, right in crossings.reshape(-1, 2):
            mask[row, max(math.ceil(left - 0.5), 0) : max(math.ceil(right - 0.5), 0)] = True
    if not mask.any():
        outline = np.zeros((height, width), np.uint8)
        pixels = np.floor(points) - (points == (width, height))  # what lies on the far border is of the last pixels
        cv2.polylines(outline, [pixels.astype(np.int32)], isClosed=True, color=1)
        mask = outline.astype(bool)
    return mask


def polygon_area(points: NDArray[np.float64]) -> float:
    """Area in px2 of a polygon that does not cross itself."""
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
