"""Metrics that count images and physical parts: escapes, overkill and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` of ``total``, with a Wilson interval (``low``, ``high``); all shares in 0..1, nan of nothing."""

    count: int
    total: int
    share: float
    low: float
    high: float


def wilson_interval(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a share seen as ``count`` of ``total`` independent trials (Wilson 1927, score interval).

    Never empty and never outside 0..1: 0 of 17 is still up to 0.18. Without a trial it is (0, 1).
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = count / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == total else min(1.0, centre + half)
    return low, high


def rate(count: int, total: int) -> Rate:
    """``count`` of ``total`` as a share with its Wilson 95 % interval."""
    return Rate(count, total, count / total if total else math.nan, *wilson_interval(count, total))


def escapes(defective: NDArray[np.bool_], rejected: NDArray[np.bool_]) -> Rate:
    """Defective ones that were passed, of all defective ones; (N,) flags of images or of parts."""
    return rate(int(np.count_nonzero(defective & ~rejected)), int(np.count_nonzero(defective)))


def overkill(defective: NDArray[np.bool_], rejected: NDArray[np.bool_]) -> Rate:
    """Good ones that were rejected, of all good ones; (N,) flags of images or of parts."""
    return rate(int(np.count_nonzero(~defective & rejected)), int(np.count_nonzero(~defective)))


def any_by_part(parts: Sequence[str], flags: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.bool_]]:
    """Join the flags of images (N,) by physical part: a part has the flag if any of its images has it.

    Returns the parts in the order in which they first occur, and their flags (P,).
    """
    joined: dict[str, bool] = {}
    for part, flag in zip(parts, flags.tolist(), strict=True):
        joined[part] = joined.get(part, False) or flag
    return list(joined), np.array(list(joined.values()), dtype=np.bool_)
