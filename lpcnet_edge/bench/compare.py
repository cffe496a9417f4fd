"""Two records side by side: which differences are larger than noise, and whether they may be compared at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lpcnet_edge.bench.statistics import unpaired_ratio
from lpcnet_edge.errors import BadInput

_LARGEST = 1e15
"""No throughput is as high."""


def read_record(path: Path) -> dict[str, Any]:
    """A record that ``bench --record`` wrote; raises ``BadInput`` for anything else."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise BadInput(f"{path}: {exc.strerror or exc}", mend="check the path") from exc
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"{path} is no JSON: {exc}", mend="give a file that `bench --record` wrote") from exc
    if not isinstance(record, dict) or not {"schema_version", "stages", "pipeline", "stable"} <= record.keys():
        raise BadInput(f"{path} is no record of a benchmark", mend="give a file that `bench --record` wrote")
    if record["schema_version"] != 1:
        raise BadInput(f"{path} has schema_version {record['schema_version']}, this toolkit reads 1",
                       mend="measure again, or read it with the version that wrote it")  # fmt: skip
    if record["pipeline"] is None:
        raise BadInput(f"{path} holds no throughput (it was made with --vs, --budget-ms or --estimate)",
                       mend="record a plain `bench BUNDLE --record FILE`")  # fmt: skip
    try:  # what is compared is read once: a record is not long, and others edit them
        sound = all(rates and 0 < min(rates) <= max(rates) < _LARGEST for _, rates in _rounds(record))
        _about(record)
        list(_notes(record, record))
    except (KeyError, TypeError, AttributeError, IndexError) as exc:
        raise BadInput(f"{path} is damaged: {type(exc).__name__}: {exc}", mend="measure again") from exc
    if not sound:
        raise BadInput(f"{path} is damaged: a throughput is no number above 0", mend="measure again")
    return record


def compare(before: Mapping[str, Any], after: Mapping[str, Any], max_slowdown: float | None = None) -> dict[str, Any]:
    """Every throughput that both records have, as the ratio of the second to the first.

    A difference is larger than noise where 1 lies outside the 95 % interval of the ratio (Welch's, on the logarithms of
    the rounds); with fewer than two rounds on a side nobody can say.

    Parameters
    ----------
    max_slowdown
        Per cent: a throughput that is certainly lower by more breaks the limit.
    """
    theirs, ours = dict(_rounds(before)), dict(_rounds(after))
    rows = []
    broken = []
    for name, first in theirs.items():
        if name not in ours:
            continue
        ratio = unpaired_ratio(ours[name], first)
        row = {"name": name, "before": _middle(first), "after": _middle(ours[name]), **ratio.to_json()}
        rows.append(row)
        if max_slowdown is not None and ratio.high is not None and ratio.high < 1 - max_slowdown / 100:
            broken.append({
                "name": name,
                "message": f"{name} is {100 * (1 - ratio.value):.1f} % slower (95 %: {100 * (1 - ratio.high):.1f} to "
                f"{100 * (1 - (ratio.low or 0)):.1f} %), the limit is {max_slowdown:g} %",
            })  # fmt: skip
    missing = sorted(set(theirs) ^ set(ours))
    return {
        "before": _about(before),
        "after": _about(after),
        "notes": [*_notes(before, after), *(f"only one of the records has {name}" for name in missing)],
        "rows": rows,
        "limits_broken": broken,
    }


def _rounds(record: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
    yield "pipeline, frames/s", record["pipeline"]["bulk"]["rounds_frames_per_s"]
    yield "pipeline in memory, gate off, tiles/s", record["pipeline"]["rounds_memory_tiles_per_s"]
    for stage in record["stages"]:
        yield f"{stage['stage']}, batch {stage['batch']}, tiles/s", stage["rounds_tiles_per_s"]


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"bundle": record["bundle"]["id"], "made": record["made"], "stable": record["stable"]}


def _notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What else than speed differs between the two."""
    for what, get in (
        ("bundles", lambda r: r["bundle"]["id"]),
        ("processors", lambda r: r["machine"]["cpu"]),
        ("Jetson modules", lambda r: (r["machine"].get("jetson") or {}).get("model")),
        ("numbers of cores", lambda r: r["machine"]["cpus_allowed"]),
        ("limits of a control group, cores", lambda r: r["machine"].get("cgroup_cpus")),
        ("operating systems", lambda r: r["machine"].get("os")),
        ("NVIDIA drivers", lambda r: r["machine"].get("nvidia_driver")),
        ("power modes", lambda r: r["machine"]["power_mode"]),
        ("versions of lpcnet-edge", lambda r: r.get("version")),
        ("backends", lambda r: r["backend"]["about"]),
        ("frames", lambda r: f"{r['frames']['says']} ({r['frames']['digest'][:12]})"),
        ("gates", lambda r: r["options"]["gate"]),
        ("numbers of tiles a frame", lambda r: r["pipeline"].get("tiles_a_frame")),
    ):
        first, second = get(before), get(after)
        if first != second:
            yield f"different {what}: {first}; {second}"
    for name, record in (("first", before), ("second", after)):
        if record["quick"]:
            yield f"the {name} record is a quick look"
        if record["stable"] is not True:
            word = "unstable" if record["stable"] is False else "not known to be stable"
            yield f"the {name} run was {word}: {'; '.join(record['stability']['reasons'])}"


def _middle(values: list[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if len(ordered) % 2 else sum(ordered[len(ordered) // 2 - 1 :][:2]) / 2


def schema() -> dict[str, Any]:
    """The JSON schema of a record."""
    found: dict[str, Any] = json.loads(files("lpcnet_edge").joinpath("schemas", "bench.schema.json").read_text("utf-8"))
    return found
