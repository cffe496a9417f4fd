"""Plans inside a bundle: ``plans/<runtime>-<version>-<device>/`` with a ``plan.yaml`` beside the ``.plan`` files.

A plan is native code for one runtime version on one kind of device, compiled from one ONNX file. All of that is stated
beside it, so that a plan for another machine is never tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lpcnet_edge.bundle.manifest import FileRecord, Manifest, check_plain
from lpcnet_edge.bundle.names import PLAN_MANIFEST, PLANS, check_name, shown, slug
from lpcnet_edge.config import dump_yaml, from_mapping, to_mapping
from lpcnet_edge.errors import BadConfig, BadPlan
from lpcnet_edge.yamlfile import parse

_MEND = "build the bundle again"


@dataclass(frozen=True, slots=True)
class Plan:
    """One compiled stage: its file in the folder, and the SHA-256 (hex) of the bundle's ONNX file it was made from."""

    file: str
    onnx_sha256: str

    def __post_init__(self) -> None:
        check_name(self.file)
        if "/" in self.file or not self.file.endswith(".plan"):
            raise ValueError(f"'{self.file}' is no .plan file beside {PLAN_MANIFEST}")


@dataclass(frozen=True, slots=True)
class PlanSet:
    """What ``plan.yaml`` says.

    Attributes
    ----------
    runtime, version, device
        Such as ``tensorrt-rtx``, ``1.7.1.116`` and ``sm89``.
    plans
        The plan of each stage, ``localization`` and ``confidence``.
    settings
        Plain data on how it was built, such as the largest batch.
    """

    runtime: str
    version: str
    device: str
    plans: Mapping[str, Plan]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, text in (("runtime", self.runtime), ("version", self.version), ("device", self.device)):
            if not text.strip() or not text.isprintable() or len(text) > 64:
                raise ValueError(f"the {what} '{shown(text)}' is empty, over 64 characters or has control characters")
        check_plain(self.settings, "settings")
        if not self.plans:
            raise ValueError("no plan is named")

    def __str__(self) -> str:
        return f"{self.runtime} {self.version} on {self.device}"

    @property
    def folder(self) -> str:
        """The folder in the bundle."""
        return f"{PLANS}/{slug(self.runtime, self.version, self.device)}"


def plan_files(
    runtime: str,
    version: str,
    device: str,
    plans: Mapping[str, tuple[bytes, bytes]],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """The files to hand to ``write_bundle`` for the plans of one device.

    Parameters
    ----------
    runtime, version, device
        As in :class:`PlanSet`.
    plans
        Stage name -> (bytes of the plan, bytes of the stage's ONNX file in the bundle).
    settings
        As in :class:`PlanSet`.
    """
    records = {s: Plan(f"{s}.plan", hashlib.sha256(onnx).hexdigest()) for s, (_, onnx) in plans.items()}
    made = PlanSet(runtime, version, device, records, settings or {})
    files = {f"{made.folder}/{stage}.plan": plan for stage, (plan, _) in plans.items()}
    return {f"{made.folder}/{PLAN_MANIFEST}": dump_yaml(to_mapping(made)).encode(), **files}


def plan_folders(files: Mapping[str, FileRecord]) -> list[str]:
    """The folders of plans among a manifest's files."""
    return sorted({"/".join(name.split("/")[:2]) for name in files if name.startswith(f"{PLANS}/")})


def parse_plan_set(raw: bytes, folder: str, manifest: Manifest, where: str) -> PlanSet:
    """Read a ``plan.yaml`` and hold it against the folder that it stands in and the bundle's ONNX files.

    Raises
    ------
    BadPlan
        The YAML or a value is wrong, the folder has another name than runtime, version and device give, a plan is not
        there or not named, or it was made from other ONNX files than the bundle has.
    """
    place = f"{where}: {folder}/{PLAN_MANIFEST}"
    try:
        found = from_mapping(PlanSet, parse(raw), place)
    except BadConfig as exc:
        raise BadPlan(shown(exc.message if exc.message.startswith(place) else f"{place}: {exc.message}"),
                      mend=exc.mend) from exc  # fmt: skip
    if found.folder != folder:
        raise BadPlan(f"{place} is for {found}, which belongs in {found.folder}", mend=_MEND)
    named = {f"{folder}/{plan.file}" for plan in found.plans.values()} | {f"{folder}/{PLAN_MANIFEST}"}
    beside = {name for name in manifest.files if name.startswith(f"{folder}/")}
    for name in sorted(named ^ beside):
        what = "does not name" if name in beside else "names a file that is not there:"
        raise BadPlan(f"{place} {what} '{name}'", mend=_MEND)
    for stage, plan in found.plans.items():
        if stage not in manifest.stages:
            raise BadPlan(f"{place} has a plan for the stage '{shown(stage)}', which no bundle has", mend=_MEND)
        onnx = manifest.files[manifest.stages[stage].file].sha256
        if plan.onnx_sha256 != onnx:
            raise BadPlan(
                f"{place}: the {stage} plan was made from the ONNX file {shown(plan.onnx_sha256[:12])}..., "
                f"the bundle's is {onnx[:12]}...",
                mend=_MEND,
            )
    return found
