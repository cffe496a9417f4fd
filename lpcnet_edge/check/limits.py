"""What a user asks of a bundle, and which of it is broken, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lpcnet_edge.check.causes import UNSOUND
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import BadConfig


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """Limits of one class, in points of IoU: the least it may have, and the most it may lose."""

    min_iou: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        _check_points("min_iou", self.min_iou)
        _check_points("max_drop", self.max_drop)


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold of a candidate beside its reference; what is None is not asked.

    Attributes
    ----------
    max_drop
        Points of mIoU that it may lose.
    max_new_escapes, max_new_overkill
        Defective parts that only it passes, good parts that only it rejects.
    max_defects_lost_share
        0..1, of the defects that the reference catches, the share it may lose.
    min_mask_iou
        Points, IoU of the two defect masks over all images.
    max_gate_misses
        Defective parts that the bundle's gate may clear; ``alpha``: as many as its promise allows, that is, until the
        lower end of the 95 % interval of their share lies above alpha.
    max_ece
        Points, expected calibration error of the pixels that it calls a defect.
    per_class
        By class name.
    sound
        Whether the bundle must also be what it says, with the scales of its calibration, the weights of its float pair
        and the channels in their order (:mod:`lpcnet_edge.check.causes`); None: where anything else is asked.
    """

    max_drop: float | None = None
    max_new_escapes: int | None = None
    max_new_overkill: int | None = None
    max_defects_lost_share: float | None = None
    min_mask_iou: float | None = None
    max_gate_misses: int | Literal["alpha"] | None = None
    max_ece: float | None = None
    per_class: Mapping[str, ClassLimits] = field(default_factory=dict)
    sound: bool | None = None

    def __post_init__(self) -> None:
        for name in ("max_drop", "min_mask_iou", "max_ece"):
            _check_points(name, getattr(self, name))
        for name in ("max_new_escapes", "max_new_overkill", "max_gate_misses"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{name} is {value}; the fewest is 0")
        share = self.max_defects_lost_share
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"max_defects_lost_share is {share}; it lies between 0 and 1")

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the limits that are set, such as ``max_drop`` and ``per_class.crack.min_iou``."""
        others = [f.name for f in fields(self) if f.name not in ("per_class", "sound")]
        plain = [name for name in others if getattr(self, name) is not None]
        for name, own in self.per_class.items():
            plain += [f"per_class.{name}.{f.name}" for f in fields(own) if getattr(own, f.name) is not None]
        return (*plain, "sound") if self.sound or (plain and self.sound is None) else tuple(plain)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ``BadConfig`` if a limit names a class that is not there."""
        for name in self.per_class:
            if name not in classes:
                raise BadConfig(
                    f"a limit names the class '{name}', which the network does not have", mend=suggest(name, classes)
                )


@dataclass(frozen=True, slots=True)
class Broken:
    """A limit that does not hold: its name, what was found and what is allowed, and the sentence that says so."""

    limit: str
    value: float
    bound: float
    message: str


def broken_limits(limits: Limits, report: Mapping[str, Any]) -> list[Broken]:
    """The limits that ``report``, of ``BundleCheck.to_json``, breaks; a figure that is undefined breaks its limit."""
    return [found for found in _all(limits, report) if found is not None]


def _all(limits: Limits, report: Mapping[str, Any]) -> Iterator[Broken | None]:
    agreement, gate = report["agreement"], report["bundle_gate"]
    if limits.max_drop is not None:
        yield _above("max_drop", agreement["mean_iou_drop"], limits.max_drop, "mIoU fell by {value:.2f} points")
    if limits.max_new_escapes is not None:
        yield _named("max_new_escapes", report["escapes"]["new"], limits.max_new_escapes,
                     "that only this bundle passes", "defective part")  # fmt: skip
    if limits.max_new_overkill is not None:
        yield _named("max_new_overkill", report["overkill"]["new"], limits.max_new_overkill,
                     "that only this bundle rejects", "good part")  # fmt: skip
    if limits.max_defects_lost_share is not None:
        lost, caught = agreement["defects_lost"], agreement["defects_caught_by_reference"]
        yield _above("max_defects_lost_share", lost / caught if caught else None, limits.max_defects_lost_share,
                     f"{lost} of {caught} defects that float catches are lost, a share of {{value:.3f}}")  # fmt: skip
    if limits.min_mask_iou is not None:
        yield _below("min_mask_iou", agreement["mask_iou"], limits.min_mask_iou,
                     "the defect masks overlap by {value:.2f} %")  # fmt: skip
    if limits.max_gate_misses == "alpha":
        if gate["alpha"] is not None:  # a gate that is off clears nothing
            yield _above("max_gate_misses", gate["low"], 100 * gate["alpha"],
                         f"the gate clears {gate['missed']} of {gate['defective_parts']} defective parts, with 95 % "
                         "confidence a share of {value:.2f} % or more")  # fmt: skip
    elif limits.max_gate_misses is not None:
        yield _named("max_gate_misses", gate["missed_parts"], limits.max_gate_misses, "cleared by the gate",
                     "defective part")  # fmt: skip
    if limits.max_ece is not None:
        yield _above("max_ece", report["confidence"]["defect_pixels"]["ece"], limits.max_ece,
                     "the confidence of defect pixels is off by {value:.2f} points on average")  # fmt: skip
    for name, own in limits.per_class.items():
        before, after = (report[side]["per_class"][name]["iou"] for side in ("reference", "candidate"))
        if own.min_iou is not None:
            yield _below(f"per_class.{name}.min_iou", after, own.min_iou, f"the IoU of {name} is {{value:.2f}}")
        if own.max_drop is not None:
            drop = None if before is None or after is None else round(before - after, 3)  # as both are
            yield _above(
                f"per_class.{name}.max_drop", drop, own.max_drop, f"the IoU of {name} fell by {{value:.2f}} points"
            )
    if "sound" in limits.asked:
        yield _unsound([cause for cause in report["causes"] if cause["kind"] in UNSOUND])


def _unsound(causes: Sequence[Mapping[str, str]]) -> Broken | None:
    if not causes:
        return None
    more = f", and {len(causes) - 1} more" if len(causes) > 1 else ""
    return Broken("sound", len(causes), 0, f"the bundle is not what it says: {causes[0]['message']}{more}")


def _above(limit: str, value: float | None, bound: float, text: str) -> Broken | None:
    return _outside(limit, value, bound, text, "more than", -1)


def _below(limit: str, value: float | None, bound: float, text: str) -> Broken | None:
    return _outside(limit, value, bound, text, "less than", 1)


def _outside(limit: str, value: float | None, bound: float, text: str, than: str, sign: int) -> Broken | None:
    if value is None or math.isnan(value):
        return Broken(limit, math.nan, bound, f"{limit} is {bound:g}, and these images have nothing to measure it by")
    by = sign * (bound - value)
    if by <= 0:
        return None
    return Broken(limit, value, bound, f"{text.format(value=value)}, {by:.3g} {than} {limit} {bound:g} allows")


def _named(limit: str, names: Sequence[str], bound: int, what: str, unit: str) -> Broken | None:
    count = len(names)
    if count <= bound:
        return None
    listed = ", ".join(names[:3]) + (f" and {count - 3} more" if count > 3 else "")
    verb = f"{count} {unit}{'s' if count > 1 else ''}"
    message = f"{verb} {what} ({listed}), {count - bound} more than {limit} {bound} allows"
    return Broken(limit, count, bound, message)


def _check_points(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 100:
        raise ValueError(f"{name} is {value}; points lie between 0 and 100")
