"""Verdicts in an SQLite database: what a station queries afterwards."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from lpcnet_edge.errors import SinkFailed
from lpcnet_edge.runtime.sinks.base import Sink, encode_line, record_line
from lpcnet_edge.runtime.sources.frame import Item
from lpcnet_edge.types import ClassMap, Verdict

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE verdicts (
    id INTEGER PRIMARY KEY,
    taken_at TEXT NOT NULL,       -- UTC, ISO 8601
    source TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    frame TEXT NOT NULL,
    width_px INTEGER,             -- NULL for a frame that could not be read
    height_px INTEGER,
    part_id TEXT NOT NULL,
    verdict TEXT NOT NULL,        -- pass, reject or review
    reasons TEXT NOT NULL,        -- JSON list of sentences
    latency_ms REAL,              -- from the moment the frame was taken
    backend TEXT NOT NULL,
    bundle TEXT NOT NULL,
    line TEXT NOT NULL            -- the whole verdict line, JSON
);
CREATE INDEX verdicts_by_part ON verdicts (part_id);
CREATE INDEX verdicts_by_time ON verdicts (taken_at);
CREATE TABLE defects (
    verdict_id INTEGER NOT NULL REFERENCES verdicts (id) ON DELETE CASCADE,
    class TEXT NOT NULL,
    x_px INTEGER NOT NULL,
    y_px INTEGER NOT NULL,
    width_px INTEGER NOT NULL,
    height_px INTEGER NOT NULL,
    area_px INTEGER NOT NULL,
    area_mm2 REAL,                -- NULL where the scale is not known
    confidence REAL NOT NULL      -- 0..1
);
CREATE INDEX defects_by_verdict ON defects (verdict_id);
"""


class SqliteSink(Sink):
    """Tables ``verdicts`` and ``defects`` (``SCHEMA``), write-ahead log, one transaction a flush.

    Readers do not disturb it, and another writer only while a transaction lasts. A commit is on the
    disk (``synchronous=FULL``). ``PRAGMA user_version`` is the version of the schema.
    """

    durable = True

    def __init__(self, path: Path) -> None:
        self.name = f"sqlite {path}"
        self._held: list[tuple[str, tuple[object, ...], list[tuple[object, ...]]]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            raise SinkFailed(f"{path} cannot be written: {exc}", mend="name a file in a folder for it") from exc
        try:
            self._prepare(path)
        except sqlite3.Error as exc:
            self.close()
            raise SinkFailed(
                f"{path} is no database that can be written: {exc}",
                mend="close the program that has it open" if "locked" in str(exc) else "name another file",
            ) from exc
        except SinkFailed:
            self.close()
            raise
        self._path, self._file = path.absolute(), _file_at(path)

    def _prepare(self, path: Path) -> None:
        run = self._connection.execute
        # What it holds comes first: the log's mode would stay in another program's database.
        (version,) = run("PRAGMA user_version").fetchone()
        tables = {name for (name,) in run("SELECT name FROM sqlite_schema")}
        empty = version == 0 and not tables
        if not empty and version != SCHEMA_VERSION:
            raise SinkFailed(
                f"{path} is a database of schema {version}, this version writes {SCHEMA_VERSION}",
                mend="name another file, or move it away",
            )
        if not empty and not {"verdicts", "defects"} <= tables:
            raise SinkFailed(f"{path} is another program's database", mend="name another file, or move it away")
        (mode,) = run("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise SinkFailed(f"{path}: SQLite keeps no write-ahead log there", mend="name a file on a local disk")
        run("PRAGMA synchronous=FULL")
        if empty:
            self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    @property
    def pending(self) -> int:
        return len(self._held)

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        line = record_line(item, verdict)
        width, height = line["size_px"] or (None, None)
        text = encode_line(line)
        row = (
            line["taken_at"], line["source"], line["sequence"], line["frame"], width, height, line["part_id"],
            line["verdict"], json.dumps(line["reasons"]), line["latency_ms"].get("total"), line["backend"],
            line["bundle"], text,
        )  # fmt: skip
        for value in row:  # here and not in a flush, which one such record would fail for ever
            if isinstance(value, str):
                value.encode()
        defects: list[tuple[object, ...]] = [
            (d["class"], *d["box_px"], d["area_px"], d["area_mm2"], d["confidence"]) for d in line["defects"]
        ]
        self._held.append((text, row, defects))

    def flush(self) -> None:
        if not self._held:
            return
        if _file_at(self._path) != self._file:  # SQLite would go on writing what nobody can read
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced while it was written", str(self._path))
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            for _, row, defects in self._held:
                added = run(f"INSERT INTO verdicts VALUES (NULL{', ?' * len(row)})", row).lastrowid
                for defect in defects:
                    run("INSERT INTO defects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (added, *defect))
            run("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise
        self._held.clear()

    def surrender(self) -> Sequence[str]:
        held, self._held = self._held, []
        return [text for text, _, _ in held]

    def close(self) -> None:
        self._connection.close()


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file has this name now; None where there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino
