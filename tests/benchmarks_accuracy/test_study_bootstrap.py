"""The bootstrap against a direct computation, one draw and one part at a time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from study_bootstrap import draw, estimate, figure_names, figures, interval, named_figures, resampled

from lpcnet_edge import metrics

STRATA = ["free"] * 5 + ["dot"] * 4 + ["line"] * 2


def cells(seed: int, folds: int = 2, seeds: int = 3) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (folds, seeds, len(STRATA), 3, 3))
    counts += 100 * np.eye(3, dtype=np.int64)
    held = np.arange(len(STRATA)) % folds
    for fold in range(folds):
        counts[fold, :, held != fold] = 0
    return counts


def test_figures_are_those_of_the_package() -> None:
    counts = np.random.default_rng(0).integers(0, 99, (4, 3, 3))
    counts[0, 2] = counts[0, :, 2] = 0  # a class that does not occur
    counts[1, 1] = 0  # one that is only predicted
    found = figures(counts)
    for confusion, row in zip(counts, found, strict=True):
        expected = [
            metrics.mean_iou(confusion),
            metrics.mean_pixel_accuracy(confusion),
            metrics.defect_iou(confusion),
            *metrics.iou_per_class(confusion),
            *metrics.pixel_accuracy_per_class(confusion),
        ]
        np.testing.assert_allclose(row, 100 * np.array(expected))
    names = figure_names(("background", "dot", "line"))
    assert len(names) == found.shape[1]
    assert named_figures(counts[2], ("background", "dot", "line"))["iou.dot"] == round(found[2, 4], 3)


def test_every_draw_equals_a_direct_computation() -> None:
    counts = cells(1)
    draws = draw(STRATA, folds=2, seeds=3, draws=40)
    found = resampled(counts, draws)
    for b in range(40):
        by_slot = []
        for slot in range(3):
            pooled = np.zeros((3, 3))
            for fold in range(2):
                training = draws.seeds[b, fold, slot]
                for part, times in enumerate(draws.weights[b]):
                    pooled += times * counts[fold, training, part]
            by_slot.append(figures(pooled))
        np.testing.assert_allclose(found[b], np.mean(by_slot, axis=0))


def test_draws_keep_every_class_at_its_size() -> None:
    draws = draw(STRATA, folds=4, seeds=5, draws=200)
    for name in set(STRATA):
        members = [i for i, of in enumerate(STRATA) if of == name]
        assert (draws.weights[:, members].sum(axis=1) == len(members)).all()
    assert draws.seeds.shape == (200, 4, 5)
    assert set(np.unique(draws.seeds)) == set(range(5))
    assert (draws.weights == draw(STRATA, 4, 5, 200).weights).all()


def test_a_configuration_differs_from_itself_by_nothing() -> None:
    counts = cells(2)
    draws = draw(STRATA, 2, 3, draws=50)
    np.testing.assert_array_equal(interval(resampled(counts, draws) - resampled(counts, draws)), 0)


def test_the_estimate_is_the_mean_over_seeds_of_the_pooled_figures() -> None:
    counts = cells(3)
    by_seed = [metrics.mean_iou(counts[:, seed].sum(axis=(0, 1))) for seed in range(3)]
    assert estimate(counts)[0] == pytest.approx(100 * np.mean(by_seed))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Accuracy of one class from 40 parts, the truth known: 95 % intervals hold it in most of 60 trials."""
    rng = np.random.default_rng(4)
    held = 0
    for trial in range(60):
        hits = rng.binomial(100, rng.beta(8, 4, 40))  # a mean of 2/3
        counts = np.zeros((1, 1, 40, 2, 2), np.int64)
        counts[0, 0, :, 1, 1], counts[0, 0, :, 1, 0], counts[..., 0, 0] = hits, 100 - hits, 100
        low, high = interval(resampled(counts, draw(["one"] * 40, 1, 1, draws=300, seed=trial)))[:, -1]
        held += low <= 200 / 3 <= high
    assert 50 <= held <= 60
