"""Figures as tables for a terminal, readable at 100 columns; every number comes from the JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lpcnet_edge.check.evaluation import Evaluation
from lpcnet_edge.check.predict import ImageVerdict
from lpcnet_edge.types import Outcome

STYLES: Mapping[Outcome, str] = {"pass": "green", "reject": "red", "review": "yellow"}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print headline, classes, strata, defects by size, escapes and overkill, and the gate."""
    report = evaluation.to_json()
    _headline(report, console)
    console.print()
    _per_class(report["candidate"]["per_class"], console)
    for key, value in report["candidate"].items():
        if key.startswith("per_") and key != "per_class" and value:
            console.print()
            _per_stratum(key.removeprefix("per_").replace("_", " "), value, console)
    console.print()
    _defects(report["defects"], console)
    console.print()
    _parts(report["escapes"], report["overkill"], console)
    console.print()
    _gate(report["gate"], console)


def print_verdicts(rows: Sequence[ImageVerdict], console: Console) -> None:
    """Print one row for each image, and the count of each outcome."""
    known = any(row.known is not None for row in rows)
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold", max_width=40)
    for heading in ("verdict", "class"):
        table.add_column(heading)
    for heading in ("area px", "confidence"):
        table.add_column(heading, justify="right")
    if known:
        table.add_column("known mask")
        table.add_column("IoU", justify="right")
    for row in rows:
        verdict = row.verdict
        cells = [escape(row.name), f"[{STYLES[verdict.outcome]}]{verdict.outcome}[/]"]
        if verdict.defects:
            largest = verdict.defects[0]
            more = f" (+{len(verdict.defects) - 1})" if len(verdict.defects) > 1 else ""
            cells += [escape(largest.name) + more, str(largest.area_px), f"{largest.confidence:.2f}"]
        else:
            cells += ["" if row.error is None else "unreadable", "", ""]
        if known:
            cells += ["?" if row.known is None else escape(", ".join(row.known)) or "free", _points(row.defect_iou)]
        table.add_row(*cells)
    console.print(table)
    for row in rows:
        if row.error is not None:
            console.print(f"[red]unreadable:[/] {escape(row.error)}", highlight=False)
    counts = {outcome: sum(row.verdict.outcome == outcome for row in rows) for outcome in STYLES}
    console.print(f"{len(rows)} images: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n))


def _headline(report: Mapping[str, Any], console: Console) -> None:
    data, figures = report["dataset"], report["candidate"]
    fold = f", fold {data['fold']}" if data["fold"] else ""
    console.print(
        f"[bold]{escape(data['name'])}{escape(fold)}[/bold]: {data['images']} images ({data['free_images']} free) of "
        f"{data['parts']} parts, each resized to {data['tile_px']} x {data['tile_px']} px",
        highlight=False,
    )
    table = _table("", "mIoU", "mPA", "mIoU without background", "defect IoU", "precision", "recall")
    table.add_row("all images", *_pixel_cells(figures))
    console.print(table)


def _per_class(classes: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    table = _table(
        "class", "IoU", "accuracy", "true px", "predicted px", "images", "area %", "defects", "caught", "as it"
    )
    for name, row in classes.items():
        defects = row.get("defects")
        table.add_row(
            escape(name),
            *(_points(row[key]) for key in ("iou", "pixel_accuracy")),
            *(f"{row[key]:,}" for key in ("pixels", "predicted_pixels", "images")),
            _points(row["mean_area"]),
            *([str(defects[key]) for key in ("count", "caught", "caught_as_class")] if defects else ["", "", ""]),
        )
    console.print(table)


def _per_stratum(name: str, values: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    table = _table(escape(name), "mIoU", "mPA", "mIoU without background", "defect IoU", "precision", "recall")
    for value, figures in values.items():
        table.add_row(escape(value) or "(none)", *_pixel_cells(figures))
    console.print(table)


def _defects(report: Mapping[str, Any], console: Console) -> None:
    table = _table("defects of px", "number", "caught", "recall", "95 %", "as their class", "recall ")
    for row in report["by_size"]:
        size = f"{row['from_px']} and more" if row["to_px"] is None else f"{row['from_px']} to {row['to_px'] - 1}"
        table.add_row(size, *_recall_cells(row))
    table.add_row("all", *_recall_cells(report))
    console.print(table)
    console.print(
        f"caught: {report['overlap']:g} % or more of its pixels. Smallest caught: {_px(report['smallest_caught_px'])}; "
        f"largest missed: {_px(report['largest_missed_px'])}; false alarms: {report['false_alarms']}; "
        f"ignored as under {report['min_area_px']} px: {report['ignored']}",
        highlight=False,
    )


def _parts(escapes: Mapping[str, Any], overkill: Mapping[str, Any], console: Console) -> None:
    table = _table("", "images", "%", "95 %", "parts", "% ", "95 % ")
    for name, report in (("escapes (of defective)", escapes), ("overkill (of good)", overkill)):
        cells = []
        for unit in ("images", "parts"):
            row = report[unit]
            cells += [f"{row['count']} of {row['total']}", _points(row["rate"]), _interval(row)]
        table.add_row(name, *cells)
    console.print(table)
    if escapes["escaped_parts"]:
        console.print(f"escaped parts: {escape(', '.join(escapes['escaped_parts']))}", highlight=False)


def _gate(gate: Mapping[str, Any], console: Console) -> None:
    held = gate["held_back_by"]
    if held is None:
        console.print("gate: there is no defective part to set it by")
        return
    table = _table(
        "gate that misses no defective", "threshold", "defective", f"of {gate['free_images']} free images, cleared %"
    )
    for unit in ("part", "image"):
        row = gate[f"{unit}s"]
        table.add_row(unit, f"{row['threshold']:.4f}", str(row["defective"]), _points(row["cleared"]))
    console.print(table)
    lowest = ", ".join(f"{name} {score:.3f}" for name, score in gate["lowest_score_by_class"].items())
    console.print(
        f"held back by {escape(held['class'])}: part {escape(held['part'])} scores {held['score']:.4f} "
        f"({escape(held['image'])}); lowest part of each class: {escape(lowest)}",
        highlight=False,
    )


def _table(first: str, *headings: str) -> Table:
    """A table with a column of names and right-aligned columns of figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _pixel_cells(figures: Mapping[str, float | None]) -> list[str]:
    keys = ("mean_iou", "mean_pixel_accuracy", "mean_iou_without_background", "defect_iou", "defect_precision")
    return [_points(figures[key]) for key in (*keys, "defect_recall")]


def _recall_cells(row: Mapping[str, Any]) -> list[str]:
    interval = _interval(row) if row["count"] else "-"
    return [
        *(str(row["count"]), str(row["caught"]), _points(row["recall"]), interval),
        *(str(row["caught_as_class"]), _points(row["recall_as_class"])),
    ]


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.1f} to {row['high']:.1f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _px(value: int | None) -> str:
    return "none" if value is None else f"{value} px"
