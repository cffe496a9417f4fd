"""How sure rules may ask to be before a frame passes, beside deciding it by raised rules."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lpcnet_edge.decision import ClassRule, Rules, Zone, decide
from lpcnet_edge.decision.surest import PASSES, at_least, surest

CLASSES = ("background", "crack", "pit")


def frame(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A class map with some small defects, and a confidence map that differs from one to the next."""
    rng = np.random.default_rng(seed)
    classes, confidence = np.zeros((48, 48), np.uint8), np.zeros((48, 48), np.uint8)
    for _ in range(int(rng.integers(0, 7))):
        y, x, height, width = rng.integers(0, 40), rng.integers(0, 40), rng.integers(1, 8), rng.integers(1, 8)
        classes[y : y + height, x : x + width] = rng.integers(1, 3)
        confidence[y : y + height, x : x + width] = rng.integers(80, 256)
    return classes, confidence


def some_rules(seed: int, zones: bool) -> Rules:
    rng = np.random.default_rng(seed)

    def rule() -> ClassRule:
        least = float(rng.choice([0.0, 0.4, 0.6]))
        review = float(rng.choice([0.0, 0.7, 0.95]))
        return ClassRule(int(rng.integers(1, 20)), least, int(rng.integers(1, 3)), review_below=review)

    own = ()
    if zones:
        own = (
            Zone("left", box_px=(0, 0, 20, 48), per_class={"crack": rule()}),
            Zone("top", (8, 0, 30, 9), ignore=True),
        )
    return Rules(rule(), {"pit": rule()}, zones=own)


@pytest.mark.parametrize("zones", [False, True])
def test_surest_is_where_the_raised_rules_let_go(zones: bool) -> None:
    stopped = exact = 0
    for seed in range(300):
        classes, confidence = frame(seed)
        rules = some_rules(seed, zones)
        verdict = decide(classes, confidence, CLASSES, rules)
        found = surest(verdict, CLASSES, rules)
        assert (found == PASSES) == (verdict.outcome == "pass")
        if found == PASSES:
            continue
        stopped += 1
        # A rule may ask for more by itself than what is raised to: the frame is stopped up to the value found.
        assert decide(classes, confidence, CLASSES, at_least(rules, found)).outcome != "pass"
        above = found + 1e-9
        if above <= 1:
            lets_go = decide(classes, confidence, CLASSES, at_least(rules, above)).outcome == "pass"
            exact += lets_go
            assert lets_go or zones
    assert stopped > 100
    assert exact > 80


def test_raising_keeps_what_is_higher_and_drops_a_review_that_is_passed() -> None:
    rules = Rules(
        ClassRule(min_area_px=4, review_below=0.5),
        {"pit": ClassRule(min_confidence=0.9, review_below=0.95, count=2)},
        zones=(Zone("left", (0, 0, 4, 4), default=ClassRule()), Zone("out", (9, 9, 2, 2), ignore=True)),
    )
    raised = at_least(rules, 0.6)
    assert raised.default == ClassRule(min_area_px=4, min_confidence=0.6)
    assert raised.per_class["pit"] == rules.per_class["pit"]
    assert raised.zones[0].default == ClassRule(min_confidence=0.6)
    assert raised.zones[1] == rules.zones[1]
    assert at_least(rules, 0.0) == rules
