"""Run lengths and polygons into masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from dataset_files import blot
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcnet_edge.datasets.regions import (
    check_counts,
    check_polygon,
    draw_counts,
    draw_polygon,
    polygon_area,
    unpack_counts,
)


def count_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths of a mask by columns, outside first."""
    counts = [0]
    value = False
    for pixel in mask.T.ravel():
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


def pack_counts(counts: list[int]) -> str:
    """The packed form of run lengths, written from the format's description."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            group, value = value & 31, value >> 5
            done = value == (-1 if group & 16 else 0)
            text += chr(48 + group + (0 if done else 32))
            if done:
                break
    return text


masks = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1)).map(
    lambda t: np.random.default_rng(t[2]).random((t[0], t[1])) < t[3]
)


@given(masks)
def test_run_lengths_come_back(mask: NDArray[np.bool_]) -> None:
    counts = count_runs(mask)
    height, width = mask.shape
    assert np.array_equal(draw_counts(check_counts(counts, height, width), height, width), mask)


@given(st.lists(st.integers(0, 2**30), max_size=30))
def test_packed_counts_come_back(counts: list[int]) -> None:
    assert unpack_counts(pack_counts(counts)) == counts


def test_packed_counts_of_a_known_mask() -> None:
    mask = blot(1).astype(bool)
    mask[10, 3] = True
    assert np.array_equal(draw_counts(unpack_counts("V21Q13_O00000000000T;"), *mask.shape), mask)
    assert unpack_counts("0<") == [0, 12]
    assert unpack_counts("") == []


@pytest.mark.parametrize("text", ["V21Q", "a b", "\x7f", "ooooooooo0", "é"])
def test_broken_packing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run length"):
        unpack_counts(text)


@pytest.mark.parametrize("counts", [[3, -1, 10], [12.0], [True, 11], ["12"], [11], [13], [2**70]])
def test_impossible_run_lengths_are_refused(counts: list[object]) -> None:
    with pytest.raises(ValueError, match="run length"):
        check_counts(counts, 3, 4)


def test_a_square_covers_the_pixels_between_its_edges() -> None:
    square = check_polygon([2, 4, 5, 4, 5, 7, 2, 7])
    expected = np.zeros((10, 10), bool)
    expected[4:7, 2:5] = True
    assert np.array_equal(draw_polygon(square, 10, 10), expected)
    assert polygon_area(square) == 9


def test_a_polygon_is_cut_at_the_image() -> None:
    assert draw_polygon(check_polygon([-5, -5, 50, -5, 50, 50, -5, 50]), 6, 8).all()
    assert not draw_polygon(check_polygon([-9, -9, -5, -9, -5, -5]), 6, 8).any()


@pytest.mark.parametrize(("points", "rows", "columns"), [
    ([[0, 20], [30, 20], [15, 20]], [19], range(30)),
    ([[30, 5], [30, 8], [30, 8]], range(5, 9), [29]),
    ([[30, 20], [30, 20], [30, 20]], [19], [29]),
])  # fmt: skip
def test_a_crack_along_the_far_border_does_not_vanish(
    points: list[list[float]], rows: Sequence[int], columns: Sequence[int]
) -> None:
    expected = np.zeros((20, 30), bool)
    expected[np.ix_(list(rows), list(columns))] = True
    assert np.array_equal(draw_polygon(np.array(points, np.float64), 20, 30), expected)


def test_a_polygon_along_a_crack_does_not_vanish() -> None:
    crack = check_polygon([1.6, 3.6, 8.6, 3.6, 8.6, 3.7, 1.6, 3.7])
    assert np.array_equal(np.argwhere(draw_polygon(crack, 10, 10)), [[3, x] for x in range(1, 9)])


@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 12), st.integers(1, 9), st.booleans())
def test_rectangles_cover_their_area(x: int, y: int, width: int, height: int, turned: bool) -> None:
    points = [x, y, x + width, y, x + width, y + height, x, y + height]
    if turned:
        points = [v for i in range(6, -1, -2) for v in points[i : i + 2]]
    mask = draw_polygon(check_polygon(points), 30, 30)
    assert mask.sum() == width * height
    assert mask[y : y + height, x : x + width].all()


@given(st.lists(st.tuples(st.floats(-20, 60), st.floats(-20, 60)), min_size=3, max_size=12))
def test_any_polygon_can_be_drawn(points: list[tuple[float, float]]) -> None:
    mask = draw_polygon(check_polygon([v for point in points for v in point]), 40, 40)
    assert mask.shape == (40, 40)


@pytest.mark.parametrize(
    "polygon",
    [None, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [[1, 2], [3, 4], [5, 6]], [0, 0, float("nan"), 1, 2, 2],
     [0, 0, 1e9, 1, 2, 2], [0, 0, "1", 1, 2, 2], [0, 0, 10**400, 1, 2, 2]],
)  # fmt: skip
def test_impossible_polygons_are_refused(polygon: object) -> None:
    with pytest.raises(ValueError, match="polygon"):
        check_polygon(polygon)
