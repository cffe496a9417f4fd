"""Opening a bundle: everything in it is verified before anything in it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpcnet_edge.bundle import tree
from lpcnet_edge.bundle.manifest import SCHEMA_VERSION, Manifest
from lpcnet_edge.bundle.names import MANIFEST, PLAN_MANIFEST, PLANS, SIGNATURE, SIGNATURE_BYTES, leftovers, shown
from lpcnet_edge.bundle.plans import PlanSet, parse_plan_set, plan_folders
from lpcnet_edge.config import from_mapping, suggest
from lpcnet_edge.errors import (
    BadBundle,
    BadConfig,
    BadManifest,
    BadPlan,
    MissingFile,
    NewerSchema,
    NotABundle,
    PlanMismatch,
    SignatureError,
    UnsafeName,
)
from lpcnet_edge.yamlfile import MAX_BYTES, parse


@dataclass(frozen=True)
class Bundle:
    """A bundle that was found to hold.

    Attributes
    ----------
    path
        Its folder.
    manifest
        What ``bundle.yaml`` says.
    manifest_sha256
        Of the bytes of ``bundle.yaml`` (hex), and so of everything in the bundle.
    plan_sets
        The plans that came with it.
    signed
        Whether it has a signature. Only ``open_bundle(..., trusted_key=...)`` says by whom.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    plan_sets: tuple[PlanSet, ...]
    signed: bool

    @property
    def id(self) -> str:
        """The bundle's name and the first 12 hex digits of the SHA-256 of ``bundle.yaml``."""
        return f"{self.manifest.name}-{self.manifest_sha256[:12]}"

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists, as it was verified on opening; :meth:`read` leaves no gap."""
        self._record(name)
        return self.path / name

    def read(self, name: str) -> bytes:
        """The bytes of a file, verified anew: read once, compared, returned.

        Raises ``MissingFile``, ``WrongSize``, ``ChangedFile`` or ``UnsafeEntry`` where it changed after opening.
        """
        return tree.read_verified(self.path, name, self._record(name))

    def json(self, name: str) -> Any:
        """The content of a JSON file of the bundle, from verified bytes; raises ``BadBundle`` where it is no JSON."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as exc:
            raise BadBundle(f"{self.path}: '{name}' is no JSON: {exc}", mend="build the bundle again") from exc

    def plan(self, stage: str, runtime: str, version: str, device: str) -> bytes:
        """The verified bytes of the stage's plan for exactly this runtime, version and device.

        Raises :class:`~lpcnet_edge.errors.PlanMismatch`, naming what there is and the command that builds one here.
        """
        here = f"{runtime} {version} on {device}"
        for plans in self.plan_sets:
            if stage in plans.plans and (plans.runtime, plans.version, plans.device) == (runtime, version, device):
                return self.read(f"{plans.folder}/{plans.plans[stage].file}")
        there = "; ".join(str(plans) for plans in self.plan_sets if stage in plans.plans)
        held = f"has {stage} plans for {there}" if there else f"has no {stage} plan"
        raise PlanMismatch(
            f"{self.path} {held}, this machine is {here}",
            mend=f"lpcnet-edge build --from {shlex.quote(str(self.path))}",
        )

    def _record(self, name: str) -> Any:
        try:
            return self.manifest.files[name]
        except KeyError as exc:
            mend = suggest(name, list(self.manifest.files))
            raise MissingFile(f"{self.path} has no file '{shown(name)}'", mend=mend) from exc


def open_bundle(path: str | Path, *, trusted_key: Path | None = None) -> Bundle:
    """Open a bundle after verifying all of it.

    In this order: the signature over ``bundle.yaml`` where a key is given, its schema and values, that the folder holds
    the files it names and nothing else, no links among them, size and SHA-256 of each, that every ONNX file stands
    alone, the stages' inputs and outputs, and the plans' ``plan.yaml``. Nothing is run or deserialised but YAML and
    protocol buffers, in bounded size.

    Parameters
    ----------
    path
        The bundle's folder; it may itself be reached through a symbolic link.
    trusted_key
        PEM file of an Ed25519 public key. With it, a bundle that is not signed by that key is refused.

    Raises
    ------
    BadBundle
        One of its kinds, for each way in which a bundle can be bad.
    BadKey
        ``trusted_key`` is no such key.
    """
    path = Path(path)
    where = str(path)
    raw = _read_manifest(path)
    signature = _read_signature(path)
    if trusted_key is not None:
        from lpcnet_edge.bundle.sign import check_signature, load_public_key

        check_signature(raw, signature, load_public_key(trusted_key), where)
    manifest = parse_manifest(raw, where)
    own = {MANIFEST, SIGNATURE} if signature is not None else {MANIFEST}
    tree.check_entries(path, {*manifest.files, *own})
    for name, record in manifest.files.items():
        if not name.endswith(".onnx"):
            tree.verify(path, name, record)
    _check_models(path, manifest)
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest(), _read_plans(path, manifest), signature is not None)


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """The manifest that the bytes of a ``bundle.yaml`` hold.

    Raises ``NewerSchema``, ``UnsafeName``, or ``BadManifest`` for all else; ``where`` names the bundle in them.
    """
    place = f"{where}/{MANIFEST}"
    try:
        mapping = parse(raw)
    except BadConfig as exc:
        raise BadManifest(f"{place}: {shown(exc.message)}", mend=tree.COPY_MEND) from exc
    version = mapping.get("schema_version")
    if type(version) is not int:
        raise BadManifest(f"{place}: no schema_version, a whole number", mend="is this the manifest of a bundle?")
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{place}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest this lpcnet-edge reads",
            mend="update lpcnet-edge on this machine, or build the bundle with the version that runs here",
        )
    try:
        manifest = from_mapping(Manifest, mapping, place)
    except BadConfig as exc:
        raise BadManifest(shown(exc.message), mend=tree.COPY_MEND) from exc
    try:
        manifest.check_files()
    except BadConfig as exc:
        raise BadManifest(f"{place}: {exc.message}", mend=tree.COPY_MEND) from exc
    except ValueError as exc:
        raise UnsafeName(f"{place}: {exc}", mend="do not use this bundle; get it again from its source") from exc
    return manifest


def _read_manifest(path: Path) -> bytes:
    if not path.exists():
        aside = [p for p, kind in leftovers(path) if kind == "old"] if path.parent.is_dir() else []
        mend = "check the path"
        if aside:
            mend = f"mv {shlex.quote(str(aside[0]))} {shlex.quote(str(path))}, which a killed build moved aside"
        raise NotABundle(f"there is no bundle at {path}", mend=mend)
    if not path.is_dir():
        raise NotABundle(f"{path} is no folder, so no bundle", mend=f"give the folder that holds {MANIFEST}")
    try:
        with tree.open_inside(path, MANIFEST) as stream:
            raw = stream.read(MAX_BYTES + 1)
    except MissingFile as exc:
        raise NotABundle(
            f"{path} is no bundle: it has no {MANIFEST}", mend="give the folder that `lpcnet-edge build` wrote"
        ) from exc
    if len(raw) > MAX_BYTES:
        raise BadManifest(f"{path}/{MANIFEST} is over {MAX_BYTES} bytes", mend=tree.COPY_MEND)
    return raw


def _read_signature(path: Path) -> bytes | None:
    if not os.path.lexists(path / SIGNATURE):
        return None
    with tree.open_inside(path, SIGNATURE) as stream:
        signature = stream.read(SIGNATURE_BYTES + 1)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"{path}/{SIGNATURE} is not the {SIGNATURE_BYTES} bytes of a signature", mend="sign the bundle again"
        )
    return signature


def _check_models(path: Path, manifest: Manifest) -> None:
    """Verify every ONNX file and look at the very bytes that were verified."""
    from lpcnet_edge.bundle.model import check_interface, scan_model

    specs = {spec.file: spec for spec in manifest.stages.values()}
    for name, record in manifest.files.items():
        if name.endswith(".onnx"):
            where = f"{path}: '{name}'"
            model = scan_model(tree.read_verified(path, name, record), where)
            if name in specs:
                check_interface(model, specs[name], where)


def _read_plans(path: Path, manifest: Manifest) -> tuple[PlanSet, ...]:
    for name in manifest.files:
        if name.endswith(".plan") and not (name.startswith(f"{PLANS}/") and name.count("/") == 2):
            raise BadPlan(f"{path}: '{name}' stands in no folder of plans", mend="build the bundle again")
    found = []
    for folder in plan_folders(manifest.files):
        about = f"{folder}/{PLAN_MANIFEST}"
        if about not in manifest.files:
            raise BadPlan(f"{path}: '{folder}' has no {PLAN_MANIFEST}", mend="build the bundle again")
        raw = tree.read_verified(path, about, manifest.files[about])
        found.append(parse_plan_set(raw, folder, manifest, str(path)))
    return tuple(found)
