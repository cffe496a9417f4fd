"""Which part an image shows, where no dataset says so by itself: a pattern on file names, or a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lpcnet_edge.datasets.tables import read_table
from lpcnet_edge.errors import BadConfig, BadData

Grouping = tuple[str, Mapping[str, str]]
"""A part and the strata of one image."""


def group_by_pattern(names: Sequence[str], pattern: str, source: str) -> list[Grouping]:
    """Group images by a regular expression searched in their names.

    Its group ``part`` (or its first group) is the part, every other named group a stratum. Raises ``BadConfig`` for a
    pattern that cannot serve, ``BadData`` for a name it does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise BadConfig(f"{source}: parts {pattern!r}: {exc}", mend="correct the regular expression") from exc
    if not compiled.groups:
        raise BadConfig(f"{source}: parts {pattern!r} has no group", mend="write (?P<part>...) around the part")
    key: str | int = "part" if "part" in compiled.groupindex else 1
    result: list[Grouping] = []
    for name in names:
        match = compiled.search(name)
        if not match or not match[key]:
            raise BadData(f"{source}: parts {pattern!r} finds no part in {name}", mend="widen it, or use parts.csv")
        strata = {k: v for k, v in match.groupdict().items() if k != key and v is not None}
        result.append((match[key], strata))
    return result


def group_by_table(names: Sequence[str], path: Path) -> list[Grouping]:
    """Group images by a CSV table with the columns ``image`` and ``part``; every other column is a stratum.

    Raises ``BadData`` where the table and the images are not the same set.
    """
    known = set(names)
    rows: dict[str, Grouping] = {}
    for line, row in read_table(path, ("image", "part")):
        image = row.pop("image")
        if image not in known:
            raise BadData(f"{path} line {line}: there is no image {image!r}", mend="remove the row or add the image")
        if image in rows:
            raise BadData(f"{path} line {line}: {image} is listed twice", mend="remove one of the two rows")
        rows[image] = (row.pop("part"), {key: value for key, value in row.items() if value})
    missing = [name for name in names if name not in rows]
    if missing:
        raise BadData(f"{path}: {len(missing)} images have no row, such as {missing[0]}", mend="add their rows")
    return [rows[name] for name in names]


def group_images(names: Sequence[str], table: Path, pattern: str | None, source: str) -> list[Grouping]:
    """Group by the table if it exists, else by the pattern if there is one, else each image is a part of its own."""
    if table.exists() and pattern is not None:
        raise BadConfig(f"{source} has a parts pattern and {table} exists too", mend="keep one of the two")
    if table.exists():
        return group_by_table(names, table)
    if pattern is not None:
        return group_by_pattern(names, pattern, source)
    return [(name, {}) for name in names]
