"""The five defects of carbon fabric: what each does to the sheet before it is seen, and draws over it after.

A maker changes the fabric and returns what is left to do once the camera has seen it. What a
maker marks follows the fine structure; the camera then gives the gaps within a defect to it, as an inspector does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.datasets.fabric_plan import (
    BROKEN_TOW,
    FOREIGN_THREAD,
    FUZZ_BALL,
    GAP,
    WRINKLE,
    PlannedDefect,
)
from lpcnet_edge.datasets.fabric_threads import Picture, ThreadPainter, normals, walk, wander
from lpcnet_edge.datasets.fabric_weave import TRACERS, Fabric

Finish: TypeAlias = Callable[[Picture], None]
"""Draws what lies over the fabric."""

Maker: TypeAlias = Callable[[PlannedDefect, Fabric, np.random.Generator], Finish]

# BGR reflectance of threads that do not belong, and how often each is used; the tracers' own colours come on top.
_FOREIGN = (
    ((0.72, 0.58, 0.16), 0.3),
    ((0.82, 0.86, 0.90), 0.2),
    ((0.26, 0.58, 0.20), 0.2),
    ((0.20, 0.22, 0.24), 0.3),
)


def break_tow(planned: PlannedDefect, fabric: Fabric, rng: np.random.Generator) -> Finish:
    """One tow is torn: a hollow in its course, and from either end strands that splay over the neighbours."""
    is_warp = bool(rng.random() < 0.5)
    row, col = fabric.locate(planned.y_px, planned.x_px)
    edges, at = (fabric.col_edges, col) if is_warp else (fabric.row_edges, row)
    number = int(np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2))
    start, stop = int(edges[number]), int(edges[number + 1])
    _hollow(fabric, is_warp, (start, stop), row if is_warp else col, 0.4 * planned.extent_px * fabric.scale, rng)

    # Unit vectors along and across the tow in the frame, x and y, and the tow's middle.
    sin, cos = np.sin(fabric.angle), np.cos(fabric.angle)
    along, across = (np.array([sin, cos]), np.array([cos, -sin]))
    if not is_warp:
        along, across = across, along
    middle = np.array([planned.x_px, planned.y_px]) + across * ((start + stop) / 2 - at) / fabric.scale
    width = (stop - start) / fabric.scale
    strands = []
    for side in (-1.0, 1.0):
        count = int(rng.integers(3, 6))
        spread = width * rng.uniform(1.1, 2.0)
        lean = rng.uniform(-0.35, 0.35) * width
        for place in (np.arange(count) + 0.5) / count - 0.5:
            length = planned.extent_px * rng.uniform(0.28, 0.5)
            steps = max(8, int(length / 1.5))
            run = np.linspace(0, 1, steps)
            curl = rng.uniform(0.03, 0.10) * width * wander(steps, rng, 1.2) * run
            aside = 0.85 * width * place * (1 - run) + (spread * place + lean) * run**1.3 + curl
            ahead = side * (0.5 * planned.extent_px - length * run * rng.uniform(0.95, 1.15))
            strands.append(middle + ahead[:, None] * along + aside[:, None] * across)
    thickness = rng.uniform(2.0, 2.9)
    levels = rng.uniform(0.65, 1.0, len(strands))
    contrast = rng.uniform(1.7, 2.8)

    def finish(picture: Picture) -> None:
        painter = ThreadPainter(picture, strands)
        for strand, level in zip(strands, levels, strict=True):
            painter.stroke(strand, thickness, level)
        level = max(0.12, contrast * picture.level(planned.y_px, planned.x_px, planned.extent_px))
        painter.finish(BROKEN_TOW, picture.tint * np.float32(level), shadow=0.55)

    return finish


def _hollow(
    fabric: Fabric, is_warp: bool, tow: tuple[int, int], centre: float, length: float, rng: np.random.Generator
) -> None:
    """Take a tow away over ``length`` sheet samples: the crossing tows beneath it show, in its shade."""
    planes = (fabric.lum, fabric.tracer, fabric.cover(BROKEN_TOW))
    lum, tracer, cover = planes if is_warp else (plane.T for plane in planes)
    crossing = fabric.row_edges if is_warp else fabric.col_edges
    first, last = max(0, int(centre - length)), min(lum.shape[0], int(centre + length) + 1)
    start, stop = tow[0], min(tow[1], lum.shape[1])
    at = np.arange(first, last)[:, None]
    ragged = length / 2 * rng.uniform(0.75, 1.15, (1, stop - start))
    gone = np.clip((ragged - np.abs(at - centre)) / 2 + 0.5, 0, 1)
    bright = float(lum[first:last, start:stop].mean())
    beneath = bright * rng.uniform(0.35, 0.6) * (1 - 0.8 * across_tows(at, crossing) ** 2)
    patch = lum[first:last, start:stop]
    patch += (gone * (beneath - patch)).astype(np.float32)
    tracer[first:last, start:stop] *= (1 - gone).astype(np.float32)
    marked = cover[first:last, start:stop]
    np.maximum(marked, np.rint(255 * gone).astype(np.uint8), out=marked)


def ball_fuzz(planned: PlannedDefect, fabric: Fabric, rng: np.random.Generator) -> Finish:
    """Loose fibres rolled into a ball: loops over each other, with holes through which the weave shows."""
    radius = planned.extent_px / 2
    centre = np.array([planned.x_px, planned.y_px])
    squeeze, turned = rng.uniform(0.65, 1.0), rng.uniform(0, np.pi)
    axes = np.array([[np.cos(turned), np.sin(turned)], [-squeeze * np.sin(turned), squeeze * np.cos(turned)]])
    # As many turns as leave holes of some pixels between the fibres, shared out among a few of these.
    fibres = int(rng.integers(3, 6))
    turns = float(np.clip(radius * rng.uniform(0.17, 0.28), 2.6, 9.0)) / fibres
    curves = []
    for _ in range(fibres):
        steps = max(24, int(turns * 2 * np.pi * radius / 2))
        angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * turns * np.linspace(0, 1, steps) + 0.35 * wander(steps, rng, 3)
        reach = radius * np.clip(0.64 + 0.26 * wander(steps, rng, 2 * turns), 0.12, 1.0)
        off = radius * rng.uniform(-0.25, 0.25, 2)
        curves.append(centre + off + reach[:, None] * (np.stack([np.cos(angle), np.sin(angle)], axis=1) @ axes))
    thickness = rng.uniform(1.5, 2.1, len(curves))
    levels = rng.uniform(0.6, 1.0, len(curves))
    dusty = np.array([rng.uniform(0.75, 1.0), rng.uniform(0.86, 1.0), 1.0], np.float32)
    contrast = rng.uniform(1.7, 3.2)

    def finish(picture: Picture) -> None:
        painter = ThreadPainter(picture, curves)
        for curve, width, level in zip(curves, thickness, levels, strict=True):
            painter.stroke(curve, width, level)
        level = max(0.14, contrast * picture.level(planned.y_px, planned.x_px, radius))
        painter.finish(FUZZ_BALL, dusty * picture.tint * np.float32(level), shadow=0.6)

    return finish


def part_tows(planned: PlannedDefect, fabric: Fabric, rng: np.random.Generator) -> Finish:
    """Two tows are pushed apart: a slit, all of it marked, dark between the crossing tows that bridge it."""
    is_warp = bool(rng.random() < 0.5)
    lum, tracer, cover = fabric.lum, fabric.tracer, fabric.cover(GAP)
    row, col = fabric.locate(planned.y_px, planned.x_px)
    edges, crossing, centre, at = fabric.col_edges, fabric.row_edges, row, col
    if not is_warp:
        lum, tracer, cover = lum.T, tracer.T, cover.T
        edges, crossing, centre, at = fabric.row_edges, fabric.col_edges, col, row
    seam = int(edges[np.argmin(np.abs(edges - at))])
    tow = fabric.tow_px * fabric.scale
    reach, length = int(2.4 * tow), planned.extent_px * fabric.scale
    half = rng.uniform(0.22, 0.38) * tow
    top, bottom = max(0, int(centre - length / 2)), min(lum.shape[0], int(centre + length / 2) + 1)
    left, right = max(0, seam - reach), min(lum.shape[1], seam + reach)
    along = np.arange(top, bottom, dtype=np.float64)[:, None]
    aside = np.arange(left, right, dtype=np.float64)[None, :] - seam + 0.5
    ragged = 1 + 0.12 * wander(bottom - top, rng, length / tow)[:, None]
    opening = half * np.clip(1 - np.abs(2 * (along - centre) / length) ** 4, 0, 1) * ragged
    opening[opening < 1.3] = 0

    # What lay at the seam moves to the slit's rim, and what lies at the patch's border stays.
    inner = np.maximum(np.abs(aside) - opening, 0) * reach / np.maximum(reach - opening, 1)
    from_col = (np.sign(aside) * inner + seam - left - 0.5).astype(np.float32)
    from_row = np.broadcast_to(along - top, from_col.shape).astype(np.float32)
    window = (slice(top, bottom), slice(left, right))
    bright = float(lum[window].mean())
    moved = [
        cv2.remap(
            np.ascontiguousarray(plane[window]), from_col, from_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for plane in (lum, tracer)
    ]
    inside = np.clip(opening - np.abs(aside) + 0.5, 0, 1)
    lateral = across_tows(along, crossing)
    bridge = np.clip((rng.uniform(0.42, 0.6) - np.abs(lateral)) * tow / 2 + 0.5, 0, 1)
    fibres = bright * rng.uniform(0.7, 1.15) * (1 - lateral**2) * (1 + 0.2 * rng.standard_normal(along.shape))
    dark = bright * rng.uniform(0.03, 0.10)
    shown = bridge * fibres + (1 - bridge) * dark
    lum[window] = moved[0] + inside * (shown - moved[0])
    tracer[window] = moved[1] * (1 - inside)
    cover[window] = np.maximum(cover[window], np.rint(255 * inside).astype(np.uint8))
    return _nothing


def lay_thread(planned: PlannedDefect, fabric: Fabric, rng: np.random.Generator) -> Finish:
    """A loosely twisted two-ply yarn on top of the weave; where the twist is open, the weave shows through."""
    curve = walk(planned.extent_px * rng.uniform(1.0, 1.25), rng.uniform(0.15, 0.6), rng)
    curve += (planned.x_px, planned.y_px)
    ply = rng.uniform(1.7, 2.8)
    steps = len(curve)
    looseness = np.clip(0.45 + 0.5 * wander(steps, rng, 3), 0, 1)
    amplitude = 0.4 * ply + looseness * rng.uniform(1.6, 2.8)
    twist = np.pi * np.cumsum(np.full(steps, 1.5)) / rng.uniform(11, 18) + rng.uniform(0, 2 * np.pi)
    aside = normals(curve) * (amplitude * np.cos(twist))[:, None]
    plies = [curve + aside, curve - aside]
    palette = [colour for colour, _ in _FOREIGN] + [colour for colour, _ in TRACERS]
    odds = np.array([0.85 * share for _, share in _FOREIGN] + [0.15 * share for _, share in TRACERS])
    colour = np.array(palette[int(rng.choice(len(palette), p=odds))], np.float32)
    contrast = rng.uniform(2.0, 3.2)

    def finish(picture: Picture) -> None:
        painter = ThreadPainter(picture, plies)
        for first in range(0, steps - 1, 4):
            order = plies if np.sin(twist[first]) > 0 else plies[::-1]
            for number, line in enumerate(order):
                painter.stroke(line[first : first + 6], ply, 0.8 + 0.2 * number)
        level = max(0.16, contrast * picture.level(planned.y_px, planned.x_px, planned.extent_px / 2))
        painter.finish(FOREIGN_THREAD, colour * picture.tint * np.float32(level), shadow=0.6)

    return finish


def fold(planned: PlannedDefect, fabric: Fabric, rng: np.random.Generator) -> Finish:
    """Creases side by side: ridges that drag the weave along and have a lit and a shaded flank, flat cloth between."""
    height, width = fabric.map_x.shape
    length = planned.extent_px
    turn = rng.uniform(0, np.pi)
    reach = int(0.62 * length) + 4
    rows = slice(max(0, int(planned.y_px) - reach), min(height, int(planned.y_px) + reach))
    cols = slice(max(0, int(planned.x_px) - reach), min(width, int(planned.x_px) + reach))
    y = np.arange(rows.start, rows.stop)[:, None] - planned.y_px
    x = np.arange(cols.start, cols.stop)[None, :] - planned.x_px
    along, aside = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    bow = rng.uniform(-0.12, 0.12) * length * (2 * along / length) ** 2
    bow = bow + rng.uniform(0.01, 0.03) * length * np.sin(2 * np.pi * along / length * rng.uniform(0.8, 1.6))
    count = int(rng.integers(2, 4))
    ridge = max(3.2, rng.uniform(0.2, 0.34) * fabric.tow_px)
    pitch = 2 * ridge + rng.uniform(3.0, 6.0)
    shift, relief = np.zeros(along.shape), np.zeros(along.shape)
    covered = np.zeros(along.shape, bool)
    for number in range(count):
        span = 0.5 * length * rng.uniform(0.65, 1.0)
        begin = rng.uniform(-0.5, 0.5) * (0.5 * length - span)
        taper = np.clip(1 - ((along - begin) / span) ** 4, 0, 1)
        across = (aside - bow - pitch * (number - (count - 1) / 2)) / np.maximum(ridge * taper, 0.05)
        on = (np.abs(across) < 1) & (taper > 0.25)
        shift += np.where(on, np.sin(np.pi * across), 0) * ridge * 0.9
        relief += np.where(on, np.sign(across) * np.minimum(1, 3 * np.abs(across)) * (1.1 - 0.3 * np.abs(across)), 0)
        covered |= on
    _drag(fabric, (rows, cols), shift, turn)
    strength = rng.uniform(0.6, 0.9)

    def finish(picture: Picture) -> None:
        # A flank is lit as far as it faces the lamp; under a lamp that shines along the crease, one side by chance.
        facing = picture.light[1] * np.cos(turn) - picture.light[0] * np.sin(turn)
        facing = np.copysign(max(abs(facing), 0.6), facing)
        lit = relief * facing * strength
        gain = np.where(lit > 0, 1 + 1.3 * lit, 1 + 0.95 * lit).astype(np.float32)
        picture.image[rows, cols] *= cv2.GaussianBlur(gain, (3, 3), 0.6)[..., None]
        picture.mask[rows, cols][covered] = WRINKLE

    return finish


def _drag(fabric: Fabric, window: tuple[slice, slice], shift: NDArray[np.float64], turn: float) -> None:
    """Let pixels of a window see the cloth ``shift`` pixels further across a crease that runs along ``turn``."""
    step_x, step_y = -np.sin(turn) * shift, np.cos(turn) * shift
    cos, sin = np.cos(fabric.angle) * fabric.scale, np.sin(fabric.angle) * fabric.scale
    fabric.map_x[window] += (cos * step_x - sin * step_y).astype(np.float32)
    fabric.map_y[window] += (sin * step_x + cos * step_y).astype(np.float32)


def across_tows(at: NDArray[np.int64] | NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Position of sheet coordinates across the tow they lie in: -1 at one edge, 1 at the other."""
    number = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
    return np.asarray(2 * (at - edges[number] + 0.5) / (edges[number + 1] - edges[number]) - 1)


def _nothing(picture: Picture) -> None:
    """The defect is in the sheet already."""


MAKERS: dict[int, Maker] = {
    BROKEN_TOW: break_tow,
    FUZZ_BALL: ball_fuzz,
    GAP: part_tows,
    FOREIGN_THREAD: lay_thread,
    WRINKLE: fold,
}
