"""Which images calibrate and which check: never one physical part in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpcnet_edge.build.lint_sources import lint_set, look_at_dataset, without_look_alikes, without_parts_of
from lpcnet_edge.build.settings import Progress
from lpcnet_edge.datasets import open_dataset, with_fold, without_fold
from lpcnet_edge.datasets.selection import known_values
from lpcnet_edge.errors import BadData, LpcnetError, UsageError
from lpcnet_edge.files import name_as_text
from lpcnet_edge.network.weights import weights_path
from lpcnet_edge.types import Dataset
from lpcnet_edge.yamlfile import load_yaml

FABRIC_CALIBRATION = "carbon-fabric:count=256,seed=7100001"
FABRIC_CHECK = "carbon-fabric:count=96,seed=7200001"
CHECK_SHARE = 4
"""Without folds, one part in this many is kept for the check, by the digest of its name."""


@dataclass(frozen=True)
class Splits:
    """The two datasets, and how they were told apart, in words."""

    calibration: Dataset
    check: Dataset
    note: str


def generated_splits() -> Splits:
    """Generated carbon fabric: different seeds, so different parts."""
    return Splits(open_dataset(FABRIC_CALIBRATION), open_dataset(FABRIC_CHECK), f"check on {FABRIC_CHECK}")


def split(dataset: Dataset, weights: str | Path, check_folds: Sequence[str] | None, progress: Progress) -> Splits:
    """Divide a dataset: by its folds where it has them, else by physical part.

    The check folds are those named, else those that the weights' card says were not trained on. Parts of the rest that
    look like one of the check are left out of calibration. Raises ``BadData`` where nothing to check on has a defect.
    """
    folds = known_values(dataset, "fold")
    if not folds:
        if check_folds:
            raise UsageError(f"{dataset.name} has no folds", mend="leave --check-fold out: it is split by part")
        kept = [index for index, entry in enumerate(dataset.entries) if not _is_check(entry.part)]
        rest = [index for index, entry in enumerate(dataset.entries) if _is_check(entry.part)]
        if not kept or not rest:
            raise UsageError(
                f"{dataset.name} has {len({e.part for e in dataset.entries})} parts, too few to calibrate and to check",
                mend="give the images to check with --check-data",
            )
        check = _measurable(dataset.select(rest))
        calibration, left_out = _apart(dataset.select(kept), check, progress)
        return Splits(calibration, check, f"check on a quarter of the parts{left_out}")
    chosen = set(check_folds or _untrained(weights, folds))
    check = _measurable(with_fold(dataset, chosen))
    calibration, left_out = _apart(without_fold(dataset, chosen), check, progress)
    return Splits(calibration, check, f"check on fold {', '.join(sorted(chosen))}{left_out}")


def split_from(dataset: Dataset, check: Dataset, name: str, progress: Progress) -> Splits:
    """Calibrate with one dataset and check on another.

    Raises ``BadData`` where they show the same images or parts, or nothing to check on has a defect.
    """
    _measurable(check)

    def told(phase: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(phase, done, total)

    ours = look_at_dataset(dataset, told("looking at the calibration data"))
    theirs = look_at_dataset(check, told("looking at the check data"))
    for finding in lint_set(ours, theirs).findings:
        if finding.severity == "refuse" and finding.kind.startswith("leak_"):
            raise BadData(f"calibration and check would share images: {finding.message}", mend=finding.mend)
    return Splits(dataset, check, f"check on {name}")


def _apart(calibration: Dataset, check: Dataset, progress: Progress) -> tuple[Dataset, str]:
    """The calibration images of no part that the check shows, by name or as far as looks tell; what to say of it."""
    calibration, _ = without_parts_of(calibration, check)
    calibration, dropped = without_look_alikes(
        calibration, check, lambda done, total: progress("looking for look-alikes", done, total)
    )
    if not calibration.entries:
        raise BadData(
            f"{calibration.name}: every part shows or looks like one of the check's",
            mend="give other images to check with --check-data, or correct the parts",
        )
    return calibration, f"; {len(dropped)} parts that look like one of it do not calibrate" if dropped else ""


def _measurable(check: Dataset) -> Dataset:
    """The data to check on, unless every candidate would hold on them: one that sees no defect anywhere, too."""
    if not any(entry.label for entry in check.entries):
        raise BadData(
            f"none of the {len(check.entries)} images of {check.name} to check on has a defect, so that a network that "
            "sees none would pass",
            mend="name images with defects: as --check-data or, where the data has folds, by --check-fold",
        )
    return check


def _is_check(part: str) -> bool:
    return int.from_bytes(hashlib.sha256(name_as_text(part).encode()).digest()[:4], "big") % CHECK_SHARE == 0


def trained_on(weights: str | Path) -> dict[str, Any]:
    """What the card beside the weights says of the images that they were trained on: ``data``, ``digest``, ``folds``.

    Empty where there is no card, none that can be read, or only one that states the SHA-256 of other weights.
    """
    path = weights_path(weights)
    for candidate in (path.with_suffix(".yaml"), path.with_name("card.yaml")):
        if candidate.is_file():
            try:
                card: Any = load_yaml(candidate)
            except LpcnetError:
                continue
            about = card.get("weights") if isinstance(card, dict) else None
            stated = about.get("sha256") if isinstance(about, dict) else None
            if stated is not None and stated != hashlib.sha256(path.read_bytes()).hexdigest():
                continue  # the card of a file that stood here before, or stands beside this one
            data = card.get("data") if isinstance(card, dict) else None
            if not isinstance(data, dict):
                return {}
            stated_folds = data.get("folds")
            folds = [str(fold) for fold in stated_folds] if isinstance(stated_folds, list) else []
            return {"data": str(data.get("name")), "digest": str(data.get("digest")), "folds": folds}
    return {}


def _untrained(weights: str | Path, folds: Sequence[str]) -> list[str]:
    """The folds that the weights' card does not list, or the first one where it lists none of these, or all."""
    trained = trained_on(weights).get("folds", ())
    left = [fold for fold in folds if fold not in trained]
    return left if 0 < len(left) < len(folds) else [folds[0]]
