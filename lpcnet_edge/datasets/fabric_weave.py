"""The undamaged fabric: tows over and under each other, lit from a side, as a flat sheet and as the camera sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.datasets.fabric_plan import FramePlan

Plane: TypeAlias = NDArray[np.float32]
"""(H, W) float32."""

# Sheet samples per pixel of the frame: a little more than one, so that projecting does not lose the fibres.
_OVERSAMPLING = 1.1

# Colour of tracer tows as BGR reflectance, and how often each is used. None is blue-green: foreign threads are.
TRACERS: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((0.10, 0.78, 1.00), 0.5),
    ((0.12, 0.16, 0.95), 0.3),
    ((0.95, 0.42, 0.14), 0.2),
)


@dataclass(frozen=True, slots=True)
class Lighting:
    """Directions to the lamps (unit vectors x, y, z; y points down the frame), their weights, and the fibres' gloss."""

    directions: NDArray[np.float64]
    weights: NDArray[np.float64]
    gloss: float
    ambient: float

    @property
    def main(self) -> tuple[float, float]:
        """Direction to the brightest lamp in the frame's plane: x, y, unit length."""
        x, y, _ = self.directions[int(np.argmax(self.weights))]
        norm = float(np.hypot(x, y)) or 1.0
        return float(x) / norm, float(y) / norm


@dataclass(slots=True)
class Fabric:
    """A flat sheet of fabric aligned with its tows, and where each pixel of the frame falls on it.

    Attributes
    ----------
    lum, tracer
        (rows, cols) float32: brightness, and the part of it that comes from coloured tracer tows.
    col_edges, row_edges
        Sheet coordinates at which the warp tows (columns) and the weft tows (rows) begin.
    map_x, map_y
        (H, W) float32: sheet column and row seen by each pixel.
    angle
        Radians by which the frame's axes are turned against the sheet's.
    scale
        Sheet samples per pixel.
    tow_px
        Mean tow width in pixels of the frame.
    covers
        Coverage 0..255 of the sheet by defects, by class, for those that are made in the sheet.
    """

    lum: Plane
    tracer: Plane
    col_edges: NDArray[np.int64]
    row_edges: NDArray[np.int64]
    map_x: Plane
    map_y: Plane
    angle: float
    scale: float
    tow_px: float
    covers: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def cover(self, kind: int) -> NDArray[np.uint8]:
        """Coverage plane of a class, made on first use."""
        return self.covers.setdefault(kind, np.zeros(self.lum.shape, np.uint8))

    def locate(self, y_px: float, x_px: float) -> tuple[float, float]:
        """Sheet row and column under a point of the frame."""
        height, width = self.map_x.shape
        row, col = min(max(int(y_px), 0), height - 1), min(max(int(x_px), 0), width - 1)
        return float(self.map_y[row, col]), float(self.map_x[row, col])


def make_lighting(kind: str, rng: np.random.Generator) -> Lighting:
    """Lamps of one kind: ``raking`` (one, low), ``ring`` (eight around the lens) or ``dome`` (from everywhere)."""
    turn = float(rng.uniform(0, 2 * np.pi))
    if kind == "raking":
        around, elevation = np.array([turn, turn + np.pi]), np.radians([rng.uniform(28, 48), 50.0])
        weights, gloss, ambient = np.array([1.0, 0.12]), float(rng.uniform(14, 34)), 0.10
    elif kind == "ring":
        around, elevation = turn + np.arange(8) * np.pi / 4, np.full(8, np.radians(rng.uniform(45, 62)))
        weights = 0.16 * (1 + float(rng.uniform(0.3, 0.9)) * np.cos(around - turn))
        gloss, ambient = float(rng.uniform(12, 24)), 0.12
    else:
        around = turn + np.arange(12) * np.pi / 6
        elevation = np.radians(np.where(np.arange(12) % 2, 35.0, 68.0))
        weights = 0.11 * (1 + float(rng.uniform(0.4, 0.9)) * np.cos(around - turn))
        gloss, ambient = float(rng.uniform(8, 14)), 0.14
    flat = np.cos(elevation)
    return Lighting(
        np.stack([flat * np.cos(around), flat * np.sin(around), np.sin(elevation)], axis=1), weights, gloss, ambient
    )


def weave_fabric(
    plan: FramePlan, lighting: Lighting, height_px: int, width_px: int, tracers: bool, rng: np.random.Generator
) -> Fabric:
    """Weave a sheet large enough for the frame and lay the frame on it.

    Returns
    -------
    Fabric
        Brightness is about 0.1 in the grooves and 1 on the highlights.
    """
    tow = max(8, round(plan.tow_px * _OVERSAMPLING))
    scale, angle = tow / plan.tow_px, float(np.radians(plan.rotation_deg))
    cos, sin = abs(np.cos(angle)) * scale, abs(np.sin(angle)) * scale
    rows = int(height_px * cos + width_px * sin) + 4 * tow
    cols = int(width_px * cos + height_px * sin) + 4 * tow
    row_edges, row_cell = _spread_tows(rows, tow, rng)
    col_edges, col_cell = _spread_tows(cols, tow, rng)
    warp_cell, weft_cell = _unit_cell(plan.weave, tow, angle, lighting, rng)

    # One noise, smeared along either direction, gives the fibres of both families.
    noise = rng.random((rows, cols), dtype=np.float32)
    reach = 2 * tow + 1
    contrast = float(rng.uniform(0.16, 0.34))
    warp = _fibres(noise, (1, reach), contrast)
    warp *= _tow_gain(col_edges, cols, rng)[None, :]
    warp *= np.take(np.take(warp_cell, col_cell, axis=1), row_cell, axis=0)
    weft = _fibres(noise, (reach, 1), contrast)
    weft *= _tow_gain(row_edges, rows, rng)[:, None]
    weft *= np.take(np.take(weft_cell, col_cell, axis=1), row_cell, axis=0)

    tracer = np.zeros((rows, cols), np.float32)
    if tracers:
        every = int(rng.integers(7, 13))
        fill = float(rng.uniform(0.35, 1.0))
        boost = float(rng.uniform(0.75, 1.25))
        which = int(rng.integers(3))
        if which != 1:
            _colour_tows(warp, tracer, col_edges, int(rng.integers(every)), every, fill, boost)
        if which != 0:
            _colour_tows(weft.T, tracer.T, row_edges, int(rng.integers(every)), every, fill, boost)
    map_x, map_y = _lay_frame((height_px, width_px), (rows, cols), angle, scale, plan.tow_px, rng)
    return Fabric(np.add(warp, weft, out=warp), tracer, col_edges, row_edges, map_x, map_y, angle, scale, plan.tow_px)


def _spread_tows(length: int, tow: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges of tows of slightly uneven width, and for every sample its coordinate in a unit cell of 4 tows."""
    count = length // (tow - 1) + 2
    widths = tow + rng.choice(np.array([-1, 0, 0, 1]), count)
    edges = np.concatenate(([0], np.cumsum(widths)))
    number = np.repeat(np.arange(count), widths)[:length]
    inside = (np.arange(length) - edges[number] + 0.5) / widths[number]
    first = int(rng.integers(4))
    cell = ((number + first) % 4) * tow + np.minimum((inside * tow).astype(np.int64), tow - 1)
    return edges[edges <= length], cell


def _unit_cell(weave: str, tow: int, angle: float, lighting: Lighting, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Brightness of the warp and of the weft, each where it shows and 0 elsewhere, over 4x4 tows."""
    axis = (np.arange(4 * tow) + 0.5) / tow
    u, v = axis[None, :], axis[:, None]
    i, j = np.floor(u), np.floor(v)
    across_u, across_v = 2 * (u - i - 0.5), 2 * (v - j - 0.5)
    if weave == "twill":
        half, warp_middle, weft_middle = 2.0, i, j + 3.0
    else:
        half, warp_middle, weft_middle = 1.0, i + 0.5, j + 1.5
    warp_phase = (v - warp_middle) * np.pi / half
    weft_phase = (u - weft_middle) * np.pi / half
    steep = float(rng.uniform(1.4, 2.2))
    round_ = float(rng.uniform(0.25, 0.5))
    warp_height = np.tanh(steep * np.cos(warp_phase)) - round_ * across_u**2
    weft_height = np.tanh(steep * np.cos(weft_phase)) - round_ * across_v**2
    top = 1 / (1 + np.exp(-(warp_height - weft_height) * tow * 0.55))
    crimp = float(rng.uniform(0.22, 0.42)) * (1.5 if weave == "plain" else 1.0)
    edge = float(rng.uniform(0.45, 0.75))
    bow = float(rng.uniform(-0.5, 0.5))

    def shade(phase: NDArray[np.float64], across: NDArray[np.float64], direction: float) -> NDArray[np.float64]:
        # The height is about cos(phase), so the fibre climbs as its sine falls; bow bends the highlight across a tow.
        turned = np.mod(phase + bow * across**2 + np.pi, 2 * np.pi) - np.pi
        table = np.linspace(-np.pi, np.pi, 129)
        lit = np.interp(turned, table, _gloss(-crimp * np.sin(table), direction, lighting))
        dive = 1 - 0.75 * np.clip((np.abs(turned) - 0.32 * np.pi) / (0.25 * np.pi), 0, 1)
        return np.asarray(lit * (1 - edge * np.abs(across) ** 3) * dive)

    warp = shade(warp_phase, across_u, np.pi / 2 - angle) * top
    weft = shade(weft_phase, across_v, -angle) * (1 - top)
    return warp.astype(np.float32), weft.astype(np.float32)


def _gloss(slope: NDArray[np.float64], direction: float, lighting: Lighting) -> NDArray[np.float64]:
    """Light that fibres running in ``direction`` (radians in the frame) and climbing by ``slope`` send to the camera.

    A thin fibre shines where it is square to the half vector: sin(T, H)^n (Kajiya and Kay, SIGGRAPH 1989).
    """
    lit = np.full(slope.shape, lighting.ambient)
    flat, climb = np.cos(slope), np.sin(slope)
    for (x, y, z), weight in zip(lighting.directions, lighting.weights, strict=True):
        half = np.array([x, y, z + 1.0]) / np.sqrt(x * x + y * y + (z + 1.0) ** 2)
        along = flat * (np.cos(direction) * half[0] + np.sin(direction) * half[1]) + climb * half[2]
        lit += weight * (0.12 + 0.85 * (1 - along**2) ** lighting.gloss)
    return lit


def _fibres(noise: Plane, window: tuple[int, int], contrast: float) -> Plane:
    """Streaks around 1: uniform noise averaged along the fibres and brought back to the wanted deviation."""
    gain = contrast * float(np.sqrt(12 * max(window)))
    smeared: Plane = np.asarray(cv2.blur(noise, window, borderType=cv2.BORDER_REFLECT), dtype=np.float32)
    smeared *= gain
    smeared += 1.0 - 0.5 * gain
    return np.maximum(smeared, np.float32(0.15), out=smeared)


def _tow_gain(edges: NDArray[np.int64], length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    gain = np.clip(1 + 0.10 * rng.standard_normal(len(edges) + 1), 0.6, 1.4).astype(np.float32)
    return gain[np.searchsorted(edges, np.arange(length), side="right")]


def _colour_tows(
    family: Plane, tracer: Plane, edges: NDArray[np.int64], first: int, every: int, fill: float, boost: float
) -> None:
    """Dye every n-th tow of a family that runs along the rows: its middle ``fill`` turns from carbon to tracer."""
    for start, stop in zip(edges[first:-1:every], edges[first + 1 :: every], strict=False):
        across = np.abs(2 * ((np.arange(stop - start) + 0.5) / (stop - start)) - 1)
        dyed = np.clip((fill - across) * (stop - start) / 2 + 0.5, 0, 1).astype(np.float32)
        tow = family[:, start:stop]
        tow *= 1 + dyed * np.float32(boost)
        tracer[:, start:stop] += tow * dyed


def _lay_frame(
    frame: tuple[int, int], sheet: tuple[int, int], angle: float, scale: float, tow_px: float, rng: np.random.Generator
) -> tuple[Plane, Plane]:
    """Map the frame's pixels to the sheet: turned, scaled, and drawn slightly out of true as cloth is."""
    height, width = frame
    y = (np.arange(height, dtype=np.float32) - np.float32(height / 2))[:, None]
    x = (np.arange(width, dtype=np.float32) - np.float32(width / 2))[None, :]
    cos, sin = np.float32(np.cos(angle) * scale), np.float32(np.sin(angle) * scale)
    map_x = _drift(frame, tow_px, rng)
    map_x += cos * x + np.float32(sheet[1] / 2)
    map_x -= sin * y
    map_y = _drift(frame, tow_px, rng)
    map_y += sin * x + np.float32(sheet[0] / 2)
    map_y += cos * y
    return map_x, map_y


def _drift(frame: tuple[int, int], tow_px: float, rng: np.random.Generator) -> Plane:
    """Smooth displacement, a fraction of a tow, that changes over some hundred pixels."""
    nodes = (frame[0] // 110 + 3, frame[1] // 110 + 3)
    bend = (rng.uniform(0.04, 0.14) * tow_px * rng.standard_normal(nodes)).astype(np.float32)
    bend = np.clip(bend, -0.5 * tow_px, 0.5 * tow_px).astype(np.float32)
    return np.asarray(cv2.resize(bend, (frame[1], frame[0]), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
