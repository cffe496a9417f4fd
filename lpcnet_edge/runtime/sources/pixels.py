"""From what a camera or a program sends to (H, W) grey or (H, W, 3) BGR bytes: pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import UnreadableImage
from lpcnet_edge.types import Image


def to_8_bits(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """The upper 8 of ``bits`` significant bits; what exceeds them is white. ``bits`` 8..16, any shape."""
    shifted: NDArray[np.uint16] = np.minimum(samples >> np.uint16(bits - 8), 255)
    return shifted.astype(np.uint8)


def to_channels(array: NDArray[Any], channels: int, *, bits: int = 16) -> Image:
    """Any (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) array of uint8 or uint16 to ``channels``, as uint8.

    Colour is BGR; a fourth channel is transparency and is dropped. uint16 goes by :func:`to_8_bits`. An array that is
    right already is returned itself. Raises ``UnreadableImage`` for any other type or shape.
    """
    if array.dtype == np.uint16:
        array = to_8_bits(array, bits)
    depth = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or depth not in (1, 3, 4) or not array.size:
        raise UnreadableImage(
            f"an array of shape {array.shape} and type {array.dtype} is no image",
            mend="give (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16",
        )
    if array.ndim == 3 and depth == 1:
        array = array[:, :, 0]
    if channels == depth:
        return np.ascontiguousarray(array)
    code = {
        (1, 3): cv2.COLOR_GRAY2BGR,
        (3, 1): cv2.COLOR_BGR2GRAY,
        (4, 1): cv2.COLOR_BGRA2GRAY,
        (4, 3): cv2.COLOR_BGRA2BGR,
    }[depth, channels]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(array), code), dtype=np.uint8)


# Unpackers: bytes and a number of samples to uint16. "Packed" is GigE Vision's own layout (two samples in three bytes,
# the low bits of both in the middle one); "p" is PFNC's and USB3 Vision's: a plain little-endian stream of bits.
def _unpack_words(data: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
    return data[: 2 * count].view("<u2")


def _unpack_10_packed(data: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
    first, low, second = _triples(data, count)
    return _interleave(first << 2 | low & 3, second << 2 | low >> 4 & 3, count)


def _unpack_12_packed(data: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
    first, low, second = _triples(data, count)
    return _interleave(first << 4 | low & 15, second << 4 | low >> 4, count)


def _unpack_12_p(data: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
    low, middle, high = _triples(data, count)
    return _interleave(low | (middle & 15) << 8, middle >> 4 | high << 4, count)


def _unpack_10_p(data: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
    groups = _padded(data, -(-count // 4) * 5).reshape(-1, 5).astype(np.uint16)
    samples = [groups[:, i] >> 2 * i | (groups[:, i + 1] & (4 << 2 * i) - 1) << 8 - 2 * i for i in range(4)]
    return np.stack(samples, axis=1).reshape(-1)[:count]


def _triples(data: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
    return _padded(data, -(-count // 2) * 3).reshape(-1, 3).astype(np.uint16).T


def _padded(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return data[:size] if data.size >= size else np.pad(data, (0, size - data.size))


def _interleave(even: NDArray[np.uint16], odd: NDArray[np.uint16], count: int) -> NDArray[np.uint16]:
    return np.stack([even, odd], axis=1).reshape(-1)[:count]


@dataclass(frozen=True, slots=True)
class _Layout:
    bits_stored: int
    bits: int
    unpack: Callable[[NDArray[np.uint8], int], NDArray[np.uint16]] | None = None


_LAYOUTS = {
    "8": _Layout(8, 8),
    "10": _Layout(16, 10, _unpack_words),
    "12": _Layout(16, 12, _unpack_words),
    "14": _Layout(16, 14, _unpack_words),
    "16": _Layout(16, 16, _unpack_words),
    "10Packed": _Layout(12, 10, _unpack_10_packed),
    "12Packed": _Layout(12, 12, _unpack_12_packed),
    "10p": _Layout(10, 10, _unpack_10_p),
    "12p": _Layout(12, 12, _unpack_12_p),
}
# (format's kind, channels wanted) -> how OpenCV gets there. GenICam names a Bayer pattern by its first two pixels.
_CONVERSIONS = {
    ("Mono", 1): None,
    ("Mono", 3): cv2.COLOR_GRAY2BGR,
    ("BGR", 3): None,
    ("BGR", 1): cv2.COLOR_BGR2GRAY,
    ("RGB", 3): cv2.COLOR_RGB2BGR,
    ("RGB", 1): cv2.COLOR_RGB2GRAY,
    ("BayerRG", 3): cv2.COLOR_BayerRGGB2BGR,
    ("BayerRG", 1): cv2.COLOR_BayerRGGB2GRAY,
    ("BayerGR", 3): cv2.COLOR_BayerGRBG2BGR,
    ("BayerGR", 1): cv2.COLOR_BayerGRBG2GRAY,
    ("BayerGB", 3): cv2.COLOR_BayerGBRG2BGR,
    ("BayerGB", 1): cv2.COLOR_BayerGBRG2GRAY,
    ("BayerBG", 3): cv2.COLOR_BayerBGGR2BGR,
    ("BayerBG", 1): cv2.COLOR_BayerBGGR2GRAY,
}
_FORMAT = re.compile(r"(Mono|RGB|BGR|Bayer(?:RG|GR|GB|BG))(8|10|12|14|16)(Packed|p)?")


def parse_format(name: str) -> tuple[str, _Layout] | None:
    """Kind and layout of a GenICam pixel format's name, or None for one that is not decoded."""
    name = {"RGB8Packed": "RGB8", "BGR8Packed": "BGR8"}.get(name, name)
    match = _FORMAT.fullmatch(name)
    layout = _LAYOUTS.get(f"{match[2]}{match[3] or ''}") if match else None
    if match is None or layout is None or (match[1] in ("RGB", "BGR") and match[2] != "8"):
        return None
    return match[1], layout


def decode_pixels(
    data: NDArray[np.uint8], width: int, height: int, pixel_format: str, channels: int, *, row_padding: int = 0
) -> Image:
    """A camera's buffer to an image of its own memory.

    Parameters
    ----------
    data
        (bytes,) uint8; bytes beyond the image (chunk data) are ignored.
    width, height
        Pixels.
    pixel_format
        GenICam's name, as in ``BayerRG8``.
    channels
        1 for (H, W), 3 for (H, W, 3) BGR.
    row_padding
        Bytes after each row that are none of its pixels.

    Raises
    ------
    UnreadableImage
        A format that is not decoded, fewer bytes than the format needs, a Bayer pattern of fewer than 3 rows or
        columns, or padding after rows that end within a byte.
    """
    known = parse_format(pixel_format)
    if known is None:
        raise UnreadableImage(
            f"pixel format {pixel_format} is not decoded", mend="set source.camera.pixel_format: Mono8"
        )
    kind, layout = known
    samples = width * height * (3 if kind in ("RGB", "BGR") else 1)
    need = -(-samples * layout.bits_stored // 8)
    if row_padding:
        row_bits = layout.bits_stored * samples // max(height, 1)
        if row_bits % 8:
            raise UnreadableImage(
                f"{width}x{height} {pixel_format} has rows that end within a byte, and {row_padding} bytes after each",
                mend="set the camera's width to a multiple of 8",
            )
        need += row_padding * height
    if not samples or data.size < need:
        raise UnreadableImage(
            f"{width}x{height} {pixel_format} takes {need} bytes, the camera sent {data.size}",
            mend="set the camera's region and pixel format again",
        )
    if kind.startswith("Bayer") and min(width, height) < 3:  # OpenCV would make it black, without a word
        raise UnreadableImage(
            f"{width}x{height} px are too few to make a picture of {pixel_format}",
            mend="set the camera's region to 3 x 3 px or more, or its pixel format to Mono8",
        )
    if row_padding:
        pitch = row_bits // 8 + row_padding
        data = data[: pitch * height].reshape(height, pitch)[:, : row_bits // 8].reshape(-1)
    flat = data[:samples] if layout.unpack is None else to_8_bits(layout.unpack(data, samples), layout.bits)
    image = flat.reshape((height, width, 3) if kind in ("RGB", "BGR") else (height, width))
    code = _CONVERSIONS[kind, channels]
    if code is not None:
        return np.asarray(cv2.cvtColor(image, code), dtype=np.uint8)
    return image.copy() if layout.unpack is None else image
