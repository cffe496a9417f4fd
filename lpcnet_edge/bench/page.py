"""A record as one HTML file with plots; it needs nothing else, and holds no picture of anyone's parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lpcnet_edge.bench import words
from lpcnet_edge.bench.sensors import whole_power_w
from lpcnet_edge.bench.words import PART_NAMES, Record, number, percent
from lpcnet_edge.page import svg
from lpcnet_edge.page.markup import document, items, section, table, text

_LAYERS_SHOWN = 20


def page(record: Record) -> str:
    """The page of a record."""
    sections = [
        _banner(record),
        _cards(record),
        section("Where the time of a frame goes", _parts(record)),
        section("Stages", _stages(record)),
        section("Latency of frames that come one at a time", _live(record)),
        section("Minutes of load", _sustained(record["sustained"])),
        section("Beside another bundle", _versus(record)),
        section("What fits into the budget", _budget(record["budget"])),
        section("Estimate", _estimate(record["estimate"])),
        section("Clocks, temperature and power", _readings(record["readings"])),
        section("What was measured, and where", _about(record)),
    ]
    return document(f"Benchmark of {record['bundle']['id']}", "\n".join(filter(None, sections)))


def _banner(record: Record) -> str:
    state = {True: "holds", False: "broken", "unknown": ""}[record["stable"]]
    heading = {
        True: "The run was stable",
        False: "The run was unstable: its figures are not to be trusted",
        "unknown": "Whether the run was stable is not known",
    }[record["stable"]]
    reasons = items([f"<li>{text(reason)}</li>" for reason in record["stability"]["reasons"]])
    quick = (
        '<p class="soft">A quick look: its figures show that it works, and little more.</p>' if record["quick"] else ""
    )
    return f"""<h1>{text(record["bundle"]["id"])}</h1>
<p class="soft">{text(words.machine_words(record, system=False))}; {text(record["frames"]["says"])}</p>{quick}
<div class="banner {state}"><div class="verdict">{heading}</div>{reasons}</div>"""


def _cards(record: Record) -> str:
    rows: list[tuple[str, str]] = []
    if record["pipeline"]:
        bulk, live = record["pipeline"]["bulk"], record["pipeline"]["live"]["latency_ms"]
        tail = (
            ("p99", "p99")
            if live["p99"] is not None
            else ("p90", "p90")
            if live["p90"] is not None
            else ("p50", "median")
        )
        rows = [
            (number(bulk["frames_per_s"]), "frames/s, files to verdicts"),
            (number(bulk["tiles_per_s"]), "tiles/s"),
            (percent(bulk["picked_share"]), "of the tiles to stage 2"),
            (number(live[tail[0]], 1, " ms"), f"{tail[1]} of a frame, live"),
            (number(record["ratio_to_raw"], 2), "of the raw engine's speed"),
            (number(record["pipeline"]["peak_memory_mb"], 0, " MB"), "peak memory"),
        ]
    if record["sustained"]:
        rows.append((percent(record["sustained"]["sustained_of_burst"]), "of the burst, sustained"))
    if record["vs"]:
        rows.append((f"{record['vs']['ratio']:.3f}", "ratio of the two bundles"))
    if record["budget"]:
        rows.append((number(record["budget"]["p99_ms"], 1, " ms"), f"p99 within {record['budget']['budget_ms']:g} ms"))
    cards = (f'<div class="card"><b>{value}</b><span>{text(name)}</span></div>' for value, name in rows)
    return f'<div class="cards">{"".join(cards)}</div>' if rows else ""


def _parts(record: Record) -> str:
    if not record["pipeline"]:
        return ""
    kinds = {key: f"p{place}" for place, key in enumerate(PART_NAMES)}
    bars = []
    for mode in ("bulk", "live"):
        found = record["pipeline"][mode]["attribution"]["parts"]
        bars.append((mode, [
            (kinds[key], f"{PART_NAMES[key]}: {found[key]['ms']:.3f} ms a frame, {percent(found[key]['share'])}",
             found[key]["share"])
            for key in PART_NAMES
        ]))  # fmt: skip
    key = "".join(f'<span class="key {kinds[name]}">{text(label)}</span>' for name, label in PART_NAMES.items())
    note = (
        '<p class="soft">Bulk: the thread that decides; files are decoded beside it in a thread of their own '
        f"({number(record['pipeline']['bulk']['decode_in_its_thread_ms'], 3, ' ms')} a frame), for which it waits "
        "where they come too slowly, and the engines work on other frames meanwhile. Live: from the moment a frame is "
        "read to its verdict in the sink.</p>"
    )
    rows = _cells(words.part_rows(record))
    figures = table(("", "bulk ms", "bulk", "live ms", "live"), rows)
    return f"<p>{key}</p>{svg.stacks(bars, 'where the time goes')}{note}{figures}"


def _stages(record: Record) -> str:
    if not record["stages"]:
        return ""
    marks = []
    for row in record["stages"]:
        sides = [("float", row["raw_tiles_per_s"]), ("bundle", row["tiles_per_s"])]
        found = [svg.Mark(side, value) for side, value in sides if value is not None]
        marks.append((f"{row['stage']}, batch {row['batch']}", found))
    top = max((mark.value for _, row in marks for mark in row), default=1.0)
    raw = record["raw_engine"]
    name = raw["name"] or "no raw engine"
    key = f'<p><span class="key float">{text(name)}</span><span class="key bundle">this toolkit</span></p>'
    told = raw["says"] if raw["name"] else f"Not compared: {raw['why']}."
    if raw["name"] and raw["why"]:
        told += f" Not the runtime's own tool: {raw['why']}."
    return (
        f"{key}{svg.dots(marks, 0, 1.05 * top, 'tiles a second of each stage', ' tiles/s')}"
        f'<p class="soft">{text(told)}</p>{table(words.STAGE_HEADS, _cells(words.stage_rows(record)))}'
        '<p class="soft">Latency of a batch alone; first, load and peak in a fresh process. A dash: too few batches '
        "for that percentile, or not measured.</p>"
    )


def _live(record: Record) -> str:
    if not record["pipeline"]:
        return ""
    found = record["pipeline"]["live"]
    latency = found["latency_ms"]
    names = (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9"), ("largest", "largest"))
    rows = [(label, float(latency[key])) for key, label in names if latency[key] is not None]
    return (
        f"{svg.bars(rows, 'latency', ' ms')}"
        f'<p class="soft">{latency["count"]} frames, offered at {number(found["offered_per_s"])} frames/s: 80 % of '
        "what live running can do.</p>"
    )


def _sustained(found: Record | None) -> str:
    if found is None:
        return ""
    line = [svg.Series("bundle", "frames/s", [(moment / 60, rate) for moment, rate in found["series"]])]
    top = max((rate for _, rate in found["series"]), default=1.0)
    wide = max(found["seconds"] / 60, 1e-3)
    plot = svg.curve(line, (0, wide), (0, 1.1 * top), "throughput over time", "minutes", "frames/s", width=940)
    return f"<p>{text(words.sustained_words(found))}</p>{plot}"


def _versus(record: Record) -> str:
    found = record["vs"]
    if found is None:
        return ""
    values = [ratio for _, _, ratio in found["pairs"]]
    rows = [(f"pair {place + 1}", [svg.Mark("bundle", ratio)]) for place, ratio in enumerate(values)]
    rows.append(("mean, 95 %", [svg.Mark("float", found["ratio"], found["low"], found["high"])]))
    ends = [*values, *(found[end] for end in ("low", "high") if found[end] is not None), 1.0]
    low, high = min(ends), max(ends)
    edge = 0.1 * (high - low) or 0.05
    said = f"frames/s over those of {found['other']['id']}: {words.versus_words(record)}"
    return f"<p>{text(said)}</p>{svg.dots(rows, low - edge, high + edge, 'ratio by pair', digits=3)}"


def _budget(found: Record | None) -> str:
    if found is None:
        return ""
    rows = [
        [f"{row['overlap_px']} px", *_numbers((row["tiles"], row["batch"], "none" if row["picked"] is None
                                               else row["picked"], row["needed"], f"{row['slowest_ms']:.1f} ms"))]
        for row in found["rows"]
    ]  # fmt: skip
    heads = ("overlap", "tiles", "batch", "picked that fit", "the gate picks up to", "slowest screened")
    return items([f"<li>{text(line)}</li>" for line in found["says"]]) + table(heads, rows)


def _estimate(found: Record | None) -> str:
    if found is None:
        return ""
    layers = sorted(found["layers"], key=lambda row: -float(row["us"]))
    bars = [(row["layer"], float(row["us"])) for row in layers[:_LAYERS_SHOWN]]
    rows = [
        [text(row["layer"]), *_numbers((row["kind"], row["precision"], f"{row['mflop']:.1f}", f"{row['kb']:.0f}",
                                        f"{row['us']:.2f}", row["bound"]))]
        for row in layers
    ]  # fmt: skip
    heads = ("layer", "kind", "precision", "MFLOP", "kB", "us a tile", "bound by")
    lines = items([f"<li>{text(line)}</li>" for line in words.estimate_lines(found)])
    return (
        f"{lines}{svg.bars(bars, 'least time of the slowest layers', ' us')}"
        f"<details><summary>All layers</summary>{table(heads, rows)}</details>"
    )


def _readings(readings: Sequence[Mapping[str, Any]]) -> str:
    """A plot for each thing that could be read; says what could not."""
    kinds = {
        "cpu_mhz": "clock of the cores, MHz",
        "gpu_mhz": "clock of the GPU, MHz",
        "temperature_c": "highest temperature, degrees C",
        "power_w": "power, W",
    }
    plots, missing = [], []
    for key, label in kinds.items():
        points = [(row["time_s"], value) for row in readings if (value := _one(key, row[key])) is not None]
        if len(points) < 2:
            missing.append(label.partition(",")[0])
            continue
        values = [value for _, value in points]
        span = (points[0][0], max(points[-1][0], points[0][0] + 1))
        top = 1.1 * max(values) or 1.0
        line = [svg.Series("bundle", label, points)]
        plots.append(f"<div>{svg.curve(line, span, (0, top), label, 'seconds', label, height=240)}</div>")
    note = f'<p class="soft">Not readable here: {text(", ".join(missing))}.</p>' if missing else ""
    return f'<div class="pair">{"".join(plots)}</div>{note}'


def _one(key: str, value: Any) -> float | None:
    if key == "power_w":
        return whole_power_w(dict(value))
    values = list(value.values()) if isinstance(value, Mapping) else list(value)
    if not values:
        return None
    if key == "temperature_c":
        return float(max(values))
    return float(sum(values) / len(values))


def _about(record: Record) -> str:
    bundle, tuning, sizes = record["bundle"], record["backend"]["tuning"], record["frames"]["sizes_px"]
    rows = {
        "bundle": f"{bundle['path']} ({bundle['precision']}, tiles of {bundle['tile_px']} px)",
        "backend": record["backend"]["about"],
        "tuning": f"{tuning['threads']} thread(s), {tuning['streams']} stream(s)" if tuning else "the backend's own",
        "frames": f"{record['frames']['says']} (sizes: {', '.join(f'{w} x {h}' for w, h in sizes[:4])})",
        "gate": record["options"]["gate"],
        "machine": words.machine_words(record),
        "stolen by a hypervisor": percent(record["stability"]["stolen"]),
        "made": f"{record['made']}, lpcnet-edge {record['version']}",
    }
    if record["pipeline"]:
        rows |= dict(words.summary(record))
    return table(("", ""), [[text(name), f"<td>{text(value)}</td>"] for name, value in rows.items()], "about")


def _cells(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[text(first), *_numbers(others)] for first, *others in rows]


def _numbers(values: Iterable[object]) -> list[str]:
    return [f"<td>{text(value)}</td>" for value in values]
