"""Plans that this machine built of a bundle, in its cache: the same ``plan.yaml`` and files as in a bundle."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from lpcnet_edge.bundle.cache import drop_artifact, get_artifact, machine_cache, made_for, put_artifact
from lpcnet_edge.bundle.names import PLAN_MANIFEST
from lpcnet_edge.bundle.plans import PlanSet
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadConfig, StaleCache
from lpcnet_edge.yamlfile import parse


def put_plans(bundle: Bundle, files: Mapping[str, bytes]) -> list[Path]:
    """Keep files as :func:`~lpcnet_edge.bundle.plans.plan_files` gives them; returns where each is.

    The ``plan.yaml`` of a folder comes last: without it there are no plans. Raises as ``machine_cache`` does.
    """
    kept = {}
    for name, data in sorted(files.items(), key=lambda item: item[0].endswith(PLAN_MANIFEST)):
        _, folder, file = name.split("/")
        kept[name] = put_artifact(machine_cache(bundle.id, *folder.rsplit("-", 2)), file, data)
    return [kept[name] for name in files]


def get_plans(bundle: Bundle, cache: Path, wanted: tuple[str, str, str]) -> tuple[PlanSet, dict[str, bytes]] | None:
    """What ``plan.yaml`` says and the verified bytes of each stage's plan; None where no plans were built.

    Parameters
    ----------
    cache
        Of :func:`~lpcnet_edge.bundle.cache.machine_cache`.
    wanted
        Runtime, version and device, as in :class:`~lpcnet_edge.bundle.plans.PlanSet`.

    Raises
    ------
    StaleCache
        A file was changed, or the plans are for something else than ``wanted`` or made from other ONNX files.
    """
    raw = get_artifact(cache, PLAN_MANIFEST)
    if raw is None:
        return None
    where = f"{cache}: {PLAN_MANIFEST}"
    mend = f"rm -r {shlex.quote(str(cache))}, then lpcnet-edge build --from {shlex.quote(str(bundle.path))}"
    try:
        found = from_mapping(PlanSet, parse(raw), where)
    except BadConfig as exc:
        raise StaleCache(exc.message, mend=mend) from exc
    if (found.runtime, found.version, found.device) != wanted:
        raise StaleCache(f"{where} is for {found}, not for {wanted[0]} {wanted[1]} on {wanted[2]}", mend=mend)
    plans = {}
    for stage, spec in bundle.manifest.stages.items():
        if stage not in found.plans:
            raise StaleCache(f"{where} names no {stage} plan", mend=mend)
        onnx = bundle.manifest.files[spec.file].sha256
        if found.plans[stage].onnx_sha256 != onnx:
            raise StaleCache(f"{where}: the {stage} plan was made from another ONNX file than the bundle's", mend=mend)
        data = get_artifact(cache, found.plans[stage].file)
        if data is None:
            raise StaleCache(f"{where} names '{found.plans[stage].file}', which is not there", mend=mend)
        plans[stage] = data
    return found, plans


def drop_plans(kept: Iterable[Path]) -> None:
    """Forget plans again, of which :func:`put_plans` said where they are."""
    for cache in {path.parent for path in kept}:
        drop_artifact(cache, PLAN_MANIFEST)


def kept_plans(bundle: Bundle) -> list[str]:
    """For what this machine keeps plans of the bundle, in words; for messages."""
    return [
        f"{runtime} {version} on {device}"
        for runtime, version, device, names in made_for(bundle.id)
        if PLAN_MANIFEST in names
    ]
