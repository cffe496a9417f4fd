"""What runtimes.py measured: sums over rounds, agreement of class maps, and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.bench.statistics import latency_summary, paired_ratio
from lpcnet_edge.imaging import resize_mask

Maps = Sequence[NDArray[np.uint8]]

NOTES = (
    "`decode alone` reads the files with our source and runs no network: the limit of every runtime on this machine.",
    "All get the same files, decoder (OpenCV), framing, joining of tiles and verdict; peers get both stages joined in "
    "one graph, with the same operators and weights. `fp32` is the float network; `int8` is the bundle's own file as "
    "it is: what we make of it at load is part of our runtime.",
    "anomalib and Ultralytics need torch, torchvision and more, which a station does not have, so their loops are "
    "written here after the structure of `OpenVINOInferencer.predict` (anomalib 2.7) and of `predict` with an OpenVINO "
    "export (Ultralytics 8.4), without torch and their result objects, which makes both faster than they are. anomalib "
    "2 resizes inside its exported graph; here the host does, as the network was trained. Neither cuts large frames up "
    "by itself: both get their tiles one at a time.",
    "Ultralytics' letterbox keeps proportions, as the network was not trained, and its class maps have the image's own "
    "size: where images are not square its agreement shows that. Its latency leaves out that it reads one file ahead.",
    "Latency: from opening a file to its verdict, where frames do not wait for others on purpose; `live` has one frame "
    "in flight; p99 takes 100 values. CPU: user and system time of the process for an image. Memory: the most that its "
    "process held, Python and libraries included.",
    "Agreement is with ours of the same file, gate off: `defects`, of the pixels that either calls a defect, the share "
    "that both give the same class; `verdicts`, frames with another outcome. Ratios are taken round by round, with "
    "their 95 % interval.",
)


def agreement(ours: tuple[Maps, Sequence[str]], theirs: tuple[Maps, Sequence[str]]) -> dict[str, Any]:
    """Shares of equal pixels, of all and of those that either calls a defect (None without any); other outcomes.

    Maps of another size are compared at that size, ours by nearest neighbour.
    """
    equal = total = same = either = 0
    for mine, other in zip(ours[0], theirs[0], strict=True):
        mine = resize_mask(np.ascontiguousarray(mine), *other.shape)
        hit = mine == other
        defect = (mine != 0) | (other != 0)
        equal, total = equal + int(hit.sum()), total + hit.size
        same, either = same + int((hit & defect).sum()), either + int(defect.sum())
    return {
        "pixels": equal / total,
        "defects": same / either if either else None,
        "verdicts_differ": sum(a != b for a, b in zip(ours[1], theirs[1], strict=True)),
    }


def row_of(rounds: Sequence[dict[str, Any]], frames: int, *, latency: bool) -> dict[str, Any]:
    """The sums of a contender's rounds, each over ``frames`` x ``passes`` images."""
    rates = [frames * found["passes"] / found["seconds"] for found in rounds]
    images = sum(frames * found["passes"] for found in rounds)
    tiles = sum(found["tiles"] for found in rounds)
    return {
        "images_per_s": statistics.median(rates),
        "rounds_images_per_s": rates,
        "cpu_ms": 1e3 * sum(found["cpu_s"] for found in rounds) / images,
        "latency_ms": latency_summary([ms for found in rounds for ms in found["latency_ms"]]) if latency else None,
        "peak_memory_mb": max(found["memory_mb"] for found in rounds),
        "picked_share": sum(found["picked"] for found in rounds) / tiles,
    }


def add_ratios(rows: dict[str, dict[str, Any]]) -> None:
    """To each row: ours in bulk over it, round by round with the interval, under the key of ours."""
    ours = [key for key, row in rows.items() if row["kind"] == "ours"]
    for key, row in rows.items():
        mine = row["rounds_images_per_s"]
        row["ours_over_it"] = {
            own: paired_ratio(rows[own]["rounds_images_per_s"], mine).to_json() for own in ours if own != key
        }


def markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    yield "# Runtimes side by side"
    yield ""
    if record["quick"]:
        yield "**A quick run, which only shows that it works: its figures mean nothing.**"
        yield ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield (
        f"`{record['bundle']['id']}` on {record['processor']}, {record['threads']} threads; {versions}. "
        f"Load of the machine before the run: {record['load_average']:.2f}."
    )
    for name, found in record["workloads"].items():
        yield ""
        yield f"## {name}: {found['frames']['says']}"
        yield ""
        yield f"{found['rounds']} rounds, in turn; medians. {found['gate']}"
        yield ""
        yield from _table(found)
        for key, why in found["missing"].items():
            yield ""
            yield f"Not measured: {key}: {why}."
    yield ""
    yield from (f"- {note}" for note in NOTES)


def _table(found: dict[str, Any]) -> Iterator[str]:
    rows, count = found["rows"], found["frames"]["count"]
    ours = {
        key: f"{row['name'].removeprefix('lpcnet-edge, ')}, {row['file']}"
        for key, row in rows.items()
        if row["kind"] == "ours"
    }
    heads = ["", "file", "images/s", "CPU ms", "p50 ms", "p99 ms", "peak MB", "defects", "verdicts"]
    heads += [f"ours ({words}) over it" for words in ours.values()]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * 2}{'---:|' * (len(heads) - 2)}"
    for row in rows.values():
        latency, same = row["latency_ms"] or {}, row["agreement"] or {}
        is_peer = row["kind"] not in ("ours", "live")
        cells = [
            row["name"],
            row["file"],
            _number(row["images_per_s"]),
            _number(row["cpu_ms"]),
            _number(latency.get("p50")),
            _number(latency.get("p99")),
            f"{row['peak_memory_mb']:.0f}",
            "" if same.get("defects") is None else f"{100 * same['defects']:.2f} %",
            f"{same['verdicts_differ']} of {count}" if same else "",
            *(_ratio(row["ours_over_it"][key]) if is_peer else "" for key in ours),
        ]
        yield f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _ratio(ratio: dict[str, Any]) -> str:
    between = "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"{ratio['ratio']:.2f}{between}"
