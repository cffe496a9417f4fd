"""What this machine makes of a bundle: plans, compiled graphs, timings. Kept apart from the bundle, owned by one user.

A cache is for one bundle id, runtime, version and device, stated in its ``manifest.yaml`` with the SHA-256 of every
artifact. What does not agree is an error: an artifact may be native code.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lpcnet_edge.bundle.manifest import FileRecord
from lpcnet_edge.bundle.names import check_name, shown, slug
from lpcnet_edge.bundle.tree import locked, read_verified
from lpcnet_edge.config import dump_yaml, load_config, to_mapping
from lpcnet_edge.errors import BadBundle, BadConfig, StaleCache, UnsafeCache, UsageError
from lpcnet_edge.files import write_atomically

VARIABLE = "LPCNET_EDGE_CACHE"
_MANIFEST = "manifest.yaml"
_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class _CacheManifest:
    """What a cache is for, and what is in it: artifact name -> record of its file."""

    bundle_id: str
    runtime: str
    version: str
    device: str
    artifacts: Mapping[str, FileRecord] = field(default_factory=dict)
    schema_version: int = _SCHEMA_VERSION

    def __str__(self) -> str:
        return shown(f"{self.bundle_id} on {self.runtime} {self.version}, {self.device}")


def cache_root() -> Path:
    """``LPCNET_EDGE_CACHE``, or ``lpcnet-edge`` in ``XDG_CACHE_HOME`` or in ``~/.cache``; not made here.

    As the XDG specification says, an ``XDG_CACHE_HOME`` that is no absolute path is ignored.
    """
    own = os.environ.get(VARIABLE)
    if own:
        if not os.path.isabs(own):
            raise UsageError(f"{VARIABLE} is '{own}', no absolute path", mend=f"export {VARIABLE}=/an/absolute/path")
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):
        return Path(shared) / "lpcnet-edge"
    try:
        return Path.home() / ".cache" / "lpcnet-edge"
    except RuntimeError as exc:
        raise UsageError("this user has no home folder", mend=f"export {VARIABLE}=/an/absolute/path") from exc


def machine_cache(bundle_id: str, runtime: str, version: str, device: str) -> Path:
    """The folder of what this machine made of a bundle, made with mode 0700 where it is absent.

    Raises
    ------
    UnsafeCache
        It, or a folder between it and :func:`cache_root`, belongs to someone else, is open to others' writing, or is a
        symbolic link.
    StaleCache
        It holds something, and its manifest is missing, damaged or for something else.
    """
    check_name(bundle_id)
    folder = _own(bundle_id, slug(runtime, version, device))
    wanted = _CacheManifest(bundle_id, runtime, version, device)
    with locked(folder):
        if not (folder / _MANIFEST).exists() and not any(p for p in folder.iterdir() if not _is_leftover(p)):
            _save(folder, wanted)
        found = _load(folder)
    if replace(found, artifacts={}) != wanted:
        raise StaleCache(f"{folder} is a cache of {found}, not of {wanted}", mend=_removal(folder))
    return folder


def build_cache(name: str) -> Path:
    """A folder of :func:`cache_root` that the builds on this machine share, such as ``exports``, made where absent.

    Raises ``UnsafeCache`` as :func:`machine_cache` does.
    """
    return _own(name)


def made_for(bundle_id: str) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """(runtime, version, device, names of artifacts) of every readable cache of a bundle; makes and trusts nothing."""
    check_name(bundle_id)
    found = []
    for path in sorted((cache_root() / bundle_id).glob(f"*/{_MANIFEST}")):
        with contextlib.suppress(StaleCache, OSError):
            manifest = _load(path.parent)
            found.append((manifest.runtime, manifest.version, manifest.device, tuple(manifest.artifacts)))
    return found


def put_artifact(cache: Path, name: str, data: bytes) -> Path:
    """Keep ``data`` under ``name`` (such as ``localization.plan``) and return its file; an older one of the name goes.

    A killed call leaves the older artifact.
    """
    _check_artifact(name)
    record = FileRecord(hashlib.sha256(data).hexdigest(), len(data))
    path = cache / _file_name(name, record)
    _check_owner(cache)
    with locked(cache):
        manifest = _load(cache)
        before = manifest.artifacts.get(name)
        write_atomically(path, data)
        os.chmod(path, 0o600)
        _save(cache, replace(manifest, artifacts={**manifest.artifacts, name: record}))
        if before is not None and before != record:
            (cache / _file_name(name, before)).unlink(missing_ok=True)
    return path


def get_artifact(cache: Path, name: str) -> bytes | None:
    """The bytes kept under ``name``, verified, or None where none were.

    Raises :class:`~lpcnet_edge.errors.StaleCache` where the file is gone or changed, or the manifest is damaged.
    """
    _check_owner(cache)
    with locked(cache):
        record = _load(cache).artifacts.get(name)
        if record is None:
            return None
        try:
            return read_verified(cache, _file_name(name, record), record)
        except BadBundle as exc:
            raise StaleCache(exc.message, mend=_removal(cache)) from exc


def drop_artifact(cache: Path, name: str) -> None:
    """Forget what is kept under ``name``, if anything is."""
    _check_owner(cache)
    with locked(cache):
        manifest = _load(cache)
        record = manifest.artifacts.get(name)
        if record is not None:
            rest = {other: kept for other, kept in manifest.artifacts.items() if other != name}
            _save(cache, replace(manifest, artifacts=rest))
            (cache / _file_name(name, record)).unlink(missing_ok=True)


def _own(*names: str) -> Path:
    """The folder below :func:`cache_root`; it and those above it are made with mode 0700 whatever the umask."""
    path = cache_root()
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("", *names):
        path /= name
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        _check_owner(path)
    return path


def _file_name(name: str, record: FileRecord) -> str:
    """The name on disk holds part of the digest, so that old and new stand side by side until the manifest changes."""
    path = PurePosixPath(name)
    return f"{path.stem}-{record.sha256[:12]}{path.suffix}"


def _check_artifact(name: str) -> None:
    check_name(name)
    if "/" in name or name == _MANIFEST:
        raise ValueError(f"'{name}' is no name of an artifact")


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no folder"
        raise UnsafeCache(f"the cache {path} is {what}", mend=f"move it away, or set {VARIABLE} to another folder")
    if status.st_uid != os.geteuid():
        raise UnsafeCache(
            f"the cache {path} belongs to user {status.st_uid}, this is user {os.geteuid()}",
            mend=f"set {VARIABLE} to a folder of your own",
        )
    if status.st_mode & 0o022:
        raise UnsafeCache(
            f"others can write to the cache {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            mend=f"empty it, for others may have written there, then chmod 700 {shlex.quote(str(path))}",
        )


def _is_leftover(path: Path) -> bool:
    """Whether a killed ``write_atomically`` left this file."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _load(folder: Path) -> _CacheManifest:
    path = folder / _MANIFEST
    if not path.is_file() or path.is_symlink():
        raise StaleCache(f"{folder} holds files and no {_MANIFEST}, so it is no cache of ours", mend=_removal(folder))
    try:
        found = load_config(path, _CacheManifest)
        for name in found.artifacts:
            _check_artifact(name)
    except (BadConfig, ValueError) as exc:
        message = exc.message if isinstance(exc, BadConfig) else f"{path}: {exc}"
        raise StaleCache(f"the cache's manifest is damaged: {shown(message)}", mend=_removal(folder)) from exc
    if found.schema_version != _SCHEMA_VERSION:
        raise StaleCache(
            f"{path} has schema_version {found.schema_version}, this is {_SCHEMA_VERSION}", mend=_removal(folder)
        )
    return found


def _save(folder: Path, manifest: _CacheManifest) -> None:
    write_atomically(folder / _MANIFEST, dump_yaml(to_mapping(manifest)))


def _removal(folder: Path) -> str:
    return f"rm -r {shlex.quote(str(folder))}, and build again"
