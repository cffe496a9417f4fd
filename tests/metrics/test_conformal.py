from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given
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


def tail(parts: int, alpha: float, misses: int) -> Fraction:
    """P[Binomial(parts, alpha) <= misses] in exact arithmetic."""
    a = Fraction(alpha)
    return sum((math.comb(parts, i) * a**i * (1 - a) ** (parts - i) for i in range(misses + 1)), Fraction(0))


def calibrate_parts(scores: Scores, alpha: float | Literal["auto"] = "auto", **options: Any) -> GateCalibration:
    """On parts of one defective tile each."""
    return calibrate_gate(scores, list(map(str, range(len(scores)))), np.ones(len(scores), np.bool_), alpha, **options)


@given(tiles, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_with_a_confidence_the_threshold_is_the_largest_that_keeps_it(
    rows: list[tuple[int, str, bool]], alpha: float, confidence: float
) -> None:
    scores = np.array([row[0] / 10 for row in rows])
    parts, defective = [row[1] for row in rows], np.array([row[2] for row in rows])
    found = statistics(scores, parts, defective)
    chances = [float(tail(len(found), alpha, misses)) for misses in range(len(found) + 1)]
    assume(all(abs(chance - (1 - confidence)) > 1e-9 for chance in chances))  # what rounding could decide

    def allowed(threshold: float) -> bool:
        return chances[sum(value < threshold for value in found)] <= 1 - confidence

    if chances[0] > 1 - confidence:
        with pytest.raises(UsageError, match="no calibration can promise"):
            calibrate_gate(scores, parts, defective, alpha, confidence=confidence)
        return
    gate = calibrate_gate(scores, parts, defective, alpha, confidence=confidence)
    assert allowed(gate.threshold)
    assert not allowed(float(np.nextafter(gate.threshold, 2)))
    assert gate.misses == sum(value < gate.threshold for value in found)
    assert (gate.parts, gate.alpha, gate.confidence) == (len(found), alpha, confidence)


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, (59, 93, 124, 153, 181, 208)), (0.01, (299, 473, 628, 773, 913))])
def test_the_parts_that_each_miss_takes_are_those_of_the_tables(alpha: float, needed: tuple[int, ...]) -> None:
    """Wilks' sample sizes for 95 % confidence, as the tables of nuclear safety analysis have them."""
    assert parts_needed(alpha, 0.95) == needed[0]
    for misses, parts in enumerate(needed):
        assert calibrate_parts(np.linspace(0, 1, parts), alpha, confidence=0.95).misses == misses
        if misses:
            assert calibrate_parts(np.linspace(0, 1, parts - 1), alpha, confidence=0.95).misses == misses - 1


def true_shares(draws: int, parts: int, ties: int | None = None) -> Scores:
    """(draws, 2) true shares of missed parts at thresholds found for alpha 0.1 with confidence 0.9.

    The second is that of the next higher statistic: one miss more than the rule allows. Statistics are uniform, so the
    true share is the threshold itself; with ``ties`` they have so many values alone, which leaves it so.
    """
    shares = np.zeros((draws, 2))
    for draw, scores in enumerate(np.random.default_rng(23).random((draws, parts))):
        scores = scores if ties is None else np.floor(scores * ties) / ties
        gate = calibrate_parts(scores, 0.1, confidence=0.9)
        shares[draw] = gate.threshold, np.sort(scores)[gate.misses + 1]
    return shares


def test_of_10000_calibrations_no_more_break_the_promise_than_the_confidence_allows() -> None:
    error = (0.1 * 0.9 / 10_000) ** 0.5
    broken, broken_by_one_more = np.mean(true_shares(10_000, 38) > 0.1, axis=0).tolist()
    assert broken <= 0.1 + 3 * error
    assert broken == pytest.approx(float(tail(38, 0.1, 1)), abs=3 * error)  # 0.095: next to nothing is given away
    assert broken_by_one_more > 0.1 + 3 * error
    assert broken_by_one_more == pytest.approx(float(tail(38, 0.1, 2)), abs=5 * error)  # 0.25


def test_ties_only_help() -> None:
    assert np.mean(true_shares(2000, 38, ties=17)[:, 0] > 0.1) <= 0.1 + 3 * (0.1 * 0.9 / 2000) ** 0.5


def test_a_promise_on_average_is_none_with_confidence() -> None:
    """What the confidence is for: of thresholds that keep alpha on average, four in ten miss more."""
    misses = calibrate_parts(np.linspace(0, 1, 999), 0.01).misses
    shares = np.partition(np.random.default_rng(3).random((10_000, 999)), misses, axis=1)[:, misses]
    assert misses == 9
    assert np.mean(shares) <= 0.01 + 3 * np.std(shares) / 100
    assert np.mean(shares > 0.01) > 0.4
    sure = calibrate_parts(np.linspace(0, 1, 999), 0.01, confidence=0.95).misses
    shares = np.partition(np.random.default_rng(3).random((10_000, 999)), sure, axis=1)[:, sure]
    assert np.mean(shares > 0.01) <= 0.05 + 3 * (0.05 * 0.95 / 10_000) ** 0.5


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


@pytest.mark.parametrize("confidence", [0.001, 0.5, 0.95, 0.9999])
@pytest.mark.parametrize("count", [1, 2, 59, 62, 298, 299, 300, 1000])
def test_auto_with_a_confidence_takes_what_the_parts_can_promise(count: int, confidence: float) -> None:
    gate = calibrate_parts(np.linspace(0, 1, count), confidence=confidence)
    least = 1 - (1 - confidence) ** (1 / count)
    assert gate.alpha == pytest.approx(max(0.01, least), rel=1e-9)
    assert gate.parts == count >= parts_needed(gate.alpha, confidence)
    takes_more = f"{count} parts can promise; 0.01 takes {parts_needed(0.01, confidence)} defective" in gate.guarantee
    assert takes_more == (least > 0.01)
    again = calibrate_parts(np.linspace(0, 1, count), gate.alpha, confidence=confidence)  # that alpha, by its number
    assert (again.threshold, again.misses) == (gate.threshold, gate.misses)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.1, 0.07, 0.05, 0.03, 0.01, 0.001, 1e-6, 0.999])
def test_parts_needed_is_the_least(alpha: float) -> None:
    count = parts_needed(alpha)
    assert 1 / (count + 1) <= alpha
    assert count == 0 or 1 / count > alpha


@pytest.mark.parametrize("confidence", [None, 0.95])
@pytest.mark.parametrize("alpha", [3e-30, 1e-320])
def test_parts_needed_for_next_to_nothing_is_a_number(alpha: float, confidence: float | None) -> None:
    """It counted up by one from a float so large that one more is the same, or divided by it to infinity."""
    count = parts_needed(alpha, confidence)
    assert count * Fraction(alpha) == pytest.approx(1 if confidence is None else -math.log(0.05), rel=1e-6)


def test_too_few_parts_are_told_how_many_it_takes() -> None:
    with pytest.raises(UsageError, match=r"0\.01 from 62 defective parts.*1 / \(62 \+ 1\) = 0\.01587.*bring 99"):
        calibrate_gate(np.ones(62), [str(i) for i in range(62)], np.ones(62, dtype=np.bool_), 0.01)


def test_too_few_parts_for_a_confidence_are_told_how_many_it_takes() -> None:
    with pytest.raises(
        UsageError, match=r"0\.01 with confidence 0\.95 from 298 .*1 - \(1 - 0\.95\)\^\(1 / 298\) = 0\.0100.*bring 299"
    ):
        calibrate_parts(np.ones(298), 0.01, confidence=0.95)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.1, float("nan")])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(UsageError, match="the confidence is"):
        calibrate_parts(np.ones(99), confidence=confidence)


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
    gate = GateCalibration(
        threshold=0.25, alpha=0.05, alpha_is_auto=False, parts=59, misses=2, cleared=0.8, view="part", min_defect_px=12
    )
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
    assert "confidence" not in gate.guarantee


def test_the_guarantee_with_a_confidence_says_it_all() -> None:
    gate = calibrate_parts(np.linspace(0, 1, 93), 0.05, confidence=0.95)
    for text in (
        "With 95 % confidence, the gate misses, of new defective parts, at most 5 %",
        f"1 of 93 independent defective parts were missed in calibration, and P[Binomial(93, 0.05) <= 1] = "
        f"{float(tail(93, 0.05, 1)):.4g} <= 1 - 0.95",
        "At least 95 % of calibrations",
        "as long as new parts come as these did",
    ):
        assert text in gate.guarantee
    assert "expected" not in gate.guarantee
    assert "on average" not in gate.guarantee
