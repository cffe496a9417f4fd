"""Photographs into tiles, tiles into folds."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from lpcnet_edge.datasets.grouping import (
    CONTINUATION_NUMBERS,
    NEAR_NUMBERS,
    assign_folds,
    group_exposures,
    pairwise_agreement,
)


def series(start: int, *exposures: int, step: int = 20) -> list[tuple[int, int]]:
    return [(start + step * i, exposure) for i, exposure in enumerate(exposures)]


def test_near_numbers_are_one_tile() -> None:
    shots = series(1000, 1, 2, 3, 4, 5, 6) + series(3000, 1, 2, 3, 4, 5, 6)
    assert group_exposures(shots) == [0] * 6 + [1] * 6


def test_the_longest_near_pause_is_bridged_and_one_more_is_not() -> None:
    assert group_exposures([(0, 1), (NEAR_NUMBERS, 1)]) == [0, 0]
    assert group_exposures([(0, 1), (NEAR_NUMBERS + 1, 1)]) == [0, 1]


def test_a_series_goes_on_after_a_pause() -> None:
    assert group_exposures(series(1000, 1, 2, 3) + series(1300, 4, 5, 6)) == [0] * 6
    assert group_exposures(series(1000, 4, 5, 6) + series(1300, 1, 2, 3) + series(1600, 4, 5, 6)) == [0] * 9
    assert group_exposures([(0, 1), (CONTINUATION_NUMBERS, 2)]) == [0, 0]
    assert group_exposures([(0, 1), (CONTINUATION_NUMBERS + 1, 2)]) == [0, 1]


def test_no_photographs_make_no_tiles() -> None:
    assert group_exposures([]) == []
    assert assign_folds([], []) == {}


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 6)), min_size=1, max_size=40), st.randoms())
def test_order_does_not_matter(shots: list[tuple[int, int]], chance: random.Random) -> None:
    expected = dict(zip(shots, group_exposures(shots), strict=True))
    chance.shuffle(shots)
    assert dict(zip(shots, group_exposures(shots), strict=True)) == expected


@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.integers(0, 4)), min_size=1, max_size=60),
    st.integers(1, 5),
)
def test_folds_hold_whole_parts_and_spread_them(images: list[tuple[str, int]], folds: int) -> None:
    label_of: dict[str, int] = {}
    parts = [part for part, _ in images]
    labels = [label_of.setdefault(part, label) for part, label in images]  # one class to a part
    fold_of = assign_folds(parts, labels, folds)
    assert set(fold_of) == set(parts)
    assert set(fold_of.values()) <= {str(k + 1) for k in range(folds)}
    largest = max(Counter(parts).values())
    count: dict[int, Counter[str]] = defaultdict(Counter)
    for part, label in zip(parts, labels, strict=True):
        count[label][fold_of[part]] += 1
    for by_fold in count.values():
        each = [by_fold[str(k + 1)] for k in range(folds)]
        assert max(each) - min(each) <= largest


def test_agreement_counts_pairs() -> None:
    assert pairwise_agreement([0, 0, 1, 1], ["a", "a", "b", "b"]) == (1.0, 1.0)
    assert pairwise_agreement([0, 0, 0], ["a", "a", "b"]) == (1 / 3, 1.0)
    assert pairwise_agreement([0, 1, 2], ["a", "a", "b"]) == (0.0, 0.0)
