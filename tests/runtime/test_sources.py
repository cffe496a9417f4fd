"""Sources against real files, pipes and videos: every frame is one item, in order, as the network wants it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PilImage

from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadConfig, BadInput, LpcnetError, MissingDevice, UsageError
from lpcnet_edge.runtime.sources import BadFrame, Frame, Item, SourceSettings, images, open_source
from lpcnet_edge.runtime.sources.base import LiveSource, Raw, now_ns
from lpcnet_edge.runtime.sources.images import list_images, natural_key


def picture(seed: int, height: int = 24, width: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 5, channels), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels).squeeze()


def read(spec: Any, channels: int = 1, skip: Any = (), **settings: Any) -> list[Item]:
    """All items, with what holds for every source checked."""
    with open_source(spec, SourceSettings(**settings), channels=channels, skip=skip) as source:
        items = list(source)
        counters = source.counters()
    sequences = [item.sequence for item in items]
    assert sequences == sorted(set(sequences))
    assert counters["frames"] == sum(isinstance(item, Frame) for item in items)
    assert counters["bad"] == sum(isinstance(item, BadFrame) for item in items)
    assert len({item.name for item in items}) == len(items)
    for item in items:
        assert 0 < item.taken_ns <= now_ns()
        if isinstance(item, Frame):
            assert item.pixels.dtype == np.uint8
            assert item.pixels.ndim == (2 if channels == 1 else 3)
            assert item.pixels.flags.c_contiguous
    return items


def pixels(item: Item) -> NDArray[np.uint8]:
    assert isinstance(item, Frame), item
    return item.pixels


def reason(item: Item) -> str:
    assert isinstance(item, BadFrame), item
    return item.reason


# Image files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_folder_comes_in_natural_order_whatever_the_threads(tmp_path: Path, threads: int) -> None:
    for number in range(25):
        size = 200 if number % 5 == 0 else 8  # the slow ones must not be overtaken
        cv2.imwrite(str(tmp_path / f"tile{number}.png"), np.full((size, size), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._tile3.png").write_bytes(b"resource fork")
    items = read(tmp_path, decode_threads=threads)
    assert [item.name for item in items] == [f"tile{number}.png" for number in range(25)]
    assert [int(pixels(item)[0, 0]) for item in items] == list(range(25))
    assert [item.sequence for item in items] == list(range(25))
    assert {item.source for item in items} == {tmp_path.name}
    assert [item.part_id for item in items] == [item.name for item in items]


def test_folders_below_are_read_when_asked_and_links_do_not_loop(tmp_path: Path) -> None:
    (tmp_path / "b2").mkdir()
    (tmp_path / "b10").mkdir()
    for name in ("a.png", "b2/x.PNG", "b10/x.png"):
        cv2.imwrite(str(tmp_path / "t.png"), picture(1))
        (tmp_path / "t.png").rename(tmp_path / name)
    (tmp_path / "b2/up").symlink_to(tmp_path)
    assert [item.name for item in read(tmp_path)] == ["a.png"]
    assert [item.name for item in read(tmp_path, recursive=True)] == ["a.png", "b2/x.PNG", "b10/x.png"]


def test_every_kind_of_image_by_its_rule(tmp_path: Path) -> None:
    colour, grey = picture(1), picture(2, channels=1)
    deep = np.random.default_rng(0).integers(0, 65536, (24, 32)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a_grey.png"), grey)
    cv2.imwrite(str(tmp_path / "b_colour.bmp"), colour)
    cv2.imwrite(str(tmp_path / "c_rgba.png"), np.dstack([colour, np.full((24, 32), 9, np.uint8)]))
    cv2.imwrite(str(tmp_path / "d_deep.png"), deep)
    cv2.imwrite(str(tmp_path / "e_deep.tif"), deep)
    few = PilImage.fromarray(colour[:, :, ::-1]).quantize(16)
    few.save(tmp_path / "f_palette.png")
    wide = picture(3, 64, 96)
    PilImage.fromarray(wide[:, :, ::-1]).convert("CMYK").save(tmp_path / "g_cmyk.jpg", quality=95)
    turned = PilImage.Exif()
    turned[0x0112] = 6  # the camera was held on its side
    PilImage.fromarray(wide[:, :, ::-1]).save(tmp_path / "h_exif.jpg", quality=95, exif=turned)
    items = {item.name: pixels(item) for item in read(tmp_path, channels=3)}
    assert len(items) == 8
    assert np.array_equal(items["a_grey.png"], np.dstack([grey] * 3))
    assert np.array_equal(items["b_colour.bmp"], colour)
    assert np.array_equal(items["c_rgba.png"], colour), "alpha is dropped, not blended"
    assert np.array_equal(items["d_deep.png"][:, :, 0], deep >> 8)
    assert np.array_equal(items["e_deep.tif"][:, :, 0], deep >> 8)
    assert np.array_equal(items["f_palette.png"], np.asarray(few.convert("RGB"))[:, :, ::-1])
    assert np.abs(items["g_cmyk.jpg"].astype(int) - wide).mean() < 6
    upright = cv2.rotate(wide, cv2.ROTATE_90_CLOCKWISE)
    assert items["h_exif.jpg"].shape == (96, 64, 3)
    assert np.abs(items["h_exif.jpg"].astype(int) - upright).mean() < 6
    in_grey = {item.name: pixels(item) for item in read(tmp_path, channels=1)}
    assert np.array_equal(in_grey["a_grey.png"], grey)
    difference = cv2.absdiff(in_grey["b_colour.bmp"], cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))
    assert difference.max() <= 1, "each decoder rounds for itself"
    assert {name: array.shape for name, array in in_grey.items() if name[0] in "gh"} == {
        "g_cmyk.jpg": (64, 96),
        "h_exif.jpg": (96, 64),
    }


def test_significant_bits_of_deep_files(tmp_path: Path) -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    deep[0, 0] = 5000  # more than 12 bits hold
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    cv2.imwrite(str(tmp_path / "b.png"), np.full((4, 4), 77, np.uint8))
    first, second = read(tmp_path, bits=12)
    assert np.array_equal(pixels(first), np.minimum(deep >> 4, 255))
    assert (pixels(second) == 77).all(), "8-bit files are as they are"


def test_samples_that_are_no_grey_levels_are_refused(tmp_path: Path) -> None:
    """They used to be cut to their low 8 bits, and inspected."""
    cv2.imwrite(str(tmp_path / "a.tif"), np.linspace(0, 1000, 64, dtype=np.float32).reshape(8, 8))
    (found,) = read(tmp_path, bits=12)
    assert isinstance(found, BadFrame)
    assert "float32, not of 8 or 16 bits" in found.reason


def test_bad_files_are_bad_frames_between_good_ones(tmp_path: Path) -> None:
    good = picture(1, 100, 120)
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        data = cv2.imencode(f".{suffix}", good)[1].tobytes()
        (tmp_path / f"{suffix}-1-good.{suffix}").write_bytes(data)
        (tmp_path / f"{suffix}-2-cut.{suffix}").write_bytes(data[: len(data) * 2 // 3])
        (tmp_path / f"{suffix}-3-good.{suffix}").write_bytes(data)
    (tmp_path / "x-1-empty.png").touch()
    (tmp_path / "x-2-text.jpg").write_text("this is no picture")
    (tmp_path / "x-3-gone.png").symlink_to(tmp_path / "nowhere.png")
    flipped = bytearray(cv2.imencode(".png", good)[1].tobytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (tmp_path / "x-4-flipped.png").write_bytes(flipped)
    os.mkfifo(tmp_path / "y.txt")
    items = read(tmp_path)
    assert [isinstance(item, Frame) for item in items] == [True, False, True] * 5 + [False] * 4
    assert [item.name for item in items if isinstance(item, BadFrame)][-4:] == [
        "x-1-empty.png",
        "x-2-text.jpg",
        "x-3-gone.png",
        "x-4-flipped.png",
    ]
    assert "0 bytes" in reason(items[15])
    assert "No such file" in reason(items[17])


def test_a_header_that_claims_a_giant_is_a_bad_frame(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 200000 200000 255\n" + bytes(100))
    cv2.imwrite(str(tmp_path / "b.png"), picture(1))
    bad, good = read(tmp_path)
    assert "a.ppm" in reason(bad)
    assert pixels(good).shape == (24, 32)


def test_a_file_that_goes_while_the_folder_is_read(tmp_path: Path) -> None:
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    with open_source(tmp_path, SourceSettings(decode_threads=1), channels=1) as source:
        iterator = iter(source)
        next(iterator)
        (tmp_path / "19.png").unlink()
        rest = list(iterator)
    assert [item.sequence for item in rest] == list(range(1, 20))
    assert "No such file" in reason(rest[-1])


def test_sizes_may_change_from_file_to_file(tmp_path: Path) -> None:
    for number, size in enumerate([(8, 8), (64, 16), (1, 1), (8, 8)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number, *size, channels=1))
    assert [pixels(item).shape for item in read(tmp_path)] == [(8, 8), (64, 16), (1, 1), (8, 8)]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"na\xffme.png")
    try:
        with open(raw, "wb") as stream:
            stream.write(cv2.imencode(".png", picture(1))[1].tobytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    (item,) = read(tmp_path)
    assert item.name == "na\\xffme.png"
    assert pixels(item).shape == (24, 32)


def test_globs_and_single_files(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/10.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture(1))
    assert [item.name for item in read(f"{tmp_path}/a/*.png")] == ["1.png", "2.png", "10.png"]
    for pattern in ("**", "**/**"):
        assert [item.name for item in read(f"{tmp_path}/{pattern}/1*.png")] == ["a/1.png", "a/10.png", "b/1.png"]
    assert [item.name for item in read(str(tmp_path / "a/2.png"))] == ["2.png"]
    odd = tmp_path / "lot[1]"
    (tmp_path / "b").rename(odd)
    assert [item.name for item in read(str(odd))] == ["1.png"], "a path that exists is no glob"
    shots = tmp_path / "clip.mp4"
    (tmp_path / "a").rename(shots)
    assert len(read(str(shots))) == len(read(shots)) == 3, "a folder is no video, whatever its name"
    with pytest.raises(BadInput, match="no file matches") as caught:
        read(f"{odd}/*.png")
    assert "[[]" in str(caught.value.mend)
    assert [item.name for item in read(str(odd).replace("[", "[[]") + "/*.png")] == ["lot[1]/1.png"]


def test_what_a_resumed_run_has_done_is_skipped_and_numbers_stay(tmp_path: Path) -> None:
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    items = read(tmp_path, skip={"0.png", "3.png", "4.png"})
    assert [(item.name, item.sequence) for item in items] == [("1.png", 1), ("2.png", 2), ("5.png", 5)]


def test_what_a_stopped_source_has_not_taken_is_not_counted_as_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    source = open_source(tmp_path, SourceSettings(decode_threads=1), channels=1, skip={"0.png"})
    decode = images.ImageSource._decode

    def last(self: images.ImageSource, name: str, shown: str) -> Any:
        if name == "2.png":
            self.stop()  # while this one and the next wait to be decoded
        return decode(self, name, shown)

    monkeypatch.setattr(images.ImageSource, "_decode", last)
    with source:
        assert len(list(source)) <= 1
    assert source.counters()["skipped"] == 1


def test_parts_by_pattern_and_by_function(tmp_path: Path) -> None:
    for name in ("p7_top.png", "p7_side.png", "odd.png"):
        cv2.imwrite(str(tmp_path / name), picture(1))
    odd, side, top = read(tmp_path, part_pattern="^(?P<part>p[0-9]+)_")
    assert (side.part_id, top.part_id) == ("p7", "p7")
    assert "finds no part in odd.png" in reason(odd)
    with open_source(tmp_path, channels=1, part_id=lambda name, sequence: f"plc-{sequence}") as source:
        assert [item.part_id for item in source] == ["plc-0", "plc-1", "plc-2"]


def test_a_part_that_was_not_read_is_none_that_others_share() -> None:
    given: Any = ["p1", "", None, 7, "p2"]
    with open_source([picture(1)] * 5, channels=3, part_id=lambda _, sequence: given[sequence]) as source:
        items = list(source)
    assert [item.part_id for item in items] == ["p1", *(f"frames/00000{number}" for number in (1, 2, 3)), "p2"]
    assert [isinstance(item, BadFrame) for item in items] == [False, True, True, True, False]
    assert "its part is not known" in reason(items[2])


def test_natural_order_does_not_confuse_digits_with_text() -> None:
    names = ["a10", "a2", "a02", "10", "9", "b", "a", "²", "1²"]
    assert sorted(names, key=natural_key) == ["1²", "9", "10", "a", "a02", "a2", "a10", "b", "²"]


def test_listing_asks_nothing_about_single_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").touch()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a look-up per file")

    for name in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, name, refused)
    assert len(list_images(str(tmp_path), recursive=True)) == 50


# Specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nowhere", BadInput, "there is no nowhere"),
        ("nowhere/*.png", BadInput, "no file matches"),
        ("gige:1.2.3.4", UsageError, "kind 'gige', which is unknown"),
        ("stdin:640", UsageError, "stdin:WxH"),
        ("stdin:640x480x2", UsageError, "stdin:WxH"),
        ("v4l2:/dev/video97", MissingDevice, "there is no /dev/video97"),
        ("v4l2:0", UsageError, "names no device"),
        ("rtsp://127.0.0.1:9/none", MissingDevice, "does not answer"),
        ("nowhere.mp4", BadInput, "no file that can be read"),
    ],
)
def test_specs_that_name_nothing(
    spec: str, error: type[LpcnetError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words) as caught:
        open_source(spec, channels=1)
    assert caught.value.mend


def test_files_that_are_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="no suffix of an image or a video"):
        open_source(tmp_path / "a.txt", channels=1)
    with pytest.raises(BadInput, match="holds no images"):
        open_source(tmp_path, channels=1)
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(BadInput, match="opens as no video"):
        open_source(tmp_path / "a.mp4", channels=1)
    with pytest.raises(UsageError, match="only image files"):
        open_source([picture(1)], channels=1, skip={"a"})


def test_a_camera_by_its_path_alone_says_how_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda _: True)  # not every machine has a camera
    with pytest.raises(UsageError, match="is a camera, no file") as caught:
        open_source("/dev/video0", channels=1)
    assert caught.value.mend == "write v4l2:/dev/video0"


@pytest.mark.parametrize(
    "address",
    [
        "user:secret@127.0.0.1:9/none",
        "user:p@secret@127.0.0.1:9/none",
        "user:secret@@127.0.0.1:9/none",
        "127.0.0.1:9/user=admin&password=secret&channel=1",
        "127.0.0.1:9/none?channel=1&PWD=secret",
    ],
)
def test_a_password_stays_out_of_names_and_errors(address: str) -> None:
    with pytest.raises(MissingDevice) as caught:
        open_source(f"rtsp://{address}", channels=1)
    assert "secret" not in str(caught.value)
    assert ("channel=1" in address) == ("channel=1" in str(caught.value))


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"bits": 7}, "between 8 and 16"),
        ({"part_pattern": "("}, "part_pattern"),
        ({"part_pattern": "abc"}, "no group"),
        ({"queue_frames": 0}, "at least 1"),
        ({"camera": {"trigger": "hardwear"}}, "hardware"),
        ({"camera": {"buffers": 1}}, "it takes 2"),
        ({"camera": {"exposure_us": 0}}, "exposure_us is 0"),
        ({"camera": {"frame_rate_hz": -5}}, "frame_rate_hz is -5"),
        ({"camera": {"frame_rate_hz": 0.25}}, "as lost between two frames, 4 s apart"),
        ({"reconnect": {"first_s": 0}}, "first_s"),
        ({"correction": {"largest_gain": 0.5}}, "at least 1"),
    ],
)
def test_settings_that_cannot_be(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        from_mapping(SourceSettings, mapping, "station.yaml")


def test_settings_from_yaml() -> None:
    plain = {"camera": {"exposure_us": 500, "features": {"GainAuto": "Off", "Width": 640, "ReverseX": True}}}
    settings = from_mapping(SourceSettings, plain, "station.yaml")
    assert settings.camera.exposure_us == 500.0
    assert dict(settings.camera.features) == {"GainAuto": "Off", "Width": 640, "ReverseX": True}


# Iterables, standard input ----------------------------------------------------------------------------------------


def test_any_iterable_of_arrays_and_frames() -> None:
    def generate() -> Iterator[object]:
        yield picture(1)
        yield picture(2, channels=1)
        yield np.full((4, 5), 0x1234, np.uint16)
        yield np.zeros((4, 5, 4), np.uint8)
        yield np.zeros((4, 5), np.float32)
        yield np.zeros((0, 5), np.uint8)
        yield np.zeros((4, 5, 2), np.uint8)
        yield "a.png"
        yield None
        yield Frame(picture(3), "part", 123, "mine", "elsewhere", 77)
        yield BadFrame("why", "part", 123, "other", "elsewhere", 78)

    items = read(generate(), channels=1)
    assert [isinstance(item, Frame) for item in items] == [True] * 4 + [False] * 5 + [True, False]
    assert [item.sequence for item in items] == list(range(11))
    assert (pixels(items[2]) == 0x12).all()
    assert "float32" in reason(items[4])
    assert (reason(items[7]), items[7].name) == ("a.png: No such file or directory", "a.png")
    assert (items[9].part_id, items[9].name, items[9].taken_ns, items[9].source) == ("part", "mine", 123, "frames")
    assert reason(items[10]) == "why"


def test_paths_are_read_one_by_one_or_side_by_side(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("b", "a10", "a2")]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), picture(number + 1))
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [*map(str, paths), tmp_path / "broken.png"]
    for spec in (given, tuple(given), iter(given)):
        items = read(spec, channels=3)
        assert [item.name for item in items] == [*map(str, paths), str(tmp_path / "broken.png")], "in the order given"
        assert {item.source for item in items} == {"frames"}
        for number, item in enumerate(items[:3]):
            assert (pixels(item) == picture(number + 1)).all()
        assert "decode as no known image format" in reason(items[3])
    assert open_source(given, channels=3).total == 4


def test_a_source_is_read_once_and_closing_ends_it() -> None:
    source = open_source((picture(1) for _ in range(1000)), channels=3)
    taken = 0
    for _ in source:
        taken += 1
        if taken == 3:
            source.close()
    assert taken == 3
    with pytest.raises(UsageError, match="was read already"):
        iter(source)
    source.close()


STDIN = """
import sys
from lpcnet_edge.runtime.sources import BadFrame, open_source
for item in open_source(sys.argv[1], channels=1):
    print(item.sequence, item.reason if isinstance(item, BadFrame) else (item.pixels.shape, int(item.pixels.sum())))
"""


@pytest.mark.parametrize(("spec", "shape"), [("stdin:7x5", (5, 7)), ("stdin:7x5x3", (5, 7, 3))])
def test_raw_frames_on_standard_input(spec: str, shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, *shape), dtype=np.uint8)
    done = subprocess.run(
        [sys.executable, "-c", STDIN, spec], input=frames.tobytes()[:-3], capture_output=True, timeout=60, check=True
    )
    greys = [frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    size = frames[0].size
    expected = [f"{i} ((5, 7), {greys[i].sum()})" for i in range(3)]
    assert done.stdout.decode().splitlines() == [
        *expected,
        f"3 standard input ended after {size - 3} of {size} bytes",
    ]


# Video ------------------------------------------------------------------------------------------------------------


def write_video(path: Path, count: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.full((48, 64, 3), 5 * number, np.uint8))
    writer.release()


def test_a_video_gives_every_frame_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", 30)
    with open_source(tmp_path / "clip.avi", channels=1) as source:
        assert source.total == 30
        items = list(source)
    assert [round(float(pixels(item).mean()) / 5) for item in items] == list(range(30))
    assert items[4].name == "clip.avi/000004"


def test_a_video_cut_short_ends_in_a_bad_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", 40)
    data = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    *frames, last = read(tmp_path / "cut.avi")
    assert 5 < len(frames) < 35
    assert all(isinstance(item, Frame) for item in frames)
    assert f"announces 40 frames, decoding ended after {len(frames)}" in reason(last)


def _element(tag: str, data: bytes) -> bytes:
    return bytes.fromhex(tag) + (len(data) | 1 << 56).to_bytes(8, "big") + data


def _number(tag: str, value: int) -> bytes:
    return _element(tag, value.to_bytes(8, "big"))


def write_matroska(path: Path, times_ms: list[int], duration_ms: float) -> None:
    """Motion JPEG in Matroska, which holds no number of frames, at any times."""
    head = _element("1a45dfa3", _element("4282", b"matroska") + _number("4287", 4) + _number("4285", 2))
    about = _number("2ad7b1", 1_000_000) + _element("4489", struct.pack(">d", duration_ms))
    about += _element("4d80", b"test") + _element("5741", b"test")
    size = _element("e0", _number("b0", 64) + _number("ba", 48))
    track = _number("d7", 1) + _number("73c5", 1) + _number("83", 1) + _element("86", b"V_MJPEG") + size
    clusters = b""
    for number, at_ms in enumerate(times_ms):
        data = cv2.imencode(".jpg", np.full((48, 64, 3), 5 * (number % 50), np.uint8))[1].tobytes()
        clusters += _element("1f43b675", _number("e7", at_ms) + _element("a3", b"\x81\0\0\x80" + data))
    body = _element("1549a966", about) + _element("1654ae6b", _element("ae", track)) + clusters
    path.write_bytes(head + _element("18538067", body))


def test_a_video_whose_rate_varies_lacks_nothing(tmp_path: Path) -> None:
    times_ms = [*range(0, 1000, 40), *range(1000, 4000, 200)]  # OpenCV announces 100 frames
    write_matroska(tmp_path / "clip.mkv", times_ms, 4000)
    items = read(tmp_path / "clip.mkv")
    assert [isinstance(item, Frame) for item in items] == [True] * 40
    data = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    *frames, last = read(tmp_path / "cut.mkv")
    assert len(frames) < 25
    assert f"announces 100 frames, decoding ended after {len(frames)}" in reason(last)


# Live -------------------------------------------------------------------------------------------------------------


class Conveyor(LiveSource):
    """A live source whose frames come as fast as they are taken, after ``failures`` refused connections per loss."""

    def __init__(self, runs: list[int], failures: int = 0, **settings: Any) -> None:
        self._runs, self._failures, self._refused, self._number = list(runs), failures, failures, 0
        self._lost = "the belt stopped"
        super().__init__("belt", 1, SourceSettings(**settings), None)

    def _connect(self) -> None:
        if self._number and self._refused < self._failures:
            self._refused += 1
            raise MissingDevice("refused", mend="wait")
        self._refused = 0

    def _grab(self) -> Iterator[Raw]:
        for _ in range(self._runs.pop(0) if self._runs else 0):
            self._number += 1
            yield "", np.full((2, 2), self._number % 256, np.uint8), now_ns()
        if not self._runs:
            self._stopped.wait()

    def _disconnect(self) -> None:
        pass


QUICK = from_mapping(SourceSettings, {"reconnect": {"first_s": 0.001, "largest_s": 0.002}}, "").reconnect


def test_a_live_source_that_is_not_read_says_of_every_frame_what_became_of_it() -> None:
    source = Conveyor([100], queue_frames=3)
    while source.counters()["overruns"] < 97:
        pass
    iterator = iter(source)
    items = [next(iterator) for _ in range(100)]
    source.close()
    assert [item.sequence for item in items] == list(range(100))
    assert all("3 newer frames were waiting" in reason(item) for item in items[:97])
    assert [int(pixels(item)[0, 0]) for item in items[97:]] == [98, 99, 100]
    assert list(iterator) == []


def test_a_lost_source_comes_back_and_counts() -> None:
    source = Conveyor([5, 5, 5], failures=3, queue_frames=99, reconnect=QUICK)
    iterator = iter(source)
    items = [next(iterator) for _ in range(15)]
    source.close()
    assert [int(pixels(item)[0, 0]) for item in items] == list(range(1, 16))
    assert (source.counters()["losses"], source.counters()["reconnects"]) == (2, 2)


def test_why_a_lost_source_does_not_come_back_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    source = Conveyor([1, 1], failures=3, queue_frames=99, reconnect=QUICK)
    iterator = iter(source)
    assert len([next(iterator) for _ in range(2)]) == 2
    source.close()
    assert caplog.text.count("source belt does not come back: refused") == 1


def test_a_frame_taken_after_lost_ones_still_comes_when_stopped() -> None:
    class Gap(Conveyor):
        def _grab(self) -> Iterator[Raw]:
            self._stopped.set()
            for number in (1, 2):
                yield "", f"the camera's frame {number} did not arrive", now_ns()
            yield "", np.full((2, 2), 3, np.uint8), now_ns()

    with Gap([1]) as source:
        items = list(source)
    assert [isinstance(item, Frame) for item in items] == [False, False, True]


def test_a_source_that_does_not_come_back_ends_with_an_error_after_its_last_frame() -> None:
    rule = from_mapping(SourceSettings, {"reconnect": {"first_s": 0.001, "attempts": 2}}, "").reconnect
    source = Conveyor([5, 5], failures=3, queue_frames=99, reconnect=rule)
    taken: list[Item] = []
    with pytest.raises(MissingDevice, match=r"belt stopped.*2 attempts.*refused"):
        taken.extend(source)
    assert [item.sequence for item in taken] == [0, 1, 2, 3, 4]
    source.close()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 6))
def test_no_live_frame_is_passed_over(runs: list[int], queue: int) -> None:
    source = Conveyor(runs, queue_frames=queue, reconnect=QUICK)
    iterator = iter(source)
    items = [next(iterator) for _ in range(sum(runs))]
    source.close()
    assert [item.sequence for item in items] == list(range(sum(runs)))
    for item in items:
        assert isinstance(item, BadFrame) or int(item.pixels[0, 0]) == item.sequence + 1


def test_what_was_taken_before_a_stop_still_comes() -> None:
    source = Conveyor([10], queue_frames=4)
    while source.counters()["overruns"] < 6:
        pass
    source.stop()
    items = list(source)
    source.close()
    assert [item.sequence for item in items] == list(range(10))
    assert [isinstance(item, Frame) for item in items] == [False] * 6 + [True] * 4


SIGNALLED = """
import os, signal, sys, threading, time
from lpcnet_edge.runtime.sources import open_source
import numpy as np
def forever():
    while True:
        yield np.zeros((2, 2), np.uint8)
source = open_source("stdin:4x4" if sys.argv[1] == "stdin" else forever(), channels=1)
signal.signal(signal.SIGTERM, lambda *_: source.stop())
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
count = sum(1 for _ in source)
source.close()
print("ended", count >= 0)
"""


@pytest.mark.parametrize("spec", ["stdin", "iterable"])
def test_a_signal_stops_a_source_that_has_no_end(spec: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, spec], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "ended True\n"
        assert process.wait(30) == 0
