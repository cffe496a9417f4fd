from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcnet_edge.decision import Rules, decide
from lpcnet_edge.runtime.cascade import select
from lpcnet_edge.runtime.framing import Framing, Region
from lpcnet_edge.runtime.stitching import Stitcher, side_weights
from lpcnet_edge.runtime.tile_plan import TilePlan, make_plan, write_tiles

Pixels = NDArray[np.uint8]
Network = Callable[[Pixels], tuple[Pixels, Pixels]]

CLASSES = ("background", "dark", "bright")


def local_network(radius: int) -> Network:
    """Classes and confidences that depend on the pixels up to ``radius`` away, and nonsense at the border for more.

    Beyond the image there is neither defect nor background but 200, as a real network's padding differs from what lies
    there; so the answer at a tile's border is wrong, and wrong with confidence.
    """

    def answer(image: Pixels) -> tuple[Pixels, Pixels]:
        padded = cv2.copyMakeBorder(image, radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=(200,))
        size = 2 * radius + 1
        highest = cv2.dilate(padded, np.ones((size, size), np.uint8))
        lowest = cv2.erode(padded, np.ones((size, size), np.uint8))
        inner = slice(radius, radius + image.shape[0]), slice(radius, radius + image.shape[1])
        high, low = highest[inner], lowest[inner]
        classes = np.where(high > 190, 2, np.where(low < 20, 1, 0)).astype(np.uint8)
        return classes, np.where(high >= 200, 255, high // 2 + low // 2).astype(np.uint8)

    return answer


def run(network: Network, frame: Pixels, plan: TilePlan, tiles: NDArray[np.int32], side: int) -> tuple[Pixels, Pixels]:
    """``network`` on some tiles of a frame, each by itself, so that it pads where the tile ends."""
    buffer = np.empty((len(plan), side, side), np.uint8)
    write_tiles(frame, plan, buffer, 0, len(plan))
    # Where the frame is smaller than a tile the network sees the frame's part, as on the whole frame.
    high, wide = min(side, plan.height), min(side, plan.width)
    classes, confidence = np.zeros((len(tiles), side, side), np.uint8), np.zeros((len(tiles), side, side), np.uint8)
    for place, tile in enumerate(tiles):
        classes[place, :high, :wide], confidence[place, :high, :wide] = network(buffer[tile, :high, :wide])
    return classes, confidence


def stitched(network: Network, frame: Pixels, plan: TilePlan) -> tuple[Pixels, Pixels]:
    every = np.arange(len(plan), dtype=np.int32)
    stitcher = Stitcher(plan)
    stitcher.begin(None)
    stitcher.add(every, *run(network, frame, plan, every, plan.framing.tile_px))
    return stitcher.finish()


@st.composite
def frames(draw: st.DrawFn) -> Pixels:
    shape = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, 256, shape, dtype=np.uint8)


@given(st.data(), frames(), st.integers(1, 64))
@settings(max_examples=200)
def test_tiles_say_what_the_whole_frame_says(data: st.DataObject, frame: Pixels, side: int) -> None:
    overlap = data.draw(st.integers(0, side - 1))
    radius = data.draw(st.integers(0, overlap // 4))  # a field of view of half the overlap
    plan = make_plan(*frame.shape, Framing("tile", side, overlap))
    assume(len(plan) < 300)
    network = local_network(radius)
    classes, confidence = stitched(network, frame, plan)
    wanted_classes, wanted_confidence = network(frame)
    np.testing.assert_array_equal(classes, wanted_classes)
    np.testing.assert_array_equal(confidence, wanted_confidence)


def test_the_seam_test_can_fail() -> None:
    """A network that sees further than the overlap leaves seams, and plain confidence would let its artefacts win."""
    frame = np.random.default_rng(1).integers(20, 180, (100, 100), dtype=np.uint8)
    plan = make_plan(100, 100, Framing("tile", 40, 8))
    assert np.array_equal(stitched(local_network(2), frame, plan)[0], local_network(2)(frame)[0])
    assert not np.array_equal(stitched(local_network(5), frame, plan)[0], local_network(5)(frame)[0])
    network, most = local_network(2), np.full((100, 100), -1)
    classes = np.zeros((100, 100), np.uint8)
    found = run(network, frame, plan, np.arange(len(plan), dtype=np.int32), 40)
    for y, x, tile, sure in zip(plan.y, plan.x, *found, strict=True):
        window = slice(y, y + 40), slice(x, x + 40)
        wins = sure > most[window]
        classes[window][wins], most[window][wins] = tile[wins], sure[wins]
    assert not np.array_equal(classes, network(frame)[0])


@given(st.data(), st.integers(1, 200), st.integers(1, 200), st.integers(2, 64))
def test_a_defect_is_found_once(data: st.DataObject, height: int, width: int, side: int) -> None:
    """Wherever it lies on the tiles' borders, with the gate in front and the other tiles cleared."""
    plan = make_plan(height, width, Framing("tile", side, data.draw(st.integers(0, side - 1))))
    assume(len(plan) < 300)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    high, wide = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    frame = np.full((height, width), 100, np.uint8)
    frame[y : y + high, x : x + wide] = 0
    network = local_network(0)
    everywhere = run(network, frame, plan, np.arange(len(plan), dtype=np.int32), side)[0]
    picked = select(everywhere.reshape(len(plan), -1).max(axis=1).astype(np.float32), 0.5, plan)
    stitcher = Stitcher(plan)
    stitcher.begin(np.zeros(len(plan), dtype=np.float32))
    stitcher.add(picked, *run(network, frame, plan, picked, side))
    (defect,) = decide(*stitcher.finish(), CLASSES, Rules()).defects
    assert defect.box_px == (x, y, wide, high)
    assert defect.area_px == high * wide


def test_a_cleared_tile_never_outvotes_a_picked_one() -> None:
    plan = make_plan(40, 70, Framing("tile", 40, 10))
    stitcher = Stitcher(plan)
    stitcher.begin(np.zeros(2, dtype=np.float32))  # both quite surely free
    unsure = np.zeros((1, 40, 40), np.uint8)
    stitcher.add(np.array([0], dtype=np.int32), unsure + 2, unsure)
    classes, confidence = stitcher.finish()
    assert (classes[:, :40] == 2).all()
    assert not confidence[:, :40].any()
    assert not classes[:, 40:].any()
    assert (confidence[:, 40:] == 255).all()


def test_cleared_tiles_are_as_sure_as_their_scores() -> None:
    plan = make_plan(10, 17, Framing("tile", 10, 3))
    for scores in ([0.2, 0.6], [0.6, 0.2]):
        stitcher = Stitcher(plan)
        stitcher.begin(np.array(scores, dtype=np.float32))
        classes, confidence = stitcher.finish()
        assert not classes.any()
        levels = [round(255 * (1 - score)) for score in scores]
        wanted = [levels[0]] * 7 + [min(levels)] * 3 + [levels[1]] * 7
        assert confidence[4].tolist() == wanted


@pytest.mark.parametrize("scores", [[0.3, 0.3], [np.nan, 2.0], [-1.0, 0.5]])
def test_odd_scores_do_no_harm(scores: list[float]) -> None:
    stitcher = Stitcher(make_plan(10, 17, Framing("tile", 10, 3)))
    stitcher.begin(np.array(scores, dtype=np.float32))
    assert stitcher.finish()[1][0, 0] == round(255 * (1 - min(max(np.nan_to_num(scores[0], nan=1.0), 0), 1)))


def test_in_an_overlap_confidence_and_distance_decide() -> None:
    plan = make_plan(40, 72, Framing("tile", 40, 8))
    stitcher = Stitcher(plan)
    classes, confidence = np.zeros((2, 40, 40), np.uint8), np.full((2, 40, 40), 100, np.uint8)
    classes[0], classes[1] = 1, 2
    stitcher.begin(None)
    stitcher.add(np.arange(2, dtype=np.int32), classes, confidence)
    assert stitcher.finish()[0][20, 32:40].tolist() == [1] * 4 + [2] * 4  # equally sure: the middle
    confidence[0] = 50
    stitcher.begin(None)
    stitcher.add(np.arange(2, dtype=np.int32), classes, confidence)
    assert stitcher.finish()[0][20, 32:40].tolist() == [1] * 3 + [2] * 5  # the surer tile gains
    confidence[0], confidence[1] = 255, 0
    stitcher.begin(None)
    stitcher.add(np.arange(2, dtype=np.int32), classes, confidence)
    assert stitcher.finish()[0][20, 38:40].tolist() == [2] * 2  # but not on the two px at its border


def test_equal_claims_go_to_the_tile_added_first() -> None:
    plan = make_plan(40, 71, Framing("tile", 40, 9))
    tiles = np.stack([np.full((40, 40), 1, np.uint8), np.full((40, 40), 2, np.uint8)])
    sure = np.full((2, 40, 40), 80, np.uint8)
    for order, wanted in (([0, 1], 1), ([1, 0], 2)):
        stitcher = Stitcher(plan)
        stitcher.begin(None)
        stitcher.add(np.array(order, dtype=np.int32), tiles[order], sure)
        assert stitcher.finish()[0][20, 35] == wanted  # the middle of nine


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90), st.integers(1, 30), st.integers(0, 29))
@settings(max_examples=50)
def test_nothing_is_left_of_the_frame_before(seed: int, height: int, width: int, side: int, overlap: int) -> None:
    plan = make_plan(height, width, Framing("tile", side, min(overlap, side - 1)))
    assume(len(plan) < 200)
    random = np.random.default_rng(seed)
    used = Stitcher(plan)
    for _ in range(3):
        fresh = Stitcher(plan)
        scores = random.random(len(plan)).astype(np.float32)
        picked = select(scores, 0.8, plan)
        classes = random.integers(0, 3, (len(picked), side, side), dtype=np.uint8)
        confidence = random.integers(0, 256, (len(picked), side, side), dtype=np.uint8)
        for stitcher in (used, fresh):
            stitcher.begin(scores)
            half = len(picked) // 2
            stitcher.add(picked[:half], classes[:half], confidence[:half])
            stitcher.add(picked[half:], classes[half:], confidence[half:])
        for of_used, of_fresh in zip(used.finish(), fresh.finish(), strict=True):
            np.testing.assert_array_equal(of_used, of_fresh)


@pytest.mark.parametrize("mode", ["tile", "resize"])
def test_what_is_not_inspected_is_never_a_defect(mode: str) -> None:
    mask = np.zeros((100, 120), np.uint8)
    mask[10:60, 5:50] = 1
    framing = Framing("tile", 32, 8) if mode == "tile" else Framing("resize", 32, 8)
    plan = make_plan(100, 120, framing, mask)
    assert plan.inspected is not None
    stitcher = Stitcher(plan)
    stitcher.begin(np.full(len(plan), 0.5, dtype=np.float32))
    classes, confidence = stitcher.finish()
    assert not classes.any()
    np.testing.assert_array_equal(confidence, np.where(plan.inspected, 128, 0))
    tiles = np.full((len(plan), 32, 32), 2, np.uint8)
    stitcher.begin(None)
    stitcher.add(np.arange(len(plan), dtype=np.int32), tiles, tiles)
    for joined in stitcher.finish():
        np.testing.assert_array_equal(joined, np.where(plan.inspected, 2, 0))


@pytest.mark.parametrize("region", [Region(20, 30, 50, 60), Region(95, 110, 5, 10), Region(3, 0, 1, 120)])
def test_outside_the_region_nothing_is_said(region: Region) -> None:
    plan = make_plan(100, 120, Framing("tile", 32, 8, region))
    stitcher = Stitcher(plan)
    tiles = np.full((len(plan), 32, 32), 2, np.uint8)
    inside = np.zeros((100, 120), np.bool_)
    inside[region.y : region.y + region.height, region.x : region.x + region.width] = True
    stitcher.begin(np.zeros(len(plan), dtype=np.float32))
    np.testing.assert_array_equal(stitcher.finish()[1], np.where(inside, 255, 0))
    stitcher.begin(None)
    stitcher.add(np.arange(len(plan), dtype=np.int32), tiles, tiles)
    np.testing.assert_array_equal(stitcher.finish()[0], np.where(inside, 2, 0))


def test_a_small_region_is_read_from_the_right_place() -> None:
    """The tile around a region smaller than itself shows its surroundings; the map shows the region alone."""
    frame = np.full((64, 64), 100, np.uint8)
    frame[30, 40] = 0
    plan = make_plan(64, 64, Framing("tile", 32, 4, Region(28, 36, 6, 8)))
    classes, _ = stitched(local_network(0), frame, plan)
    assert np.argwhere(classes).tolist() == [[30, 40]]


def test_resized_frames_have_the_tile_as_their_map() -> None:
    plan = make_plan(90, 70, Framing("resize", 32, 0))
    stitcher = Stitcher(plan)
    tile = np.random.default_rng(0).integers(0, 3, (1, 32, 32), dtype=np.uint8)
    stitcher.begin(None)
    stitcher.add(np.zeros(1, dtype=np.int32), tile, tile)
    for joined in stitcher.finish():
        np.testing.assert_array_equal(joined, tile[0])


@given(st.integers(1, 512), st.data())
def test_side_weights(side: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, side - 1))
    weights = side_weights(side, overlap, True, False)
    margin = overlap // 4
    assert not weights[:margin].any()
    assert (weights[margin:] > 0).all()
    assert (np.diff(weights.astype(int)) >= 0).all()
    assert (weights[max(overlap - 1, 0) :] == 254).all()
    np.testing.assert_array_equal(side_weights(side, overlap, False, True), weights[::-1])
    assert (side_weights(side, overlap, False, False) == 254).all()
