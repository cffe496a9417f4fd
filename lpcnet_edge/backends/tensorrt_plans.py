"""Which plans serve here: for exactly this library, version and card, verified, or none."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lpcnet_edge.backends.cuda.device import Properties
from lpcnet_edge.backends.tensorrt import Library
from lpcnet_edge.bundle.cache import machine_cache
from lpcnet_edge.bundle.machine_plans import get_plans, kept_plans
from lpcnet_edge.bundle.plans import PlanSet
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import MissingDevice, PlanMismatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundPlans:
    """Plans to load.

    Attributes
    ----------
    plans
        Stage name -> verified bytes.
    where
        ``this machine's cache`` or ``the bundle``.
    cache
        This machine's folder for the bundle, library, version and card; None where it has none.
    """

    plans: Mapping[str, bytes]
    where: str
    cache: Path | None


def find_plans(bundle: Bundle, library: Library, card: Properties, *, use_cache: bool = True) -> FoundPlans:
    """The plans of both stages for this machine: those it built itself, else those that came with the bundle.

    A bundle's plans are for a card of this compute capability; with a library that builds on the machine itself, also
    of this name, for it measures its kernels on that very card.

    Raises
    ------
    PlanMismatch
        There are none; names what there is, this machine, and the command that builds them.
    MissingDevice
        The library builds nothing for such a card.
    StaleCache, UnsafeCache
        This machine's cache must not be used.
    ChangedFile, WrongSize, MissingFile, UnsafeEntry
        A plan in the bundle was changed since it was opened.
    """
    ahead = library.branch.compute_capabilities
    if ahead and card.compute_capability not in ahead:
        raise MissingDevice(
            f"{library.module} {library.version} does not serve {card.name}, of compute capability "
            f"{card.compute_capability}; it serves {', '.join(ahead)}",
            mend="use the backend tensorrt, or torch-cuda",
        )
    runtime = library.module.replace("_", "-")
    wanted = (runtime, library.version, f"sm{card.compute_capability.replace('.', '')}")
    cache = _cache(bundle, wanted) if use_cache else None
    built = get_plans(bundle, cache, wanted) if cache is not None else None
    if built is not None and _is_for(built[0], library, card):
        return FoundPlans(built[1], "this machine's cache", cache)
    for plans in bundle.plan_sets:
        same = (plans.runtime, plans.version, plans.device) == wanted and _is_for(plans, library, card)
        if same and plans.plans.keys() >= bundle.manifest.stages.keys():
            verified = {stage: bundle.plan(stage, *wanted) for stage in bundle.manifest.stages}
            return FoundPlans(verified, "the bundle", cache)
    command = f"lpcnet-edge build --from {shlex.quote(str(bundle.path))}"
    there = "; ".join(map(_in_words, bundle.plan_sets))
    kept = "; ".join(kept_plans(bundle)) if use_cache else ""
    raise PlanMismatch(
        f"{bundle.path} {f'has plans for {there}' if there else 'has no plans'}"
        + (f", this machine's cache has plans for {kept}" if kept else "")
        + f"; this machine is {runtime} {library.version} on {wanted[2]} ({card.name})",
        mend=f"{command} --backend {runtime}",
    )


def _is_for(plans: PlanSet, library: Library, card: Properties) -> bool:
    built_on = plans.settings.get("device_name")
    return bool(library.branch.compute_capabilities) or built_on in (None, card.name)


def _in_words(plans: PlanSet) -> str:
    built_on = plans.settings.get("device_name")
    return f"{plans}{f' ({built_on})' if built_on else ''}"


def _cache(bundle: Bundle, wanted: tuple[str, str, str]) -> Path | None:
    try:
        return machine_cache(bundle.id, *wanted)
    except OSError as exc:
        log.warning("this machine keeps nothing between starts: %s: %s", exc.filename, exc.strerror)
        return None
