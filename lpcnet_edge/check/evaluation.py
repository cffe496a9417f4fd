"""What an evaluation measured, and its published JSON form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge import metrics
from lpcnet_edge.config import to_mapping
from lpcnet_edge.decision import Rules
from lpcnet_edge.metrics import Confusion, Defects, Gate, Rate, Recall, Reliability
from lpcnet_edge.types import Entry


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image's part in an evaluation.

    Attributes
    ----------
    entry
        The image.
    defective, rejected
        What it is, by its mask as annotated, and what the rules made of the prediction.
    score
        Stage 1's largest defect probability.
    truth_px
        (C,) int64, pixels of every class in its ground truth at the tile's resolution.
    false_alarms
        Predicted defects that touch no true one.
    """

    entry: Entry
    defective: bool
    rejected: bool
    score: float
    truth_px: NDArray[np.int64]
    false_alarms: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured on a dataset; figures are computed from these counts on demand.

    Attributes
    ----------
    dataset, digest
        Name and content digest of the dataset.
    classes, tile_px, rules
        Those of the segmenter, and the verdict rules used.
    confusion
        (C, C) int64 over all images.
    by_stratum
        For every reported stratum key, the confusion matrix of each of its values.
    defects
        Every defect of the ground truth and how much of it was predicted.
    images
        Every image, in the dataset's order.
    reliability, reliability_of_defects
        How sure the network was of its pixels and how often it was right; the second of pixels predicted as a defect.
    """

    dataset: str
    digest: str
    classes: tuple[str, ...]
    tile_px: int
    rules: Rules
    confusion: Confusion
    by_stratum: Mapping[str, Mapping[str, Confusion]]
    defects: Defects
    images: tuple[ImageResult, ...]
    reliability: Reliability
    reliability_of_defects: Reliability

    @property
    def parts(self) -> list[str]:
        """The physical part of every image."""
        return [image.entry.part for image in self.images]

    @property
    def defective(self) -> NDArray[np.bool_]:
        """(N,) whether each image has a defect."""
        return np.array([image.defective for image in self.images], dtype=np.bool_)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """(N,) whether each image was called defective."""
        return np.array([image.rejected for image in self.images], dtype=np.bool_)

    @property
    def scores(self) -> NDArray[np.float64]:
        """(N,) stage 1's score of each image."""
        return np.array([image.score for image in self.images], dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Plain data as documented in docs/metrics.md: points 0..100, null for what is undefined."""
        candidate: dict[str, Any] = {**_pixel_figures(self.confusion), "per_class": self._per_class()}
        for key, values in self.by_stratum.items():
            name = "per_image_class" if key == "class" else f"per_{key}"
            candidate[name] = {value: _pixel_figures(confusion) for value, confusion in values.items()}
        candidate["confusion"] = self.confusion.tolist()
        folds = {image.entry.strata.get("fold") for image in self.images}
        return {
            "dataset": {
                "name": self.dataset,
                "digest": self.digest,
                "images": len(self.images),
                "free_images": int(np.count_nonzero(~self.defective)),
                "parts": len(set(self.parts)),
                "fold": folds.pop() if len(folds) == 1 else None,
                "tile_px": self.tile_px,
            },
            "rules": to_mapping(self.rules),
            "candidate": candidate,
            "defects": self._defects(),
            "escapes": self._escapes(),
            "overkill": self._overkill(),
            "gate": self._gate(),
            "confidence": {
                "all_pixels": _reliability(self.reliability),
                "defect_pixels": _reliability(self.reliability_of_defects),
            },
        }

    def _per_class(self) -> dict[str, Any]:
        iou = metrics.iou_per_class(self.confusion)
        accuracy = metrics.pixel_accuracy_per_class(self.confusion)
        truth_px = np.stack([image.truth_px for image in self.images])
        figures = {}
        for index, name in enumerate(self.classes):
            shown = truth_px[truth_px[:, index] > 0, index] / self.tile_px**2
            row: dict[str, Any] = {
                "iou": points(iou[index]),
                "pixel_accuracy": points(accuracy[index]),
                "pixels": int(self.confusion[index].sum()),
                "predicted_pixels": int(self.confusion[:, index].sum()),
                "images": len(shown),
                "mean_area": points(shown.mean()) if len(shown) else None,
            }
            if index:
                row["defects"] = _recall(metrics.defect_level_recall(self.defects.of_class(index)))
            figures[name] = row
        return figures

    def _defects(self) -> dict[str, Any]:
        return {
            "overlap": points(metrics.CAUGHT_OVERLAP),
            "min_area_px": metrics.MIN_DEFECT_PX,
            "ignored": self.defects.ignored,
            **_recall(metrics.defect_level_recall(self.defects)),
            "smallest_caught_px": metrics.smallest_caught_px(self.defects),
            "largest_missed_px": metrics.largest_missed_px(self.defects),
            "false_alarms": sum(image.false_alarms for image in self.images),
            "by_size": [
                {"from_px": part.from_px, "to_px": part.to_px, **_recall(part)}
                for part in metrics.recall_by_size(self.defects)
            ],
        }

    def _escapes(self) -> dict[str, Any]:
        names, defective = metrics.any_by_part(self.parts, self.defective)
        _, rejected = metrics.any_by_part(self.parts, self.rejected)
        return {
            "images": _rate(metrics.escapes(self.defective, self.rejected)),
            "parts": _rate(metrics.escapes(defective, rejected)),
            "escaped_parts": _named(names, defective & ~rejected),
        }

    def _overkill(self) -> dict[str, Any]:
        names, defective = metrics.any_by_part(self.parts, self.defective)
        _, rejected = metrics.any_by_part(self.parts, self.rejected)
        return {
            "images": _rate(metrics.overkill(self.defective, self.rejected)),
            "parts": _rate(metrics.overkill(defective, rejected)),
            "rejected_good_parts": _named(names, ~defective & rejected),
        }

    def _gate(self) -> dict[str, Any]:
        by_part = metrics.gate_by_part(self.scores, self.parts, self.defective)
        by_image = metrics.gate_by_image(self.scores, self.defective)
        lowest_by_class: dict[str, float] = {}
        for index in by_part.weakest.tolist():
            lowest_by_class.setdefault(self.class_of(index), self.images[index].score)
        return {
            "free_images": by_part.free_images,
            "parts": _gate_figures(by_part),
            "images": _gate_figures(by_image),
            "held_back_by": self._held_back_by(by_part),
            "lowest_score_by_class": lowest_by_class,
            "curve": [
                {"missed_parts": missed, "threshold": threshold, "cleared": points(cleared)}
                for missed, (threshold, cleared) in enumerate(
                    zip(by_part.threshold.tolist(), by_part.cleared.tolist(), strict=True)
                )
            ],
        }

    def _held_back_by(self, gate: Gate) -> dict[str, Any] | None:
        if not len(gate.weakest):
            return None
        index = int(gate.weakest[0])
        entry = self.images[index].entry
        return {
            "part": entry.part,
            "image": entry.name,
            "class": self.class_of(index),
            "score": self.images[index].score,
        }

    def class_of(self, index: int) -> str:
        """The class of a defective image: the one it is filed under, else its largest."""
        image = self.images[index]
        return self.classes[image.entry.label or int(image.truth_px[1:].argmax()) + 1]


def points(fraction: float) -> float | None:
    """A fraction as points 0..100 with three decimals; None for nan."""
    return None if math.isnan(fraction) else round(100 * float(fraction), 3)


def _pixel_figures(confusion: Confusion) -> dict[str, float | None]:
    return {
        "mean_iou": points(metrics.mean_iou(confusion)),
        "mean_iou_without_background": points(metrics.mean_iou(confusion, background=False)),
        "mean_pixel_accuracy": points(metrics.mean_pixel_accuracy(confusion)),
        "defect_iou": points(metrics.defect_iou(confusion)),
        "defect_precision": points(metrics.defect_precision(confusion)),
        "defect_recall": points(metrics.defect_recall(confusion)),
    }


def _recall(recall: Recall) -> dict[str, Any]:
    share = metrics.rate(recall.caught, recall.count)
    return {
        "count": recall.count,
        "caught": recall.caught,
        "recall": points(share.share),
        "low": points(share.low),
        "high": points(share.high),
        "caught_as_class": recall.caught_as_class,
        "recall_as_class": points(metrics.rate(recall.caught_as_class, recall.count).share),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {
        "count": rate.count,
        "total": rate.total,
        "rate": points(rate.share),
        "low": points(rate.low),
        "high": points(rate.high),
    }


def _reliability(counts: Reliability) -> dict[str, Any]:
    return {
        "pixels": int(counts.pixels.sum()),
        "ece": points(metrics.expected_calibration_error(counts)),
        "curve": [
            {
                "from": part.low,
                "to": part.high,
                "pixels": part.pixels,
                "confidence": points(part.confidence),
                "accuracy": points(part.accuracy),
            }
            for part in metrics.reliability_curve(counts)
        ],
    }


def _gate_figures(gate: Gate) -> dict[str, Any]:
    if not len(gate.threshold):
        return {"threshold": None, "cleared": None, "defective": 0}
    return {
        "threshold": float(gate.threshold[0]),
        "cleared": points(gate.cleared[0]),
        "defective": len(gate.threshold),
    }


def _named(names: Sequence[str], flags: NDArray[np.bool_]) -> list[str]:
    return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]
