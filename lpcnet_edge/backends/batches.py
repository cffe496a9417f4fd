"""Which batches a number of tiles is computed in. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from lpcnet_edge.errors import UsageError

BUCKETS = (1, 2, 4, 8, 16)
"""The batch sizes that engines are prepared for, unless others are asked for."""


class Bucket(NamedTuple):
    """One batch: ``tiles`` of the tiles from ``start`` on, run as ``size`` tiles; the rest is waste."""

    start: int
    tiles: int
    size: int


def buckets(count: int, sizes: Sequence[int] = BUCKETS) -> tuple[Bucket, ...]:
    """Cut ``count`` tiles into batches of the prepared sizes.

    Full batches of the largest size first. The rest goes into the smallest size that holds it if at most a quarter of
    that batch is waste, or if no size is smaller; else into the largest size that it fills, and so on.

    Raises
    ------
    UsageError
        There is no size, or one below 1.
    """
    return _buckets(count, tuple(sizes))


@lru_cache(maxsize=4096)
def _buckets(count: int, sizes: tuple[int, ...]) -> tuple[Bucket, ...]:
    if not sizes or min(sizes) < 1:
        raise UsageError(f"batch sizes {list(sizes)}", mend="give at least one, each 1 or more")
    ordered = sorted(sizes)
    made: list[Bucket] = []
    start = 0
    while start < count:
        rest = count - start
        fitting = [size for size in ordered if size <= rest]
        above = next((size for size in ordered if size >= rest), None)
        size = above if above is not None and (not fitting or 4 * (above - rest) <= above) else fitting[-1]
        made.append(Bucket(start, min(rest, size), size))
        start += size
    return tuple(made)


def padded(count: int, sizes: Sequence[int]) -> tuple[Bucket, ...]:
    """Cut ``count`` tiles into full batches of the largest size and one of the smallest size that holds the rest.

    For a GPU, where a second launch costs more than some waste. ``sizes`` are ascending and not empty.
    """
    return _padded(count, tuple(sizes))


@lru_cache(maxsize=4096)
def _padded(count: int, sizes: tuple[int, ...]) -> tuple[Bucket, ...]:
    most = sizes[-1]
    full = [Bucket(start, most, most) for start in range(0, count - count % most, most)]
    rest = count % most
    if rest:
        full.append(Bucket(count - rest, rest, next(size for size in sizes if size >= rest)))
    return tuple(full)
