"""Writing a bundle so that a killed build leaves the old one or none, and only what can be opened takes its place."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lpcnet_edge.bundle import tree
from lpcnet_edge.bundle.manifest import FileRecord, Manifest
from lpcnet_edge.bundle.names import MANIFEST, SIGNATURE, leftovers
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.config import dump_yaml, to_mapping
from lpcnet_edge.errors import BadBundle, BadConfig, BadManifest, NotABundle, UnlistedFile, UnsafeEntry, UsageError
from lpcnet_edge.yamlfile import MAX_BYTES, load_yaml, parse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def write_bundle(
    out: Path, manifest: Manifest, files: Mapping[str, bytes | Path], *, sign_with: Path | None = None
) -> Bundle:
    """Write a bundle and put it in the place of the one that may stand at ``out``.

    It is written and flushed beside ``out``, opened as a station would, and swapped in with one rename. Whatever ends
    the process leaves the old bundle or the new, and what it left half made is removed by the next call.

    Parameters
    ----------
    out
        The bundle's folder: absent, empty, or a bundle, which is replaced.
    manifest
        What to write into ``bundle.yaml``; its ``files`` is filled in here.
    files
        Path in the bundle -> content, or the file to copy.
    sign_with
        PEM file of an Ed25519 private key.

    Raises
    ------
    NotABundle
        Something else stands at ``out``, or a bundle to which files were added, or ``out`` lies inside a bundle or in
        no folder that can be written to; nothing is touched.
    BadBundle
        One of its kinds: what was asked for is no bundle that :func:`open_bundle` accepts.
    BadKey
        ``sign_with`` is no such key.
    """
    out = Path(out)
    key = check_out(out, sign_with=sign_with)
    planned = _with_files(manifest, {name: FileRecord("0" * 64, 0) for name in files}, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tree.locked(out.parent):
        _recover(out)
        _check_replaceable(out)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".writing", dir=out.parent))
        try:
            records = {name: _write(temporary / name, content) for name, content in sorted(files.items())}
            raw = _dump(replace(planned, files=records), out)
            _write(temporary / MANIFEST, raw)
            if key is not None:
                _write(temporary / SIGNATURE, key.sign(raw))
            _settle(temporary)
            bundle = _open(temporary, out)
            _swap(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # after the swap this is the old bundle
    return replace(bundle, path=out)


def check_out(out: Path, *, sign_with: Path | None = None) -> Ed25519PrivateKey | None:
    """Raise what :func:`write_bundle` would raise for this place and key, before any work is done for it.

    Returns the key.
    """
    if not out.name or out.name == "..":
        raise UsageError(f"'{out}' names no folder to make", mend="give the bundle's own folder")
    for above in (Path(os.path.realpath(out.parent)) / out.name).parents:  # `..` and links lead elsewhere
        if (above / MANIFEST).exists():
            raise NotABundle(
                f"{out} lies inside the bundle {above}, and nothing is added to one", mend="give another --out"
            )
    there = next(above for above in out.absolute().parents if os.path.lexists(above))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "may not be written to" if there.is_dir() else "is no folder"
        raise NotABundle(f"{out} cannot be made: {there} {what}", mend="give another --out")
    _check_replaceable(out)
    if sign_with is None:
        return None
    from lpcnet_edge.bundle.sign import load_private_key

    return load_private_key(sign_with)


def _with_files(manifest: Manifest, records: Mapping[str, FileRecord], out: Path) -> Manifest:
    try:
        made = replace(manifest, files=records)
        made.check_files()
    except BadConfig as exc:
        raise BadManifest(f"{out}: {exc.message}", mend=exc.mend) from exc
    except ValueError as exc:
        raise BadManifest(f"{out}: {exc}", mend="name the files of a bundle by plain relative paths") from exc
    return made


def _open(temporary: Path, out: Path) -> Bundle:
    """Open what was written as a station will; errors name the place it is meant for."""
    try:
        return open_bundle(temporary)
    except BadBundle as exc:
        raise type(exc)(exc.message.replace(str(temporary), str(out)), mend=exc.mend) from exc


def _dump(manifest: Manifest, out: Path) -> bytes:
    mapping = to_mapping(manifest)
    raw = dump_yaml(mapping).encode()
    if len(raw) > MAX_BYTES:
        raise BadManifest(
            f"{out}: {MANIFEST} would be {len(raw)} bytes, the limit is {MAX_BYTES}",
            mend="keep long lists in a JSON file of the bundle",
        )
    if parse(raw) != mapping:
        raise BadManifest(f"{out}: what {MANIFEST} would hold does not survive YAML", mend="use plain text and numbers")
    return raw


def _recover(out: Path) -> None:
    """Clear away what killed writes left beside ``out``; no one else is writing here. A bundle that was moved aside and
    has no successor goes back."""
    for path, kind in leftovers(out):
        if kind == "old" and not os.path.lexists(out):
            os.rename(path, out)
        else:
            shutil.rmtree(path)


def _check_replaceable(out: Path) -> None:
    """Raise ``NotABundle`` unless ``out`` is absent, an empty folder, or a bundle with nothing of anyone else's in it.

    A damaged bundle may be replaced, and one of another schema: its manifest need only name what is there.
    """
    mend = f"give another --out, or move {out} away"
    if out.is_symlink():
        raise NotABundle(f"{out} is a symbolic link, which is not replaced", mend="give the folder that it leads to")
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise NotABundle(f"{out} exists and is no folder", mend=mend)
    if out.is_mount():  # a container's volume, say: no rename can take its place
        raise NotABundle(f"{out} is a mounted volume, which is not replaced", mend="give a folder in it as --out")
    if not any(out.iterdir()):
        return
    try:
        listed = load_yaml(out / MANIFEST)["files"]
        tree.check_entries(out, {str(name) for name in listed} | {MANIFEST, SIGNATURE})
    except (BadConfig, KeyError, TypeError) as exc:
        raise NotABundle(f"{out} exists and is no bundle: it has no readable {MANIFEST}", mend=mend) from exc
    except (UnlistedFile, UnsafeEntry) as exc:
        raise NotABundle(f"{exc.message}; nothing was replaced", mend=mend) from exc


def _write(path: Path, content: bytes | Path) -> FileRecord:
    """Write or copy one file, flush it to disk, and say what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    blocks = [content] if isinstance(content, bytes) else _blocks(content)
    try:
        with path.open("xb") as stream:
            for block in blocks:
                digest.update(block)
                size += stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as exc:  # which names no file where the disk is full
        raise OSError(exc.errno, exc.strerror, exc.filename or str(path)) from exc
    os.chmod(path, 0o644)
    return FileRecord(digest.hexdigest(), size)


def _blocks(path: Path) -> Iterator[bytes]:
    stream: BinaryIO
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _settle(folder: Path) -> None:
    """Give the folders of a written bundle their modes, and flush their entries to disk, the innermost first."""
    for path, _, _ in os.walk(folder, topdown=False):
        os.chmod(path, 0o755)
        _flush(Path(path))


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(temporary: Path, out: Path) -> None:
    """Put ``temporary`` at ``out``, and what was there at ``temporary``, in one step where the file system can."""
    if not out.exists() or not any(out.iterdir()):
        os.rename(temporary, out)
    elif not _exchange(temporary, out):
        aside = temporary.with_suffix(".old")
        os.rename(out, aside)
        try:
            os.rename(temporary, out)  # a process killed before this leaves the old one aside, for the next to put back
        except BaseException:
            os.rename(aside, out)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _flush(out.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths with renameat2(2); False where the C library, the kernel or the file system cannot."""
    rename: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(other))
