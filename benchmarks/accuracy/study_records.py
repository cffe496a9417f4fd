"""A run's record as a file: needs no torch, so that tables can be made anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lpcnet_edge.errors import BadArtifact
from lpcnet_edge.files import finite, write_atomically

SCHEMA = "lpcnet-edge/study-run/1"


def read_record(path: Path) -> dict[str, Any]:
    """A record as it was written; raises ``BadArtifact``."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        schema = found["schema"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadArtifact(f"{path} is no record of a run ({exc!r})", mend="delete it and run the study again") from exc
    if schema != SCHEMA:
        raise BadArtifact(f"{path} is {schema!r}, not {SCHEMA!r}", mend="delete it and run the study again")
    return found


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write atomically, one line a part, so that a record can be read and compared by eye."""
    text = json.dumps(finite({**record, "parts": {}}), indent=1)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in record["parts"].items())
    write_atomically(path, text.replace('"parts": {}', f'"parts": {{\n{rows}\n }}', 1) + "\n")
