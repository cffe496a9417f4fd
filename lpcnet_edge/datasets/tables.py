"""Reading of small CSV tables: every way one can be bad has its line in the error."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lpcnet_edge.errors import BadData


def read_table(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a UTF-8 CSV file with a header: (line number, row) for each row, no cell of a ``required`` column empty.

    Raises ``BadData`` naming the file, the line and the column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BadData(
            f"{path}: byte {exc.start} is not UTF-8", mend="save the table as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        ) from exc
    except OSError as exc:
        raise BadData(f"{path}: {exc.strerror or exc}", mend="check the path and its permissions") from exc
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="")
    try:
        have = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        missing = [column for column in required if column not in have]
        if missing:
            raise BadData(
                f"{path} line 1: no column {', '.join(missing)}; it has {', '.join(have) or 'none'}",
                mend=f"the header must have {','.join(required)}",
            )
        if "" in have:
            raise BadData(
                f"{path} line 1: column {have.index('') + 1} has no name",
                mend="name it, or remove it: a comma at the end of every line makes one",
            )
        twice = next((column for column in have if have.count(column) > 1), None)
        if twice is not None:
            raise BadData(f"{path} line 1: two columns are called {twice}", mend="give each column a name of its own")
        rows = []
        for row in reader:
            line = reader.line_num
            if "" in row or None in row.values():
                raise BadData(
                    f"{path} line {line}: the number of cells differs from the header's {len(have)}",
                    mend="quote cells that hold a comma, and fill empty ones in",
                )
            empty = [column for column in required if not row[column].strip()]
            if empty:
                raise BadData(f"{path} line {line}: column {empty[0]} is empty", mend="fill it in or remove the row")
            rows.append((line, {key: value.strip() for key, value in row.items()}))
    except csv.Error as exc:
        raise BadData(f"{path} line {reader.line_num + 1}: {exc}", mend="correct that line") from exc
    return rows
