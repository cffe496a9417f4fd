"""A quick look at a network during training; the full account is ``lpcnet-edge check``."""

from __future__ import annotations

import numpy as np

from lpcnet_edge.imaging import resize_image, resize_mask
from lpcnet_edge.metrics import confusion_matrix, defect_iou, mean_iou, mean_pixel_accuracy
from lpcnet_edge.types import Dataset, Segmenter

_BATCH = 16


def validate(segmenter: Segmenter, dataset: Dataset) -> dict[str, float]:
    """mIoU, mPA and defect IoU in points 0..100 over every entry, resized to the segmenter's tile."""
    side, count = segmenter.tile_px, len(segmenter.classes)
    confusion = np.zeros((count, count), dtype=np.int64)
    for first in range(0, len(dataset.entries), _BATCH):
        last = min(first + _BATCH, len(dataset.entries))
        samples = [dataset.read(index) for index in range(first, last)]
        tiles = np.stack([resize_image(sample.image, side, side) for sample in samples])
        truth = np.stack([resize_mask(sample.mask, side, side) for sample in samples])
        confusion += confusion_matrix(truth, segmenter.predict(tiles).classes, count)
    return {
        "mean_iou": 100 * float(mean_iou(confusion)),
        "mean_pixel_accuracy": 100 * float(mean_pixel_accuracy(confusion)),
        "defect_iou": 100 * float(defect_iou(confusion)),
    }
