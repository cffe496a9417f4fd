from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lpcnet_edge.errors import UsageError
from lpcnet_edge.runtime.cascade import BUCKETS, Bucket, buckets, overload, select, uncertain
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.tile_plan import make_plan


@given(st.data(), st.integers(1, 120), st.integers(1, 120), st.integers(1, 40))
def test_what_is_suspect_is_picked_with_its_neighbours(data: st.DataObject, height: int, width: int, side: int) -> None:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[data.draw(st.integers(0, height - 1)) :, data.draw(st.integers(0, width - 1)) :] = 1
    plan = make_plan(height, width, Framing("tile", side, data.draw(st.integers(0, side - 1))), mask)
    assume(len(plan) < 200)
    scores = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(plan), max_size=len(plan)))) / 10
    threshold = data.draw(st.integers(0, 10)) / 10
    wanted = set()
    for tile in np.flatnonzero(scores >= threshold).tolist():
        wanted |= {tile, *plan.neighbours(tile).tolist()}
    picked = select(scores.astype(np.float32), float(np.float32(threshold)), plan)
    assert picked.tolist() == sorted(wanted)
    assert picked.dtype == np.int32
    assert set(select(scores, None, plan).tolist()) == set(range(len(plan)))


def test_only_overlapping_tiles_are_neighbours() -> None:
    scores = np.zeros(9, dtype=np.float32)
    scores[4] = 1
    assert select(scores, 0.5, make_plan(30, 30, Framing("tile", 10, 0))).tolist() == [4]
    overlapping = make_plan(26, 26, Framing("tile", 10, 2))
    assert len(overlapping) == 9
    assert select(scores, 0.5, overlapping).tolist() == list(range(9))
    scores[:] = [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert select(scores, 0.5, overlapping).tolist() == [0, 1, 3, 4]


def test_the_threshold_itself_is_not_cleared() -> None:
    plan = make_plan(10, 30, Framing("tile", 10, 0))
    scores = np.array([0.3, 0.29, 0.31], dtype=np.float32)
    assert select(scores, float(scores[0]), plan).tolist() == [0, 2]


def test_a_score_that_is_not_a_number_clears_nothing() -> None:
    plan = make_plan(10, 30, Framing("tile", 10, 0))
    assert select(np.array([0, np.nan, 0], dtype=np.float32), 0.5, plan).tolist() == [1]


def test_overload_says_how_much() -> None:
    assert overload(10, 99, 10) is None
    assert overload(99, 99, None) is None
    assert overload(11, 99, 10) == "overload: 11 of 99 tiles are suspect or beside one, the budget is 10"


def test_the_uncertain_band_is_half_open() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, np.nan])
    assert uncertain(scores, (0.2, 0.4)).tolist() == [1, 2]
    assert uncertain(scores, None).size == 0


@given(st.integers(0, 500), st.lists(st.integers(1, 64), min_size=1, max_size=6))
def test_buckets_hold_every_tile_once(count: int, sizes: list[int]) -> None:
    made = buckets(count, sizes)
    assert [tile for start, tiles, _ in made for tile in range(start, start + tiles)] == list(range(count))
    for bucket in made:
        assert bucket.size in sizes
        assert 1 <= bucket.tiles <= bucket.size
        smallest = bucket.size == min(sizes)
        assert smallest or 4 * (bucket.size - bucket.tiles) <= bucket.size
        # No smaller bucket would have done.
        assert not any(bucket.tiles <= size < bucket.size for size in sizes)
    assert buckets(count, sizes) is made


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (3, [4]), (5, [4, 1]), (6, [8]), (11, [8, 4]), (12, [16]), (17, [16, 1]), (40, [16, 16, 8])],
)
def test_chosen_buckets(count: int, sizes: list[int]) -> None:
    assert [bucket.size for bucket in buckets(count)] == sizes


def test_a_bucket_reads_as_start_tiles_and_size() -> None:
    assert buckets(7, BUCKETS) == ((0, 7, 8),)
    assert buckets(20, (8,)) == (Bucket(0, 8, 8), Bucket(8, 8, 8), Bucket(16, 4, 8))


@pytest.mark.parametrize("sizes", [(), (0, 4)])
def test_bad_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="batch sizes"):
        buckets(3, sizes)
