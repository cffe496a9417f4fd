"""Confidence calibration: is a pixel that is said with confidence p right with probability p?

Expected calibration error as in Guo et al., ICML 2017 (arXiv 1706.04599), section 2, over pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.types import ClassMap, ConfidenceMap

LEVELS = 256
BINS = 10
"""Bins of equal width over 0..1."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How many pixels were said with each confidence, and how many of those were right.

    Attributes
    ----------
    pixels, correct
        (256,) int64, by the confidence's byte.
    """

    pixels: NDArray[np.int64]
    correct: NDArray[np.int64]

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.pixels + other.pixels, self.correct + other.correct)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of the curve: its pixels, and their mean confidence and accuracy, 0..1 (nan where it is empty)."""

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


def reliability(truth: ClassMap, predicted: ClassMap, confidence: ConfidenceMap) -> Reliability:
    """Count pixels of three maps of one shape, uint8."""
    right = confidence[truth == predicted]
    return Reliability(
        np.bincount(confidence.ravel(), minlength=LEVELS).astype(np.int64),
        np.bincount(right.ravel(), minlength=LEVELS).astype(np.int64),
    )


def reliability_curve(counts: Reliability, bins: int = BINS) -> list[ReliabilityBin]:
    """Accuracy against mean confidence in ``bins`` bins of equal width; a bin's upper end belongs to the next."""
    values = np.arange(LEVELS) / (LEVELS - 1)
    index = np.minimum(np.arange(LEVELS) * bins // (LEVELS - 1), bins - 1)
    found = []
    for number in range(bins):
        inside = index == number
        pixels = int(counts.pixels[inside].sum())
        confidence = float((counts.pixels * values)[inside].sum()) / pixels if pixels else float("nan")
        accuracy = int(counts.correct[inside].sum()) / pixels if pixels else float("nan")
        found.append(ReliabilityBin(number / bins, (number + 1) / bins, pixels, confidence, accuracy))
    return found


def expected_calibration_error(counts: Reliability, bins: int = BINS) -> float:
    """Mean over pixels of ``|accuracy - confidence|`` of their bin, 0..1; nan without pixels."""
    total = int(counts.pixels.sum())
    if not total:
        return float("nan")
    curve = reliability_curve(counts, bins)
    return sum(part.pixels * abs(part.accuracy - part.confidence) for part in curve if part.pixels) / total
