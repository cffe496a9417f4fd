"""Figures of pooled confusion matrices, and their intervals by a bootstrap over physical parts.

Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapters 13 (percentile intervals) and 8 (structured
data). Parts are drawn with replacement within their class, since photographs of one part are not independent and a
class of six parts must not vanish from a draw; trainings are drawn with replacement within their fold. A difference
of two configurations is taken within each draw, on the same parts and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000


def figure_names(classes: Sequence[str]) -> list[str]:
    """Names of the columns of :func:`figures`."""
    return [
        "mean_iou",
        "mean_pixel_accuracy",
        "defect_iou",
        *(f"iou.{name}" for name in classes),
        *(f"accuracy.{name}" for name in classes),
    ]


def figures(confusion: NDArray[Any]) -> Floats:
    """Confusion matrices (..., K, K) to figures (..., 3 + 2 K) in points, as ``lpcnet_edge.metrics`` defines them."""
    counts = np.asarray(confusion, dtype=np.float64)
    hits, truth, found = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)
    iou, accuracy = _ratio(hits, truth + found - hits), _ratio(hits, truth)
    both = counts[..., 1:, 1:].sum((-2, -1))
    either = counts.sum((-2, -1)) - counts[..., 0, 0]
    means = [_mean(iou), _mean(accuracy), _ratio(both, either)]
    return 100 * np.concatenate([np.stack(means, axis=-1), iou, accuracy], axis=-1)


def named_figures(confusion: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
    """The figures of one matrix by name, rounded to a thousandth of a point."""
    values = np.round(figures(confusion), 3).tolist()
    return dict(zip(figure_names(classes), values, strict=True))


def _ratio(part: Floats, whole: Floats) -> Floats:
    result: Floats = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result


def _mean(values: Floats, axis: int = -1) -> Floats:
    """Mean of what is not nan."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis).astype(np.float64))


@dataclass(frozen=True)
class Draws:
    """``weights`` (B, P): how often each part was drawn; ``seeds`` (B, F, S): which training of each fold."""

    weights: Floats
    seeds: NDArray[np.int64]


def draw(strata: Sequence[str], folds: int, seeds: int, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Draws of parts within their strata and of trainings within their fold; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    of = np.asarray(strata)
    weights = np.zeros((draws, len(of)))
    for name in sorted(set(strata)):
        members = np.flatnonzero(of == name)
        shares = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), shares, size=draws)
    return Draws(weights, rng.integers(seeds, size=(draws, folds, seeds)))


def estimate(cells: NDArray[Any]) -> Floats:
    """Figures of a configuration: pooled over folds and parts for each seed, then the mean over seeds.

    ``cells`` (F, S, P, K, K) counts pixels by fold, seed and part.
    """
    return _mean(figures(cells.sum(axis=(0, 2))), axis=0)


def resampled(cells: NDArray[Any], draws: Draws) -> Floats:
    """(B, figures) of :func:`estimate` on every draw."""
    folds, seeds, parts, classes, _ = cells.shape
    flat = cells.reshape(folds, seeds, parts, -1).astype(np.float64)
    pooled = np.einsum("bp,fspk->bfsk", draws.weights, flat, optimize=True)
    chosen = np.take_along_axis(pooled, draws.seeds[..., None], axis=2).sum(axis=1)
    return _mean(figures(chosen.reshape(-1, seeds, classes, classes)), axis=1)


def interval(values: Floats, level: float = 0.95) -> Floats:
    """(2, figures): the percentile interval over draws; nan where a figure is undefined in a draw."""
    tail = 50 * (1 - level)
    result: Floats = np.percentile(values, [tail, 100 - tail], axis=0)
    return result
