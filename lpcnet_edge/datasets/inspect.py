"""What is wrong with a dataset, found by reading all of it once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData, MaskMismatch, UnknownClass, UnreadableImage
from lpcnet_edge.types import Dataset, Entry, Image

LOOK_ALIKE = 0.92
"""Correlation from which two images pass for the same surface. On Magnetic Tile, photographs of one tile reach 0.69 to
0.999, those of different tiles never more than 0.916."""

_SIDE_PX, _BLUR_PX = 64, 4.0
_BLOCK = 512

_KINDS: dict[type[BadData], str] = {
    UnreadableImage: "unreadable_image",
    MaskMismatch: "mask_mismatch",
    UnknownClass: "unknown_class",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes
    ----------
    severity
        ``error``: results on this dataset cannot be trusted; ``warning``: look at it.
    kind
        ``unreadable_image``, ``mask_mismatch``, ``unknown_class``, ``bad_data``, ``empty_mask``, ``duplicate_image``,
        ``duplicate_across_splits``, ``part_across_splits``, ``look_alike_across_splits``.
    names
        The entries concerned.
    message, mend
        The problem with its evidence, and what to do about it.
    """

    severity: Literal["error", "warning"]
    kind: str
    names: tuple[str, ...]
    message: str
    mend: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one pass keeps of an image: its size, a digest of its pixels, its thumbnail, its pixels by class."""

    entry: Entry
    shape: tuple[int, int]
    pixels: str
    thumbnail: NDArray[np.float32]
    areas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Twins:
    """Parts that look like one, and the images that show it."""

    parts: frozenset[str]
    names: frozenset[str]
    correlation: float


def inspect_dataset(dataset: Dataset, splits: str = "fold") -> list[Finding]:
    """Read every image once and list what is wrong, errors first.

    Parameters
    ----------
    splits
        The stratum by which training and test are told apart. Entries without it are compared with none, but for
        those of their own part: all of a part have it, or none.
    """
    looks, findings = look_at(dataset)
    return findings + compare(looks, splits)


def describe(dataset: Dataset, splits: str = "fold") -> dict[str, Any]:
    """What the dataset holds, as plain data for JSON: counts, sizes, digest and findings.

    ``digest`` is None where a file cannot be read.
    """
    looks, findings = look_at(dataset)
    entries = dataset.entries
    folds: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        if splits in entry.strata:
            folds[entry.strata[splits]][_class_name(dataset, entry)] += 1
    areas = np.array([look.areas for look in looks], np.int64).reshape(-1, len(dataset.classes)).sum(0)
    labels = Counter(_class_name(dataset, entry) for entry in entries)
    shapes = Counter(look.shape for look in looks)
    return {
        "name": dataset.name,
        "channels": dataset.channels,
        "images": len(entries),
        "parts": len({entry.part for entry in entries}),
        "defective_parts": len({look.entry.part for look in looks if sum(look.areas[1:])}),
        "classes": {
            name: {"images": labels[name], "pixels": int(area)}
            for name, area in zip(dataset.classes, areas, strict=True)
        },
        "splits": {"by": splits, "images": {fold: _by_class(dataset, folds[fold]) for fold in sorted(folds)}},
        "sizes_px": {
            "height": _range([h for h, _ in shapes]),
            "width": _range([w for _, w in shapes]),
            "different": len(shapes),
        },
        "digest": _digest(dataset),
        "findings": [dataclasses.asdict(finding) for finding in findings + compare(looks, splits)],
    }


def look_at(dataset: Dataset) -> tuple[list[Look], list[Finding]]:
    """Read every image once: what is kept of each, and the findings of those that are wrong by themselves."""
    looks: list[Look] = []
    findings: list[Finding] = []
    for index, entry in enumerate(dataset.entries):
        try:
            sample = dataset.read(index)
        except BadData as exc:
            kind = next((name for error, name in _KINDS.items() if isinstance(exc, error)), "bad_data")
            findings.append(Finding("error", kind, (entry.name,), exc.message, exc.mend or "correct the file"))
            continue
        areas = np.bincount(sample.mask.ravel(), minlength=len(dataset.classes))
        if len(areas) > len(dataset.classes):
            message = f"its mask has the class index {len(areas) - 1}, the classes end at {len(dataset.classes) - 1}"
            findings.append(Finding("error", "unknown_class", (entry.name,), message, "correct the mask"))
            continue
        if entry.label and not areas[1:].any():
            findings.append(
                Finding(
                    "warning",
                    "empty_mask",
                    (entry.name,),
                    f"the image is labelled {_class_name(dataset, entry)}, its mask has no defect pixel",
                    "draw the mask, or drop the image (of Magnetic Tile: --empty-masks drop)",
                )
            )
        pixels = hashlib.sha256(str(sample.image.shape).encode() + sample.image.tobytes()).hexdigest()
        shape = (sample.image.shape[0], sample.image.shape[1])
        looks.append(Look(entry, shape, pixels, thumbnail(sample.image), tuple(int(area) for area in areas)))
    return looks, findings


def compare(looks: Sequence[Look], splits: str) -> list[Finding]:
    """What is wrong between images: duplicates, and parts on both sides of a split; errors first."""
    findings = _duplicates(looks, splits) + _parts_across(looks, splits) + _look_alikes(looks, splits)
    return sorted(findings, key=lambda finding: finding.severity)


def thumbnail(image: Image) -> NDArray[np.float32]:
    """The fine structure of an image at 64 x 64 px as a unit vector (4096,), without its brightness and shading."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
    small = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    fine = small - cv2.GaussianBlur(small, (0, 0), _BLUR_PX)
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    return np.asarray(fine.ravel() / length if length > 1 else np.zeros(fine.size), np.float32)


def _duplicates(looks: Sequence[Look], splits: str) -> list[Finding]:
    same: dict[str, list[Entry]] = defaultdict(list)
    for look in looks:
        same[look.pixels].append(look.entry)
    findings = []
    for entries in same.values():
        if len(entries) < 2:
            continue
        sides = {entry.strata[splits] for entry in entries if splits in entry.strata}
        names = tuple(entry.name for entry in entries)
        message = f"{len(names)} images have the same pixels"
        if len(sides) > 1:
            message += f" and stand in {splits} {', '.join(sorted(sides))}"
            findings.append(Finding("error", "duplicate_across_splits", names, message, "keep one of them"))
        else:
            findings.append(Finding("warning", "duplicate_image", names, message, "keep one of them"))
    return findings


def _parts_across(looks: Sequence[Look], splits: str) -> list[Finding]:
    parts: dict[str, list[Entry]] = defaultdict(list)
    for look in looks:
        parts[look.entry.part].append(look.entry)
    findings = []
    for part, entries in parts.items():
        # What has no fold is in none that is left out, so that it trains beside the rest of its part.
        sides = sorted({entry.strata.get(splits, "(none)") for entry in entries})
        if len(sides) > 1:
            findings.append(
                Finding(
                    "error",
                    "part_across_splits",
                    tuple(entry.name for entry in entries),
                    f"part {part} stands in {splits} {', '.join(sides)}",
                    f"give all images of one part the same {splits}",
                )
            )
    return findings


def _look_alikes(looks: Sequence[Look], splits: str) -> list[Finding]:
    """Images of different parts and different splits that show the same surface: one finding per group of parts."""
    split = [look for look in looks if splits in look.entry.strata]
    if not split:
        return []
    vectors = np.stack([look.thumbnail for look in split])
    keys = [
        np.unique(column, return_inverse=True)[1]
        for column in zip(*((look.entry.part, look.entry.strata[splits], look.pixels) for look in split), strict=True)
    ]
    groups: list[Twins] = []
    for start in range(0, len(split), _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors[start:].T
        alike = np.triu(block, 1) >= LOOK_ALIKE
        for key in keys:
            alike &= key[start : start + _BLOCK, None] != key[start:]
        # Image by image and not pair by pair: of one product in one fixture all may look alike.
        for row in np.flatnonzero(alike.any(axis=1)).tolist():
            same = np.flatnonzero(alike[row])
            entries = [split[start + place].entry for place in (row, *same.tolist())]
            parts, names = frozenset(e.part for e in entries), frozenset(e.name for e in entries)
            groups = _join(groups, Twins(parts, names, float(block[row, same].max())))
    return [
        Finding(
            "warning",
            "look_alike_across_splits",
            tuple(sorted(group.names)),
            f"parts {', '.join(sorted(group.parts))} look like one (correlation up to {group.correlation:.2f}) "
            f"but differ in {splits}",
            f"look at them; if they are one part, give them the same part and {splits}",
        )
        for group in groups
    ]


def _join(groups: Sequence[Twins], more: Twins) -> list[Twins]:
    """The groups with one more; groups that it connects become one."""
    apart = [group for group in groups if group.parts.isdisjoint(more.parts)]
    for group in groups:
        if not group.parts.isdisjoint(more.parts):
            largest = max(group.correlation, more.correlation)
            more = Twins(more.parts | group.parts, more.names | group.names, largest)
    return [*apart, more]


def _class_name(dataset: Dataset, entry: Entry) -> str:
    return dataset.classes[entry.label]


def _by_class(dataset: Dataset, counts: Counter[str]) -> dict[str, int]:
    """Counts in the order of the classes, without those that do not occur."""
    return {name: counts[name] for name in dataset.classes if counts[name]}


def _range(values: Sequence[int]) -> list[int]:
    return [min(values), max(values)] if values else []


def _digest(dataset: Dataset) -> str | None:
    try:
        return dataset.digest()
    except BadData:
        return None
