from __future__ import annotations

import dataclasses
from pathlib import Path
from textwrap import dedent
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.errors import BadConfig, BadInput
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.runtime.framing import Framing, Region
from lpcnet_edge.runtime.tile_plan import TilePlan, axis_starts, count_defect_px, make_plan, plan_tiles, write_tiles
from lpcnet_edge.yamlfile import load_yaml

sides = st.integers(1, 512)


@st.composite
def framings(draw: st.DrawFn, largest_tile: int = 512) -> Framing:
    tile = draw(st.integers(1, largest_tile))
    return Framing("tile", tile, draw(st.integers(0, tile - 1)))


@st.composite
def regions(draw: st.DrawFn, height: int, width: int) -> Region:
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Region(y, x, draw(st.integers(1, height - y)), draw(st.integers(1, width - x)))


def covered(starts: NDArray[np.int32], lengths: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """Which of ``size`` pixels lie in any of the intervals."""
    change = np.zeros(size + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + lengths, -1)
    return change.cumsum()[:-1] > 0


@given(st.data(), st.integers(1, 8192), sides)
def test_tiles_cover_an_axis_and_stay_inside(data: st.DataObject, frame: int, tile: int) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    offset = data.draw(st.integers(0, frame - 1))
    length = data.draw(st.integers(1, frame - offset))
    starts = axis_starts(offset, length, frame, tile, overlap)
    assert starts[0] >= 0
    assert starts[0] <= offset
    assert starts[-1] + tile >= offset + length
    assert starts[-1] + tile <= max(frame, tile)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= tile - overlap).all()  # neighbours share the overlap at least, so no pixel falls between
    assert (steps[:-1] == tile - overlap).all()
    if length >= tile:  # no more tiles than it takes, none outside the region
        assert starts[0] == offset
        assert starts[-1] + tile == offset + length
        assert len(starts) == 1 or length > tile + (len(starts) - 2) * (tile - overlap)
    else:
        assert len(starts) == 1


@given(st.data(), st.integers(1, 6000), st.integers(1, 8192), framings())
def test_any_frame_is_covered(data: st.DataObject, height: int, width: int, framing: Framing) -> None:
    region = data.draw(st.none() | regions(height, width))
    framing = Framing("tile", framing.tile_px, framing.overlap_px, region)
    side, step = framing.tile_px, framing.tile_px - framing.overlap_px
    assume((height // step + 1) * (width // step + 1) < 5000)
    check_covered(make_plan(height, width, framing))
    assert len(make_plan(side, side, Framing("tile", side, framing.overlap_px))) == 1


@pytest.mark.parametrize(("side", "overlap"), [(256, 0), (256, 32), (256, 128), (256, 200), (512, 64), (8192, 0)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 8192), (6000, 1), (6000, 8192), (255, 257), (8192, 6000)])
def test_chosen_frames_are_covered(shape: tuple[int, int], side: int, overlap: int) -> None:
    check_covered(make_plan(*shape, Framing("tile", side, overlap)))


def check_covered(plan: TilePlan) -> None:
    """Tiles lie in the frame, and their windows hold every pixel of the region and no other."""
    side = plan.framing.tile_px
    assert min(plan.y.min(), plan.x.min()) >= 0
    assert plan.y.max() + side <= max(plan.height, side)
    assert plan.x.max() + side <= max(plan.width, side)
    y, x, height, width = plan.window.T
    # The windows are every row of the grid with every column, so that each axis can be looked at by itself.
    rows, columns = (
        set(zip(y.tolist(), height.tolist(), strict=True)),
        set(zip(x.tolist(), width.tolist(), strict=True)),
    )
    assert len({tuple(window) for window in plan.window.tolist()}) == len(rows) * len(columns) == len(plan)
    region = plan.region
    for starts, lengths, size, begin, length in (
        (y, height, plan.height, region.y, region.height),
        (x, width, plan.width, region.x, region.width),
    ):
        inside = np.zeros(size, dtype=np.bool_)
        inside[begin : begin + length] = True
        np.testing.assert_array_equal(covered(starts, lengths, size), inside)


@given(st.data(), st.integers(1, 90), st.integers(1, 90), framings(40))
def test_neighbours_share_a_pixel(data: st.DataObject, height: int, width: int, framing: Framing) -> None:
    mask = np.zeros((height, width), dtype=np.uint8)
    some = data.draw(regions(height, width))
    mask[some.y : some.y + some.height, some.x : some.x + some.width] = 7
    plan = make_plan(height, width, framing, mask)
    assume(len(plan) < 150)
    side = framing.tile_px
    for tile in range(len(plan)):
        near = (abs(plan.y - plan.y[tile]) < side) & (abs(plan.x - plan.x[tile]) < side)
        near[tile] = False
        assert plan.neighbours(tile).tolist() == np.flatnonzero(near).tolist()


@given(st.data(), st.integers(1, 70), st.integers(1, 70), framings(40), st.sampled_from([(), (3,)]))
def test_tiles_are_windows_of_the_frame(
    data: st.DataObject, height: int, width: int, framing: Framing, channels: tuple[int, ...]
) -> None:
    frame = np.random.default_rng(3).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    plan = make_plan(height, width, framing)
    assume(len(plan) < 200)
    side = framing.tile_px
    padding = [(0, max(side - height, 0)), (0, max(side - width, 0)), (0, 0)][: frame.ndim]
    padded = np.pad(frame, padding, mode="edge")
    first = data.draw(st.integers(0, len(plan) - 1))
    count = data.draw(st.integers(1, len(plan) - first))
    out = np.full((count + 1, side, side, *channels), 99, dtype=np.uint8)
    write_tiles(frame, plan, out, first, count)
    for place in range(count):
        y, x = plan.y[first + place], plan.x[first + place]
        np.testing.assert_array_equal(out[place], padded[y : y + side, x : x + side])
    assert (out[count] == 99).all()


@given(st.data(), st.integers(1, 60), st.integers(1, 60), framings(30))
def test_the_mask_skips_tiles_and_counts_defects(
    data: st.DataObject, height: int, width: int, framing: Framing
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = (random.random((height, width)) < 0.02).astype(np.uint8)
    mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = 1
    defects = random.integers(0, 3, (height, width), dtype=np.uint8)
    everything, plan = make_plan(height, width, framing), make_plan(height, width, framing, mask)
    assume(len(everything) < 400)

    def pixels(whole: NDArray[np.bool_], y: int, x: int) -> int:
        return int(np.count_nonzero(whole[y : y + framing.tile_px, x : x + framing.tile_px]))

    corners = list(zip(everything.y.tolist(), everything.x.tolist(), strict=True))
    wanted = [corner for corner in corners if pixels(mask != 0, *corner)]
    assert list(zip(plan.y.tolist(), plan.x.tolist(), strict=True)) == wanted
    assert count_defect_px(defects, plan).tolist() == [pixels((mask != 0) & (defects != 0), *at) for at in wanted]
    assert count_defect_px(defects, everything).tolist() == [pixels(defects != 0, *corner) for corner in corners]


@given(st.data(), sides, sides, st.integers(1, 64), st.sampled_from([(), (3,)]))
@settings(max_examples=30)
def test_resizing_is_that_of_the_checks(
    data: st.DataObject, height: int, width: int, side: int, channels: tuple[int, ...]
) -> None:
    region = data.draw(st.none() | regions(height, width))
    frame = np.random.default_rng(4).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    plan = make_plan(height, width, Framing("resize", side, 0, region))
    assert (len(plan), plan.map_shape, plan.neighbours(0).size) == (1, (side, side), 0)
    out = np.empty((1, side, side, *channels), dtype=np.uint8)
    write_tiles(frame, plan, out, 0, 1)
    cut = frame[region.y : region.y + region.height, region.x : region.x + region.width] if region else frame
    np.testing.assert_array_equal(out[0], resize_image(cut, side, side))
    along_y, along_x = plan.frame_px_per_map_px
    assert along_y * side == pytest.approx(cut.shape[0])
    assert along_x * side == pytest.approx(cut.shape[1])


def test_frames_of_any_size_that_are_resized_share_all_but_their_place() -> None:
    """So that a folder of photographs of as many sizes needs one stitcher; a plan with a mask has nothing to share."""
    region = Region(3, 5, 80, 90)
    plain = [make_plan(height, 200, Framing("resize", 64, 8, region)) for height in (100, 101)]
    assert plain[0].window is plain[1].window
    masked = make_plan(100, 200, Framing("resize", 64, 8, region), np.ones((100, 200), np.uint8))
    assert plain[0].window is not masked.window
    for field in dataclasses.fields(TilePlan):
        value, other = getattr(plain[0], field.name), getattr(masked, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
            assert value.dtype == other.dtype
            assert not value.flags.writeable
        elif field.name != "inspected":
            assert value == other


def test_a_mask_in_resize_mode_is_resized() -> None:
    mask = np.zeros((100, 200), dtype=np.uint8)
    mask[:, :100] = 1
    plan = make_plan(100, 200, Framing("resize", 64, 0), mask)
    assert plan.inspected is not None
    assert (plan.inspected[:, :32] == 255).all()
    assert not plan.inspected[:, 32:].any()
    assert count_defect_px(np.ones((100, 200), dtype=np.uint8), plan).tolist() == [64 * 32]


def test_nothing_is_allocated_for_tiles_inside_the_frame() -> None:
    import tracemalloc

    frame = np.zeros((2048, 2448), dtype=np.uint8)
    plan = make_plan(2048, 2448, Framing("tile", 256, 32))
    out = np.empty((8, 256, 256), dtype=np.uint8)
    write_tiles(frame, plan, out, 0, 8)
    tracemalloc.start()
    try:
        write_tiles(frame, plan, out, 8, 8)
        assert tracemalloc.get_traced_memory()[1] < 8192  # views and indices, never pixels: a tile has 65,536
    finally:
        tracemalloc.stop()


def test_plans_are_made_once_and_cannot_be_changed() -> None:
    framing = Framing("tile", 64, 8)
    plan = plan_tiles(300, 200, framing)
    assert plan_tiles(300, 200, Framing("tile", 64, 8)) is plan
    assert plan_tiles(200, 300, framing) is not plan
    with pytest.raises(ValueError, match="read-only"):
        plan.y[0] = 5


@pytest.mark.parametrize(
    "value",
    [np.uint8(1), np.uint16(1), np.uint16(256), (1, 0, 0), (0, 0, 0, 255)],
    ids=["8", "16", "256", "blue", "black"],
)
def test_anything_but_black_is_inspected(value: Any, tmp_path: Path) -> None:
    """A labelling tool writes 1 as readily as white, and 16 bits as readily as 8."""
    mask = np.zeros((40, 40, *np.shape(value)), dtype=value.dtype if isinstance(value, np.generic) else np.uint8)
    mask[:20] = np.iinfo(mask.dtype).max
    mask[20:, :20] = value
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    inspected = plan_tiles(40, 40, Framing("tile", 16, 0, inspect_mask=tmp_path / "mask.png")).inspected
    assert inspected is not None
    assert inspected[:20].all()
    assert inspected[20:, :20].all() == np.atleast_1d(value)[:3].any()  # transparency says nothing
    assert not inspected[20:, 20:].any()


def test_the_mask_is_read_from_its_file(tmp_path: Path) -> None:
    mask = np.zeros((100, 120), dtype=np.uint8)
    mask[:40, :40] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    plan = plan_tiles(100, 120, Framing("tile", 40, 0, inspect_mask=tmp_path / "mask.png"))
    assert (len(plan), plan.grid.size) == (1, 9)


@pytest.mark.parametrize(
    ("framing", "mask", "message"),
    [
        (Framing("tile", 64, 8, Region(50, 0, 51, 20)), None, "ends at y=101, x=20; the frame is 120 x 100"),
        (Framing("resize", 64, 8, Region(0, 100, 10, 21)), None, "ends at y=10, x=121"),
        (Framing("tile", 64, 8), np.ones((120, 100), dtype=np.uint8), "100 x 120 px, the frame 120 x 100"),
        (Framing("tile", 64, 8), np.zeros((100, 120), dtype=np.uint8), "leaves nothing"),
        (Framing("resize", 64, 8), np.zeros((100, 120), dtype=np.uint8), "leaves nothing"),
    ],
)
def test_what_does_not_fit_is_refused(framing: Framing, mask: NDArray[np.uint8] | None, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        make_plan(100, 120, framing, mask)


def test_too_many_tiles_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"\d+ tiles of 256 px that overlap by 255; the most is 65536"):
        make_plan(6000, 8192, Framing("tile", 256, 255))


@pytest.mark.parametrize("shape", [(99, 120), (100, 120, 3)])
def test_another_frame_is_refused(shape: tuple[int, ...]) -> None:
    plan = make_plan(100, 120, Framing("tile", 64, 8))
    with pytest.raises(BadInput, match="a frame of shape"):
        write_tiles(np.zeros(shape, dtype=np.uint8), plan, np.zeros((1, 64, 64), dtype=np.uint8), 0, 1)


def test_framing_is_a_setting() -> None:
    framing = Framing("tile", 512, 64, Region(10, 20, 300, 400), Path("mask.png"))
    assert from_mapping(Framing, to_mapping(framing), "run.yaml") == framing
    for bad, message in (
        ({"tile_px": 0}, "tile_px"),
        ({"tile_px": 64, "overlap_px": 64}, "overlap_px"),
        ({"overlap_px": -1}, "overlap_px"),
        ({"mode": "crop"}, "'crop'"),
        ({"region": {"y": 0, "x": 0, "height": 0, "width": 4}}, "region"),
    ):
        with pytest.raises(BadConfig, match=message):
            from_mapping(Framing, bad, "run.yaml")


def test_the_documented_framing_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/framing.md").read_text(encoding="utf-8")
    example = text[text.index("    framing:") : text.index("**resize**")]
    (tmp_path / "run.yaml").write_text(dedent(example), encoding="utf-8")
    framing = from_mapping(Framing, load_yaml(tmp_path / "run.yaml")["framing"], "docs/framing.md")
    assert framing == Framing("tile", 256, 32, Region(100, 200, 1200, 1600), Path("mask.png"))
