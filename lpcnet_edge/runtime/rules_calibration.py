"""Verdict rules calibrated on labelled images: how sure a defect must be, with a bound on the parts that escape."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import to_mapping
from lpcnet_edge.decision import Rules
from lpcnet_edge.decision.surest import at_least, surest
from lpcnet_edge.errors import BadArtifact, BadData, UsageError
from lpcnet_edge.metrics import Rate, any_by_part, escapes, overkill
from lpcnet_edge.metrics.conformal import Calibration, find_threshold
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.gate_calibration import require_channels
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sources import Frame
from lpcnet_edge.types import Dataset
from lpcnet_edge.yamlfile import dump_yaml

Progress = Callable[[int, int], None]

_DIGITS = 4
"""Of ``min_confidence`` in the file: cut off, not rounded, so that no part is missed for it."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What rules make of labelled parts: those with a defect that pass, and those without that do not."""

    escapes: Rate
    overkill: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesCalibration(Calibration):
    """The least confidence of a defect that counts; ``threshold`` is 0..1, cut to four digits. What is missed passes.

    Attributes
    ----------
    rules
        With every ``min_confidence`` at least the threshold.
    before, after
        By the rules that were started from, and by these.
    """

    rules: Rules
    before: Outcomes
    after: Outcomes

    @property
    def guarantee(self) -> str:
        """What the rules promise and what not, in words, one sentence a line."""
        where = "all of its images pass" if self.view == "part" else "any one of its images passes"
        return self.in_words(
            f"Of new defective parts, {self.at_most} are expected to pass.",
            f"of new defective parts, {self.at_most} pass.",
            f"A part passes if {where} that show a defect: by the gate, the engines and these rules together.",
            "It does not hold for each kind of defect by itself, nor with another bundle, gate or framing.",
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; shares of parts in points."""
        return {
            **to_mapping(self),
            "before": _counts(self.before),
            "after": _counts(self.after),
            "bound": self.bound,
            "guarantee": self.guarantee.splitlines(),
        }

    def to_yaml(self, about: str) -> str:
        """The rules as ``run --rules`` reads them; ``about`` and the promise go ahead as comments."""
        told = (about, *self.guarantee.splitlines(), *self.became)
        comments = "".join(f"# {line}\n" for line in told)
        return comments + dump_yaml(to_mapping(self.rules, defaults=False))

    @property
    def became(self) -> list[str]:
        """Escapes and overkill on the parts it was calibrated on, before and after: a line each."""
        return [
            f"{name} of the parts it was calibrated on: {old.count} of {old.total} before, {new.count} after."
            for name, old, new in (
                ("Escapes", self.before.escapes, self.after.escapes),
                ("Overkill", self.before.overkill, self.after.overkill),
            )
        ]


@dataclass(frozen=True, slots=True)
class Seen:
    """Each image of a dataset: its part, whether it shows a defect, is stopped, and up to which confidence."""

    parts: list[str]
    images: list[str]
    defective: NDArray[np.bool_]
    stopped: NDArray[np.bool_]
    surest: NDArray[np.float64]

    def outcomes(self, view: Literal["part", "image"]) -> Outcomes:
        """By part. What saves a defective one is that images which show the defect are stopped: one, or all of them."""
        _, defective = any_by_part(self.parts, self.defective)
        if view == "part":
            _, saved = any_by_part(self.parts, self.defective & self.stopped)
        else:
            saved = ~any_by_part(self.parts, self.defective & ~self.stopped)[1]
        _, touched = any_by_part(self.parts, self.stopped)
        return Outcomes(escapes(defective, saved), overkill(defective, touched))


def calibrate_rules(
    bundle: Bundle,
    dataset: Dataset,
    rules: Rules,
    alpha: float | Literal["auto"] = "auto",
    *,
    view: Literal["part", "image"] = "part",
    confidence: float | None = None,
    backend: str | Callable[[], Backend] = "auto",
    framing: Framing | None = None,
    progress: Progress | None = None,
) -> RulesCalibration:
    """Raise every ``min_confidence`` as far as the share of defective parts that pass stays within a bound.

    Every image goes through ``run``'s own pipeline, gate included, twice: by ``rules``, and by those that are found, so
    that ``after`` is what they decide and not what they should. The bound is that of
    :func:`~lpcnet_edge.metrics.conformal.find_threshold`; a part's statistic is the confidence up to which one of its
    defective images is stopped.

    Parameters
    ----------
    bundle, backend, framing
        As they will run.
    dataset
        Parts that neither training nor calibration has seen.
    rules
        To start from; what they let pass is let pass by every rule found here.
    alpha, confidence
        As for :func:`~lpcnet_edge.metrics.conformal.find_threshold`.
    view
        When a part escapes.
    progress
        Told (images done, images in all), both passes together.

    Raises
    ------
    BadData
        The dataset is not of the bundle's channels and classes, or has no image with a defect.
    UsageError
        Alpha or the confidence is out of range, or so many parts pass by ``rules`` already that no rule above them
        keeps the bound.
    BadArtifact
        A frame was not inspected.
    """
    manifest = bundle.manifest
    require_channels(manifest, dataset)
    if dataset.classes != manifest.classes:
        raise BadData(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}, the bundle {', '.join(manifest.classes)}",
            mend="calibrate on images of the product that the bundle is for",
        )
    total = len(dataset.entries)

    def seen_by(tried: Rules, done_before: int) -> Seen:
        settings = RunSettings(rules=tried, framing=framing)
        return inspect_labelled(
            bundle, dataset, settings, backend, lambda n: progress and progress(done_before + n, 2 * total)
        )

    first = seen_by(rules, 0)
    if not first.defective.any():
        raise BadData(
            f"none of {total} images shows a defect, so there is no escape to bound",
            mend="calibrate on images of defective parts with their masks",
        )
    found = find_threshold(
        first.surest, first.parts, first.defective, alpha, images=first.images, view=view, confidence=confidence
    )
    if found.threshold < 0:
        before = first.outcomes(view).escapes
        least = "" if confidence else f" ({(before.count + 1) / (before.total + 1):.4g} at least)"
        raise UsageError(
            f"{before.count} of {before.total} defective parts pass already by the rules to start from: alpha "
            f"{found.alpha:.4g} cannot be kept",
            mend=f"take a larger alpha{least}, rules by which more counts, or better weights",
        )
    chosen = math.floor(found.threshold * 10**_DIGITS) / 10**_DIGITS
    raised = at_least(rules, chosen)
    second = seen_by(raised, total)
    return RulesCalibration.of(
        found, threshold=chosen, rules=raised, before=first.outcomes(view), after=second.outcomes(view)
    )


def inspect_labelled(
    bundle: Bundle,
    dataset: Dataset,
    settings: RunSettings,
    backend: str | Callable[[], Backend],
    tell: Callable[[int], object],
) -> Seen:
    """Every image through a run in bulk, as it comes from a source.

    ``settings`` name the rules; ``tell`` is told how many are done. Raises ``BadArtifact`` where one was not inspected.
    """
    rules = settings.rules
    assert rules is not None
    defective: list[bool] = []

    def frames() -> Iterator[Frame]:
        for number, entry in enumerate(dataset.entries):
            sample = dataset.read(number)
            defective.append(bool(sample.mask.any()))
            yield Frame(sample.image, entry.part, time.monotonic_ns(), entry.name, dataset.name, number)

    stopped: list[bool] = []
    sure: list[float] = []
    with Session(bundle, [frames()], settings, backend=backend, live=False) as session:
        for result in session:
            verdict = result.verdict
            if verdict.outcome != "pass" and not verdict.defects:
                raise BadArtifact(
                    f"{result.item.name}: {'; '.join(verdict.reasons)}",
                    mend="run the bundle's self-test, and `lpcnet-edge data` on the images",
                )
            stopped.append(verdict.outcome != "pass")
            sure.append(surest(verdict, bundle.manifest.classes, rules))
            tell(len(sure))
    entries = dataset.entries
    return Seen(
        [entry.part for entry in entries],
        [entry.name for entry in entries],
        np.array(defective, np.bool_),
        np.array(stopped, np.bool_),
        np.array(sure, np.float64),
    )


def _counts(outcomes: Outcomes) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {"count": each.count, "total": each.total, "rate": round(100 * each.share, 2) if each.total else None}
        for name, each in (("escapes", outcomes.escapes), ("overkill", outcomes.overkill))
    }
