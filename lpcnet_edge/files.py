"""Writing files so that a killed process leaves the old content or the new; names of files as text; what JSON holds."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) beside ``path``, flush it to disk, then rename it into place.

    A device or a pipe is written to as it is, ``/dev/stdout`` too: a rename would put a file in its place; a link stays
    one, and what it leads to is replaced. A byte of a file's name that is no UTF-8 becomes ``\\udcNN`` in a text. An
    ``OSError`` names ``path``.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    try:
        if _is_device(path.absolute()) or (path.exists() and not path.is_file()):
            with path.open("ab") as stream:
                stream.write(content)
        else:
            target = Path(os.path.realpath(path)) if path.is_symlink() else path
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace(target, content)
    except OSError as exc:
        if exc.errno is not None:
            exc.filename, exc.filename2 = str(path), None  # that of the temporary file says nothing
        raise


def is_plain_file(path: Path, suffixes: Collection[str]) -> bool:
    """Whether a path in a folder is meant: it ends in one of the suffixes, is no folder and not hidden, as those files
    are that macOS puts beside each image."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir()


def _is_device(path: Path) -> bool:
    """Whether a path is below ``/dev``, but for shared memory, which holds files."""
    return path.is_relative_to("/dev") and not path.is_relative_to("/dev/shm")


def _replace(path: Path, content: bytes) -> None:
    begins = f".{path.name[:32]}."  # the whole of a long name and more would be too long for a file's
    handle, temporary = tempfile.mkstemp(prefix=begins, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def name_as_text(name: str) -> str:
    """A file's name as it stands in verdicts: UTF-8 whatever the locale, and ``\\xNN`` for a byte that is none."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_on_disk(text: str) -> str:
    """The name of a file to write for a text: in UTF-8 whatever the locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def finite(value: Any) -> Any:
    """Plain data for JSON: numbers that it cannot hold (nan, infinities) become None, keys text, tuples lists; in texts
    bytes that are no UTF-8, as names of files have, become ``\\xNN``."""
    if isinstance(value, dict):
        return {finite(str(key)): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        return name_as_text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
