"""Measure the shipped weights and write docs/results.md, its plots and the records it is made from.

    python benchmarks/accuracy/results.py --data DIR

Magnetic Tile is measured on fold 1, which no training saw, and once more without the images whose tile also stands in
another fold; carbon fabric on 300 frames of a seed that no training saw. No figure in the page is typed by hand; the
remarks at its end are those of ``notes.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from without_twins import measure_without_twins

from lpcnet_edge.check.evaluate import evaluate
from lpcnet_edge.datasets import open_dataset, with_fold
from lpcnet_edge.errors import LpcnetError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.weights import load_network

ROOT = Path(__file__).resolve().parents[2]
FABRIC = "carbon-fabric:count=300,seed=900002"


def number(value: float | None) -> str:
    """Points, or a dash for what these images leave undefined."""
    return "-" if value is None else f"{value:.1f}"


def headline(found: dict[str, Any]) -> list[str]:
    """A table of the figures of one evaluation."""
    c, escapes, overkill, gate = found["candidate"], found["escapes"], found["overkill"], found["gate"]
    rows = [
        ("mIoU", number(c["mean_iou"])),
        ("mPA", number(c["mean_pixel_accuracy"])),
        ("IoU of defect against background", number(c["defect_iou"])),
        ("defects caught", interval(found["defects"], "caught", "count", "recall")),
        ("escapes by part", interval(escapes["parts"])),
        ("overkill by part", interval(overkill["parts"])),
        ("free images cleared, no defective part missed", f"{number(gate['parts']['cleared'])} %"),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def interval(row: dict[str, Any], count: str = "count", total: str = "total", rate: str = "rate") -> str:
    if row[rate] is None:
        return "none to measure on"
    return f"{row[count]} of {row[total]}: {row[rate]:.1f} % (95 %: {row['low']:.1f} to {row['high']:.1f})"


def per_class(found: dict[str, Any]) -> list[str]:
    rows = ["| class | images | IoU | accuracy | defects caught |", "|---|---|---|---|---|"]
    for name, row in found["candidate"]["per_class"].items():
        caught = f"{row['defects']['caught']} of {row['defects']['count']}" if "defects" in row else ""
        rows.append(f"| {name} | {row['images']} | {number(row['iou'])} | {number(row['pixel_accuracy'])} | {caught} |")
    return rows


def per_exposure(found: dict[str, Any]) -> list[str]:
    rows = ["| exposure | mIoU | mPA | defect IoU |", "|---|---|---|---|"]
    for name, row in found["candidate"]["per_exposure"].items():
        figures = (number(row[key]) for key in ("mean_iou", "mean_pixel_accuracy", "defect_iou"))
        rows.append(f"| {name} | {' | '.join(figures)} |")
    return rows


def confusion(found: dict[str, Any]) -> list[str]:
    names = list(found["candidate"]["per_class"])
    rows = ["| of the pixels of | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, counts in zip(names, found["candidate"]["confusion"], strict=True):
        total = max(1, sum(counts))
        rows.append(f"| {name} | " + " | ".join(f"{100 * value / total:.1f} %" for value in counts) + " |")
    return rows


def plot(tile: dict[str, Any], fabric: dict[str, Any], path: Path) -> None:
    """Bars of IoU and accuracy by class for both datasets, and by exposure for the tiles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = [
        ("Magnetic Tile, fold 1", tile["candidate"]["per_class"], ("iou", "pixel_accuracy")),
        ("carbon fabric, unseen seed", fabric["candidate"]["per_class"], ("iou", "pixel_accuracy")),
        ("Magnetic Tile by exposure", tile["candidate"]["per_exposure"], ("mean_iou", "defect_iou")),
    ]
    for position, (title, rows, keys) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 3, position)
        for shift, key in enumerate(keys):
            values = [row[key] or 0.0 for row in rows.values()]
            at = [index + 0.4 * shift for index in range(len(rows))]
            axes.bar(at, values, width=0.38, label=key.replace("_", " ").replace("iou", "IoU"))
        axes.set_xticks([index + 0.2 for index in range(len(rows))], list(rows), rotation=25, ha="right")
        axes.set_ylim(0, 100)
        axes.set_title(title)
        axes.set_ylabel("points")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def page(tile: dict[str, Any], twins: dict[str, Any], fabric: dict[str, Any]) -> str:
    alone, size = twins["without twins"], tile["dataset"]
    weak = [name for name, row in tile["candidate"]["per_class"].items() if row["iou"] is not None and row["iou"] < 50]
    lines = [
        "# What the shipped weights reach",
        "",
        "Written by `benchmarks/accuracy/results.py` with the records in `benchmarks/records/`; float32, on a CPU.",
        "Every image, free ones too, is resized to 256 x 256 px; [metrics.md](metrics.md) defines the figures.",
        "",
        "![IoU and accuracy by class and exposure](images/results.png)",
        "",
        "## magnetic-tile",
        "",
        f"Trained on folds 2 to 4, measured on fold 1: {size['images']} images of {size['parts']} tiles, of which",
        f"{size['free_images']} images free of defects. The averaged weights of the last step.",
        "",
        *headline(tile),
        "",
        *per_class(tile),
        "",
        *per_exposure(tile),
        "",
        "Where the pixels of each class (row) go:",
        "",
        *confusion(tile),
        "",
        "The folds of the table are not free of leaks ([data.md](data.md)). Without the images whose tile also stands",
        f"in another fold, {alone['images']} are left: mIoU {number(alone['mean_iou'])}, "
        f"mPA {number(alone['mean_pixel_accuracy'])}, "
        f"defect IoU {number(alone['defect_iou'])}; by class "
        + ", ".join(f"{k} {'none' if v is None else format(v, '.1f')}" for k, v in alone["iou_per_class"].items())
        + ".",
        "",
    ]
    if weak:
        lines += [f"Under 50 IoU: {', '.join(weak)}. See below for why.", ""]
    lines += gate_out_of_fold()
    lines += [
        "## carbon-fabric",
        "",
        f"Measured on {fabric['dataset']['images']} generated frames of a seed that no training saw.",
        "",
        *headline(fabric),
        "",
        *per_class(fabric),
        "",
    ]
    return "\n".join(lines) + "\n" + Path(__file__).with_name("notes.md").read_text()


def gate_out_of_fold() -> list[str]:
    """What gate.py found over all folds, if it was run."""
    record = ROOT / "benchmarks" / "records" / "gate-out-of-fold.json"
    if not record.exists():
        return []
    found = json.loads(record.read_text())
    weakest = ", ".join(f"{row['part']} ({row['class']})" for row in found["weakest_parts"])
    return [
        "The gate over all folds, every image scored by a stage 1 that has not seen its part",
        f"({found['steps']} steps of stage 1 alone with the recipe {found['recipe']} from "
        f"{found['start'] or 'random weights'}, `benchmarks/accuracy/gate.py`): with none of "
        f"{found['defective_parts']} defective parts missed it",
        f"clears {found['cleared_no_part_missed']:.1f} % of {found['free_images']} free images, with one missed "
        f"{number(found['cleared_one_part_missed'])} %. The goal is 50 %.",
        f"It is held back by the parts {weakest}.",
        "",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", required=True, help="the Magnetic Tile folder")
    args = parser.parse_args()
    try:
        network = load_network("magnetic-tile")
        data = open_dataset(args.data)
        tile = evaluate(network, with_fold(data, {"1"})).to_json()
        twins = measure_without_twins(network, args.data, "1")
        fabric = evaluate(load_network("carbon-fabric"), open_dataset(FABRIC)).to_json()
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    records = ROOT / "benchmarks" / "records"
    for name, found in (("magnetic-tile-fold-1", tile), ("magnetic-tile-twins", twins), ("carbon-fabric", fabric)):
        found.get("gate", {}).pop("curve", None)
        write_atomically(records / f"accuracy-{name}.json", json.dumps(found, indent=1) + "\n")
    plot(tile, fabric, ROOT / "docs" / "images" / "results.png")
    write_atomically(ROOT / "docs" / "results.md", page(tile, twins, fabric))
    print(ROOT / "docs" / "results.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
