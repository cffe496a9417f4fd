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
