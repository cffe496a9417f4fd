"""A record on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lpcnet_edge.bench import words
from lpcnet_edge.bench.words import Record, number, percent

_LAYERS_SHOWN = 12


def print_record(record: Record, console: Console) -> None:
    """Print what was measured; every number with its unit."""
    _line(console, "bundle", record["bundle"]["id"])
    _line(console, "machine", words.machine_words(record))
    _line(console, "backend", record["backend"]["about"])
    _line(console, "frames", record["frames"]["says"])
    if record["quick"]:
        _line(console, "quick", "a fast look: the figures show that it works, and little more")
    if record["pipeline"]:
        console.print()
        console.print(_table(words.STAGE_HEADS, words.stage_rows(record)))
        _why_not(record, console)
        console.print()
        console.print(_table(("a frame's time", "bulk ms", "bulk", "live ms", "live"), words.part_rows(record)))
        console.print(
            "bulk: of the thread that decides, while another decodes "
            f"({number(record['pipeline']['bulk']['decode_in_its_thread_ms'], 3, ' ms')} a frame) and the engines run; "
            "live: from reading a frame to its verdict in the sink",
            style="dim",
            highlight=False,
        )
        console.print()
        for name, text in words.summary(record):
            _line(console, name, text)
    if record["sustained"]:
        _line(console, "sustained", words.sustained_words(record["sustained"]))
    if record["vs"]:
        _versus(record, console)
    if record["budget"]:
        _budget(record["budget"], console)
    if record["estimate"]:
        _estimate(record["estimate"], console)
    style = {True: "green", False: "red", "unknown": "yellow"}[record["stable"]]
    console.print(f"[{style}]run: {escape(words.verdict(record))}[/]", highlight=False)
    stolen = record["stability"]["stolen"]
    if stolen is not None and stolen > 0.01:
        _line(console, "note", f"a hypervisor gave {percent(stolen)} of the cores' time to others")


def print_comparison(found: Record, console: Console) -> None:
    """Print two records side by side."""
    for name in ("before", "after"):
        _line(console, name, f"{found[name]['bundle']}, made {found[name]['made']}")
    for note in found["notes"]:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
    rows = []
    for row in found["rows"]:
        interval = "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        meaning = {None: "one round: nobody can say", True: "larger than noise", False: "within noise"}[row["differs"]]
        rows.append(
            [row["name"], number(row["before"]), number(row["after"]), f"{row['ratio']:.3f}", interval, meaning]
        )
    console.print(_table(("throughput", "before", "after", "ratio", "95 %", ""), rows))


def _why_not(record: Record, console: Console) -> None:
    reasons = {row["loading_not_measured"] for row in record["stages"]} - {None}
    reasons |= {record["raw_engine"]["why"]} - {None}
    for reason in sorted(reasons):
        console.print(f"not as asked: {escape(reason)}", style="dim", highlight=False)
    if any(row["latency_ms"]["p99"] is None or row["latency_ms"]["p999"] is None for row in record["stages"]):
        console.print("a dash: too few batches for that percentile (p99 takes 100, p99.9 takes 1000)", style="dim")


def _versus(record: Record, console: Console) -> None:
    found = record["vs"]
    rows = [[str(n + 1), number(a), number(b), f"{r:.3f}"] for n, (a, b, r) in enumerate(found["pairs"])]
    console.print()
    console.print(
        _table(("pair", f"{record['bundle']['id']} frames/s", f"{found['other']['id']} frames/s", "ratio"), rows)
    )
    _line(console, "vs", words.versus_words(record))


def _budget(found: Record, console: Console) -> None:
    rows = [
        [
            f"{row['overlap_px']} px",
            str(row["tiles"]),
            str(row["batch"]),
            "none" if row["picked"] is None else str(row["picked"]),
            str(row["needed"]),
            number(row["slowest_ms"], 1, " ms"),
        ]
        for row in found["rows"]
    ]
    console.print()
    console.print(
        _table(("overlap", "tiles", "batch", "picked that fit", "the gate picks up to", "slowest screened"), rows)
    )
    for text in found["says"]:
        _line(console, "budget", text)
    if found["settings"]:
        _line(console, "run", f"framing.overlap_px: {found['settings']['framing']['overlap_px']}, "
              f"budget_tiles: {found['settings']['budget_tiles']} (docs/running.md)")  # fmt: skip


def _estimate(found: Record, console: Console) -> None:
    layers = sorted(found["layers"], key=lambda row: -row["us"])
    rows = [
        [row["layer"], row["kind"], row["precision"], number(row["mflop"]), number(row["kb"], 0), number(row["us"], 2),
         row["bound"]]
        for row in layers[:_LAYERS_SHOWN]
    ]  # fmt: skip
    console.print()
    console.print(_table(("layer", "kind", "precision", "MFLOP", "kB", "us a tile", "bound by"), rows))
    if len(layers) > _LAYERS_SHOWN:
        console.print(f"and {len(layers) - _LAYERS_SHOWN} that take less (--json has all)", style="dim")
    for text in words.estimate_lines(found):
        console.print(escape(text), highlight=False)


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"[bold]{escape(name):<15}[/]{escape(text)}", highlight=False)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table
