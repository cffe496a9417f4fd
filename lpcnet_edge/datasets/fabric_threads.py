"""Drawing of threads and loose fibres over a rendered fabric, with their shadows and their exact mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.types import ClassMap

# Strokes are drawn this much larger and averaged down, for sub-pixel widths and clean edges.
_FINE = 4

# A hole of the mask, or a crumb of it, with fewer pixels than this cannot be told from what is around it.
SMALLEST_HOLE_PX = 6


@dataclass(slots=True)
class Picture:
    """A frame in the making.

    Attributes
    ----------
    image
        (H, W, 3) float32 BGR radiance, about 0..1.
    mask
        (H, W) uint8 class indices.
    tint
        Colour of the light, BGR.
    light
        Direction to the main lamp in the frame's plane, x and y, unit length.
    """

    image: NDArray[np.float32]
    mask: ClassMap
    tint: NDArray[np.float32]
    light: tuple[float, float]

    def level(self, y_px: float, x_px: float, radius_px: float) -> float:
        """Mean brightness of the square around a point."""
        top, left = max(0, int(y_px - radius_px)), max(0, int(x_px - radius_px))
        return float(self.image[top : int(y_px + radius_px) + 1, left : int(x_px + radius_px) + 1].mean())


class ThreadPainter:
    """Strokes within one rectangle of a picture; the later one lies over the earlier.

    Parameters
    ----------
    picture
        The picture to draw into, at :meth:`finish`.
    curves
        All curves to come, (n, 2) float x and y in pixels: they tell how large the rectangle must be.
    margin_px
        Room around them for their width and shadow.
    """

    def __init__(self, picture: Picture, curves: list[NDArray[np.float64]], margin_px: int = 12) -> None:
        height, width = picture.mask.shape
        points = np.concatenate(curves)
        low = np.clip(np.floor(points.min(axis=0)).astype(int) - margin_px, 0, (width - 1, height - 1))
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + margin_px, 1, (width, height))
        self._picture = picture
        self._left, self._top = int(low[0]), int(low[1])
        self._window = (slice(self._top, int(high[1])), slice(self._left, int(high[0])))
        self._size = (int(high[1]) - self._top, int(high[0]) - self._left)
        fine = (self._size[0] * _FINE, self._size[1] * _FINE)
        self._cover = np.zeros(fine, np.uint8)
        self._shade = np.zeros(fine, np.uint8)

    def stroke(self, curve: NDArray[np.float64], width_px: float, level: float) -> None:
        """Draw one round fibre along ``curve``; ``level`` (0..1) is its brightness where the light falls on it."""
        light_x, light_y = self._picture.light
        self._line(self._cover, curve, width_px, 255)
        self._line(self._shade, curve, width_px, int(255 * 0.45 * level))
        self._line(self._shade, curve, 0.7 * width_px, int(255 * 0.75 * level))
        lit = curve + 0.15 * width_px * np.array([light_x, light_y])
        self._line(self._shade, lit, 0.35 * width_px, int(255 * level))

    def finish(self, kind: int, colour: NDArray[np.float32], shadow: float) -> None:
        """Blend the strokes into the picture and write class ``kind`` where they cover more than half a pixel.

        ``colour`` is the BGR radiance of a stroke of level 1; ``shadow`` (0..1) is how dark the shadow beside it is.
        """
        rows, cols = self._size
        cover = _shrink(self._cover, rows, cols)[..., None]
        shade = _shrink(self._shade, rows, cols)[..., None]
        light_x, light_y = self._picture.light
        moved = np.array([[1, 0, -2.0 * light_x], [0, 1, -2.0 * light_y]])
        dark = cv2.GaussianBlur(cv2.warpAffine(cover, moved, (cols, rows)), (7, 7), 1.6)[..., None]
        patch = self._picture.image[self._window]
        patch *= 1 - np.float32(shadow) * dark
        patch *= 1 - cover
        patch += shade * colour
        covered = fill_pinholes(cover[..., 0] > 0.5)
        self._picture.mask[self._window][covered] = kind

    def _line(self, canvas: NDArray[np.uint8], curve: NDArray[np.float64], width_px: float, value: int) -> None:
        points = np.rint((curve - (self._left, self._top) + 0.5) * (_FINE * 16)).astype(np.int32)
        cv2.polylines(canvas, [points], False, value, max(1, round(width_px * _FINE)), cv2.LINE_8, 4)


def fill_pinholes(covered: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close the holes of (h, w) that have fewer than ``SMALLEST_HOLE_PX`` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~covered).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < SMALLEST_HOLE_PX
    small[0] = False
    return np.asarray(covered | small[labels]) if count > 1 else covered


def wander(steps: int, rng: np.random.Generator, waves: float) -> NDArray[np.float64]:
    """(steps,) smooth noise of about unit deviation that turns some ``waves`` times over its length."""
    at = np.linspace(0, 2 * np.pi, steps)
    total = np.zeros(steps)
    for octave in range(1, 4):
        rate = waves * octave / 2 * rng.uniform(0.7, 1.3)
        total += rng.normal() / octave * np.sin(rate * at + rng.uniform(0, 2 * np.pi))
    return total


def walk(length_px: float, bend: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 2) a wavy line of ``length_px`` around the origin, x and y in pixels, a point every 1.5 px."""
    steps = max(8, int(length_px / 1.5))
    heading = rng.uniform(0, 2 * np.pi) + bend * wander(steps, rng, 2.0)
    line = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * (length_px / steps)
    return np.asarray(line - (line.min(axis=0) + line.max(axis=0)) / 2)


def normals(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) unit vectors square to a curve (n, 2)."""
    along = np.gradient(curve, axis=0)
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1])[:, None], 1e-9)
    return np.stack([-along[:, 1], along[:, 0]], axis=1)


def _shrink(fine: NDArray[np.uint8], rows: int, cols: int) -> NDArray[np.float32]:
    return cv2.resize(fine, (cols, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
