"""Plots that a report shows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lpcnet_edge.page import svg


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0, 1), (-3, 7), (0.2, 0.9), (0, 106.0), (0, 0.004)])
def test_axes_have_a_few_round_numbers(low: float, high: float) -> None:
    ticks = svg._ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert low <= ticks[0]
    assert ticks[-1] <= high
    assert len({round(b - a, 9) for a, b in pairwise(ticks)}) == 1
