"""A bundle's check as tables for a terminal; every number comes from the JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lpcnet_edge.page.markup import signed

_FIGURES = {
    "mean_iou": "mIoU",
    "mean_pixel_accuracy": "mPA",
    "defect_iou": "defect IoU",
    "defect_precision": "defect precision",
    "defect_recall": "defect recall",
}
_SHOWN = 12


def print_bundle_check(report: Mapping[str, Any], console: Console) -> None:
    """Print both sides, what changed between them, what is wrong with the bundle, and the limits."""
    data, bundle = report["dataset"], report["bundle"]
    fold = f", fold {data['fold']}" if data["fold"] else ""
    console.print(
        f"[bold]{escape(bundle['id'])}[/bold] on {escape(data['name'])}{escape(fold)}: {data['images']} images "
        f"({data['free_images']} free) of {data['parts']} parts",
        highlight=False,
    )
    console.print(f"candidate: {escape(bundle['candidate'])}", highlight=False)
    console.print(f"reference: {escape(bundle['reference'])}", highlight=False)
    console.print()
    console.print(_figures(report["reference"], report["candidate"]))
    console.print()
    console.print(_decisions(report))
    _agreement(report, console)
    _gate(report["bundle_gate"], console)
    if report["layers"] is not None:
        _layers(report["layers"], console)
    if report["against"] is not None:
        _against(report["against"], console)
    for cause in report["causes"]:
        console.print(f"[yellow]found:[/] {escape(cause['message'])}", highlight=False)
    console.print()
    _limits(report, console)


def _figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    table = _table("points", "float", "bundle", "change")
    for key, name in _FIGURES.items():
        table.add_row(name, *_pair(before[key], after[key]))
    for name, row in after["per_class"].items():
        table.add_row(f"IoU of {escape(name)}", *_pair(before["per_class"][name]["iou"], row["iou"]))
    for key, values in after.items():
        if key.startswith("per_") and key != "per_class":
            for value, row in values.items():
                label = f"mIoU, {key.removeprefix('per_').replace('_', ' ')} {value or '(none)'}"
                table.add_row(escape(label), *_pair(before[key][value]["mean_iou"], row["mean_iou"]))
    errors = (side["confidence"]["defect_pixels"]["ece"] for side in (before, after))
    table.add_row("calibration error (defects)", *_pair(*errors))
    return table


def _decisions(report: Mapping[str, Any]) -> Table:
    before, after = report["reference"], report["candidate"]
    table = _table("", "float", "bundle", "95 % of the bundle", "new")
    for key in ("escapes", "overkill"):
        for unit in ("parts", "images"):
            row = after[key][unit]
            new = ""
            if unit == "parts":
                new = str(len(report[key]["new"]))
            table.add_row(f"{key}, {unit}", _count(before[key][unit]), _count(row), _interval(row), new)
    for row, old in zip(after["defects"]["by_size"], before["defects"]["by_size"], strict=True):
        size = f"{row['from_px']} px and more" if row["to_px"] is None else f"{row['from_px']} to {row['to_px'] - 1} px"
        table.add_row(f"defects caught, {size}", _caught(old), _caught(row), _interval(row) if row["count"] else "", "")
    smallest = (side["defects"]["smallest_caught_px"] for side in (before, after))
    table.add_row("smallest defect caught", *("-" if px is None else f"{px} px" for px in smallest), "", "")
    return table


def _agreement(report: Mapping[str, Any], console: Console) -> None:
    found = report["agreement"]
    console.print(
        f"{found['pixels']:.3f} % of the pixels agree, the defect masks overlap by {found['mask_iou']:.2f} %; "
        f"{found['defects_lost']} of {found['defects_caught_by_reference']} defects that float catches are lost",
        highlight=False,
    )
    flips = found["flips"]
    console.print(f"{len(flips)} of {report['dataset']['parts']} parts change their verdict", highlight=False)
    for flip in flips[:_SHOWN]:
        kind = "defective" if flip["defective"] else "good"
        way = "reject -> pass" if flip["reference_rejects"] else "pass -> reject"
        console.print(f"  {escape(flip['part'])} ({kind}): {way}, {escape(flip['image'])}", highlight=False)
    _more(len(flips), console)


def _gate(gate: Mapping[str, Any], console: Console) -> None:
    if gate["mode"] == "off":
        console.print("gate: off, the second stage sees every image")
        return
    holds = {True: "within", False: "[red]above[/]", None: "beside"}[gate["holds"]]
    interval = f" (95 %: {gate['low']:.1f} to {gate['high']:.1f} %)" if gate["low"] is not None else ""
    console.print(
        f"gate at {gate['threshold']:.4g}: clears {_points(gate['free_images_cleared'])} % of the free images and "
        f"misses {gate['missed']} of {gate['defective_parts']} defective parts{interval}, {holds} its alpha of "
        f"{100 * gate['alpha']:.3g} %",
        highlight=False,
    )


def _layers(layers: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = _table("layer, the worst first", "outputs dB", "input dB", "saturated %")
    for row in layers[:_SHOWN]:
        decibels = ("-" if row[key] is None else f"{row[key]:.1f}" for key in ("output_sqnr_db", "input_sqnr_db"))
        table.add_row(escape(row["layer"]), *decibels, f"{100 * row['saturated']:.2f}")
    console.print()
    console.print(table)
    _more(len(layers), console)


def _against(other: Mapping[str, Any], console: Console) -> None:
    found = other["agreement"]
    console.print()
    console.print(
        f"beside {escape(other['candidate'])} (mIoU {other['figures']['mean_iou']:.2f}): {found['pixels']:.3f} % of "
        f"the pixels agree, masks overlap by {found['mask_iou']:.2f} %, {len(found['flips'])} parts are decided "
        "differently",
        highlight=False,
    )
    for flip in found["flips"][:_SHOWN]:
        kind = "defective" if flip["defective"] else "good"
        who = "only the other rejects" if flip["reference_rejects"] else "only this one rejects"
        console.print(f"  {escape(flip['part'])} ({kind}): {who}, {escape(flip['image'])}", highlight=False)
    _more(len(found["flips"]), console)


def _limits(report: Mapping[str, Any], console: Console) -> None:
    asked, broken = report["limits"], report["limits_broken"]
    if not asked:
        console.print("no limit was asked for (--max-drop, --max-new-escapes, --limits)")
    elif not broken:
        console.print(f"[green]all {len(asked)} limits hold[/]: {escape(', '.join(asked))}", highlight=False)
    for row in broken:
        console.print(f"[red]broken:[/] {escape(row['message'])}", highlight=False)


def _more(count: int, console: Console) -> None:
    if count > _SHOWN:
        console.print(f"  and {count - _SHOWN} more (--json and --html have all)", highlight=False)


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _pair(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = "-" if before is None or after is None else signed(after - before)
    return _points(before), _points(after), change


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _count(row: Mapping[str, Any]) -> str:
    return f"{row['count']} of {row['total']}"


def _caught(row: Mapping[str, Any]) -> str:
    return f"{row['caught']} of {row['count']}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.1f} to {row['high']:.1f} %"
