"""A bundle's check as one HTML file that needs nothing else: no network, no folder beside it.

It holds pictures of the user's own data, so it goes where the user says, and never into the project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpcnet_edge.check.bundle_check import BundleCheck
from lpcnet_edge.check.flips import Picture, flip_table, gallery, pictures
from lpcnet_edge.check.page_assets import SCRIPT, STYLE
from lpcnet_edge.errors import BadInput
from lpcnet_edge.files import write_atomically
from lpcnet_edge.page import svg
from lpcnet_edge.page.markup import change, document, items, section, signed, table, text
from lpcnet_edge.types import Dataset

_STEPS = 500
"""Points of the gate's curve at most: one for each defective part would be megabytes where there are thousands."""

_KEY = '<p><span class="key float">float</span><span class="key bundle">bundle</span></p>'


def write_page(path: Path, check: BundleCheck, dataset: Dataset) -> None:
    """Write the report; ``dataset`` is what was checked on, read again for the pictures.

    Raises ``BadInput`` where the file cannot be written.
    """
    shown = pictures(check.agreement, check.reference, check.candidate, dataset)
    content = page(check.to_json(), shown, check.bundle.manifest.classes)
    try:
        write_atomically(path, content)
    except OSError as exc:
        raise BadInput(f"{path}: {exc.strerror or exc}", mend="choose a file that can be written to") from exc


def page(report: Mapping[str, Any], shown: Sequence[Picture], classes: Sequence[str]) -> str:
    """The page of a check's JSON form and its pictures."""
    sections = [
        _banner(report),
        _cards(report),
        section("Accuracy by class", _classes(report)),
        section("Parts and defects", _decisions(report)),
        section("Masks side by side", gallery(report, shown, classes)),
        section("Strata", _strata(report)),
        section("Confidence and gate", _confidence(report)),
        section("Quantised layers", _layers(report["layers"])),
        section("Beside another bundle", _against(report["against"])),
        section("What was checked", _provenance(report)),
    ]
    title = f"Check of {report['bundle']['id']}"
    return document(title, "\n".join(filter(None, sections)), style=STYLE, script=SCRIPT)


def _banner(report: Mapping[str, Any]) -> str:
    broken, asked, data = report["limits_broken"], report["limits"], report["dataset"]
    state, verdict = ("", "Measured: no limit was asked for")
    if asked:
        state, verdict = ("broken", f"{len(broken)} of {len(asked)} limits broken") if broken else (
            "holds", f"All {len(asked)} limits hold")  # fmt: skip
    fold = f", fold {data['fold']}" if data["fold"] else ""
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for row in broken:
        groups.setdefault((tuple(row["causes"]), row["try"]), []).append(row["message"])
    if not broken:
        groups = {((cause["message"],), cause["mend"]): [] for cause in report["causes"]}
    lines = []
    for (causes, advice), messages in groups.items():
        found = "".join(f'<span class="found">Found: {text(cause)}</span>' for cause in causes)
        told = "<br>".join(map(text, messages))
        lines.append(f'<li>{told}{found}<span class="try">Try: {text(advice)}</span></li>')
    return f"""<h1>{text(report["bundle"]["id"])}</h1>
<p class="soft">{text(data["name"])}{text(fold)}: {data["images"]} images ({data["free_images"]} free) of
{data["parts"]} parts</p>
<div class="banner {state}"><div class="verdict">{verdict}</div>{items(lines)}</div>"""


def _cards(report: Mapping[str, Any]) -> str:
    agreement, figures = report["agreement"], report["candidate"]
    new = len(report["escapes"]["new"]), len(report["overkill"]["new"])
    lost, caught = agreement["defects_lost"], agreement["defects_caught_by_reference"]
    drop = agreement["mean_iou_drop"]
    rows = [
        (f"{figures['mean_iou']:.2f}", f"mIoU, float {report['reference']['mean_iou']:.2f}", False),
        (signed(-drop), "points of mIoU", "max_drop" in {row["limit"] for row in report["limits_broken"]}),
        (str(new[0]), "new escapes", new[0] > 0),
        (str(new[1]), "new overkill", False),
        (f"{lost} of {caught}", "defects lost", lost > 0),
        (f"{agreement['mask_iou']:.2f} %", "overlap of the defect masks", False),
        (f"{agreement['pixels']:.3f} %", "of the pixels agree", False),
    ]
    cards = (
        f'<div class="card"><b{" class=bad" if bad else ""}>{value}</b><span>{text(name)}</span></div>'
        for value, name, bad in rows
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _classes(report: Mapping[str, Any]) -> str:
    before, after = report["reference"], report["candidate"]
    rows, marks = [], []
    for name, row in after["per_class"].items():
        old = before["per_class"][name]
        rows.append([text(name), *change(old["iou"], row["iou"]), *change(old["pixel_accuracy"],
                    row["pixel_accuracy"]), f"<td>{row['pixels']:,}</td>", f"<td>{row['images']}</td>"])  # fmt: skip
        sides = [("float", old["iou"]), ("bundle", row["iou"])]
        marks.append((name, [svg.Mark(side, value) for side, value in sides if value is not None]))
    heads = ("class", "IoU float", "bundle", "change", "accuracy float", "bundle", "change", "true px", "images")
    plot = svg.dots(marks, 0, 100, "IoU of each class", " %")
    return f"{_KEY}{plot}{table(heads, rows)}"


def _decisions(report: Mapping[str, Any]) -> str:
    before, after = report["reference"], report["candidate"]
    rows: list[tuple[str, list[svg.Mark]]] = []
    cells = []
    for key in ("escapes", "overkill"):
        for unit in ("parts", "images"):
            sides = [("float", before[key][unit]), ("bundle", after[key][unit])]
            label = f"{key}, {unit}"
            if sides[1][1]["total"]:
                rows.append((label, [svg.Mark(s, r["rate"], r["low"], r["high"]) for s, r in sides]))
            counts = (f"<td>{row['count']} of {row['total']}</td>" for _, row in sides)
            cells.append([label, *counts, _interval(sides[1][1])])
    caught = []
    for old, row in zip(before["defects"]["by_size"], after["defects"]["by_size"], strict=True):
        size = f"{row['from_px']} px and more" if row["to_px"] is None else f"{row['from_px']} to {row['to_px'] - 1} px"
        if row["count"]:
            sides = [("float", old), ("bundle", row)]
            caught.append((size, [svg.Mark(s, r["recall"], r["low"], r["high"]) for s, r in sides]))
            counts = (f"<td>{row['caught']} of {row['count']}</td>" for _, row in sides)
            cells.append([f"defects caught, {size}", *counts, _interval(row)])
    for key, name in (("smallest_caught_px", "smallest defect caught"), ("largest_missed_px", "largest missed")):
        values = (side["defects"][key] for side in (before, after))
        cells.append([name, *(f"<td>{'-' if px is None else f'{px} px'}</td>" for px in values), "<td></td>"])
    plots = [svg.dots(rows, 0, 100, "escapes and overkill", " %", 480)]
    plots += [svg.dots(caught, 0, 100, "recall by size", " %", 480)] if caught else []
    titles = ("Escapes and overkill", "Recall by size of the defect")
    pair = "".join(f"<div><p><b>{title}</b></p>{plot}</div>" for title, plot in zip(titles, plots, strict=False))
    note = '<p class="soft">Whiskers are 95 % Wilson intervals; parts are independent, images of one part are not.</p>'
    return f'{_KEY}<div class="pair">{pair}</div>{note}{table(("", "float", "bundle", "95 % of the bundle"), cells)}'


def _interval(row: Mapping[str, Any]) -> str:
    return f"<td>{row['low']:.1f} to {row['high']:.1f} %</td>"


def _strata(report: Mapping[str, Any]) -> str:
    rows = []
    for key, values in report["candidate"].items():
        if key.startswith("per_") and key != "per_class":
            for value, row in values.items():
                old = report["reference"][key][value]
                label = text(f"{key.removeprefix('per_').replace('_', ' ')}: {value or '(none)'}")
                figures = ("mean_iou", "mean_pixel_accuracy", "defect_iou")
                rows.append([label, *(cell for name in figures for cell in change(old[name], row[name]))])
    heads = [cell for name in ("mIoU", "mPA", "defect IoU") for cell in (f"{name} float", "bundle", "change")]
    return table(("", *heads), rows) if rows else ""


def _confidence(report: Mapping[str, Any]) -> str:
    sides = {"float": report["reference"]["confidence"], "bundle": report["candidate"]["confidence"]}
    lines = []
    for side, found in sides.items():
        filled = [row for row in found["defect_pixels"]["curve"] if row["pixels"]]
        lines.append(svg.Series(side, side, [(row["confidence"], row["accuracy"]) for row in filled]))
    plot = svg.curve(lines, (0, 100), (0, 100), "reliability of defect pixels", "confidence, %", "right, %",
                     diagonal=True)  # fmt: skip
    rows = [
        [label, *change(sides["float"][key]["ece"], sides["bundle"][key]["ece"], better=-1)]
        for key, label in (("defect_pixels", "pixels called a defect"), ("all_pixels", "all pixels"))
    ]
    errors = table(("calibration error, points", "float", "bundle", "change"), rows)
    gate, steps = report["bundle_gate"], report["candidate"]["gate"]["curve"]
    right = f"<p>{_gate_text(gate)}</p>"
    if steps and steps[0]["cleared"] is not None:
        every = -(-len(steps) // _STEPS)
        points = [(row["threshold"], row["cleared"]) for row in steps[::every]]
        marker = (gate["threshold"], f"gate {gate['threshold']:.3f}") if gate["threshold"] is not None else None
        line = [svg.Series("bundle", "threshold, free images cleared", points)]
        label = f"threshold; each point gives up {'one more part' if every == 1 else f'{every} more parts'}"
        right += svg.curve(line, (0, 1), (0, 100), "what a gate clears", label, "free images cleared, %", marker=marker)
        counts = [
            [text(name), f"<td>{row['defective_parts']}</td>", f"<td>{row['missed']}</td>"]
            for name, row in gate["per_class"].items()
        ]
        right += table(("defective parts by class", "number", "cleared by the gate"), counts)
    return f'{_KEY}<div class="pair"><div>{plot}{errors}</div><div>{right}</div></div>'


def _gate_text(gate: Mapping[str, Any]) -> str:
    if gate["mode"] == "off":
        return "The gate is off: the second stage sees every image. The curve shows what one could clear."
    holds = {True: "within", False: "above", None: "beside"}[gate["holds"]]
    interval = f" (95 %: {gate['low']:.1f} to {gate['high']:.1f} %)" if gate["low"] is not None else ""
    return (
        f"The gate at {gate['threshold']:.4g} misses {gate['missed']} of {gate['defective_parts']} defective parts"
        f"{interval}, {holds} its alpha of {100 * gate['alpha']:.3g} %."
    )


def _layers(layers: Sequence[Mapping[str, Any]] | None) -> str:
    if not layers:
        return ""
    bars = [(row["layer"], row["output_sqnr_db"]) for row in layers if row["output_sqnr_db"] is not None]
    rows = [
        [text(row["layer"]), *(f"<td>{'-' if row[key] is None else f'{row[key]:.1f}'}</td>" for key in
         ("output_sqnr_db", "input_sqnr_db")), f"<td>{100 * row['saturated']:.3f}</td>"]
        for row in layers
    ]  # fmt: skip
    figures = table(("layer", "outputs dB", "input dB", "saturated %"), rows)
    return (
        "<p>SQNR at the stage's logits with only that layer in INT8: the lowest harms most, and is the first to "
        f"restore to float.</p>{svg.bars(bars, 'SQNR at the logits', ' dB')}"
        f"<details><summary>All figures</summary>{figures}</details>"
    )


def _against(other: Mapping[str, Any] | None) -> str:
    if other is None:
        return ""
    found = other["agreement"]
    flips = found["flips"]
    head = (
        f"<p>{text(other['candidate'])}: mIoU {other['figures']['mean_iou']:.2f}. {found['pixels']:.3f} % of the "
        f"pixels agree, the defect masks overlap by {found['mask_iou']:.2f} %; {len(flips)} parts are decided "
        "differently.</p>"
    )
    return head + (flip_table(flips, "other", "this") if flips else "")


def _provenance(report: Mapping[str, Any]) -> str:
    bundle, data = report["bundle"], report["dataset"]
    rows = {
        "bundle": bundle["path"],
        "precision": bundle["precision"],
        "candidate": bundle["candidate"],
        "reference": bundle["reference"],
        "data": f"{data['name']}, SHA-256 {data['digest']}",
        "tile": f"{data['tile_px']} px; every image resized whole to one tile",
        "limits": ", ".join(f"{name} {value}" for name, value in report["limits"].items()) or "none",
    }
    return table(("", ""), [[name, f"<td>{text(value)}</td>"] for name, value in rows.items()], "about")
