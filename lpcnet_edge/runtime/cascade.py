"""The gate between the stages: which tiles go on to stage 2. Pure arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.batches import BUCKETS, Bucket, buckets
from lpcnet_edge.runtime.tile_plan import TilePlan

__all__ = ["BUCKETS", "Bucket", "buckets", "overload", "select", "uncertain"]


_NONE = np.zeros(0, dtype=np.int32)
_NONE.setflags(write=False)


def select(scores: NDArray[np.floating], threshold: float | None, plan: TilePlan) -> NDArray[np.int32]:
    """The tiles that stage 2 must see: those that the gate does not clear, and the tiles that overlap them.

    A tile is cleared where its score is below the threshold, as in :mod:`lpcnet_edge.metrics.gate`; a score that is not
    a number clears nothing.

    Parameters
    ----------
    scores
        (N,) stage 1's score of every tile of the plan.
    threshold
        0..1; None, the gate being off, picks every tile.
    plan
        Says which tiles overlap.

    Returns
    -------
    ndarray
        (M,) int32, ascending.
    """
    if threshold is None:
        return np.arange(len(plan), dtype=np.int32)
    suspect = (~(scores < threshold)).nonzero()[0]
    if suspect.size == 0 or suspect.size == scores.size:
        return suspect.astype(np.int32)
    # A tile is picked where the block of its neighbours holds a suspect: a sum over a range of rows, then of columns.
    rows, columns = plan.grid.shape
    down = np.zeros((rows + 1, columns), dtype=np.int32)
    down[plan.row[suspect] + 1, plan.column[suspect]] = 1
    np.cumsum(down, axis=0, out=down)
    across = np.zeros((rows, columns + 1), dtype=np.int32)
    np.cumsum(down[plan.row_to] - down[plan.row_from], axis=1, out=across[:, 1:])
    near = across[:, plan.column_to] > across[:, plan.column_from]
    return np.flatnonzero(near[plan.row, plan.column]).astype(np.int32)


def overload(picked: int, tiles: int, budget: int | None) -> str | None:
    """Why a frame that picks more tiles than the budget allows is rejected, or None for one within it.

    The threshold is never moved to fit the budget: what was promised for it would be void.
    """
    if budget is None or picked <= budget:
        return None
    return f"overload: {picked} of {tiles} tiles are suspect or beside one, the budget is {budget}"


def uncertain(scores: NDArray[np.floating], band: tuple[float, float] | None) -> NDArray[np.int32]:
    """The tiles whose score lies in a band, lower end included and upper end not: (K,) int32, ascending.

    A frame that would pass although there are any asks for review (:func:`lpcnet_edge.decision.ask_review`). A band
    below the gate's threshold asks about tiles that were nearly picked, one above it about tiles that stage 1 suspects
    and stage 2 finds free.
    """
    if band is None:
        return _NONE
    return np.flatnonzero((scores >= band[0]) & (scores < band[1])).astype(np.int32)
