"""Masks as PNG files: one class index per pixel, or one class against the rest."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData, UnknownClass, UnreadableImage
from lpcnet_edge.types import ClassMap

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # PNG colour types


def read_index_mask(path: Path, classes: Sequence[str]) -> ClassMap:
    """Read a PNG whose pixels are class indices: grey of 1 to 16 bits, or a palette.

    Returns (H, W) uint8. Raises ``UnreadableImage``, or ``UnknownClass`` for an index that ``classes`` does not have.
    """
    values = _pixel_values(path)
    largest = int(values.max())
    if largest >= len(classes):
        pixels = int(np.count_nonzero(values >= len(classes)))
        raise UnknownClass(
            f"{path}: {pixels} pixels have a class index of up to {largest}, the classes end at {len(classes) - 1}",
            mend="add the class to the names, or export class indices rather than grey levels",
        )
    return values.astype(np.uint8)


def read_binary_mask(path: Path) -> NDArray[np.bool_]:
    """Read a PNG that marks one class: 0 is outside it, the file's one other value inside.

    Returns (H, W) bool. Raises ``UnreadableImage``, or ``BadData`` where more than one other value occurs, as it does
    in a mask that was resized or compressed.
    """
    values = _pixel_values(path)
    levels = np.unique(values[values > 0])
    if len(levels) > 1:
        raise BadData(
            f"{path}: a binary mask with {len(levels)} values besides 0, such as {int(levels[0])} and "
            f"{int(levels[-1])}",
            mend="export it without smoothing, or threshold it first",
        )
    return values > 0


def _pixel_values(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The numbers that a grey or palette PNG stores, (H, W), not what they look like."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise UnreadableImage(f"{path}: {exc.strerror or exc}", mend="check the path and its permissions") from exc
    if len(raw) < 33 or raw[:8] != _SIGNATURE:
        raise UnreadableImage(f"{path}: {len(raw)} bytes that are no PNG", mend="masks are PNG files: export it again")
    bits, kind = raw[24], raw[25]
    flag = cv2.IMREAD_COLOR if kind == _PALETTE else cv2.IMREAD_UNCHANGED
    readable = _with_indices_as_colours(raw) if kind == _PALETTE else raw
    try:
        pixels = cv2.imdecode(np.frombuffer(readable, np.uint8), flag)
    except cv2.error as exc:  # such as a header that claims more pixels than OpenCV takes
        raise UnreadableImage(f"{path}: {exc.err or exc}", mend="export it again") from exc
    if pixels is None:
        raise UnreadableImage(f"{path}: a PNG of {len(raw)} bytes that cannot be decoded", mend="export it again")
    if kind == _PALETTE:
        return np.asarray(pixels[..., 0], np.uint8)
    if kind != _GREY or pixels.ndim != 2:
        raise BadData(f"{path}: a colour picture, not class indices", mend="export a grey or palette PNG")
    if bits < 8:  # the decoder stretches 1, 2 and 4 bits to 0..255
        return np.asarray(pixels // (255 // (2**bits - 1)), np.uint8)
    return np.asarray(pixels, np.uint16)


def _with_indices_as_colours(raw: bytes) -> bytes:
    """A palette PNG with each index's grey level as its colour, so that decoding it gives the indices.

    Its own colours would not tell them all apart: two may be the same, and the palette may end before the indices do.
    """
    at = len(_SIGNATURE)
    while at + 12 <= len(raw):
        (length,) = struct.unpack_from(">I", raw, at)
        end = at + 12 + length
        if raw[at + 4 : at + 8] == b"PLTE":
            entries = min(2 ** raw[24], 256)
            chunk = b"PLTE" + bytes(level for level in range(entries) for _ in range(3))
            return raw[:at] + struct.pack(">I", 3 * entries) + chunk + struct.pack(">I", zlib.crc32(chunk)) + raw[end:]
        at = end
    return raw
