"""A journal of a bulk run: which frames are in every output, so that a killed run goes on where it was.

Line 1 says what the run is and where its outputs stood when it began; each further line names frames that are on the
disk in all of them, and says how many of these were inspected at all. A frame that a killed run has written to some
outputs and not to others is inspected again, and given only to those that lack it.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lpcnet_edge.errors import BadInput, SinkFailed
from lpcnet_edge.runtime.sinks import Sink, Sinks, SinkSettings
from lpcnet_edge.runtime.sinks.appendfile import AppendFile
from lpcnet_edge.runtime.sinks.lines import csv_cell
from lpcnet_edge.runtime.sources.frame import Item
from lpcnet_edge.types import ClassMap, Verdict

_FORMAT = "lpcnet-edge journal 2"
_BEGINS = json.dumps({"format": "lpcnet-edge journal "})[:-2].encode()


class Journal:
    """Opens or begins a journal; open it before the outputs.

    Parameters
    ----------
    path
        The journal.
    run
        What makes two runs the same: bundle id, source, gate, rules.
    outputs
        Where verdicts go.

    Attributes
    ----------
    done
        Frames that need no inspection any more.
    inspected
        How many of them were inspected: not unreadable, and of a size and channels that fit.

    Raises
    ------
    BadInput
        The journal is of another run, or is none; a file that is none is left as it is.
    SinkFailed
        It cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], outputs: SinkSettings) -> None:
        _refuse_other_files(path)
        self._file = AppendFile(path)
        try:
            lines = path.read_bytes().splitlines()
            if not lines:
                head = json.dumps({"format": _FORMAT, "run": dict(run), "began_at": _standing(outputs)}).encode()
                self._file.append(head + b"\n")
                lines = [head]
            self._began_at, self.done, self.inspected = self._read(path, lines, dict(run))
        except OSError as exc:
            self._file.close()
            raise SinkFailed(
                f"the journal {path} cannot be kept: {exc.strerror or exc}", mend="make room, or name another file"
            ) from exc
        except BaseException:
            self._file.close()
            raise
        self._outputs = outputs
        self._pending: list[tuple[str, bool]] = []

    @staticmethod
    def _read(path: Path, lines: list[bytes], run: dict[str, Any]) -> tuple[dict[str, int], set[str], int]:
        try:
            head, *rest = (json.loads(line) for line in lines)
            if head["format"] != _FORMAT:
                raise ValueError(f"its format is {head['format']!r}")
            began_at = {str(name): int(value) for name, value in head["began_at"].items()}
            done = {str(name) for entry in rest for name in entry["frames"]}
            inspected = sum(int(entry["inspected"]) for entry in rest)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise BadInput(f"{path} is no journal of a run: {exc}", mend="name another file, or remove it") from exc
        for key, value in run.items():
            if head["run"].get(key) != value:
                raise BadInput(
                    f"{path} is the journal of a run with {key} {head['run'].get(key)!r}, this one has {value!r}",
                    mend="finish that run as it was begun, or name another journal",
                )
        return began_at, done, inspected

    def attach(self, sinks: Sinks) -> None:
        """Have each sink, before its first record, pass over the frames that the killed run had given it.

        Raises ``SinkFailed`` for an output that is not the one that the killed run wrote.
        """
        for runner in sinks.runners:
            kind = runner.sink.name.split()[0]
            written, as_written = self._written(kind), csv_cell if kind == "csv" else str
            if self.done and kind in self._began_at and not any(as_written(name) in written for name in self.done):
                raise SinkFailed(
                    f"{getattr(self._outputs, kind)} holds none of the {len(self.done)} frames that are done by the "
                    f"journal {self._file.path}",
                    mend="bring back the file that it wrote, or name another journal to inspect all of them again",
                )
            runner.sink = _Lacking(runner.sink, written - self.done, as_written)
            runner.missed = set()

    def _written(self, kind: str) -> set[str]:
        """Frames in an output since the run began; pictures are replaced by the same, so none need be known."""
        path: Path | None = getattr(self._outputs, kind, None) if kind in self._began_at else None
        if path is None or not path.is_file():
            return set()
        start = self._began_at[kind]
        if kind == "sqlite":
            return {str(row[0]) for row in _select(path, f"SELECT frame FROM verdicts WHERE id > {start}")}
        with path.open("rb") as stream:
            stream.seek(start)
            whole = [line.decode("utf-8", "backslashreplace") for line in stream if line.endswith(b"\n")]
        try:
            if kind == "jsonl":
                return {str(json.loads(line)["frame"]) for line in whole}
            return {row[3] for row in csv.reader(whole) if row[3] != "frame"}
        except (ValueError, TypeError, KeyError, IndexError, csv.Error) as exc:
            raise SinkFailed(
                f"{path} holds no verdicts from where the run of the journal {self._file.path} began to write",
                mend="bring back the file that it wrote, or name another journal",
            ) from exc

    def add(self, frame: str, inspected: bool) -> None:
        """A frame was given to the outputs, and whether it could be inspected."""
        self._pending.append((frame, inspected))

    @property
    def pending(self) -> int:
        """Frames given to the outputs since the last :meth:`commit`."""
        return len(self._pending)

    def commit(self, missed: Collection[str] = ()) -> None:
        """All frames added are on the disk in every output but those ``missed``, which the next run inspects again.

        Raises ``SinkFailed`` where that cannot be written.
        """
        written = [(frame, inspected) for frame, inspected in self._pending if frame not in missed]
        if written:
            names, count = [frame for frame, _ in written], sum(inspected for _, inspected in written)
            entry = {"frames": names, "inspected": count}
            try:
                self._file.append((json.dumps(entry) + "\n").encode())
            except OSError as exc:
                raise SinkFailed(
                    f"the journal {self._file.path} cannot be written: {exc.strerror or exc}",
                    mend="make room, then give the same command again: it goes on where this run ended",
                ) from exc
            self.done.update(names)
            self.inspected += count
        self._pending.clear()

    def close(self) -> None:
        """Close the file; what was not committed is inspected again the next time. Twice is fine."""
        self._file.close()


class _Lacking(Sink):
    """A sink that passes over frames it has already, by their names as it writes them."""

    def __init__(self, sink: Sink, has: set[str], as_written: Callable[[str], str]) -> None:
        self._sink, self._has, self._as_written = sink, has, as_written
        self.name, self.durable = sink.name, sink.durable

    @property
    def pending(self) -> int:
        return self._sink.pending

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        if self._as_written(item.name) not in self._has:
            self._sink.write(item, verdict, classes)

    def flush(self) -> None:
        self._sink.flush()

    def surrender(self) -> Sequence[str]:
        return self._sink.surrender()

    def close(self) -> None:
        self._sink.close()


def _refuse_other_files(path: Path) -> None:
    """Before it is opened, since opening cuts off a torn last line: whatever is no journal stays as it is."""
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} is no regular file: it keeps no journal", mend="name a file")
        with path.open("rb") as stream:
            begins = stream.read(len(_BEGINS))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise SinkFailed(f"{path} cannot be read: {exc.strerror or exc}", mend="name another file") from exc
    if begins != _BEGINS[: len(begins)]:
        raise BadInput(f"{path} is no journal of a run", mend="name another file, or remove it")


def _standing(outputs: SinkSettings) -> dict[str, int]:
    """Where each output stands: bytes of a file, the last id of a database."""
    found: dict[str, int] = {}
    for kind in ("jsonl", "csv"):
        path: Path | None = getattr(outputs, kind)
        if path is not None and (path.is_file() or not path.exists()):  # a pipe keeps nothing
            found[kind] = _whole_bytes(path)
    if outputs.sqlite is not None:
        found["sqlite"] = 0
        if outputs.sqlite.exists():
            found["sqlite"] = _select(outputs.sqlite, "SELECT coalesce(max(id), 0) FROM verdicts", [(0,)])[0][0]
    return found


def _select(path: Path, query: str, without: Sequence[tuple[Any, ...]] = ()) -> Sequence[tuple[Any, ...]]:
    """The rows of a query on the table of verdicts, or ``without`` where there is none yet."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'verdicts'").fetchone()
            return connection.execute(query).fetchall() if tables else without
    except sqlite3.Error as exc:
        raise SinkFailed(f"{path} is no database that can be written: {exc}", mend="name another file") from exc


def _whole_bytes(path: Path) -> int:
    """Size up to the last newline: a torn line is cut off when the sink opens."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            end = stream.tell()
            while end > 0:
                start = max(0, end - 65536)
                stream.seek(start)
                newline = stream.read(end - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                end = start
    except FileNotFoundError:
        pass
    return 0
