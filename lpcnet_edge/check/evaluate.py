"""Measure a segmenter on a labelled dataset. ``docs/metrics.md`` defines the protocol and every figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpcnet_edge.check.evaluation import Evaluation, ImageResult
from lpcnet_edge.check.walk import Checked, Progress, walk
from lpcnet_edge.config import suggest
from lpcnet_edge.decision import Rules, counting_map, decide
from lpcnet_edge.errors import UsageError
from lpcnet_edge.metrics import (
    Confusion,
    confusion_matrix,
    count_false_alarms,
    join_defects,
    match_defects,
    reliability,
)
from lpcnet_edge.types import Dataset, Entry, Segmenter

MAX_STRATUM_VALUES = 32
"""A stratum key with more values than this is an identifier; it is reported only where it is asked for."""


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    batch: int = 16,
    rules: Rules | None = None,
    strata: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict every image of a dataset, free ones too, resized whole to the segmenter's tile, and measure.

    Parameters
    ----------
    segmenter, dataset
        Of the same channels and classes.
    batch
        Images a call of ``segmenter.predict``.
    rules
        When an image is called defective, and what counts as caught; by default from one predicted defect pixel on.
    strata
        Keys of ``Entry.strata`` to report apart; by default all but ``fold`` and ``class``.
    progress
        Called with the number of images done and their total.

    Raises
    ------
    UsageError
        The dataset has other channels or classes than the segmenter, or not the strata asked for.
    BadConfig
        A rule names an unknown class.
    BadData
        The dataset is empty or has a file that cannot be used.
    """
    rules = rules or Rules()
    rules.check_classes(segmenter.classes)
    keys = _stratum_keys(dataset.entries) if strata is None else _known_keys(strata, dataset)
    classes = len(segmenter.classes)
    total = np.zeros((classes, classes), dtype=np.int64)
    by_stratum: dict[str, dict[str, Confusion]] = {key: {} for key in keys}
    images: list[ImageResult] = []
    defects = []
    nothing = np.zeros(0, np.uint8)
    told = told_defect = reliability(nothing, nothing, nothing)
    for checked in walk(segmenter, dataset, batch=batch, progress=progress):
        confusion = confusion_matrix(checked.truth, checked.predicted, classes)
        total += confusion
        for key in keys:
            value = checked.entry.strata.get(key, "")
            by_stratum[key][value] = by_stratum[key].get(value, 0) + confusion
        told += reliability(checked.truth, checked.predicted, checked.confidence)
        flagged = checked.predicted > 0
        told_defect += reliability(checked.truth[flagged], checked.predicted[flagged], checked.confidence[flagged])
        verdict = decide(
            checked.predicted,
            checked.confidence,
            segmenter.classes,
            rules,
            part_id=checked.entry.part,
            shown_px=checked.shown_px,
        )
        if checked.defective:
            counting = counting_map(checked.predicted, verdict, segmenter.classes, rules, shown_px=checked.shown_px)
            defects.append(match_defects(checked.truth, counting))
        images.append(_image_result(checked, confusion, rejected=verdict.outcome != "pass"))
    return Evaluation(
        dataset=dataset.name,
        digest=dataset.digest(),
        classes=segmenter.classes,
        tile_px=segmenter.tile_px,
        rules=rules,
        confusion=total,
        by_stratum={key: dict(sorted(values.items())) for key, values in by_stratum.items()},
        defects=join_defects(defects),
        images=tuple(images),
        reliability=told,
        reliability_of_defects=told_defect,
    )


def _image_result(checked: Checked, confusion: Confusion, *, rejected: bool) -> ImageResult:
    return ImageResult(
        entry=checked.entry,
        defective=checked.defective,
        rejected=rejected,
        score=checked.score,
        truth_px=confusion.sum(axis=1),
        false_alarms=count_false_alarms(checked.truth, checked.predicted),
    )


def _stratum_keys(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The keys to report when none are asked for, in the order in which they first occur."""
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, value in entry.strata.items():
            values.setdefault(key, set()).add(value)
    return tuple(
        key for key, seen in values.items() if key not in ("fold", "class") and len(seen) <= MAX_STRATUM_VALUES
    )


def _known_keys(asked: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    """The keys asked for; one that no entry has is refused."""
    known = sorted({key for entry in dataset.entries for key in entry.strata})
    for key in asked:
        if key not in known:
            raise UsageError(
                f"{dataset.name} is not grouped by '{key}'",
                mend=suggest(key, known) if known else "leave it out: this dataset has no strata",
            )
    return tuple(asked)
