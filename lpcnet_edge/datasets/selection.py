"""Picking entries of a dataset by what they are grouped by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from lpcnet_edge.errors import UsageError
from lpcnet_edge.types import Dataset, Entry


def where(dataset: Dataset, **strata: str | Collection[str]) -> Dataset:
    """The entries whose every named stratum has one of the values given: ``where(tiles, fold={"2", "3"})``.

    Raises ``UsageError`` naming the known strata, or the known values where one asked for does not occur or where
    nothing matches all of them.
    """
    wanted = {key: {values} if isinstance(values, str) else set(values) for key, values in strata.items()}
    for key, values in wanted.items():
        _check(dataset, key, values)
    chosen = _matching(dataset, lambda entry: all(entry.strata.get(key) in values for key, values in wanted.items()))
    if not len(chosen.entries):
        asked = ", ".join(f"{key} in {sorted(values)}" for key, values in wanted.items())
        raise UsageError(f"no entry of {dataset.name} has {asked} at once", mend="ask for fewer strata at a time")
    return chosen


def with_fold(dataset: Dataset, folds: str | Collection[str]) -> Dataset:
    """The entries of these folds; raises ``UsageError`` as :func:`where` does."""
    return where(dataset, fold=folds)


def without_fold(dataset: Dataset, folds: str | Collection[str]) -> Dataset:
    """The entries of every other fold; raises ``UsageError`` for a fold that does not occur, or if none is left."""
    left_out = {folds} if isinstance(folds, str) else set(folds)
    _check(dataset, "fold", left_out)
    chosen = _matching(dataset, lambda entry: entry.strata.get("fold") not in left_out)
    if not len(chosen.entries):
        raise UsageError(f"no entry of {dataset.name} is outside the folds {sorted(left_out)}", mend="leave fewer out")
    return chosen


def known_values(dataset: Dataset, key: str) -> list[str]:
    """The values of one stratum that occur in the dataset, sorted."""
    return sorted({entry.strata[key] for entry in dataset.entries if key in entry.strata})


def trained_among(dataset: Dataset, trained: object) -> str:
    """Which of the images weights were trained on, in words, as their card has it; "" where none is known to be.

    ``trained`` is a mapping with ``data``, ``digest`` and ``folds``; anything else tells nothing.
    """
    if not isinstance(trained, Mapping) or trained.get("data") != dataset.name:
        return ""
    both = sorted(set(known_values(dataset, "fold")) & set(trained.get("folds") or ()))
    if both:
        return f"fold {', '.join(both)} of {dataset.name}"
    return f"just these images of {dataset.name}" if trained.get("digest") == dataset.digest() else ""


def _matching(dataset: Dataset, accept: Callable[[Entry], bool]) -> Dataset:
    return dataset.select([index for index, entry in enumerate(dataset.entries) if accept(entry)])


def _check(dataset: Dataset, key: str, values: Collection[str]) -> None:
    """Refuse a stratum, or a value of one, that no entry has."""
    known = known_values(dataset, key)
    if not known:
        strata = sorted({name for entry in dataset.entries for name in entry.strata})
        if key == "fold":  # no option names another stratum in its place
            mend = "leave the folds out, or give the data a column `fold` in parts.csv (docs/data.md)"
        else:
            mend = f"use one of: {', '.join(strata)}" if strata else "leave it out: these data have no strata"
        raise UsageError(f"{dataset.name} is not grouped by {key!r}", mend=mend)
    unknown = sorted(set(values) - set(known))
    if unknown or not values:
        asked = ", ".join(unknown) or "nothing"
        raise UsageError(f"no entry of {dataset.name} has {key} {asked}", mend=f"use one of: {', '.join(known)}")
