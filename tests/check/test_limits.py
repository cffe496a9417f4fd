"""Limits and what is named beside a broken one, on figures that are given."""

from __future__ import annotations

from typing import Any, cast

import pytest
from test_agreement import BLANK, agreement

from lpcnet_edge.check.bundle_check import BundleCheck
from lpcnet_edge.check.causes import Cause
from lpcnet_edge.check.limits import Broken, ClassLimits, Limits, broken_limits


@pytest.mark.parametrize(("before", "after", "holds"), [(80.4, 80.1, True), (0.33, 0.03, True), (80.4, 80.099, False)])
def test_a_drop_of_just_what_is_allowed_holds(before: float, after: float, holds: bool) -> None:
    """80.4 - 80.1 is more than 0.3 in binary."""
    sides = {"reference": before, "candidate": after}
    report: dict[str, Any] = {side: {"per_class": {"gap": {"iou": iou}}} for side, iou in sides.items()}
    limits = Limits(per_class={"gap": ClassLimits(max_drop=0.3)}, sound=False)
    broken = broken_limits(limits, {**report, "agreement": {}, "bundle_gate": {}, "causes": []})
    assert [row.limit for row in broken] == ([] if holds else ["per_class.gap.max_drop"])


@pytest.mark.parametrize(
    ("alpha", "low", "told"),
    [
        (0.05, 5.0, None),
        (0.05, 5.1, "a share of 5.10 % or more, 0.1 more than max_gate_misses 5 allows"),
        (0.05, None, "these images have nothing to measure it by"),  # no defective part among them
        (None, None, None),  # off
    ],
)
def test_the_promise_of_a_gate_is_judged_where_there_are_defective_parts(
    alpha: float | None, low: float | None, told: str | None
) -> None:
    gate = {"alpha": alpha, "low": low, "missed": 1, "defective_parts": 20}
    limits = Limits(max_gate_misses="alpha", sound=False)
    broken = broken_limits(limits, {"agreement": {}, "bundle_gate": gate, "causes": []})
    assert [row.message.endswith(told) for row in broken] == ([] if told is None else [True])


@pytest.mark.parametrize(
    ("limit", "named"), [("max_new_overkill", False), ("max_ece", False), ("max_drop", True), ("min_mask_iou", True)]
)
def test_a_gate_that_misses_parts_is_no_cause_of_rejects(limit: str, named: bool) -> None:
    cause = Cause("gate", "the gate clears 1 of 2 defective parts", "calibrate the gate again")
    check = BundleCheck(
        bundle=cast(Any, None),
        agreement=agreement([BLANK], [BLANK], [BLANK]),
        reference=cast(Any, None),
        candidate=cast(Any, None),
        about_reference="",
        about_candidate="",
        gate={"missed_parts": ["p0"]},
        causes=[cause],
        limits=Limits(),
        broken=(),
    )
    assert check.causes_of(Broken(limit, 1, 0, "")) == ([cause] if named else [])
