"""Augmentation of grey or colour tiles, as pure functions of arrays and a random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.config import refuse_non_finite
from lpcnet_edge.types import ClassMap, Image

_DARK = 8.0  # grey levels added before ratios are taken, so that noise in the dark does not explode


@dataclass(frozen=True)
class AugmentSettings:
    """How far tiles are changed. Ranges are symmetric in the logarithm where a factor is meant.

    Attributes
    ----------
    scale, aspect
        Largest factor of the size, and of width against height.
    rotation_deg
        Largest rotation either way.
    gain, gamma, offset
        Largest factor of the brightness, largest exponent, largest shift in grey levels.
    shading
        Largest relative change of a smooth field of light over the tile.
    noise
        Largest standard deviation of the noise, in grey levels.
    blur_probability
        Share of tiles blurred a little.
    tint
        Largest factor of one colour channel against the others.
    paste
        Share of defect-free crops that are given a defect of another image.
    drawn
        Share of those whose defect is drawn instead, where the recipe names a kind for the class.
    """

    scale: float = 1.3
    aspect: float = 1.15
    rotation_deg: float = 8.0
    flip_vertical: bool = True
    gain: float = 1.6
    gamma: float = 1.35
    offset: float = 15.0
    shading: float = 0.2
    noise: float = 5.0
    blur_probability: float = 0.15
    tint: float = 1.06
    paste: float = 0.5
    drawn: float = 0.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        for name in ("scale", "aspect", "gain", "gamma", "tint"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, not a factor above 0")
        for name in ("rotation_deg", "offset", "shading", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, not 0 or more")
        for name in ("blur_probability", "paste", "drawn"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}, not a share from 0 to 1")


def _factor(rng: np.random.Generator, largest: float) -> float:
    return math.exp(rng.uniform(-1.0, 1.0) * math.log(largest))


def crop(
    image: Image,
    mask: ClassMap,
    size_px: int,
    settings: AugmentSettings,
    rng: np.random.Generator,
    focus: tuple[float, float] | None = None,
) -> tuple[Image, ClassMap]:
    """One warped square crop of side ``size_px``, with its mask warped alike.

    ``focus`` is a (y, x) position in px that the crop holds; without one, any place of the tile is as likely. Outside
    the tile the picture is mirrored.
    """
    height, width = mask.shape
    scale, aspect = _factor(rng, settings.scale), _factor(rng, math.sqrt(settings.aspect))
    sx, sy = scale * aspect, scale / aspect
    if rng.random() < 0.5:
        sx = -sx
    if settings.flip_vertical and rng.random() < 0.5:
        sy = -sy
    angle = math.radians(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    cos, sin = math.cos(angle), math.sin(angle)
    centre = []
    for axis, (extent, stretch) in enumerate(((height, abs(sy)), (width, abs(sx)))):
        half = size_px / stretch / 2
        low, high = min(half, extent / 2), max(extent - half, extent / 2)
        if focus is None:
            centre.append(rng.uniform(low, high))
        else:
            centre.append(float(np.clip(focus[axis] + rng.uniform(-0.7, 0.7) * half, low, high)))
    linear = np.array([[cos * sx, -sin * sy], [sin * sx, cos * sy]])
    shift = np.array([size_px / 2, size_px / 2]) - linear @ np.array([centre[1], centre[0]])
    if focus is not None:  # rotation takes what is in a corner of the tile out of a crop that ends there
        place = linear @ np.array([focus[1], focus[0]]) + shift
        shift += np.clip(place, 1.0, size_px - 2.0) - place
    matrix = np.hstack([linear, shift[:, None]])
    shape = (size_px, size_px)
    warped = cv2.warpAffine(image, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    labels = cv2.warpAffine(mask, matrix, shape, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, dtype=np.uint8), np.asarray(labels, dtype=np.uint8)


def light(image: Image, settings: AugmentSettings, rng: np.random.Generator) -> Image:
    """Change exposure, contrast, shading, tint, sharpness and noise of one tile."""
    size = (image.shape[1], image.shape[0])
    x = image.astype(np.float32) / 255.0
    gamma = _factor(rng, settings.gamma)
    x = cv2.pow(x, gamma).astype(np.float32)
    field = 1.0 + rng.uniform(-settings.shading, settings.shading, (3, 3)).astype(np.float32)
    field = _factor(rng, settings.gain) * cv2.resize(field, size, interpolation=cv2.INTER_CUBIC)
    if x.ndim == 3:
        tint = np.array([_factor(rng, settings.tint) for _ in range(x.shape[2])], dtype=np.float32)
        x *= field[..., None] * tint
    else:
        x *= field
    x = x * 255.0 + np.float32(rng.uniform(-settings.offset, settings.offset))
    if rng.random() < settings.blur_probability:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.0))).astype(np.float32)
    noise = rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(0.0, settings.noise))
    return np.clip(x + noise + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Patch:
    """A defect lifted off its surface: by what factor it darkens or brightens, and where.

    ``ratio`` (h, w) or (h, w, 3) float32, ``mask`` (h, w) uint8 class indices, ``offset`` (y, x) px in its tile.
    """

    ratio: NDArray[np.float32]
    mask: ClassMap
    offset: tuple[int, int]


def lift(image: Image, mask: ClassMap, margin_px: int = 6) -> Patch | None:
    """Take the defect of a tile off its surface: the ratio of the tile to itself with the defect painted over.

    None where there is no defect, or nothing around it to paint it over with.
    """
    side = 2 * margin_px + 1
    wide = cv2.dilate((mask > 0).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    if not wide.any() or wide.all():
        return None
    clean = cv2.inpaint(image, wide, 3, cv2.INPAINT_TELEA)
    ratio = (image.astype(np.float32) + _DARK) / (clean.astype(np.float32) + _DARK)
    feather = cv2.GaussianBlur(wide.astype(np.float32), (0, 0), margin_px / 3)
    feather = np.clip(2 * feather - 1, 0, 1)  # nothing is left of the seam at the edge of the painted area
    ratio = 1.0 + (ratio - 1.0) * (feather if image.ndim == 2 else feather[..., None])
    ys, xs = np.nonzero(wide)
    box = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
    return Patch(np.ascontiguousarray(ratio[box], dtype=np.float32), mask[box].copy(), (int(ys.min()), int(xs.min())))


def paste(
    image: Image, mask: ClassMap, patch: Patch, rng: np.random.Generator, *, keep_place: bool = False
) -> tuple[Image, ClassMap]:
    """Put a lifted defect on another tile: turned, stretched, stronger or weaker.

    With ``keep_place`` it stays about where it was found, unturned; otherwise it may land anywhere.
    """
    height, width = mask.shape
    ph, pw = patch.mask.shape
    stretch = 1.15 if keep_place else 1.6
    angle = 0.0 if keep_place else rng.uniform(-25, 25)
    matrix = cv2.getRotationMatrix2D((pw / 2, ph / 2), float(angle), 1.0)
    factor = np.diag([_factor(rng, stretch), _factor(rng, stretch)])
    if not keep_place:
        factor = factor @ np.diag(rng.choice([-1.0, 1.0], 2))
    linear = factor @ matrix[:, :2]
    if keep_place:
        target = np.array([patch.offset[1] + pw / 2, patch.offset[0] + ph / 2]) + rng.uniform(-4, 4, 2)
    else:
        target = np.array([rng.uniform(0, width), rng.uniform(0, height)])
    shift = target - linear @ np.array([pw / 2, ph / 2])
    affine = np.hstack([linear, shift[:, None]])
    neutral = (1.0,) * 4
    size = (width, height)
    ratio = cv2.warpAffine(
        patch.ratio, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=neutral
    )
    labels = cv2.warpAffine(patch.mask, affine, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    strength = np.float32(rng.uniform(0.7, 1.3))
    changed = (image.astype(np.float32) + _DARK) * cv2.pow(np.maximum(ratio, 1e-3), float(strength)) - _DARK
    pasted = np.clip(changed + 0.5, 0, 255).astype(np.uint8)
    return pasted, np.where(labels > 0, labels, mask).astype(np.uint8)
