"""Names of files inside a bundle: few characters, so that two names that look alike are alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

MANIFEST = "bundle.yaml"
SIGNATURE = "signature"
PLANS = "plans"
PLAN_MANIFEST = "plan.yaml"

SIGNATURE_BYTES = 64

MAX_NAME = 200
MAX_DEPTH = 8
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def is_printable(text: str) -> bool:
    """Whether a terminal shows the text as it is; the wide spaces of other scripts count, unlike for Python."""
    return all(c.isprintable() or unicodedata.category(c) == "Zs" for c in text)


def shown(text: object) -> str:
    """Text of unknown origin as it may be printed: what a terminal would act on, or not show, is escaped."""
    cut = str(text) if len(str(text)) <= 400 else str(text)[:397] + "..."
    return "".join(c if is_printable(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def printable(value: Any) -> Any:
    """Plain data as a manifest holds it: what no terminal shows, in the names of folders say, is escaped."""
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return shown(value) if isinstance(value, str) and not is_printable(value) else value


def check_name(name: str) -> None:
    """Raise ``ValueError`` for anything but a relative path in POSIX form of ASCII letters, digits and ``_ . + -``.

    Absolute paths, ``.`` and ``..``, backslashes, NUL, empty and hidden parts are thereby refused.
    """
    parts = name.split("/")
    if len(name) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise ValueError(f"the name '{shown(name)}' is over {MAX_NAME} characters or {MAX_DEPTH} folders long")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(
            f"the name '{shown(name)}' is not a plain path inside the bundle (letters, digits, '_', '.', '+', '-')"
        )


def check_names(names: Collection[str]) -> None:
    """Raise ``ValueError`` as :func:`check_name`, or where two differ only in case, or one is the other's folder."""
    seen: dict[str, str] = {}
    for name in names:
        check_name(name)
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"the names '{other}' and '{name}' differ only in case")
    for name in seen:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in seen:
                raise ValueError(f"'{seen[parent]}' is named as a file and as the folder of '{seen[name]}'")
            parent = parent.rpartition("/")[0]


def leftovers(out: Path) -> list[tuple[Path, str]]:
    """What killed writes left beside ``out``, and of which kind: ``writing`` (half made) or ``old`` (moved aside)."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}\.(writing|old)")  # as tempfile.mkdtemp names them
    matches = [(path, ours.fullmatch(path.name)) for path in sorted(out.parent.iterdir())]
    return [(path, match[1]) for path, match in matches if match and path.is_dir() and not path.is_symlink()]


def slug(*parts: str) -> str:
    """Join texts such as runtime, version and device to one name: ``NVIDIA RTX 4070`` becomes ``NVIDIA_RTX_4070``."""
    cleaned = (re.sub(r"[^A-Za-z0-9_.+-]+", "_", part).strip("_.+-") for part in parts)
    return "-".join(part or "_" for part in cleaned)
