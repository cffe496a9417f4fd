"""Reading a folder that may be hostile: no symbolic link is followed, nothing but plain files is opened."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lpcnet_edge.bundle.manifest import FileRecord
from lpcnet_edge.bundle.names import MAX_DEPTH, shown
from lpcnet_edge.errors import BadArtifact, BadBundle, ChangedFile, MissingFile, UnlistedFile, UnsafeEntry, WrongSize

COPY_MEND = "copy the bundle again, or build it again"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not hold us up


@contextlib.contextmanager
def open_inside(root: Path, name: str) -> Iterator[BinaryIO]:
    """Open the plain file ``name``, a checked name, below the folder ``root``.

    Raises :class:`~lpcnet_edge.errors.MissingFile`, or :class:`~lpcnet_edge.errors.UnsafeEntry` where a component is a
    symbolic link or the end is no plain file. Each component is opened relative to the one before, so that nothing can
    be swapped for a link between check and use.
    """
    *folders, last = name.split("/")
    with contextlib.ExitStack() as stack:

        def opened(part: str, flags: int, parent: int | None) -> int:
            handle = os.open(part, flags, dir_fd=parent)
            stack.callback(os.close, handle)
            return handle

        try:
            parent = opened(str(root), _FOLDER & ~os.O_NOFOLLOW, None)
            for folder in folders:
                parent = opened(folder, _FOLDER, parent)
            handle = opened(last, _FILE, parent)
        except FileNotFoundError as exc:
            raise MissingFile(f"{root}: '{name}' is not there", mend=COPY_MEND) from exc
        except PermissionError as exc:
            raise BadBundle(f"{root}: '{name}' cannot be read: {exc.strerror}", mend="correct its permissions") from exc
        except OSError as exc:  # ELOOP, ENOTDIR, ENXIO: a link, a file for a folder, a socket
            raise UnsafeEntry(
                f"{root}: '{name}' is no plain file inside the bundle: {exc.strerror}", mend=COPY_MEND
            ) from exc
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsafeEntry(f"{root}: '{name}' is no plain file", mend=COPY_MEND)
        yield stack.enter_context(open(handle, "rb", closefd=False))


def read_verified(root: Path, name: str, record: FileRecord) -> bytes:
    """The bytes of a file, read once and compared with what the manifest says of it."""
    with open_inside(root, name) as stream:
        _check_size(root, name, record, os.fstat(stream.fileno()).st_size)
        data = stream.read(record.size_bytes + 1)
    _check_size(root, name, record, len(data))
    _check_digest(root, name, record, hashlib.sha256(data).hexdigest())
    return data


def verify(root: Path, name: str, record: FileRecord) -> None:
    """Compare a file with what the manifest says of it, in bounded memory."""
    digest, size = hashlib.sha256(), 0
    with open_inside(root, name) as stream:
        _check_size(root, name, record, os.fstat(stream.fileno()).st_size)
        while block := stream.read(1 << 20):
            size += len(block)
            if size > record.size_bytes:
                break
            digest.update(block)
    _check_size(root, name, record, size)
    _check_digest(root, name, record, digest.hexdigest())


def _check_size(root: Path, name: str, record: FileRecord, size: int) -> None:
    if size != record.size_bytes:
        how = "truncated" if size < record.size_bytes else "too long"
        raise WrongSize(
            f"{root}: '{name}' is {how}: {size} bytes, the manifest says {record.size_bytes}", mend=COPY_MEND
        )


def _check_digest(root: Path, name: str, record: FileRecord, digest: str) -> None:
    if digest != record.sha256:
        raise ChangedFile(
            f"{root}: '{name}' was changed: its SHA-256 is {digest[:12]}..., the manifest says {record.sha256[:12]}...",
            mend=COPY_MEND,
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change what is in ``folder``; the kernel lets go when a process ends."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as exc:
            raise BadArtifact(
                f"{folder}: the folder cannot be locked: {exc.strerror}", mend="use a folder on a local disk"
            ) from exc
        yield
    finally:
        os.close(handle)


def check_entries(root: Path, listed: set[str]) -> None:
    """Raise unless the folder holds plain files that are listed and the folders that lead to them, nothing else.

    Raises ``UnsafeEntry`` or ``UnlistedFile``; that all of ``listed`` is there is seen when the files are read.
    """
    folders = {name[: index + 1] for name in listed for index, c in enumerate(name) if c == "/"}
    for name, kind in _entries(root, "", 0):
        if stat.S_ISLNK(kind):
            raise UnsafeEntry(f"{root}: '{shown(name)}' is a symbolic link", mend=COPY_MEND)
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise UnsafeEntry(f"{root}: '{shown(name)}' is neither file nor folder", mend=COPY_MEND)
        if name not in listed and name not in folders:
            what = "folder" if stat.S_ISDIR(kind) else "file"
            raise UnlistedFile(
                f"{root}: the {what} '{shown(name)}' is not in the manifest",
                mend="move it out: a bundle is never added to; what a machine makes goes into its cache",
            )


def _entries(root: Path, below: str, depth: int) -> Iterator[tuple[str, int]]:
    """(path in POSIX form, mode) of everything in the folder; a folder's path ends in a slash, and comes before what is
    in it."""
    if depth > MAX_DEPTH:
        raise UnlistedFile(f"{root}: folders inside folders, deeper than {MAX_DEPTH}", mend=COPY_MEND)
    with os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = entry.stat(follow_symlinks=False).st_mode
            name = f"{below}{entry.name}"
            if stat.S_ISDIR(kind):
                yield f"{name}/", kind
                yield from _entries(root, f"{name}/", depth + 1)
            else:
                yield name, kind
