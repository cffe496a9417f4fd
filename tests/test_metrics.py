"""Every figure against scikit-learn on random input, or against a number worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix as sk_confusion
from sklearn.metrics import jaccard_score, precision_score, recall_score

from lpcnet_edge import metrics
from lpcnet_edge.errors import MaskMismatch, UnknownClass

CLASSES = 5
maps = hnp.arrays(np.uint8, (2, 9, 11), elements=st.integers(0, CLASSES - 1))
sparse_maps = hnp.arrays(np.uint8, (2, 9, 11), elements=st.sampled_from([0, 0, 0, 0, 2, 4]))
flags = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40)


def sk_iou(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> list[float]:
    """Class IoUs by scikit-learn, nan for a class that neither side has."""
    shown = np.union1d(truth, predicted)
    values = jaccard_score(truth, predicted, labels=range(CLASSES), average=None, zero_division=0)
    return [value if index in shown else math.nan for index, value in enumerate(values)]


@given(st.one_of(maps, sparse_maps))
def test_pixel_metrics_agree_with_scikit_learn(pair: NDArray[np.uint8]) -> None:
    truth, predicted = pair[0].ravel(), pair[1].ravel()
    confusion = metrics.confusion_matrix(pair[0], pair[1], CLASSES)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, sk_confusion(truth, predicted, labels=range(CLASSES)))

    iou = sk_iou(truth, predicted)
    np.testing.assert_allclose(metrics.iou_per_class(confusion), iou)
    np.testing.assert_allclose(metrics.mean_iou(confusion), np.nanmean(iou))
    foreground = [value for value in iou[1:] if not math.isnan(value)]
    np.testing.assert_allclose(
        metrics.mean_iou(confusion, background=False), np.mean(foreground) if foreground else math.nan
    )

    accuracy = recall_score(truth, predicted, labels=range(CLASSES), average=None, zero_division=np.nan)
    np.testing.assert_allclose(metrics.pixel_accuracy_per_class(confusion), accuracy)
    np.testing.assert_allclose(metrics.mean_pixel_accuracy(confusion), np.nanmean(accuracy))

    binary = truth > 0, predicted > 0
    wanted = jaccard_score(*binary, zero_division=0) if any(side.any() for side in binary) else math.nan
    np.testing.assert_allclose(metrics.defect_iou(confusion), wanted)
    np.testing.assert_allclose(metrics.defect_precision(confusion), precision_score(*binary, zero_division=np.nan))
    np.testing.assert_allclose(metrics.defect_recall(confusion), recall_score(*binary, zero_division=np.nan))


@given(maps, maps)
def test_confusion_matrices_add_up(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
    parts = metrics.confusion_matrix(*first, CLASSES) + metrics.confusion_matrix(*second, CLASSES)
    whole = metrics.confusion_matrix(*np.concatenate([first, second], axis=1), CLASSES)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.uint64])
def test_indices_of_any_integer_type_are_counted(kind: type[np.integer[Any]]) -> None:
    indices = np.array([0, 1, 1], kind)
    assert metrics.confusion_matrix(indices, indices, 2).tolist() == [[1, 0], [0, 2]]


def test_a_class_that_is_only_predicted_has_an_iou_of_zero_and_no_accuracy() -> None:
    confusion = metrics.confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 4)
    np.testing.assert_array_equal(metrics.iou_per_class(confusion), [0.5, 1.0, 0.0, np.nan])
    np.testing.assert_array_equal(metrics.pixel_accuracy_per_class(confusion), [0.5, 1.0, np.nan, np.nan])
    assert metrics.mean_iou(confusion) == 0.5
    assert metrics.mean_pixel_accuracy(confusion) == 0.75


def test_maps_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(MaskMismatch, match=r"\(2, 2\).*\(2, 3\)"):
        metrics.confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
    with pytest.raises(UnknownClass, match=r"prediction holds class indices 0\.\.7"):
        metrics.confusion_matrix(np.zeros(2, np.uint8), np.array([0, 7], np.uint8), 6)
    with pytest.raises(UnknownClass, match=r"ground truth holds class indices -1\.\.0"):
        metrics.confusion_matrix(np.array([-1, 0]), np.array([0, 0]), 6)


def test_defects_are_components_of_one_class_and_caught_from_30_percent_on() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[0:2, 0:5] = 1  # 10 px: 3 of them predicted, as another class
    truth[2:4, 0:5] = 2  # touches the first, is a defect of its own: 2 px predicted
    truth[10:20, 10:20] = 2  # 100 px: all predicted as its class
    truth[6, 6] = 1  # too small to count
    truth[7, 7] = 1  # connected with it over the corner: 2 px together
    predicted = np.zeros_like(truth)
    predicted[0, 0:3] = 2
    predicted[3, 0:2] = 2
    predicted[10:20, 10:20] = 2

    defects = metrics.match_defects(truth, predicted)
    assert defects.label.tolist() == [1, 2, 2]
    assert defects.area_px.tolist() == [10, 10, 100]
    np.testing.assert_allclose(defects.overlap, [0.3, 0.2, 1.0])
    np.testing.assert_allclose(defects.overlap_as_class, [0.0, 0.2, 1.0])
    assert defects.ignored == 1

    assert metrics.defect_level_recall(defects) == metrics.Recall(count=3, caught=2, caught_as_class=1)
    assert metrics.smallest_caught_px(defects) == 10
    assert metrics.largest_missed_px(defects) == 10
    assert metrics.smallest_caught_px(defects, overlap=0.5) == 100
    assert metrics.recall_by_size(defects, edges_px=(10, 100)) == [
        metrics.Recall(0, 0, 0, from_px=0, to_px=10),
        metrics.Recall(2, 1, 0, from_px=10, to_px=100),
        metrics.Recall(1, 1, 1, from_px=100, to_px=None),
    ]
    assert len(defects.of_class(2)) == 2


@given(sparse_maps)
def test_size_bins_hold_every_defect_once(pair: NDArray[np.uint8]) -> None:
    defects = metrics.match_defects(*pair, min_area_px=1)
    whole = metrics.defect_level_recall(defects)
    bins = metrics.recall_by_size(defects, edges_px=(2, 4, 9))
    assert sum(size.count for size in bins) == whole.count
    assert sum(size.caught for size in bins) == whole.caught
    assert sum(size.caught_as_class for size in bins) == whole.caught_as_class <= whole.caught
    assert defects.area_px.sum() == np.count_nonzero(pair[0])
    perfect = metrics.defect_level_recall(metrics.match_defects(pair[0], pair[0], min_area_px=1))
    assert perfect.caught == perfect.caught_as_class == perfect.count


def test_defects_of_several_images_join() -> None:
    truth = np.ones((3, 3), np.uint8)
    one = metrics.match_defects(truth, truth)
    none = metrics.match_defects(np.zeros_like(truth), truth)
    joined = metrics.join_defects([one, none, one])
    assert len(none) == 0
    assert joined.area_px.tolist() == [9, 9]
    assert metrics.smallest_caught_px(none) is None
    assert metrics.largest_missed_px(joined) is None


def test_a_false_alarm_touches_no_defect() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[0, 0] = 1
    predicted = np.zeros_like(truth)
    predicted[0:3, 0:3] = 2  # covers the defect, so it is no false alarm, whatever its class
    predicted[5:8, 5:8] = 1  # a false alarm of 9 px
    predicted[9, 0] = 1  # too small to count
    assert metrics.count_false_alarms(truth, predicted) == 1
    assert metrics.count_false_alarms(truth, predicted, min_area_px=1) == 2


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 17, 0.0, 0.1843), (1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (17, 17, 0.8157, 1.0)],
)
def test_wilson_interval(count: int, total: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(count, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_interval_solves_the_score_equation(trial: tuple[int, int]) -> None:
    count, total = trial
    low, high = metrics.wilson_interval(count, total)
    assert 0 <= low <= count / total <= high <= 1
    for bound in (low, high):
        if 1e-12 < bound < 1 - 1e-12:  # the bounds are where |share - p| is z standard errors of p
            distance = abs(count / total - bound) / math.sqrt(bound * (1 - bound) / total)
            assert distance == pytest.approx(1.959964, rel=1e-5)


def test_nothing_observed_says_nothing() -> None:
    nothing = metrics.rate(0, 0)
    assert math.isnan(nothing.share)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


@given(flags)
def test_escapes_and_overkill_count_the_two_errors(pairs: list[tuple[bool, bool]]) -> None:
    defective, rejected = (np.array([pair[k] for pair in pairs], dtype=bool) for k in (0, 1))
    escapes, overkill = metrics.escapes(defective, rejected), metrics.overkill(defective, rejected)
    assert escapes.count == pairs.count((True, False))
    assert overkill.count == pairs.count((False, True))
    assert escapes.total + overkill.total == len(pairs)


def test_a_part_has_what_any_of_its_images_has() -> None:
    names, joined = metrics.any_by_part(["b", "a", "b", "a"], np.array([False, False, True, False]))
    assert names == ["b", "a"]
    assert joined.tolist() == [True, False]


def test_gate_by_part_and_by_image() -> None:
    scores = np.array([0.9, 0.2, 0.4, 0.3, 0.1, 0.25, 0.5])
    parts = ["a", "a", "b", "b", "c", "d", "e"]
    defective = np.array([True, True, True, True, False, False, False])
    by_part = metrics.gate_by_part(scores, parts, defective)
    assert by_part.threshold.tolist() == [0.4, 0.9]  # part b is seen best at 0.4, part a at 0.9
    np.testing.assert_allclose(by_part.cleared, [2 / 3, 1.0])
    assert by_part.weakest.tolist() == [2, 0]
    assert by_part.free_images == 3
    by_image = metrics.gate_by_image(scores, defective)
    assert by_image.threshold.tolist() == [0.2, 0.3, 0.4, 0.9]
    np.testing.assert_allclose(by_image.cleared, [1 / 3, 2 / 3, 2 / 3, 1.0])


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from("abcde"), st.booleans()), min_size=1, max_size=30))
def test_the_gate_is_the_largest_threshold_without_a_miss(images: list[tuple[float, str, bool]]) -> None:
    scores = np.array([score for score, _, _ in images], dtype=np.float32)
    parts = [part for _, part, _ in images]
    defective = np.array([flag for _, _, flag in images])
    gate = metrics.gate_by_part(scores, parts, defective)

    def missed(threshold: float) -> int:
        caught = {part for score, part, flag in images if flag and score >= threshold}
        return len({part for _, part, flag in images if flag} - caught)

    assert len(gate.threshold) == len({part for _, part, flag in images if flag})
    for allowed, threshold in enumerate(gate.threshold.tolist()):
        assert missed(threshold) <= allowed < missed(np.nextafter(threshold, 2))
        free = [score for score, _, flag in images if not flag]
        if free:
            assert gate.cleared[allowed] == pytest.approx(sum(score < threshold for score in free) / len(free))


def test_a_gate_without_defects_has_no_threshold() -> None:
    gate = metrics.gate_by_part(np.array([0.3]), ["a"], np.array([False]))
    assert len(gate.threshold) == len(gate.cleared) == 0
    assert gate.free_images == 1
    alone = metrics.gate_by_part(np.array([0.3]), ["a"], np.array([True]))
    assert np.isnan(alone.cleared).all()
