"""A histogram of one tensor's values that never holds them: a few kilobytes, however many tiles pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData, UsageError

OBSERVER_VERSION = 1
"""Raised whenever the same activations give other histograms or other ranges: it is part of every calibration's key."""

BINS = 4096
_BLOCK = 1 << 15
"""Values binned at a time, so that temporaries stay small and in the cache."""

_LANES = np.arange(_BLOCK, dtype=np.intp) % 2 * BINS
"""Neighbours count in two sets of bins in turns: one zero after another counted in one bin takes thrice as long."""

_LARGEST_POWER = 2.0**127


class Histogram:
    """Counts of ``|x|`` in ``BINS`` equal bins over [0, ``limit``), and the exact extremes.

    ``limit`` is a power of two above every value seen; a larger value doubles it, and neighbouring bins join. Bins
    of a wider histogram are therefore exact unions of those of a narrower one: the order of updates and merges does
    not change the result, and at least half of the bins lie below the largest value.

    Zeros are counted apart: every scale stores them exactly, so most methods have to know how many there are.

    Attributes
    ----------
    name
        The tensor, named in errors.
    counts
        (BINS,) int64, values with ``|x| > 0`` only.
    count, zeros
        Values seen, zeros among them.
    limit
        Upper end of the last bin; 0.0 as long as no value but 0 was seen.
    minimum, maximum
        Exact; +inf and -inf as long as nothing was seen.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.count = 0
        self.zeros = 0
        self.limit = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def largest(self) -> float:
        """Exact largest ``|x|``, 0.0 for a dead tensor."""
        return max(-self.minimum, self.maximum, 0.0) if self.count else 0.0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.limit / BINS

    def update(self, values: NDArray[Any]) -> None:
        """Count the values of one batch, of any shape, as float32.

        Raises ``BadData`` naming the tensor for NaN or infinity; nothing of that batch is counted then.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())  # NaN and infinities come through both
        if not (math.isfinite(low) and math.isfinite(high)):
            wrong = int(flat.size - np.isfinite(flat).sum())
            raise BadData(
                f"the tensor {self.name} has {wrong} of {flat.size} values that are NaN or infinite",
                mend="look at the weights and at the tiles: float must be finite before INT8 can follow it",
            )
        largest = max(-low, high)
        if largest > 0:
            self._widen(math.ldexp(1.0, math.frexp(largest)[1]))
            for start in range(0, flat.size, _BLOCK):
                self._count(flat[start : start + _BLOCK])
        else:
            self.zeros += flat.size
        self.count += flat.size
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def merge(self, other: Histogram) -> None:
        """Add what another histogram of the same tensor has seen."""
        if other.name != self.name:
            raise UsageError(f"{other.name} cannot be merged into {self.name}", mend="merge one tensor's histograms")
        if other.limit:
            self._widen(other.limit)
            self.counts += _halved(other.counts, self._doublings(other.limit))
        self.count += other.count
        self.zeros += other.zeros
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    def _count(self, block: NDArray[np.float32]) -> None:
        factor = BINS / self.limit  # a power of two: the product is exact
        magnitudes = np.abs(block, dtype=np.float32 if factor < _LARGEST_POWER else np.float64)
        places = (magnitudes * magnitudes.dtype.type(factor)).astype(np.intp)
        places += _LANES[: block.size]
        found = np.bincount(places, minlength=2 * BINS).reshape(2, BINS).sum(0)
        zeros = block.size - int(np.count_nonzero(block != 0))
        found[0] -= zeros
        self.zeros += zeros
        self.counts += found

    def _widen(self, limit: float) -> None:
        if self.limit and limit > self.limit:
            self.counts = _halved(self.counts, round(math.log2(limit / self.limit)))
        self.limit = max(self.limit, limit)

    def _doublings(self, limit: float) -> int:
        return round(math.log2(self.limit / limit))


def _halved(counts: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """The counts in bins 2 ** ``times`` as wide."""
    if not times:
        return counts
    result = np.zeros(BINS, np.int64)
    if 1 << times >= BINS:
        result[0] = counts.sum()
    else:
        joined = counts.reshape(-1, 1 << times).sum(1)
        result[: joined.size] = joined
    return result
