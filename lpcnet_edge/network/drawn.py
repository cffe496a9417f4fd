"""Defects drawn onto free tiles of machined surfaces, where real ones are too few to learn a class from.

Each kind is a shape, a change of tone and a texture, varied far beyond what a handful of photographed parts show:

- ``pit``: one to three dark blobs (pores, blowholes);
- ``chip``: a piece broken off at an edge or a corner, or away from it, a strip along an edge, a step across the part;
- ``crack``: a dark wandering line, mostly across the part, now and then a hook;
- ``raw``: an area that the tool did not reach, without its marks and of another tone, from an edge or as an oval,
  sometimes with stamped characters;
- ``band``: a second machining pass from one side, its marks and its brightness another's.

All are pure functions of arrays and a random generator. Lengths are given as shares of the tile's side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.types import ClassMap, Image

Floats = NDArray[np.float32]

DrawnKind: TypeAlias = Literal["pit", "chip", "crack", "raw", "band"]
KINDS: tuple[DrawnKind, ...] = get_args(DrawnKind)


def draw(kind: DrawnKind, image: Image, other: Image, rng: np.random.Generator) -> tuple[Image, ClassMap]:
    """Draw one defect onto a free tile.

    ``image`` and ``other`` (another free tile, whose marks a band may show) are (H, W) or (H, W, 3) uint8 of one shape.
    Returns the tile with the defect, and its mask (H, W) uint8, 0 or 1; the mask is never empty.
    """
    changed, mask = _DRAW[kind](image.astype(np.float32), other.astype(np.float32), rng)
    return np.clip(changed + 0.5, 0, 255).astype(np.uint8), mask


def _smooth_noise(shape: tuple[int, int], cell_px: float, rng: np.random.Generator) -> Floats:
    """A smooth random field of mean 0 and standard deviation 1 whose bumps are about ``cell_px`` wide."""
    coarse = rng.standard_normal((max(2, round(shape[0] / cell_px)), max(2, round(shape[1] / cell_px))))
    field = cv2.resize(coarse.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), dtype=np.float32)


def _blend(base: Floats, inside: Floats, mask: NDArray[Any], feather_px: float) -> Floats:
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), feather_px)
    soft = soft if base.ndim == 2 else soft[..., None]
    return np.asarray(base + (inside - base) * soft, dtype=np.float32)


def _spread(field: NDArray[Any], like: Floats) -> NDArray[Any]:
    return field if like.ndim == 2 else field[..., None]


def _blob(
    shape: tuple[int, int],
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    rough: float,
    rng: np.random.Generator,
) -> ClassMap:
    """An ellipse whose radius wanders by the relative amount ``rough``; ``centre`` and ``radii`` in px as (y, x)."""
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(turns)
    for wave in range(2, 8):
        radius += rough / wave * rng.standard_normal() * np.cos(wave * turns + rng.uniform(0, 2 * np.pi))
    x, y = radii[1] * radius * np.cos(turns), radii[0] * radius * np.sin(turns)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([centre[1] + cos * x - sin * y, centre[0] + sin * x + cos * y], axis=1)
    mask = np.zeros(shape, dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    mask[int(np.clip(centre[0], 0, shape[0] - 1)), int(np.clip(centre[1], 0, shape[1] - 1))] = 1
    return mask


def _pit(image: Floats, _other: Floats, rng: np.random.Generator) -> tuple[Floats, ClassMap]:
    height, width = shape = image.shape[0], image.shape[1]
    mask = np.zeros(shape, dtype=np.uint8)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        size = min(shape) * float(np.exp(rng.uniform(np.log(0.008), np.log(0.035))))
        long = size * rng.uniform(1.0, 3.5)
        centre = (float(rng.uniform(0, height)), float(rng.uniform(0, width)))
        mask |= _blob(shape, centre, (size, long), float(rng.normal(0, 0.5)), 0.35, rng)
    tone = 1 + 0.15 * _smooth_noise(shape, min(shape) * 0.02, rng)
    inside = image * rng.uniform(0.3, 0.75) * _spread(tone, image)
    changed = _blend(image, np.asarray(inside, dtype=np.float32), mask, rng.uniform(0.6, 1.2))
    if rng.random() < 0.3:  # light caught by the rim
        rim = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - mask
        changed = _blend(changed, changed * np.float32(rng.uniform(1.1, 1.4)), rim, 0.7)
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8)) if rng.random() < 0.6 else mask
    return changed, np.asarray(grown, dtype=np.uint8)


def _chip(image: Floats, _other: Floats, rng: np.random.Generator) -> tuple[Floats, ClassMap]:
    height, width = shape = image.shape[0], image.shape[1]
    side = min(shape)
    mask = np.zeros(shape, dtype=np.uint8)
    where = rng.random()
    if where > 0.9:
        return _step(image, rng)
    for _ in range(int(rng.choice([1, 1, 2]))):
        edge = int(rng.integers(4))
        along, inset = float(rng.uniform(0, 1)), side * abs(float(rng.normal(0, 0.02)))
        if where < 0.3:  # a corner
            along = float(rng.choice([0.0, 1.0])) + float(rng.normal(0, 0.03))
        elif where > 0.65:  # away from the edges
            inset = side * float(rng.uniform(0.05, 0.5))
        depth = side * float(np.exp(rng.uniform(np.log(0.015), np.log(0.18))))
        length = depth * float(rng.uniform(0.7, 2.5))
        if 0.3 <= where < 0.45:  # a strip
            depth, length = side * float(rng.uniform(0.01, 0.03)), side * float(rng.uniform(0.1, 0.35))
        y, x = {
            0: (inset, along * width),
            1: (height - inset, along * width),
            2: (along * height, inset),
            3: (along * height, width - inset),
        }[edge]
        radii = (depth, length) if edge < 2 else (length, depth)
        mask |= _blob(shape, (y, x), radii, float(rng.normal(0, 0.25)), 0.6, rng)
    cell_px = side * float(np.exp(rng.uniform(np.log(0.005), np.log(0.05))))
    tone = 1 + float(np.exp(rng.uniform(np.log(0.04), np.log(0.45)))) * _smooth_noise(shape, cell_px, rng)
    flat = cv2.GaussianBlur(image, (0, 0), side * 0.01)
    # What broke off leaves a face without the tool's marks, mostly darker, and brighter where it turns to the light.
    inside = flat * float(np.exp(rng.uniform(np.log(0.3), np.log(1.25)))) * _spread(np.maximum(tone, 0.1), image)
    changed = _blend(image, np.asarray(inside, dtype=np.float32), mask, rng.uniform(0.6, 1.2))
    if rng.random() < 0.35:  # its edge in shadow
        rim = mask - cv2.erode(mask, np.ones((3, 3), np.uint8))
        changed = _blend(changed, changed * np.float32(rng.uniform(0.45, 0.85)), rim, 0.7)
    return changed, mask


def _step(image: Floats, rng: np.random.Generator) -> tuple[Floats, ClassMap]:
    """Where a piece has come off in a layer: a jagged line, one side of it in shadow, the other often lit."""
    height, width = shape = image.shape[0], image.shape[1]
    side = min(shape)
    heading = float(rng.uniform(0, 2 * np.pi))
    length, stride = side * float(np.exp(rng.uniform(np.log(0.08), np.log(0.8)))), side * 0.02
    x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
    points = [(x, y)]
    for _ in range(max(3, int(length / stride))):
        heading += float(rng.normal(0, 0.3))
        x, y = x + stride * np.cos(heading), y + stride * np.sin(heading)
        points.append((x, y))
    line, thick = np.array(points), max(2, round(side * float(rng.uniform(0.008, 0.035))))
    normal = thick * np.array([-np.sin(heading), np.cos(heading)]) * 0.7

    def drawn(offset: NDArray[Any]) -> ClassMap:
        canvas = np.zeros(shape, dtype=np.uint8)
        cv2.polylines(canvas, [np.round((line + offset) * 16).astype(np.int32)], False, 1, thick, cv2.LINE_8, 4)
        return canvas

    mask, rim = drawn(np.zeros(2)), drawn(normal)
    mask[int(np.clip(points[0][1], 0, height - 1)), int(np.clip(points[0][0], 0, width - 1))] = 1
    tone = 1 + 0.3 * _smooth_noise(shape, side * 0.03, rng)
    dark = image * float(rng.uniform(0.35, 0.85)) * _spread(np.maximum(tone, 0.1), image)
    changed = image
    if rng.random() < 0.5:
        changed = _blend(changed, changed * np.float32(rng.uniform(1.05, 1.35)), rim, 1.0)
    return _blend(changed, np.asarray(dark, dtype=np.float32), mask, float(rng.uniform(0.6, 1.2))), mask


def _crack(image: Floats, _other: Floats, rng: np.random.Generator) -> tuple[Floats, ClassMap]:
    height, width = shape = image.shape[0], image.shape[1]
    length = height * float(np.exp(rng.uniform(np.log(0.06), np.log(1.0))))
    heading = float(rng.normal(np.pi / 2, 0.12 if rng.random() < 0.7 else 0.8))
    y = 0.0 if rng.random() < 0.35 else float(rng.uniform(0, height))
    if rng.random() < 0.35:
        y, heading = float(height - 1), -heading
    x, bend, step = float(rng.uniform(0.03, 0.97) * width), float(rng.normal(0, 0.004)), 2.0
    if rng.random() < 0.15:
        bend, length = float(rng.choice([-1, 1]) * rng.uniform(0.03, 0.08)), height * float(rng.uniform(0.08, 0.25))
    points = [(x, y)]
    wander = float(rng.uniform(0.02, 0.25))
    lean = 0.0
    for _ in range(max(3, int(length / step))):
        heading += bend
        lean = 0.9 * lean + wander * float(rng.standard_normal())
        x, y = x + step * np.cos(heading + lean), y + step * np.sin(heading + lean)
        points.append((x, y))
    line = np.round(np.array(points) * 16).astype(np.int32)
    fine = np.zeros(shape, dtype=np.uint8)
    cv2.polylines(fine, [line], False, 255, int(rng.choice([1, 1, 1, 2, 3])), cv2.LINE_AA, 4)
    strength = fine.astype(np.float32) / 255 * np.clip(1 + 0.5 * _smooth_noise(shape, height * 0.06, rng), 0.15, 1.3)
    if rng.random() < 0.5:
        strength = cv2.GaussianBlur(strength, (0, 0), 0.6)
    changed = image * (1 - float(rng.uniform(0.3, 0.8)) * _spread(np.asarray(strength, dtype=np.float32), image))
    mask = (fine > 60).astype(np.uint8)
    if rng.random() < 0.7:  # annotators draw it a little wide
        mask = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), dtype=np.uint8)
    if not mask.any():
        mask[int(np.clip(points[0][1], 0, height - 1)), int(np.clip(points[0][0], 0, width - 1))] = 1
    return np.asarray(changed, dtype=np.float32), mask


def _raw(image: Floats, _other: Floats, rng: np.random.Generator) -> tuple[Floats, ClassMap]:
    height, width = shape = image.shape[0], image.shape[1]
    if rng.random() < 0.35:  # a small mark at an edge
        top = rng.random() < 0.4
        size = height * float(rng.uniform(0.02, 0.07))
        centre = (0.0 if top else height - 1.0, float(rng.uniform(0, width)))
        mask = _blob(shape, centre, (size * float(rng.uniform(0.8, 2.0)), size), float(rng.normal(0, 0.3)), 0.6, rng)
    else:
        tall, wide = height * float(rng.uniform(0.12, 0.85)), width * float(rng.uniform(0.08, 0.28))
        if rng.random() < 0.55:  # grown from an edge
            y = float(rng.choice([0.0, height - 1.0]))
        else:
            y = float(rng.uniform(0.15, 0.85)) * height
            tall *= 0.5
            wide *= float(rng.uniform(0.8, 1.5))
        centre = (y, float(rng.uniform(0.1, 0.9)) * width)
        mask = _blob(shape, centre, (tall, wide), float(rng.normal(0, 0.3)), 0.25, rng)
    smooth = cv2.GaussianBlur(image, (0, 0), sigmaX=width * float(rng.uniform(0.02, 0.06)), sigmaY=height * 0.02)
    tone = float(rng.uniform(0.55, 0.95)) if rng.random() < 0.8 else float(rng.uniform(1.05, 1.3))
    mottle = 1 + 0.06 * _smooth_noise(shape, width * 0.08, rng) + 0.03 * _smooth_noise(shape, width * 0.012, rng)
    grain = rng.standard_normal(shape).astype(np.float32) * np.float32(rng.uniform(0.5, 3.0))
    keep = np.float32(rng.uniform(0.0, 0.6))
    lit = (smooth + keep * (image - smooth)) * tone * _spread(mottle, image) + _spread(grain, image)
    inside = np.ascontiguousarray(lit, dtype=np.float32)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 4))):
            digit, size = str(int(rng.integers(100))), float(rng.uniform(0.3, 0.9)) * height / 256
            ys, xs = np.nonzero(mask)
            at = int(rng.integers(len(ys)))
            text = np.zeros(shape, dtype=np.uint8)
            cv2.putText(text, digit, (int(xs[at]), int(ys[at])), 0, size, 255, 1 + int(size > 0.6), cv2.LINE_AA)
            stamp = text.astype(np.float32) / 255 * np.float32(rng.choice([-0.4, -0.25, 0.25]))
            inside *= 1 + _spread(stamp, image)
    if rng.random() < 0.5:  # a rim in shadow
        kernel = np.ones((3, 3), np.uint8)
        rim = cv2.dilate(mask, kernel) - cv2.erode(mask, kernel)
        inside = _blend(inside, inside * np.float32(rng.uniform(0.5, 0.9)), np.asarray(rim, dtype=np.uint8), 1.0)
    return _blend(image, inside, mask, float(rng.uniform(0.7, 2.5))), mask


def _band(image: Floats, other: Floats, rng: np.random.Generator) -> tuple[Floats, ClassMap]:
    height, width = image.shape[0], image.shape[1]
    at = float(np.exp(rng.uniform(np.log(0.06), np.log(0.6)))) * height
    slope = float(rng.normal(0, 0.06)) if rng.random() < 0.85 else float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.8))
    xs = np.arange(width, dtype=np.float32)
    border = at + slope * (xs - width / 2) + float(rng.normal(0, 0.02)) * height * ((xs / width - 0.5) ** 2 * 4 - 0.5)
    ys = np.arange(height, dtype=np.float32)[:, None]
    mask = (ys < border[None]).astype(np.uint8)
    if rng.random() < 0.3:  # a pass that does not reach the end of the part
        near = float(rng.uniform(0.0, 0.7)) * at
        window = (xs[None] > rng.uniform(0.05, 0.5) * width) & (ys > near)
        mask &= window.astype(np.uint8)
    if rng.random() < 0.5:
        mask = mask[::-1].copy()
    if rng.random() < 0.5:
        mask = mask[:, ::-1].copy()
    if not mask.any():
        mask[: max(2, height // 12)] = 1
    source = other if rng.random() < 0.7 else image[::-1, ::-1]
    source = np.ascontiguousarray(source)
    tone = cv2.GaussianBlur(source, (0, 0), width * 0.06)
    here = cv2.GaussianBlur(image, (0, 0), width * 0.06)
    marks = (source + 8) / (tone + 8)
    contrast = float(np.exp(rng.uniform(np.log(0.4), np.log(2.2))))
    gain = float(np.exp(rng.normal(0.03, 0.14)))
    follow = float(rng.uniform(0.4, 1.0))  # how far the band keeps the light of its place
    light = here**follow * (tone * (here.mean() / max(1.0, float(tone.mean())))) ** (1 - follow)
    inside = light * gain * np.maximum(1 + contrast * (marks - 1), 0.05)
    return _blend(image, np.asarray(inside, dtype=np.float32), mask, float(rng.uniform(0.6, 2.0))), mask


_DRAW: dict[str, Callable[[Floats, Floats, np.random.Generator], tuple[Floats, ClassMap]]] = {
    "pit": _pit,
    "chip": _chip,
    "crack": _crack,
    "raw": _raw,
    "band": _band,
}
