"""From a histogram to the range of an INT8 tensor: four methods. Symmetric, zero point 0: x ~ scale * round(x / scale).

The scale is range / ``levels``. ``levels`` is 127: a signed tensor uses -127..127, and behind a ReLU only 0..127 occur,
also where a CPU's file stores them as uint8.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.build.histogram import Histogram
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import UsageError

Method: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

LEVELS = 127
PERCENTILE = 99.99

SMALLEST_RANGE = LEVELS * 2.0**-24
"""The least range (7.6e-6). A dead tensor's would be 0, and engines refuse a scale of 0; 2 ** -24 is the smallest scale
that is above 0 in float16 too."""

_CANDIDATES = 1024
"""Thresholds that ``entropy`` and ``mse`` try, about: neighbours are closer than a thousandth of the largest value."""


def range_of(histogram: Histogram, method: Method, *, levels: int = LEVELS, percentile: float = PERCENTILE) -> float:
    """The largest ``|x|`` that the INT8 tensor can hold; larger values saturate. At least ``SMALLEST_RANGE``.

    ``minmax``
        The largest ``|x|``, exactly.
    ``percentile``
        The ``percentile`` of ``|x|``, zeros included, linear within a bin: right to within one bin's width.
    ``entropy``
        The threshold with the least Kullback-Leibler divergence of the quantised distribution from the original
        (S. Migacz, 8-bit Inference with TensorRT, GTC 2017), over the values other than 0.
    ``mse``
        The threshold with the least expected squared error of rounding and clipping together, for values spread evenly
        within each bin.

    Raises ``UsageError`` for an unknown method, or a ``percentile`` outside (0, 100].
    """
    if method not in METHODS:
        raise UsageError(f"'{method}' is no method of calibration", mend=suggest(str(method), METHODS))
    if not 0 < percentile <= 100:
        raise UsageError(f"the percentile is {percentile}", mend="use a number above 0, at most 100")
    largest = histogram.largest
    if largest <= SMALLEST_RANGE:
        return SMALLEST_RANGE
    if method == "minmax":
        found = largest
    elif method == "percentile":
        found = _percentile(histogram, percentile)
    elif method == "entropy":
        found = _entropy(histogram, levels)
    else:
        found = _mse(histogram, levels)
    return max(min(found, largest), SMALLEST_RANGE)


def all_ranges(histogram: Histogram, *, levels: int = LEVELS, percentile: float = PERCENTILE) -> dict[Method, float]:
    """The range by each method, in the order of ``METHODS``."""
    return {method: range_of(histogram, method, levels=levels, percentile=percentile) for method in METHODS}


def _percentile(histogram: Histogram, percentile: float) -> float:
    below = np.concatenate([[0], np.cumsum(histogram.counts)]) + histogram.zeros
    wanted = percentile / 100 * histogram.count
    if wanted <= histogram.zeros:
        return 0.0
    last = int(np.searchsorted(below, wanted)) - 1  # below[last] < wanted <= below[last + 1]
    inside = (wanted - below[last]) / (below[last + 1] - below[last])
    return float((last + inside) * histogram.width)


def _used_bins(histogram: Histogram) -> int:
    """Bins up to the last one that has a value."""
    return int(np.flatnonzero(histogram.counts)[-1]) + 1


def _entropy(histogram: Histogram, levels: int) -> float:
    used = _used_bins(histogram)
    if used <= levels + 1:  # no more bins than levels: nothing is lost at the largest value
        return histogram.largest
    thresholds, divergence = divergences(histogram, levels)
    best = int(thresholds[int(np.argmin(divergence))])
    return histogram.largest if best == used else (best + 0.5) * histogram.width


def divergences(histogram: Histogram, levels: int = LEVELS) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Thresholds i in bins, and KL(P || Q) at each; the histogram's values reach beyond its first levels + 1 bins.

    P is the histogram's first i bins, what lies beyond added to the last of them. Q joins the first i bins without
    what lies beyond into levels + 1 equal groups and spreads each group's sum evenly over its bins that are not
    empty. With H, S and N the sums of P, the histogram and its non-empty bins over a group,
    KL = sum_j p_j log p_j - sum_groups H/|P| log(S/N / |Q|), so cumulative sums serve all thresholds. Where clipped
    values fall on a bin that is empty in Q the divergence is infinite, and the threshold is passed over.
    """
    used, groups = _used_bins(histogram), levels + 1
    h = histogram.counts[:used].astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(h)])
    filled = np.concatenate([[0.0], np.cumsum(h > 0)])
    thresholds = np.append(np.arange(groups, used, max(1, used // _CANDIDATES)), used)
    edges = thresholds[:, None] * np.arange(groups + 1) // groups
    inside, bins = np.diff(sums[edges]), np.diff(filled[edges])
    total, kept = sums[-1], sums[thresholds]
    last = h[thresholds - 1]
    beyond = total - kept
    mass = inside.copy()
    mass[:, -1] += beyond
    height = np.divide(inside, bins, out=np.ones_like(inside), where=bins > 0)
    cross = (mass * np.log(height)).sum(1)
    own = np.concatenate([[0.0], np.cumsum(_x_log_x(h))])[thresholds] - _x_log_x(last) + _x_log_x(last + beyond)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = (own - cross) / total - np.log(total) + np.log(kept)
    divergence[(beyond > 0) & (last == 0)] = np.inf
    return thresholds, divergence


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.log(np.where(x > 0, x, 1.0))


def _mse(histogram: Histogram, levels: int) -> float:
    """The sum of (x - k s)^2 over the cell of each level k, from cumulative moments of the histogram.

    In units of bins, values even within a bin: M_n(t) is the integral of x^n below t, and the cell of level k reaches
    from (k - 1/2) s to (k + 1/2) s, the last one to the end. Its error is M_2 - 2 k s M_1 + (k s)^2 M_0 over the cell.
    """
    used = _used_bins(histogram)
    h = histogram.counts[:used].astype(np.float64)
    low = np.arange(used + 1, dtype=np.float64)
    moments = [np.concatenate([[0.0], np.cumsum(h * np.diff(low ** (n + 1)) / (n + 1))]) for n in range(3)]
    h = np.append(h, 0.0)
    step = max(1, used // _CANDIDATES)
    thresholds = np.append(np.arange(step, used, step), histogram.largest / histogram.width)
    scale = (thresholds / levels)[:, None]
    value = np.arange(levels + 1) * scale
    cuts = np.concatenate([np.zeros_like(scale), value[:, :-1] + scale / 2, np.full_like(scale, used)], axis=1)
    place = np.minimum(cuts.astype(np.int64), used)
    m0, m1, m2 = (
        np.diff(m[place] + h[place] * (cuts ** (n + 1) - low[place] ** (n + 1)) / (n + 1))
        for n, m in enumerate(moments)
    )
    error = (m2 - 2 * value * m1 + value**2 * m0).sum(1)
    return float(thresholds[int(np.argmin(error))] * histogram.width)
