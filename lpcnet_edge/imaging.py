"""Pixels in and out: reading, resizing and drawing. One definition for training, checking and running."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import UnreadableImage
from lpcnet_edge.types import ClassMap, Image

# Overlay colours (BGR) by class index; chosen to stay apart for colour-blind readers (Okabe and Ito's palette).
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (178, 114, 0),
    (0, 94, 213),
    (167, 121, 204),
)


def read_image(path: Path, channels: int, *, bits: int = 16) -> Image:
    """Decode an image file to (H, W) grey (``channels=1``) or (H, W, 3) BGR (``channels=3``), uint8.

    Of 16-bit files the upper 8 of the low ``bits`` bits are kept; transparency is dropped; the EXIF orientation is
    applied. Raises ``UnreadableImage``, also for a truncated file.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as exc:
        raise UnreadableImage(f"{path}: {exc.strerror or exc}", mend="check the path and its permissions") from exc
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    if bits != 16:
        flag |= cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(data, flag) if data.size else None
    except cv2.error as exc:  # such as a header that claims more pixels than OpenCV takes
        raise UnreadableImage(f"{path}: {exc.err or exc}", mend="replace the file, or remove it") from exc
    if image is None:
        raise UnreadableImage(
            f"{path}: {data.size} bytes that decode as no known image format",
            mend="replace the file with a readable PNG, JPEG, BMP or TIFF, or remove it",
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise UnreadableImage(
            f"{path}: its samples are {image.dtype}, not of 8 or 16 bits", mend="save it with 8 or 16 bits without sign"
        )
    if image.dtype == np.uint16:
        image = np.minimum(np.asarray(image, np.uint16) >> np.uint16(bits - 8), 255)
    return np.asarray(image, dtype=np.uint8)


def resize_image(image: Image, height: int, width: int) -> Image:
    """Resize to (height, width): area-averaged along an axis that shrinks, linear along one that grows.

    Averaging keeps one-pixel cracks visible when a photograph is reduced to a tile, where sampling would skip them.
    """
    if image.shape[:2] == (height, width):
        return image
    for size, axis in ((height, 0), (width, 1)):
        now = image.shape[axis]
        if now != size:
            target = (image.shape[1], size) if axis == 0 else (size, image.shape[0])
            method = cv2.INTER_AREA if size < now else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, target, interpolation=method), dtype=np.uint8)
    return image


def resize_mask(mask: ClassMap, height: int, width: int) -> ClassMap:
    """Resize a map of class indices to (height, width) by nearest neighbour."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def overlay(image: Image, classes: ClassMap, *, alpha: float = 0.35) -> NDArray[np.uint8]:
    """Draw a class map over its image: tinted areas with a solid contour, (H, W, 3) BGR uint8."""
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()
    tint = canvas.copy()
    present = [int(c) for c in np.unique(classes) if c]
    for index in present:
        tint[classes == index] = PALETTE[index % len(PALETTE)]
    canvas = cv2.addWeighted(tint, alpha, canvas, 1 - alpha, 0)
    for index in present:
        outline, _ = cv2.findContours((classes == index).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outline, -1, PALETTE[index % len(PALETTE)], 1)
    return np.asarray(canvas, dtype=np.uint8)
