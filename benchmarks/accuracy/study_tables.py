"""The study's tables and figures, from its records alone.

    python benchmarks/accuracy/study_tables.py [--records benchmarks/records/study] [--out runs/study/report]
        [--baseline backbone] [--speed benchmarks/records/networks.json]

Writes ``study.md``, ``study.json`` and a plot or two for each dataset and split into ``--out``. ``--speed`` adds the
images/s that ``benchmarks/peers/networks.py`` measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from study_figures import plot_classes, plot_differences
from study_gate import gate_out_of_fold, sentence
from study_groups import BASELINE, Compared, Group, read_groups, record_paths
from study_records import read_record

from lpcnet_edge.errors import BadArtifact, LpcnetError
from lpcnet_edge.files import finite, write_atomically

HEADLINE = ("mean_iou", "mean_pixel_accuracy", "defect_iou")
TITLES = {"mean_iou": "mIoU", "mean_pixel_accuracy": "mPA", "defect_iou": "defect IoU"}
CLAIMS = {
    "magnetic-tile": {"mean_pixel_accuracy": (2.66, 1.12), "mean_iou": (1.44, 0.79)},
    "carbon-fabric": {"mean_pixel_accuracy": (1.58, 0.80), "mean_iou": (1.35, 0.77)},
}
"""Wang et al., Sensors 2025, 25(15), 4548: LPC-Net over "the other network"; their carbon fabric is another one."""


def number(value: float, *, signed: bool = False) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:+.2f}" if signed else f"{value:.1f}"


def with_bounds(value: float, bounds: Any, *, signed: bool = False) -> str:
    """A figure and its interval; a difference whose interval leaves zero out is bold."""
    low, high = bounds
    text = number(value, signed=signed)
    text = f"**{text}**" if signed and np.isfinite(low) and (low > 0 or high < 0) else text
    return f"{text} ({number(low, signed=signed)} to {number(high, signed=signed)})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def headline_table(group: Group, found: dict[str, Compared], speed: dict[str, Any]) -> list[str]:
    rows = []
    for config, one in found.items():
        cost = next(r["network"] for (c, _, _), r in group.records.items() if c == config)
        figures = [with_bounds(one.value[i], one.bounds[:, i]) for i in range(len(HEADLINE))]
        fast = [text_of_speed(speed, config)] if speed else []
        size = [f"{cost['parameters'] / 1e6:.2f} M", f"{cost['flops'] / 1e9:.2f}"]
        runs = f"{len(one.folds)} x {len(one.seeds)}"
        rows.append([config, *size, *fast, *figures, runs])
    head = ["configuration", "parameters", "GFLOP", *(["CPU images/s, INT8"] if speed else []), *TITLES.values()]
    return table([*head, "folds x seeds"], rows)


def text_of_speed(speed: dict[str, Any], config: str) -> str:
    row = speed["networks"].get(config, {})
    return f"{row['int8_per_s']:.0f}" if row.get("int8_per_s") else "-"


def difference_table(group: Group, found: dict[str, Compared], baseline: str) -> list[str]:
    rows = []
    for config, one in found.items():
        if one.difference is None or one.difference_bounds is None:
            continue
        cells = [with_bounds(one.difference[i], one.difference_bounds[:, i], signed=True) for i in range(len(HEADLINE))]
        rows.append([config, *cells, f"{len(one.folds)} x {len(one.seeds)}"])
    if not rows:
        return [f"No configuration has a run in common with {baseline}.", ""]
    claim = CLAIMS.get(group.plan["data"])
    if claim and baseline == BASELINE:
        cells = [f"{claim[k][0]:+.2f} +- {claim[k][1]:.2f}" if k in claim else "" for k in HEADLINE]
        rows.append(["*the paper's claim, over a network of its own choice*", *cells, ""])
    return table([f"minus {baseline}", *TITLES.values(), "folds x seeds"], rows)


def class_table(group: Group, found: dict[str, Compared], column: str, *, signed: bool) -> list[str]:
    """IoU or accuracy of each class: the value, or the paired difference."""
    parts = group.parts_of()
    head = ["configuration"]
    for name in group.classes:
        head.append(name if name == "background" else f"{name} ({parts[name]} parts)")
    rows = []
    for config, one in found.items():
        value, bounds = (one.difference, one.difference_bounds) if signed else (one.value, one.bounds)
        if value is None or bounds is None:
            continue
        at = [group.columns.index(f"{column}.{name}") for name in group.classes]
        rows.append([config, *(with_bounds(value[i], bounds[:, i], signed=signed) for i in at)])
    return table(head, rows) if rows else []


def runs_table(group: Group) -> list[str]:
    rows = []
    for config in group.configs:
        for seed in group.seeds:
            found = [group.records.get((config, fold, seed)) for fold in group.folds]
            if any(found):
                rows.append([config, str(seed), *(number(r["metrics"]["mean_iou"]) if r else "missing" for r in found)])
    return table(["mIoU of each run", "seed", *(f"fold {fold}" for fold in group.folds)], rows)


def section(group: Group, baseline: str, speed: dict[str, Any], out: Path, name: str) -> tuple[list[str], Any]:
    """One group's part of the page, and its figures as plain data; writes the plots."""
    alone = {config: one for config in group.configs if (one := group.compare(config)) is not None}
    against = {
        config: one
        for config in group.configs
        if config != baseline and (one := group.compare(config, baseline)) is not None
    }
    lines = [f"## {group.title}", "", *(f"{line}  " for line in group.caption()), ""]
    lines += [
        "Pooled over the held-out folds, in points; in brackets 95 % intervals by bootstrap over",
        f"{len(group.parts)} parts, drawn within their class, with trainings drawn within their fold.",
        "",
    ]
    lines += headline_table(group, alone, speed)
    gate = gate_of(group)
    lines += [sentence(gate), ""] if gate else []
    lines += ["Paired differences, on the same parts and seeds:", "", *difference_table(group, against, baseline)]
    plot_differences(against, baseline, group, out / f"{name}-differences.png")
    plot_classes(alone, group, out / f"{name}-classes.png")
    lines += [f"![Paired differences]({name}-differences.png)", "", f"![IoU by class]({name}-classes.png)", ""]
    for column, title in (("iou", "IoU"), ("accuracy", "Accuracy")):
        lines += [f"{title} by class:", "", *class_table(group, alone, column, signed=False)]
        if against:
            lines += [f"{title} by class minus {baseline}:", "", *class_table(group, against, column, signed=True)]
    return [*lines, *runs_table(group)], as_data(group, alone, against, baseline)


def gate_of(group: Group, config: str = "lpc-net") -> dict[str, Any] | None:
    """The gate over the folds of the first seed that has them all."""
    folds, seeds = group.rectangle([config]) if config in group.configs else ((), ())
    return gate_out_of_fold([group.records[config, fold, seeds[0]] for fold in folds]) if seeds else None


def as_data(group: Group, alone: dict[str, Compared], against: dict[str, Compared], baseline: str) -> dict[str, Any]:
    def rows(value: Any, bounds: Any) -> dict[str, Any]:
        low, high = bounds.tolist()
        named = zip(group.columns, value.tolist(), low, high, strict=True)
        return {key: {"value": v, "low": a, "high": b} for key, v, a, b in named}

    return {
        "title": group.title,
        "caption": group.caption(),
        "plan": group.plan,
        "budget": group.budget,
        "parts_by_class": dict(group.parts_of()),
        "gate": gate_of(group),
        "baseline": baseline,
        "configurations": {config: rows(one.value, one.bounds) for config, one in alone.items()},
        "differences": {config: rows(one.difference, one.difference_bounds) for config, one in against.items()},
    }


def read_speed(path: Path) -> dict[str, Any]:
    """What ``networks.py`` measured; raises ``BadArtifact``."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        found["networks"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadArtifact(f"{path} is no record of networks.py ({exc!r})", mend="leave --speed out") from exc
    return found


def write_report(records: Path, out: Path, baseline: str, speed: dict[str, Any]) -> Path:
    """Write the page, its data and its plots; the page's path. Raises ``BadData`` and ``BadArtifact``."""
    groups = read_groups([read_record(path) for path in record_paths(records)])
    made = "Written by `benchmarks/accuracy/study_tables.py` from the records of `benchmarks/accuracy/study.py`."
    lines = ["# The accuracy study", "", made, ""]
    data = []
    for index, group in enumerate(groups, start=1):
        name = re.sub(r"[^a-z0-9]+", "-", f"{group.plan['data']}-{group.plan['split']}".lower())
        text, figures = section(group, baseline, speed, out, f"{index}-{name}")
        lines += text
        data.append(figures)
    write_atomically(out / "study.json", json.dumps(finite(data), indent=1) + "\n")
    write_atomically(out / "study.md", "\n".join(lines))
    return out / "study.md"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--records", type=Path, default=Path("benchmarks/records/study"))
    parser.add_argument("--out", type=Path, default=Path("runs/study/report"))
    parser.add_argument("--baseline", default=BASELINE)
    parser.add_argument("--speed", type=Path)
    args = parser.parse_args(argv)
    try:
        speed = read_speed(args.speed) if args.speed else {}
        print(write_report(args.records, args.out, args.baseline, speed))
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
