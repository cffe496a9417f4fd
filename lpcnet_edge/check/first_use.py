"""This machine's plans of a bundle, built on the spot, and not kept unless the bundle's self-test passes with them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpcnet_edge.backends.tensorrt_open import find_here
from lpcnet_edge.build.golden import GOLDEN_FILE
from lpcnet_edge.build.settings import Progress
from lpcnet_edge.build.station import StationPlans, plans_for_station
from lpcnet_edge.bundle.machine_plans import drop_plans
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.selftest import SelfTest, run_selftest
from lpcnet_edge.errors import PlanMismatch

log = logging.getLogger(__name__)

_WITH_PLANS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class MadeHere:
    """What was built, and the self-test it passed; None where the bundle has no golden tiles."""

    plans: StationPlans
    selftest: SelfTest | None

    def to_json(self) -> dict[str, Any]:
        """Plain data as docs/json.md describes."""
        return {**self.plans.to_json(), "selftest": None if self.selftest is None else self.selftest.to_json()}

    def lines(self) -> list[str]:
        """For a person."""
        if self.selftest is None:
            return [*self.plans.lines(), "not tested: the bundle has no golden tiles"]
        return [*self.plans.lines(), f"self-test passed: {self.selftest.tiles} golden tiles"]


def build_here(bundle: Bundle, backend: str, progress: Progress) -> MadeHere:
    """Build plans for this machine's GPU and run the self-test on them.

    Raises
    ------
    CheckFailed
        They compute something else than was recorded; they are not kept.
    And what building and opening raise; then they are not kept either.
    """
    made = plans_for_station(bundle, backend, (), progress)
    try:
        found = run_selftest(bundle, made.runtime) if GOLDEN_FILE in bundle.manifest.files else None
        drifted = found.error() if found is not None else None
        if drifted is not None:
            raise drifted
    except BaseException:
        drop_plans(map(Path, made.files))
        raise
    return MadeHere(made, found)


def make_ready(bundle: Bundle, backend: str, progress: Progress) -> MadeHere | None:
    """Where ``backend`` needs plans of this machine and there are none: :func:`build_here`. Else None.

    ``auto`` needs none: it takes what is ready. Raises what :func:`build_here` does, ``MissingLibrary`` or
    ``MissingDevice`` where there is nothing to run plans with, and ``StaleCache`` where those kept must not be used.
    """
    if backend not in _WITH_PLANS:
        return None
    try:
        find_here(bundle, backend.replace("-", "_"))
    except PlanMismatch as exc:
        log.warning("%s: building them now", exc.message)
        return build_here(bundle, backend, progress)
    return None
