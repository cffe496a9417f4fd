"""Metrics that count pixels: the confusion matrix and what follows from it. Fractions 0..1; nan means undefined.

A class that occurs neither in the ground truth nor in the prediction has no IoU, and one that does not occur in the
ground truth has no pixel accuracy: both are nan, and every mean leaves nan out. ``docs/metrics.md`` has the formulas.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import MaskMismatch, UnknownClass

Confusion = NDArray[np.int64]
"""(C, C) int64: pixels by true class (row) and predicted class (column); index 0 is the background."""


def confusion_matrix(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Confusion:
    """Count pixels by true and predicted class.

    Matrices of several images add up to the matrix of all of them.

    Parameters
    ----------
    truth, predicted
        Class indices below ``classes``, of one shape.
    classes
        Number of classes C, the background included.

    Returns
    -------
    Confusion
        (C, C) int64, rows by truth, columns by prediction.

    Raises
    ------
    MaskMismatch
        The shapes differ.
    UnknownClass
        An index is negative, or ``classes`` or more.
    """
    if truth.shape != predicted.shape:
        raise MaskMismatch(
            f"a ground truth of shape {truth.shape} was compared with a prediction of shape {predicted.shape}",
            mend="resize the mask to the tile (imaging.resize_mask) before comparing",
        )
    for name, indices in (("ground truth", truth), ("prediction", predicted)):
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < classes:
            raise UnknownClass(
                f"the {name} holds class indices {int(indices.min())}..{int(indices.max())}, "
                f"the network and the dataset have 0..{classes - 1}",
                mend="check that the masks and the weights have the same list of classes",
            )
    pairs = truth.ravel().astype(np.int64) * classes + predicted.ravel().astype(np.int64, copy=False)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


def iou_per_class(confusion: Confusion) -> NDArray[np.float64]:
    """Intersection over union of every class, (C,) float64; nan for a class in neither truth nor prediction."""
    hits = np.diag(confusion)
    return _ratio(hits, confusion.sum(axis=0) + confusion.sum(axis=1) - hits)


def mean_iou(confusion: Confusion, *, background: bool = True) -> float:
    """Mean of the defined class IoUs, with or without class 0; nan if none is defined."""
    return mean_of_defined(iou_per_class(confusion)[0 if background else 1 :])


def pixel_accuracy_per_class(confusion: Confusion) -> NDArray[np.float64]:
    """Share of each class's true pixels that were predicted as it (recall), (C,) float64; nan if it has none."""
    return _ratio(np.diag(confusion), confusion.sum(axis=1))


def mean_pixel_accuracy(confusion: Confusion) -> float:
    """mPA: mean of the defined pixel accuracies, background included; nan if none is defined."""
    return mean_of_defined(pixel_accuracy_per_class(confusion))


def defect_confusion(confusion: Confusion) -> Confusion:
    """Merge all defect classes into one: (2, 2), background against any defect."""
    rows = np.stack([confusion[0], confusion[1:].sum(axis=0)])
    return np.stack([rows[:, 0], rows[:, 1:].sum(axis=1)], axis=1)


def defect_iou(confusion: Confusion) -> float:
    """IoU of "any defect" against background, whichever defect class was predicted; nan without any defect pixel."""
    return float(iou_per_class(defect_confusion(confusion))[1])


def defect_precision(confusion: Confusion) -> float:
    """Share of the pixels predicted as any defect that are any defect; nan if none is predicted."""
    binary = defect_confusion(confusion)
    return float(_ratio(binary[1, 1], binary[:, 1].sum()))


def defect_recall(confusion: Confusion) -> float:
    """Share of the true defect pixels predicted as any defect; nan if there are none."""
    binary = defect_confusion(confusion)
    return float(_ratio(binary[1, 1], binary[1].sum()))


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not nan; nan if none is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Elementwise part / whole, nan where the whole is 0."""
    ratio: NDArray[np.float64] = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=ratio, where=np.asarray(whole) > 0)
    return ratio
