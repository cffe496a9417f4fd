"""Percentiles, drift, and the intervals that tell a difference from noise. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom, as in any table of it.
_T975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452, 2.0423,
)  # fmt: skip
_Z975 = 1.959964


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio with its 95 % interval; the interval is None where fewer than two values leave it open."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def differs(self) -> bool | None:
        """Whether 1 lies outside the interval; None without one."""
        return None if self.low is None or self.high is None else not self.low <= 1 <= self.high

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"ratio": self.value, "low": self.low, "high": self.high, "count": self.count, "differs": self.differs}


def latency_summary(values_ms: Sequence[float]) -> dict[str, float | int | None]:
    """Count, mean, percentiles (linear between neighbours, as ``numpy.quantile``) and largest, ms.

    A percentile that fewer than one value can lie beyond is None: p99 takes 100 values, p99.9 takes 1000.
    """
    values = np.asarray(values_ms, np.float64)
    count = len(values)
    summary: dict[str, float | int | None] = {"count": count, "mean": float(values.mean()) if count else None}
    for name, share in QUANTILES.items():
        enough = count * (1 - share) >= 1 - 1e-9
        summary[name] = float(np.quantile(values, share)) if enough else None
    summary["largest"] = float(values.max()) if count else None
    return summary


def rates_over_time(
    done_s: Sequence[float], units: float, *, bins: int = 30, least: int = 3
) -> list[tuple[float, float]]:
    """(time, units a second) from the moments at which equal pieces of work were done, in up to ``bins`` groups.

    The first moment only starts the clock. A group holds ``least`` pieces or more, so that one late piece is no drift.
    """
    pieces = len(done_s) - 1
    groups = min(bins, pieces // least)
    if groups < 1:
        return []
    edges = np.linspace(0, pieces, groups + 1).round().astype(int)
    times = np.asarray(done_s, np.float64)
    spans = np.maximum(times[edges[1:]] - times[edges[:-1]], 1e-9)
    return [
        (float(end), float(units * count / span))
        for end, count, span in zip(times[edges[1:]], np.diff(edges), spans, strict=True)
    ]


def drift(rates: Sequence[float]) -> float | None:
    """The mean of the last third over that of the first, less 1; None for fewer than three values."""
    third = len(rates) // 3
    if third < 1:
        return None
    first, last = float(np.mean(rates[:third])), float(np.mean(rates[-third:]))
    return last / first - 1 if first > 0 else None


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The geometric mean of the ratios pair by pair, with the 95 % t interval of their logarithms."""
    logs = np.log(np.asarray(ours, np.float64) / np.asarray(theirs, np.float64))
    return _ratio(
        float(logs.mean()), _half_width(float(logs.std(ddof=1)), len(logs)) if len(logs) > 1 else None, len(logs)
    )


def unpaired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of geometric means, with Welch's 95 % interval of the difference of logarithms."""
    a, b = (np.log(np.asarray(values, np.float64)) for values in (ours, theirs))
    middle, count = float(a.mean() - b.mean()), min(len(a), len(b))
    if count < 2:
        return _ratio(middle, None, count)
    spread = [float(values.var(ddof=1)) / len(values) for values in (a, b)]
    error = math.sqrt(sum(spread))
    if error == 0:
        return _ratio(middle, 0.0, count)
    freedom = sum(spread) ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(spread, (a, b), strict=True))
    return _ratio(middle, t975(freedom) * error, count)


def t975(freedom: float) -> float:
    """The 97.5 % quantile of Student's t; between whole degrees of freedom that of the lower one, which is wider."""
    if freedom < 1:
        return math.inf
    if freedom < len(_T975) + 1:
        return _T975[int(freedom) - 1]
    # The first terms of the expansion about the normal quantile (Abramowitz and Stegun, 26.7.5).
    z, n = _Z975, freedom
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def _half_width(spread: float, count: int) -> float:
    return t975(count - 1) * spread / math.sqrt(count)


def _ratio(middle: float, half: float | None, count: int) -> Ratio:
    if half is None:
        return Ratio(math.exp(middle), None, None, count)
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half), count)
