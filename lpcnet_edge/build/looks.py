"""What is kept of an image so that sets of images can be judged and compared: its digest, levels and fine structure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.datasets.inspect import thumbnail
from lpcnet_edge.imaging import resize_image

SIDE_PX = 256
"""Contrast and sharpness are measured on the image resized to this square, so that frame sizes may differ."""

_DARK = 1e-9
_BLOCK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One image as a set is judged by it.

    Attributes
    ----------
    name, part, label
        Which image; the physical part; the class index, None where nobody says.
    sha256
        Digest of shape and pixels (:func:`pixel_digest`).
    channels
        1 or 3.
    layout
        ``float``: not whole numbers; ``planes``: (3, H, W) or (1, H, W); ``bytes`` otherwise.
    low, high
        Smallest and largest value as stored.
    brightness, contrast
        Mean and standard deviation of the grey image, grey levels 0..255.
    sharpness
        log2 of the variance of the Laplacian of the grey image: one more is twice the energy of fine structure.
    tint
        (red - blue) / (red + green + blue) of the channel means, -1..1; 0 for grey images.
    coloured
        Whether any pixel's channels differ.
    thumbnail
        (4096,) float32 unit vector of the fine structure (:func:`lpcnet_edge.datasets.inspect.thumbnail`).
    """

    name: str
    part: str
    label: int | None
    sha256: str
    channels: int
    layout: Literal["bytes", "float", "planes"]
    low: float
    high: float
    brightness: float
    contrast: float
    sharpness: float
    tint: float
    coloured: bool
    thumbnail: NDArray[np.float32] = field(repr=False)


def pixel_digest(image: NDArray[Any]) -> str:
    """SHA-256 (hex) over the shape and the pixels of an image: what the network sees, whatever file it came in."""
    return hashlib.sha256(f"{image.dtype}{image.shape}".encode() + np.ascontiguousarray(image).data).hexdigest()


def look_at(image: NDArray[Any], name: str, *, part: str | None = None, label: int | None = None) -> Look:
    """Measure one image (H, W), (H, W, 1) or (H, W, 3), or channels first, of any type; BGR, as everywhere here.

    Numbers that are not whole are brought to 0..255 first: times 255 where none is above 1.
    """
    planes = image.ndim == 3 and image.shape[-1] not in (1, 3) and image.shape[0] in (1, 3)
    floating = not np.issubdtype(image.dtype, np.integer)
    pixels = _as_bytes(np.moveaxis(image, 0, -1) if planes else image)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else pixels
    square = resize_image(np.asarray(grey, np.uint8), SIDE_PX, SIDE_PX)
    tint, coloured = 0.0, False
    if pixels.ndim == 3:
        blue, green, red = (float(mean) for mean in pixels.reshape(-1, 3).mean(0))
        tint = (red - blue) / max(red + green + blue, _DARK)
        coloured = bool((pixels != pixels[..., :1]).any())
    return Look(
        name=name,
        part=name if part is None else part,
        label=label,
        sha256=pixel_digest(image),
        channels=3 if pixels.ndim == 3 else 1,
        layout="float" if floating else "planes" if planes else "bytes",
        low=float(image.min()),
        high=float(image.max()),
        brightness=float(grey.mean()),
        contrast=float(square.std()),
        sharpness=float(np.log2(max(cv2.Laplacian(square, cv2.CV_32F).var(), 2.0**-10))),
        tint=tint,
        coloured=coloured,
        thumbnail=thumbnail(pixels),
    )


def _as_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8 to measure on."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype == np.uint16:
        image = image >> 8
    if not np.issubdtype(image.dtype, np.integer):
        image = np.nan_to_num(np.asarray(image, np.float64))
        image = np.rint(image * 255 if image.max(initial=0) <= 1 else image)
    return np.ascontiguousarray(np.clip(image, 0, 255), dtype=np.uint8)


@dataclass(frozen=True)
class Reference:
    """What frames should look like: the measures of live frames, or of images known to be right.

    Attributes
    ----------
    what
        Named in findings, as in ``the live frames``.
    brightness, contrast, sharpness, tint
        One value a frame; units as in :class:`Look`. ``tint`` is empty where the frames are grey.
    coloured
        Whether the frames are colour images with colour in them.
    """

    what: str
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    sharpness: tuple[float, ...]
    tint: tuple[float, ...]
    coloured: bool


def reference_of(images: Iterable[NDArray[Any] | Look], what: str) -> Reference:
    """Summarise images, or looks at images, as a :class:`Reference`."""
    looks = [i if isinstance(i, Look) else look_at(i, str(n)) for n, i in enumerate(images)]
    return Reference(
        what,
        tuple(look.brightness for look in looks),
        tuple(look.contrast for look in looks),
        tuple(look.sharpness for look in looks),
        tuple(look.tint for look in looks if look.channels == 3),
        any(look.coloured for look in looks),
    )


def twins(ours: Sequence[Look], theirs: Sequence[Look], least: float) -> list[tuple[int, int, float]]:
    """(index into ``ours``, index into ``theirs``, correlation) of thumbnails correlated by ``least`` or more."""
    if not ours or not theirs:
        return []
    columns = np.stack([look.thumbnail for look in theirs])
    found = []
    for start in range(0, len(ours), _BLOCK):
        block = np.stack([look.thumbnail for look in ours[start : start + _BLOCK]]) @ columns.T
        found += [(start + int(i), int(j), float(block[i, j])) for i, j in np.argwhere(block >= least)]
    return found
