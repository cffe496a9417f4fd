"""Pixel formats, flat field and scale: pure functions against packers and scenes made here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcnet_edge.errors import BadConfig, BadInput, UnreadableImage
from lpcnet_edge.runtime.sources import BadFrame, CorrectionSettings, Frame, SourceSettings, open_source
from lpcnet_edge.runtime.sources.correction import (
    Target,
    average_frames,
    correct,
    flat_field_gain,
    scale_from_target,
)
from lpcnet_edge.runtime.sources.genicam import lost_between
from lpcnet_edge.runtime.sources.pixels import decode_pixels, parse_format

# Packers, written bit by bit from the standards: PFNC 2.4 for "p" (a little-endian stream of bits), GigE Vision 2.0
# annex on Mono10Packed and Mono12Packed for the other two.


def pack_p(samples: list[int], bits: int) -> bytes:
    stream = sum(value << bits * place for place, value in enumerate(samples))
    return stream.to_bytes(-(-bits * len(samples) // 8), "little")


def pack_gige(samples: list[int], bits: int) -> bytes:
    low = bits - 8
    packed = bytearray()
    for first, second in zip(samples[::2], [*samples[1::2], 0], strict=False):
        middle = first & (1 << low) - 1 | (second & (1 << low) - 1) << 4
        packed += bytes([first >> low, middle, second >> low])
    return bytes(packed)


PACKERS = {
    "Mono8": (8, lambda samples: bytes(samples)),
    "Mono10": (10, lambda samples: np.array(samples, "<u2").tobytes()),
    "Mono12": (12, lambda samples: np.array(samples, "<u2").tobytes()),
    "Mono14": (14, lambda samples: np.array(samples, "<u2").tobytes()),
    "Mono16": (16, lambda samples: np.array(samples, "<u2").tobytes()),
    "Mono10p": (10, lambda samples: pack_p(samples, 10)),
    "Mono12p": (12, lambda samples: pack_p(samples, 12)),
    "Mono10Packed": (10, lambda samples: pack_gige(samples, 10)),
    "Mono12Packed": (12, lambda samples: pack_gige(samples, 12)),
}


@pytest.mark.parametrize("name", PACKERS)
@settings(max_examples=30)
@given(data=st.data())
def test_grey_formats_keep_the_upper_eight_bits(name: str, data: st.DataObject) -> None:
    bits, pack = PACKERS[name]
    width, height = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    size = width * height
    samples = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=size, max_size=size))
    packed = np.frombuffer(pack(samples), np.uint8)
    expected = np.array(samples).reshape(height, width) >> (bits - 8)
    image = decode_pixels(packed, width, height, name, 1)
    assert np.array_equal(image, expected)
    assert image.dtype == np.uint8
    assert not np.shares_memory(image, packed)
    chunked = np.concatenate([packed, np.full(16, 255, np.uint8)])
    assert np.array_equal(decode_pixels(chunked, width, height, name, 3)[:, :, 1], expected)
    with pytest.raises(UnreadableImage, match="the camera sent"):
        decode_pixels(packed[: (size - 1) * bits // 8], width, height, name, 1)


@pytest.mark.parametrize("pattern", ["RG", "GR", "GB", "BG"])
@pytest.mark.parametrize(("suffix", "bits"), [("8", 8), ("12", 12), ("12p", 12)])
def test_bayer_gives_back_the_scene(pattern: str, suffix: str, bits: int) -> None:
    blue, green, red = 40, 120, 200
    below = {"RG": "GB", "GR": "BG", "GB": "RG", "BG": "GR"}[pattern]
    cell = {"R": red, "G": green, "B": blue}
    mosaic = np.tile(np.array([[cell[c] for c in pattern], [cell[c] for c in below]]), (8, 8)) << (bits - 8)
    samples = mosaic.ravel().tolist()
    pack = PACKERS[f"Mono{suffix}"][1]
    data = np.frombuffer(pack(samples), np.uint8)
    image = decode_pixels(data, 16, 16, f"Bayer{pattern}{suffix}", 3)
    assert np.abs(image[2:-2, 2:-2].astype(int) - [blue, green, red]).max() <= 1
    grey = decode_pixels(data, 16, 16, f"Bayer{pattern}{suffix}", 1)
    expected = 0.114 * blue + 0.587 * green + 0.299 * red
    assert np.abs(grey[2:-2, 2:-2] - expected).max() <= 1.5


def test_colour_formats() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    for name in ("RGB8", "RGB8Packed"):
        assert np.array_equal(decode_pixels(rgb.ravel(), 4, 3, name, 3), rgb[:, :, ::-1])
    assert np.array_equal(decode_pixels(rgb.ravel(), 4, 3, "BGR8", 3), rgb)


@pytest.mark.parametrize(("width", "height"), [(16, 1), (16, 2), (1, 16), (2, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_bayer_pattern_too_small_for_opencv_is_no_black_picture(width: int, height: int, channels: int) -> None:
    with pytest.raises(UnreadableImage, match=f"{width}x{height} px are too few"):
        decode_pixels(np.full(32, 200, np.uint8), width, height, "BayerRG8", channels)


@pytest.mark.parametrize("name", ["Mono8", "Mono12Packed", "Mono16", "RGB8"])
def test_padding_after_each_row_is_left_out(name: str) -> None:
    row_bytes = {"Mono8": 6, "Mono12Packed": 9, "Mono16": 12, "RGB8": 18}[name]
    plain = np.random.default_rng(0).integers(0, 256, (4, row_bytes), dtype=np.uint8)
    padded = np.concatenate([plain, np.full((4, 5), 255, np.uint8)], axis=1)
    expected = decode_pixels(plain.ravel(), 6, 4, name, 1)
    assert np.array_equal(decode_pixels(padded.ravel(), 6, 4, name, 1, row_padding=5), expected)
    with pytest.raises(UnreadableImage, match=f"takes {padded.size} bytes"):
        decode_pixels(plain.ravel(), 6, 4, name, 1, row_padding=5)


def test_padding_after_rows_that_end_within_a_byte_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="end within a byte"):
        decode_pixels(np.zeros(100, np.uint8), 5, 4, "Mono12p", 1, row_padding=4)


@pytest.mark.parametrize("name", ["YUV422Packed", "Mono1p", "RGB16", "Mono14p", "Coord3D_C16", ""])
def test_other_formats_are_refused(name: str) -> None:
    assert parse_format(name) is None
    with pytest.raises(UnreadableImage, match="is not decoded"):
        decode_pixels(np.zeros(100, np.uint8), 4, 4, name, 1)


@pytest.mark.parametrize(
    ("last", "now", "lost"),
    [(1, 2, 0), (1, 5, 3), (65535, 1, 0), (65534, 2, 2), (65500, 1, 35), (0, 1, 0), (500, 1, 0), (70000, 3, 0)],
)
def test_lost_frames_are_counted_over_the_wrap_and_not_over_a_restart(last: int, now: int, lost: int) -> None:
    assert lost_between(last, now) == lost


# Flat field ---------------------------------------------------------------------------------------------------------


def vignette() -> NDArray[np.float32]:
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    return (1 - 0.4 * (x * x + y * y) / 2).astype(np.float32)


def test_correction_makes_a_field_even_that_was_not() -> None:
    rng = np.random.default_rng(0)
    dark_level = 6 + rng.random((60, 80)).astype(np.float32) * 4

    def photograph(level: float) -> NDArray[np.uint8]:
        noise = rng.normal(0, 1, (60, 80))
        return np.clip(np.round(dark_level + level * vignette() + noise), 0, 255).astype(np.uint8)

    dark = average_frames(photograph(0) for _ in range(64))
    flat = average_frames(photograph(200) for _ in range(64))
    raw = photograph(120)
    even = correct(raw, dark, flat_field_gain(flat, dark))
    assert raw.std() > 8
    assert even.std() < 2
    exact = (raw - dark) * (flat - dark).mean() / (flat - dark)
    assert np.abs(even - exact).max() <= 0.51


def test_correction_of_colour_goes_by_channel() -> None:
    flat = np.dstack([100 * vignette(), 150 * vignette(), 200 * vignette()])
    gain = flat_field_gain(flat)
    even = correct(flat.astype(np.uint8), None, gain).reshape(-1, 3)
    assert even.std(axis=0).max() < 1
    assert np.abs(even.mean(axis=0) - flat.mean(axis=(0, 1))).max() < 1


def test_an_overexposed_flat_field_corrects_nothing_and_is_refused() -> None:
    flat = np.minimum(300 * vignette(), 255)
    with pytest.raises(BadInput, match="of the flat field is overexposed"):
        flat_field_gain(flat)


def test_the_level_of_a_large_colour_camera_is_kept() -> None:
    flat = np.full((1000, 2000, 3), 200.3, np.float32)  # float32 sums of 2 million pixels are off by 0.2 %
    assert np.abs(flat_field_gain(flat) - 1).max() < 1e-5


def test_a_dark_frame_alone_subtracts_and_stays_above_zero() -> None:
    pixels = np.array([[5, 50]], np.uint8)
    assert correct(pixels, np.array([[9, 9.4]], np.float32), None).tolist() == [[0, 41]]
    assert correct(pixels, None, None) is pixels


def test_what_is_no_flat_field_is_refused_and_dead_pixels_are_held() -> None:
    flat = np.full((20, 20), 100, np.float32)
    flat[3, 4] = 0
    gain = flat_field_gain(flat, largest_gain=3)
    assert gain[3, 4] == 3
    flat[:5] = 1
    with pytest.raises(BadInput, match=r"25\.0% of the flat field"):
        flat_field_gain(flat)
    with pytest.raises(BadInput, match="no frames"):
        average_frames([])
    with pytest.raises(BadInput, match="frame 1 is"):
        average_frames([np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)])


def test_a_source_corrects_and_a_frame_of_another_size_is_bad(tmp_path: Path) -> None:
    flat = 200 * vignette()
    np.save(tmp_path / "flat.npy", flat)
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((60, 80), np.uint16))
    correction = CorrectionSettings(dark=tmp_path / "dark.png", flat=tmp_path / "flat.npy")
    frames = [flat.astype(np.uint8), np.zeros((8, 8), np.uint8), flat.astype(np.uint8)]
    with open_source(frames, SourceSettings(correction=correction), channels=1) as source:
        first, second, third = source
    assert isinstance(first, Frame)
    assert isinstance(third, Frame)
    assert first.pixels.std() < 1 < flat.std()
    assert isinstance(second, BadFrame)
    assert "the frame is (8, 8)" in second.reason


def test_correction_files_that_cannot_serve(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 4, 3)))
    np.save(tmp_path / "b.npy", np.full((4, 4), np.nan))
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "f.npy").touch()
    np.savez(tmp_path / "g.npz", np.ones((4, 4)))
    (tmp_path / "g.npz").rename(tmp_path / "g.npy")
    np.save(tmp_path / "h.npy", np.array([["1", "2"]]))
    (tmp_path / "d.png").write_text("no image")
    for name, words in (
        ("a.npy", "no image of 1 channels"),
        ("b.npy", "no numbers"),
        ("c.npy", "pickle"),
        ("d.png", "no image of 1"),
        ("e.npy", "No such file"),
        ("f.npy", "No data left"),
        ("g.npy", "no array of numbers"),
        ("h.npy", "no array of numbers"),
    ):
        settings = SourceSettings(correction=CorrectionSettings(flat=tmp_path / name))
        with pytest.raises(BadConfig, match=words):
            open_source([], settings, channels=1)


# Scale --------------------------------------------------------------------------------------------------------------


def photograph_target(target: Target, px_per_mm: float, tilt: float = 0.0) -> NDArray[np.uint8]:
    """A drawn target, turned by 20 degrees, seen at a scale and with a perspective, slightly out of focus."""
    fine = 8  # px per mm of the drawing
    margin = 2 * target.pitch_mm
    points = target.points_mm()
    width, height = points.max(axis=0) + 2 * margin
    drawing = np.full((int(height * fine), int(width * fine)), 255, np.uint8)
    if target.kind == "chessboard":
        for row in range(target.rows + 1):
            for column in range(target.columns + 1):
                if (row + column) % 2 == 0:
                    y, x = (int((margin + (i - 1) * target.pitch_mm) * fine) for i in (row, column))
                    side = int(target.pitch_mm * fine)
                    drawing[y : y + side, x : x + side] = 0
    else:
        radius = int(0.3 * target.pitch_mm * fine)
        for x, y in (points + margin) * fine:
            cv2.circle(drawing, (round(x), round(y)), radius, 0, cv2.FILLED, cv2.LINE_AA)
    scale, angle = px_per_mm / fine, np.radians(20)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift_x = sin * drawing.shape[0]
    matrix = np.array([[cos, -sin, shift_x], [sin, cos, 0], [tilt / fine, 0, 1]])
    size = (int(cos * drawing.shape[1] + shift_x), int(sin * drawing.shape[1] + cos * drawing.shape[0]))
    seen = cv2.warpPerspective(drawing, matrix, size, flags=cv2.INTER_AREA, borderValue=255)
    return np.asarray(cv2.GaussianBlur(seen, (3, 3), 0), np.uint8)


@pytest.mark.parametrize(
    "target",
    [Target("chessboard", 9, 6, 5.0), Target("circles", 7, 5, 6.0), Target("asymmetric-circles", 4, 11, 4.0)],
    ids=lambda target: target.kind,
)
def test_scale_of_a_target(target: Target) -> None:
    scale = scale_from_target(photograph_target(target, px_per_mm=6), target)
    assert scale.mm_per_px == pytest.approx(1 / 6, rel=2e-3)
    assert scale.spread < 0.01
    assert scale.error_px < 0.3


def test_a_tilted_target_has_no_one_scale() -> None:
    target = Target("chessboard", 9, 6, 5.0)
    image = photograph_target(target, px_per_mm=6, tilt=0.002)
    with pytest.raises(BadInput, match="scale differs by"):
        scale_from_target(image, target)
    assert scale_from_target(image, target, largest_spread=1).spread > 0.02


def test_no_target_is_an_error_that_says_what_was_looked_for() -> None:
    with pytest.raises(BadInput, match="no chessboard of 9x6"):
        scale_from_target(np.zeros((100, 100, 3), np.uint8), Target("chessboard", 9, 6, 5.0))
    with pytest.raises(BadInput, match="a photograph of uint16"):
        scale_from_target(np.zeros((100, 100), np.uint16), Target("chessboard", 9, 6, 5.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3x3"):
        Target("circles", 2, 5, 1.0)
    with pytest.raises(ValueError, match="pitch_mm is nan"):
        Target("circles", 7, 5, float("nan"))
