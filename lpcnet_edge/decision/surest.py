"""How sure verdict rules may ask to be before a frame passes, and rules that ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lpcnet_edge.decision.rules import ClassRule, Rules
from lpcnet_edge.types import Verdict

PASSES = -1.0
"""What :func:`surest` gives for a frame that passes as it is: below every ``min_confidence``."""


def surest(verdict: Verdict, classes: Sequence[str], rules: Rules) -> float:
    """The largest q at which a frame does not pass by ``at_least(rules, q)``: 0..1, or :data:`PASSES`.

    A rule that takes ``count`` defects holds up to the confidence of the ``count``-th surest of those that count, and
    the frame is stopped as long as one rule, of any class inside or outside a zone, holds. That is exact without zones.
    With zones it may be too low, never too high: a defect that lies in one is not taken to reach out of it, which its
    verdict does not say.

    Parameters
    ----------
    verdict
        Decided by ``rules``.
    classes
        Class names by index; index 0 is the background.
    rules
        The verdict rules.
    """
    if verdict.outcome == "pass":
        return PASSES
    found = 0.0  # by the rules as they are
    for zone in (None, *(zone for zone in rules.zones if not zone.ignore)):
        here = [d for d in verdict.defects if (zone.name in d.zones if zone is not None else not d.zones)]
        for name in classes[1:]:
            rule = rules.of(name, zone)
            sure = sorted((d.confidence for d in here if d.name == name and rule.counts(d)), reverse=True)
            if len(sure) >= rule.count:
                found = max(found, sure[rule.count - 1])
    return found


def at_least(rules: Rules, min_confidence: float) -> Rules:
    """The rules with every ``min_confidence`` raised to this, 0..1, where it is lower.

    A ``review_below`` that is not above it any more goes: what still counts is surer than that.
    """

    def raised(rule: ClassRule) -> ClassRule:
        least = max(rule.min_confidence, min_confidence)
        return replace(rule, min_confidence=least, review_below=rule.review_below if rule.review_below > least else 0.0)

    zones = tuple(
        replace(
            zone,
            default=zone.default and raised(zone.default),
            per_class={name: raised(rule) for name, rule in zone.per_class.items()},
        )
        for zone in rules.zones
    )
    per_class = {name: raised(rule) for name, rule in rules.per_class.items()}
    return replace(rules, default=raised(rules.default), per_class=per_class, zones=zones)
