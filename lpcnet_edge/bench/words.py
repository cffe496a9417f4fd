"""A record in words: rows of cells with their units, for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lpcnet_edge.bench.devices import THIS_CPU

Record = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

STAGE_HEADS = (
    "stage", "batch", "tiles/s", "of raw", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "first ms", "load ms", "peak MB",
)  # fmt: skip
PART_NAMES = {
    "decode": "decode",
    "waiting": "waiting",
    "tiling": "tiling",
    "stage1": "stage 1",
    "gate": "gate",
    "stage2": "stage 2",
    "stitch": "stitch",
    "decide": "decide",
    "sink": "sink",
    "rest": "not explained",
}


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number with its unit, or a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def stage_rows(record: Record) -> list[list[str]]:
    """Of each stage and batch size."""
    return [
        [
            row["stage"],
            str(row["batch"]),
            number(row["tiles_per_s"]),
            percent(row["ratio_to_raw"], 0),
            *(number(row["latency_ms"][name], 2) for name in ("p50", "p90", "p99", "p999")),
            number(row["first_ms"]),
            number(row["load_ms"], 0),
            number(row["peak_memory_mb"], 0),
        ]
        for row in record["stages"]
    ]


def part_rows(record: Record) -> list[list[str]]:
    """Where the time of a frame goes, in bulk and live; ends with the whole, which the parts add up to."""
    bulk, live = (record["pipeline"][mode]["attribution"] for mode in ("bulk", "live"))
    rows = []
    for key, name in PART_NAMES.items():
        cells = (side["parts"][key] for side in (bulk, live))
        rows.append([name, *(text for cell in cells for text in (number(cell["ms"], 3), percent(cell["share"])))])
    rows.append(["the whole", number(bulk["whole_ms"], 3), "100.0 %", number(live["whole_ms"], 3), "100.0 %"])
    return rows


def verdict(record: Record) -> str:
    """Whether the figures can be trusted, in a sentence."""
    words = {True: "stable", False: "UNSTABLE", "unknown": "not known to be stable"}[record["stable"]]
    reasons = "; ".join(record["stability"]["reasons"])
    return f"{words}: {reasons}" if reasons else words


def summary(record: Record) -> Iterator[tuple[str, str]]:
    """The lines that matter, by name."""
    pipeline, raw = record["pipeline"], record["raw_engine"]
    bulk, live = pipeline["bulk"], pipeline["live"]
    latency = live["latency_ms"]
    yield (
        "pipeline, bulk",
        (
            f"{number(bulk['frames_per_s'])} frames/s, {number(bulk['tiles_per_s'])} tiles/s, "
            f"{percent(bulk['picked_share'])} of the tiles to stage 2"
        ),
    )
    percentiles = ", ".join(
        f"{label} {number(latency[key], 2, ' ms')}"
        for key, label in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9"), ("largest", "largest"))
    )
    yield "pipeline, live", f"{percentiles} ({latency['count']} frames at {number(live['offered_per_s'])} frames/s)"
    memory = f"{number(pipeline['memory_tiles_per_s'])} tiles/s"
    if record["ratio_to_raw"] is None:
        yield "raw engine", f"none: {raw['why']}"
    else:
        yield "raw engine", f"{number(raw['tiles_per_s'])} tiles/s, both stages, batch {raw['batch']}: {raw['says']}"
        yield (
            "ratio to raw",
            (f"{record['ratio_to_raw']:.3f}: the pipeline from memory with the gate off does {memory}"),
        )
    load = pipeline["load_ms"]
    if load["compiled"] is not None:
        yield (
            "loading",
            (
                f"{number(load['compiled'], 0, ' ms')} both stages for all batch sizes, "
                f"{number(load['kept'], 0, ' ms')} from the machine's cache"
            ),
        )
    yield (
        "peak memory",
        f"{number(pipeline['peak_memory_mb'], 0, ' MB')} (this process, all frames included)",
    )


def sustained_words(found: Record) -> str:
    """Burst and sustained."""
    words = {True: "stable", False: "unstable", "unknown": "not known to be stable"}[found["stable"]]
    cut = f", stopped after {number(found['seconds'] / 60, 1)}" if found["interrupted"] else ""
    return (
        f"burst {number(found['burst_frames_per_s'])} frames/s, sustained {number(found['sustained_frames_per_s'])} "
        f"frames/s ({percent(found['sustained_of_burst'])} of it) in {number(found['asked_s'] / 60, 1)} minutes{cut}; "
        f"{words}{': ' if found['reasons'] else ''}{'; '.join(found['reasons'])}"
    )


def versus_words(record: Record) -> str:
    """The ratio of two bundles and what it means."""
    found = record["vs"]
    interval = f"{found['low']:.3f} to {found['high']:.3f}" if found["low"] is not None else "too few pairs"
    if found["differs"] is None:
        meaning = "one pair says nothing about noise"
    elif found["differs"]:
        faster = record["bundle"]["id"] if found["ratio"] > 1 else found["other"]["id"]
        meaning = f"{faster} is faster, by more than noise"
    else:
        meaning = "no difference that is larger than noise"
    return f"ratio {found['ratio']:.3f} (95 %: {interval}, {found['count']} interleaved pairs): {meaning}"


def machine_words(record: Record, *, system: bool = True) -> str:
    """The machine in a line, with its operating system or without."""
    found = record["machine"]
    parts = [found["cpu"], f"{found['cpus_allowed'] or found['cpus']} core(s)"]
    if system:
        parts.append(found["os"])
    if found["power_mode"]:
        parts.append(found["power_mode"])
    return ", ".join(parts)


def markdown(record: Record) -> str:
    """The record as a document in Markdown."""
    lines = [
        f"# {record['bundle']['id']}",
        "",
        f"- machine: {machine_words(record)}",
        f"- backend: {record['backend']['about']}",
        f"- frames: {record['frames']['says']}",
        f"- run: {verdict(record)}",
        f"- made {record['made']} by lpcnet-edge {record['version']}{', a quick look' if record['quick'] else ''}",
    ]
    if record["pipeline"]:
        lines += [f"- {name}: {text}" for name, text in summary(record)]
        lines += ["", *_table(STAGE_HEADS, stage_rows(record))]
        lines += ["", *_table(("a frame's time", "bulk ms", "bulk", "live ms", "live"), part_rows(record))]
    if record["sustained"]:
        lines += ["", f"Sustained: {sustained_words(record['sustained'])}"]
    if record["vs"]:
        lines += ["", f"Beside {record['vs']['other']['id']}: {versus_words(record)}"]
    if record["budget"]:
        lines += ["", f"Within {record['budget']['budget_ms']:g} ms:", ""]
        lines += [f"- {text}" for text in record["budget"]["says"]]
    if record["estimate"]:
        lines += ["", *(f"- {text}" for text in estimate_lines(record["estimate"]))]
    return "\n".join(lines) + "\n"


def estimate_lines(found: Record) -> Iterator[str]:
    """An estimate with what it rests on."""
    where = "" if found["device"] == THIS_CPU else " there"
    yield f"ESTIMATE for {found['device_name']}, batch {found['batch']}: not measured{where}"
    for stage, row in found["stages"].items():
        yield (
            f"{stage}: at best {number(row['tiles_per_s'], 0)} tiles/s ({number(row['ms_a_tile'], 4)} ms a tile; "
            f"{number(row['gflop'], 3)} GFLOP, {number(row['mb'], 2)} MB of memory traffic)"
        )
    yield from (f"rate: {text}" for text in found["sources"])
    yield from (f"assumed: {text}" for text in found["assumptions"])
    check = found["validation"]
    if check is None:
        yield "not validated: no backend of a processor was measured beside it"
        return
    for stage, row in check["stages"].items():
        yield (
            f"validated on this processor: {stage} estimated {number(row['estimated_tiles_per_s'])} tiles/s, measured "
            f"{number(row['measured_tiles_per_s'])}: {percent(row['measured_of_estimated'], 0)} of the estimate"
        )
    yield from (f"this processor: {text}" for text in check["sources"])


def _table(heads: Sequence[str], rows: Rows) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'|'.join('---' if place == 0 else '---:' for place in range(len(heads)))}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
