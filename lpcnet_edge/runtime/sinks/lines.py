"""Verdicts as lines: JSONL, and a CSV table for people."""

from __future__ import annotations

import csv
import io
import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpcnet_edge.errors import SinkFailed
from lpcnet_edge.runtime.sinks.appendfile import AppendFile
from lpcnet_edge.runtime.sinks.base import Sink, encode_line, record_line
from lpcnet_edge.runtime.sources.frame import Item
from lpcnet_edge.types import ClassMap, Verdict


class _LineSink(Sink):
    kind = "lines"
    begins = b""
    """How each line does."""

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path, self.begins)
        self.name = f"{self.kind} {path}"
        self.durable = self._file.is_regular
        self._held: list[tuple[str, str]] = []  # JSON, and the line as this sink writes it

    @property
    def pending(self) -> int:
        return len(self._held)

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        line = record_line(item, verdict)
        self._held.append((encode_line(line), self._encode(line)))

    def flush(self) -> None:
        if self._held:
            self._file.append("".join(f"{text}\n" for _, text in self._held).encode())
            self._held.clear()

    def surrender(self) -> Sequence[str]:
        held, self._held = self._held, []
        return [text for text, _ in held]

    def close(self) -> None:
        self._file.close()

    @abstractmethod
    def _encode(self, line: dict[str, Any]) -> str:
        """One record as a line of this file."""


class JsonlSink(_LineSink):
    """One JSON object a line, added to the file (docs/sources.md lists the keys); flushed lines are on the disk."""

    kind = "jsonl"
    begins = b'{"'  # and not b"{", with which an indented JSON file begins, too

    def write_lines(self, lines: Sequence[str]) -> None:
        """Take lines that another sink surrendered."""
        self._held.extend((line, line) for line in lines)

    def _encode(self, line: dict[str, Any]) -> str:
        return encode_line(line)


def frames_written(path: Path) -> set[str]:
    """Names of the frames that a JSONL file holds, for :func:`open_source`'s ``skip``; a torn last line does not count.

    Empty where there is no file. Raises ``SinkFailed`` for a line that is no verdict line, and where it cannot be read.
    """
    names: set[str] = set()
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):
                    names.add(_frame_name(line, f"{path} line {number}"))
    except FileNotFoundError:
        pass
    except OSError as exc:
        problem = f"{path} cannot be read: {exc.strerror or exc}"
        raise SinkFailed(problem, mend="check the path and its permissions") from exc
    return names


def _frame_name(line: bytes, where: str) -> str:
    try:
        return str(json.loads(line)["frame"])
    except (ValueError, TypeError, KeyError) as exc:
        raise SinkFailed(f"{where} is no verdict line with a frame", mend="name another file, or move it away") from exc


_COLUMNS = (
    "taken_at", "source", "sequence", "frame", "part_id", "verdict", "reasons", "defects", "classes", "area_px",
    "largest_px", "latency_ms", "backend", "bundle",
)  # fmt: skip


class CsvSink(_LineSink):
    """One row a frame: number of defects, their classes, their area and the largest; reasons joined by ``; ``."""

    kind = "csv"

    def __init__(self, path: Path) -> None:
        header = (",".join(_COLUMNS) + "\n").encode()
        try:
            if path.is_file():  # before it is opened, since that cuts off a torn last line
                with path.open("rb") as stream:
                    begins = stream.read(len(header)).rstrip(b"\0")  # what a power cut leaves
                if begins != header[: len(begins)]:
                    raise SinkFailed(f"{path} has other columns", mend="name another file, or move it away")
            super().__init__(path)
        except OSError as exc:
            raise SinkFailed(f"{path}: {exc.strerror or exc}", mend="name another file") from exc
        try:
            if not self._file.size:
                self._file.append(header)
        except OSError as exc:
            self.close()
            raise SinkFailed(f"{path}: {exc.strerror or exc}", mend="name another file") from exc

    def _encode(self, line: dict[str, Any]) -> str:
        defects = line["defects"]
        row = {
            **line,
            "reasons": "; ".join(line["reasons"]),
            "defects": len(defects),
            "classes": " ".join(sorted({defect["class"] for defect in defects})),
            "area_px": sum(defect["area_px"] for defect in defects),
            "largest_px": max((defect["area_px"] for defect in defects), default=0),
            "latency_ms": line["latency_ms"].get("total", ""),
        }
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(csv_cell(row[column]) for column in _COLUMNS)
        return text.getvalue()


def csv_cell(value: object) -> str:
    """A value as a CSV sink writes it.

    One row is one line, so that a torn file can be repaired; what UTF-8 does not have must not stop the rest.
    """
    return " ".join(str(value).splitlines()).encode("utf-8", "backslashreplace").decode()
