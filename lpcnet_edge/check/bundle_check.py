"""``lpcnet-edge check BUNDLE``: does the small engine decide as the float network did, and within what was asked?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lpcnet_edge import metrics
from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.agreement import Agreement, Measured, compare, measure
from lpcnet_edge.check.causes import Cause, find_causes
from lpcnet_edge.check.evaluation import Evaluation, points
from lpcnet_edge.check.layers import Layer, layer_table
from lpcnet_edge.check.limits import Broken, Limits, broken_limits
from lpcnet_edge.check.opening import open_candidate, open_reference
from lpcnet_edge.check.walk import check_batch, check_compatible
from lpcnet_edge.decision import Rules
from lpcnet_edge.errors import UsageError
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.types import Dataset, Image

Progress = Callable[[str, int, int], None]
"""Who watches: called with the phase in words, and how far it is of how much."""

CAUSE_TILES = 8
"""Images, those that differ most, on which causes are looked for."""


@dataclass(frozen=True)
class BundleCheck:
    """A finished check.

    Attributes
    ----------
    bundle
        What was checked.
    agreement
        Its figures beside the reference's.
    reference, candidate
        The class maps of every image.
    about_reference, about_candidate
        What computed them, in words.
    gate
        What the bundle's gate cleared; see :func:`gate_report`.
    causes
        What is wrong with the bundle, whether or not a limit is broken.
    limits, broken
        What was asked, and what of it does not hold.
    layers
        Every quantised layer, the worst first; None where it was not asked for.
    against
        Another bundle's name and how this one compares with it; None where none was given.
    """

    bundle: Bundle
    agreement: Agreement
    reference: Measured
    candidate: Measured
    about_reference: str
    about_candidate: str
    gate: Mapping[str, Any]
    causes: Sequence[Cause]
    limits: Limits
    broken: Sequence[Broken]
    layers: Sequence[Layer] | None = None
    against: tuple[str, Agreement] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data as docs/json.md and schemas/check.schema.json describe."""
        found = _report(self.agreement, self.gate, self.causes)
        found["bundle"] = {
            "id": self.bundle.id,
            "path": str(self.bundle.path),
            "precision": self.bundle.manifest.precision,
            "candidate": self.about_candidate,
            "reference": self.about_reference,
        }
        found["limits"] = {name: _limit(self.limits, name) for name in self.limits.asked}
        found["limits_broken"] = [
            {
                **asdict(broken),
                "causes": [cause.message for cause in self.causes_of(broken)],
                "try": self.advice(broken),
            }
            for broken in self.broken
        ]
        found["layers"] = None if self.layers is None else [layer.to_json() for layer in self.layers]
        found["against"] = None if self.against is None else _against(*self.against)
        return found

    def causes_of(self, broken: Broken) -> list[Cause]:
        """The causes found that can have to do with a broken limit."""
        return [cause for cause in self.causes if cause.kind != "gate" or _of_gate(broken, self.agreement, self.gate)]

    def advice(self, broken: Broken) -> str:
        """What to try about a broken limit: the mend of its causes, else what usually helps."""
        if math.isnan(broken.value):
            return "check on images that have what the limit is about, or leave it out"
        causes = self.causes_of(broken)
        if causes:
            return "; ".join(dict.fromkeys(cause.mend for cause in causes[:2]))
        if broken.limit == "max_ece":
            return "do not read the confidence as a probability, or set min_confidence of the rules by the curve"
        name = _class_of(broken, self.agreement)
        worst = f" (the worst is {self.layers[0].layer})" if self.layers else " (--layers says which)"
        steps = [f"more calibration tiles of class {name}"]
        if self.bundle.manifest.precision == "int8":
            steps += [f"restore the most sensitive layers to float{worst}", "build with --fp16"]
        else:
            steps = [f"train with more images of class {name}"]
        return ", or ".join([", ".join(steps[:-1]), steps[-1]] if len(steps) > 1 else steps)


def check_bundle(
    bundle: Bundle,
    dataset: Dataset,
    *,
    backend: str = "auto",
    rules: Rules | None = None,
    limits: Limits | None = None,
    other: Bundle | None = None,
    layers: bool = False,
    batch: int = 16,
    progress: Progress = lambda phase, done, total: None,
) -> BundleCheck:
    """Measure a bundle beside its float reference on labelled images.

    Parameters
    ----------
    backend
        As :func:`~lpcnet_edge.check.opening.open_candidate` takes it.
    rules
        Verdict rules for all; by default each bundle's own, the float network being decided on by those of ``bundle``.
    limits
        What must hold; by default nothing is asked.
    other
        Another bundle, measured on the same backend and images.
    layers
        Measure every quantised layer, which takes about a second for each.

    Raises
    ------
    UsageError
        Bundle, data, backend or options do not fit together, or there is nothing to compare with.
    BadConfig
        A limit or a rule names an unknown class.
    And whatever opening engines and reading data raises.
    """
    limits, asked, rules = limits or Limits(), rules, rules or bundle.manifest.rules
    limits.check_classes(bundle.manifest.classes)
    rules.check_classes(bundle.manifest.classes)
    check_batch(batch)
    for each in filter(None, (bundle, other)):  # before engines are opened and the first of two is measured
        check_compatible(each.manifest, dataset, f"the bundle {each.path}")
    if other is not None and other.manifest.tile_px != bundle.manifest.tile_px:
        raise UsageError(
            f"{other.path} has tiles of {other.manifest.tile_px} px, {bundle.path} of {bundle.manifest.tile_px}: "
            "their masks cannot be compared pixel by pixel",
            mend="check each by itself",
        )

    def told(phase: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(phase, done, total)

    with open_reference(bundle) as reference, open_candidate(bundle, backend) as candidate:
        before = measure(reference.segmenter, dataset, rules, batch, told("measuring float"))
        after = measure(candidate.segmenter, dataset, rules, batch, told("measuring the bundle"))
        agreement = compare(before, after)
        gate = gate_report(agreement.candidate, bundle.manifest.gate)
        progress("looking for causes", 0, 1)
        tiles = _differing_tiles(agreement, dataset, bundle.manifest.tile_px)
        causes = find_causes(bundle, candidate.segmenter, reference.segmenter, tiles, gate)
    against = None
    if other is not None:
        with open_candidate(other, backend) as second:
            own = asked or other.manifest.rules  # as a station would run it
            theirs = measure(second.segmenter, dataset, own, batch, told("measuring the other bundle"))
        against = (second.about, compare(theirs, after))
    return BundleCheck(
        bundle=bundle,
        agreement=agreement,
        reference=before,
        candidate=after,
        about_reference=reference.about,
        about_candidate=candidate.about,
        gate=gate,
        causes=causes,
        limits=limits,
        broken=broken_limits(limits, _report(agreement, gate, causes)),
        layers=layer_table(bundle, tiles, told("measuring layers")) if layers else None,
        against=against,
    )


def gate_report(evaluation: Evaluation, gate: GateSpec) -> dict[str, Any]:
    """What a gate clears on the images evaluated: misses by part against alpha, by class and by stratum.

    A part is missed where every defective image of it is cleared. ``low`` and ``high`` are the Wilson interval of the
    missed share at 95 %, in points; ``holds`` says whether the interval reaches down to alpha.
    """
    scores, free = evaluation.scores, ~evaluation.defective
    by_part = metrics.gate_by_part(scores, evaluation.parts, evaluation.defective)
    deciding = by_part.weakest.tolist()
    threshold = gate.threshold if gate.mode == "threshold" else None
    cleared = scores < threshold if threshold is not None else np.zeros(len(scores), np.bool_)
    missed = [index for index in deciding if cleared[index]]
    share = metrics.rate(len(missed), len(deciding))
    per_class: dict[str, dict[str, int]] = {}
    for index in deciding:
        row = per_class.setdefault(evaluation.class_of(index), {"defective_parts": 0, "missed": 0})
        row["defective_parts"] += 1
        row["missed"] += int(cleared[index])
    per_stratum: dict[str, dict[str, dict[str, int]]] = {}
    for key, values in evaluation.by_stratum.items():
        rows = {value: {"defective_images": 0, "cleared": 0} for value in values}
        for index in np.flatnonzero(evaluation.defective).tolist():
            row = rows[evaluation.images[index].entry.strata.get(key, "")]
            row["defective_images"] += 1
            row["cleared"] += int(cleared[index])
        per_stratum[f"per_{key}"] = rows
    return {
        "mode": gate.mode,
        "threshold": threshold,
        "alpha": gate.alpha,
        "calibrated_on_parts": gate.parts,
        "defective_parts": len(deciding),
        "missed": len(missed),
        "missed_parts": [evaluation.parts[index] for index in missed],
        "share": points(share.share),
        "low": points(share.low) if deciding else None,
        "high": points(share.high) if deciding else None,
        "holds": None if gate.alpha is None or not deciding else bool(share.low <= gate.alpha),
        "free_images_cleared": points(float(cleared[free].mean())) if free.any() else None,
        "largest_without_a_miss": float(by_part.threshold[0]) if deciding else None,
        "per_class": per_class,
        **per_stratum,
    }


def _report(agreement: Agreement, gate: Mapping[str, Any], causes: Sequence[Cause]) -> dict[str, Any]:
    return {**agreement.to_json(), "bundle_gate": dict(gate), "causes": [asdict(cause) for cause in causes]}


def _limit(limits: Limits, name: str) -> Any:
    if name == "sound":
        return True
    if name.startswith("per_class."):
        own, key = name.removeprefix("per_class.").rsplit(".", 1)
        return getattr(limits.per_class[own], key)
    return getattr(limits, name)


def _against(about: str, agreement: Agreement) -> dict[str, Any]:
    """The other bundle's figures, and where the two disagree; ``new`` is what only the bundle checked does."""
    found = agreement.to_json()
    return {
        "candidate": about,
        "figures": found["reference"],
        "agreement": found["agreement"],
        "escapes": found["escapes"]["new"],
        "overkill": found["overkill"]["new"],
    }


def _differing_tiles(agreement: Agreement, dataset: Dataset, side: int) -> list[Image]:
    order = np.argsort(-np.asarray(agreement.differing), kind="stable")[:CAUSE_TILES]
    return [resize_image(dataset.read(int(index)).image, side, side) for index in order]


def _of_gate(broken: Broken, agreement: Agreement, gate: Mapping[str, Any]) -> bool:
    """Whether the gate has to do with a broken limit: it makes background of tiles, and so rejects nothing."""
    if broken.limit == "max_new_escapes":
        return bool(set(agreement.new_escapes) & set(gate["missed_parts"]))
    return broken.limit not in ("max_new_overkill", "max_ece", "sound")


def _class_of(broken: Broken, agreement: Agreement) -> str:
    """The class that a broken limit is about, or the defect class that lost most IoU."""
    if broken.limit.startswith("per_class."):
        return broken.limit.removeprefix("per_class.").rsplit(".", 1)[0]
    before, after = (metrics.iou_per_class(side.confusion) for side in (agreement.reference, agreement.candidate))
    lost = np.nan_to_num(before - after, nan=-1.0)
    return agreement.candidate.classes[1 + int(lost[1:].argmax())]
