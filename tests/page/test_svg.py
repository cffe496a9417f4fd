"""Plots that a report shows."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("label", ["wrinkle", "表面污染缺陷類別名稱", "コンタミネーション欠陥", "이물질 혼입 결함"])
def test_a_label_has_room_in_any_script(label: str) -> None:
    """A Chinese, Japanese or Korean letter is as wide as the font is high, 12 px; the label ends left of the plot."""
    (end,) = re.findall(r'class="label" x="([0-9.]+)"[^>]*text-anchor="end"', svg.bars([(label, 1.0)], "title"))
    assert float(end) >= sum(12 if ord(letter) > 0x1100 else 7 for letter in label)
