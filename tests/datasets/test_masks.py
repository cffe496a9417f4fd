"""Masks as PNG files, hostile ones among them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from dataset_files import blot, write_image, write_png

from lpcnet_edge.datasets.masks import read_binary_mask, read_index_mask
from lpcnet_edge.errors import BadData, UnknownClass, UnreadableImage

CLASSES = ("background", "scratch", "dent")
VOC_COLOURS = bytes([0, 0, 0, 128, 0, 0, 0, 128, 0]) + bytes(3 * 253)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grey_of_any_depth_holds_indices(tmp_path: Path, bits: int) -> None:
    path = write_png(tmp_path / "m.png", blot(2), bits, 0)
    assert np.array_equal(read_index_mask(path, CLASSES), blot(2))


def test_one_bit_marks_one_class(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", blot(1), 1, 0)
    assert np.array_equal(read_index_mask(path, CLASSES[:2]), blot(1))
    assert np.array_equal(read_binary_mask(path), blot(1) > 0)


def test_sixteen_bits_hold_indices_if_they_are_small(tmp_path: Path) -> None:
    path = write_image(tmp_path / "m.png", blot(2).astype(np.uint16))
    mask = read_index_mask(path, CLASSES)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, blot(2))
    write_image(path, blot(1).astype(np.uint16) * 257)  # 257 must not become 1
    with pytest.raises(UnknownClass, match="up to 257"):
        read_index_mask(path, CLASSES)


@pytest.mark.parametrize("extra", [(), ((b"tRNS", b"\0\xff\x80"),)])
def test_a_palette_holds_indices_whatever_its_colours(tmp_path: Path, extra: tuple[tuple[bytes, bytes], ...]) -> None:
    path = write_png(tmp_path / "m.png", blot(2), 8, 3, (b"PLTE", VOC_COLOURS), *extra)
    assert np.array_equal(read_index_mask(path, CLASSES), blot(2))


def test_indices_of_one_colour_stay_apart(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", blot(2), 8, 3, (b"PLTE", bytes([0, 0, 0, 9, 9, 9, 9, 9, 9])))
    assert np.array_equal(read_index_mask(path, CLASSES), blot(2))


@pytest.mark.parametrize(
    ("bits", "value", "colours"),
    [
        (8, 255, bytes([0, 0, 0, 9, 9, 9])),  # a palette that ends before
        (8, 255, bytes(768)),
        (8, 3, VOC_COLOURS),  # black, as the background is
        (2, 3, bytes([0, 0, 0, 9, 9, 9])),
    ],
)
def test_an_index_of_a_palette_without_a_class_is_no_other_class(
    bits: int, value: int, colours: bytes, tmp_path: Path
) -> None:
    path = write_png(tmp_path / "m.png", blot(value), bits, 3, (b"PLTE", colours))
    with pytest.raises(UnknownClass, match=f"28 pixels have a class index of up to {value}, the classes end at 2"):
        read_index_mask(path, CLASSES)


def test_an_index_without_a_class_is_counted(tmp_path: Path) -> None:
    path = write_image(tmp_path / "m.png", blot(9))
    with pytest.raises(UnknownClass, match="28 pixels have a class index of up to 9, the classes end at 2"):
        read_index_mask(path, CLASSES)


def test_a_smoothed_binary_mask_is_refused(tmp_path: Path) -> None:
    mask = blot(255)
    mask[3, 5:12] = 90
    with pytest.raises(BadData, match="2 values besides 0, such as 90 and 255"):
        read_binary_mask(write_image(tmp_path / "m.png", mask))


def test_colour_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "m.png", np.dstack([blot(1)] * 3))
    with pytest.raises(BadData, match="colour picture"):
        read_index_mask(path, CLASSES)


@pytest.mark.parametrize("cut", [0, 7, 20, 40, -20, -1])
def test_truncated_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = write_image(tmp_path / "m.png", blot(1))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UnreadableImage, match=r"m\.png"):
        read_index_mask(path, CLASSES)


def test_other_formats_and_missing_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "m.png"
    other.write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(UnreadableImage, match="no PNG"):
        read_index_mask(other, CLASSES)
    with pytest.raises(UnreadableImage, match="No such file"):
        read_binary_mask(tmp_path / "absent.png")


def test_a_palette_file_without_its_palette_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", blot(1), 8, 3)
    with pytest.raises(UnreadableImage):
        read_index_mask(path, CLASSES)


def test_a_header_that_claims_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", blot(1), 8, 0)
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", 100_000, 100_000)
    raw[29:33] = struct.pack(">I", zlib.crc32(bytes(raw[12:29])))
    path.write_bytes(raw)
    with pytest.raises(UnreadableImage, match="PIXELS"):
        read_index_mask(path, CLASSES)
