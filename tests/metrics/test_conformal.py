from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.metrics import GateCalibration, calibrate_gate, gate_by_part, parts_needed

Scores = NDArray[np.float64]


def statistics(scores: Scores, parts: list[str], defective: NDArray[np.bool_]) -> list[float]:
    """Every part's highest score among its defective tiles, spelled out."""
    found: dict[str, float] = {}
    for score, part, flag in zip(scores.tolist(), parts, defective.tolist(), strict=True):
        if flag:
            found[part] = max(score, found.get(part, -1.0))
    return list(found.values())


tiles = st.lists(
    st.tuples(st.integers(0, 10), st.sampled_from("abcdefghij"), st.booleans()), min_size=1, max_size=60
).filter(lambda rows: any(row[2] for row in rows))


@given(tiles, st.floats(0.001, 0.999))
def test_the_threshold_is_the_largest_that_the_rule_allows(rows: list[tuple[int, str, bool]], alpha: float) -> None:
    scores = np.array([row[0] / 10 for row in rows])
    parts, defective = [row[1] for row in rows], np.array([row[2] for row in rows])
    found = statistics(scores, parts, defective)
    count = len(found)

    def allowed(threshold: float) -> bool:
        return (sum(value < threshold for value in found) + 1) / (count + 1) <= alpha

    if 1 / (count + 1) > alpha:
        with pytest.raises(UsageError, match="no calibration can promise"):
            calibrate_gate(scores, parts, defective, alpha)
        return
    gate = calibrate_gate(scores, parts, defective, alpha)
    assert allowed(gate.threshold)
    assert not allowed(float(np.nextafter(gate.threshold, 2)))
    assert gate.misses == sum(value < gate.threshold for value in found)
    assert (gate.parts, gate.alpha) == (count, alpha)
    assert gate.bound <= alpha


def line_of_parts(random: np.random.Generator, count: int) -> tuple[Scores, NDArray[np.int64]]:
    """Scores of 3 to 5 defective tiles for each of ``count`` parts, tiles of a part resembling each other."""
    sizes = random.integers(3, 6, count)
    parts = np.repeat(np.arange(count), sizes)
    return 1 / (1 + np.exp(-(random.normal(0, 1.5, count)[parts] + random.normal(0, 0.5, len(parts))))), parts


def share_missed(rule: Callable[[Scores, list[str]], float], draws: int, count: int) -> float:
    """How often a new part is missed at the threshold that ``rule`` finds on ``count`` others, over many draws."""
    random = np.random.default_rng(11)
    missed = 0
    for _ in range(draws):
        scores, parts = line_of_parts(random, count + 1)
        new = parts == count
        missed += bool(scores[new].max() < rule(scores[~new], parts[~new].astype(str).tolist()))
    return missed / draws


def promised(scores: Scores, parts: list[str]) -> float:
    return calibrate_gate(scores, parts, np.ones(len(parts), dtype=np.bool_), 0.1).threshold


def without_the_new_part(scores: Scores, parts: list[str]) -> float:
    """A wrong rule: misses / n <= alpha, the share seen instead of the share to come."""
    gate = gate_by_part(scores, parts, np.ones(len(parts), dtype=np.bool_))
    return float(gate.threshold[int(0.1 * len(gate.threshold))])


def test_the_promise_holds_on_average_over_10000_draws() -> None:
    share = share_missed(promised, 10_000, 20)
    error = (0.1 * 0.9 / 10_000) ** 0.5
    assert share <= 0.1 + 3 * error
    assert share == pytest.approx(2 / 21, abs=3 * error)  # exact for scores without ties: (1 + 1) / (20 + 1)


def test_the_simulation_finds_a_wrong_rule() -> None:
    error = (0.1 * 0.9 / 10_000) ** 0.5
    assert share_missed(without_the_new_part, 10_000, 20) > 0.1 + 3 * error


def test_tiles_of_one_part_are_not_independent() -> None:
    """Twenty parts of six like tiles, taken for 120 parts, seem to promise 0.02; they miss 1 / 21."""
    random = np.random.default_rng(5)
    missed = 0
    for _ in range(2000):
        scores, every = np.repeat(random.random(20), 6), np.ones(120, dtype=np.bool_)
        missed += random.random() < calibrate_gate(scores, [str(i) for i in range(120)], every, 0.02).threshold
        with pytest.raises(UsageError, match="bring 49"):
            calibrate_gate(scores, np.repeat(np.arange(20), 6).astype(str).tolist(), every, 0.02)
    assert missed / 2000 > 0.02 + 3 * (0.02 * 0.98 / 2000) ** 0.5


def test_the_image_view_is_stricter() -> None:
    #         part a: image 1  image 2     part b: image 3
    scores = np.array([0.9, 0.2, 0.3, 0.1, 0.6, 0.5, 0.05])
    parts = ["a", "a", "a", "a", "b", "b", "b"]
    images = ["1", "1", "2", "2", "3", "3", "4"]
    defective = np.array([True, True, True, True, True, True, False])
    by_part = calibrate_gate(scores, parts, defective, 0.4)
    assert (by_part.threshold, by_part.parts, by_part.cleared) == (0.6, 2, 1.0)
    by_image = calibrate_gate(scores, parts, defective, 0.4, images=images, view="image")
    assert (by_image.threshold, by_image.parts, by_image.misses) == (0.3, 2, 0)
    assert "in any one of its images" in by_image.guarantee
    with pytest.raises(UsageError, match="which tiles are one image"):
        calibrate_gate(scores, parts, defective, view="image")


@pytest.mark.parametrize(
    ("count", "alpha", "misses"), [(98, 1 / 99, 0), (99, 0.01, 0), (150, 0.01, 0), (199, 0.01, 1), (1, 0.5, 0)]
)
def test_auto_takes_what_the_parts_can_promise(count: int, alpha: float, misses: int) -> None:
    gate = calibrate_gate(np.linspace(0, 1, count), [str(i) for i in range(count)], np.ones(count, dtype=np.bool_))
    assert (gate.alpha, gate.misses, gate.alpha_is_auto) == (alpha, misses, True)
    assert np.isnan(gate.cleared)
    takes_more = "0.01 takes 99 defective parts" in gate.guarantee
    assert takes_more == (count < 99)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.1, 0.07, 0.05, 0.03, 0.01, 0.001, 1e-6, 0.999])
def test_parts_needed_is_the_least(alpha: float) -> None:
    count = parts_needed(alpha)
    assert 1 / (count + 1) <= alpha
    assert count == 0 or 1 / count > alpha


def test_too_few_parts_are_told_how_many_it_takes() -> None:
    with pytest.raises(UsageError, match=r"0\.01 from 62 defective parts.*1 / \(62 \+ 1\) = 0\.01587.*bring 99"):
        calibrate_gate(np.ones(62), [str(i) for i in range(62)], np.ones(62, dtype=np.bool_), 0.01)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha is"):
        calibrate_gate(np.ones(3), ["a", "b", "c"], np.ones(3, dtype=np.bool_), alpha)


def test_bad_data_is_refused() -> None:
    with pytest.raises(BadData, match="none of 2 tiles is defective"):
        calibrate_gate(np.ones(2), ["a", "b"], np.zeros(2, dtype=np.bool_))
    with pytest.raises(BadData, match="1 of 2 scores"):
        calibrate_gate(np.array([0.1, np.nan]), ["a", "b"], np.ones(2, dtype=np.bool_))


def test_the_guarantee_says_it_all() -> None:
    gate = GateCalibration(0.25, 0.05, False, 59, 2, 0.8, "part", 12)
    for text in (
        "at most 5 %",
        "12 px of defect",
        "below 0.25",
        "2 of 59",
        "(2 + 1) / (59 + 1) = 0.05",
        "in all of its",
    ):
        assert text in gate.guarantee
    assert "auto" not in gate.guarantee
