from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lpcnet_edge.metrics import expected_calibration_error, reliability, reliability_curve

bytes_ = arrays(np.uint8, 40)


def test_the_error_of_a_known_case() -> None:
    # 8 pixels said with 1.0, of which 6 are right, and 2 said with 0.2, of which 1 is: 0.8 * 0.25 + 0.2 * 0.3.
    truth = np.array([1] * 6 + [0] * 2 + [1, 0], np.uint8)
    confidence = np.array([255] * 8 + [51] * 2, np.uint8)
    counts = reliability(truth, np.ones(10, np.uint8), confidence)
    assert expected_calibration_error(counts) == pytest.approx(0.8 * 0.25 + 0.2 * 0.3)
    filled = {part.low: part for part in reliability_curve(counts) if part.pixels}
    assert list(filled) == [0.2, 0.9]  # 0.2 begins a bin, 1.0 stays in the last one
    assert (filled[0.9].pixels, filled[0.9].confidence, filled[0.9].accuracy) == (8, 1.0, 0.75)


def test_no_pixels_have_no_error() -> None:
    none = np.zeros(0, np.uint8)
    assert math.isnan(expected_calibration_error(reliability(none, none, none)))


@given(bytes_, bytes_, bytes_, st.integers(1, 30))
def test_the_error_lies_between_the_gap_of_the_means_and_one(
    truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, bins: int
) -> None:
    counts = reliability(truth, predicted, confidence)
    error = expected_calibration_error(counts, bins)
    gap = abs((truth == predicted).mean() - (confidence / 255).mean())
    assert gap - 1e-9 <= error <= 1
    assert expected_calibration_error(counts, 1) == pytest.approx(gap)
    assert sum(part.pixels for part in reliability_curve(counts, bins)) == 40


@given(bytes_, bytes_, bytes_)
def test_counts_add_up(truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> None:
    whole = reliability(truth, predicted, confidence)
    halves = [reliability(truth[at], predicted[at], confidence[at]) for at in (slice(0, 17), slice(17, None))]
    joined = halves[0] + halves[1]
    assert np.array_equal(joined.pixels, whole.pixels)
    assert np.array_equal(joined.correct, whole.correct)
