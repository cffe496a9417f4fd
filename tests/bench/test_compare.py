"""Two records side by side."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lpcnet_edge.bench.compare import compare, read_record
from lpcnet_edge.cli import main
from lpcnet_edge.errors import BadInput


def record(rates: list[float], **changes: Any) -> dict[str, Any]:
    base = {
        "schema_version": 1,
        "made": "2026-01-01T00:00:00+00:00",
        "quick": False,
        "bundle": {"id": "parts-0123"},
        "machine": {"cpu": "made up", "cpus_allowed": 4, "power_mode": None},
        "backend": {"about": "openvino"},
        "frames": {"says": "frames", "digest": "0" * 64},
        "options": {"gate": "auto"},
        "stages": [{"stage": "localization", "batch": 8, "rounds_tiles_per_s": rates}],
        "pipeline": {
            "bulk": {"rounds_frames_per_s": [10.0, 10.2, 9.9]},
            "rounds_memory_tiles_per_s": [80.0, 81.0, 80.5],
        },
        "stable": True,
        "stability": {"reasons": []},
    }
    return copy.deepcopy(base) | changes


def test_a_difference_is_told_from_noise() -> None:
    found = compare(record([100.0, 101.0, 99.0]), record([90.0, 91.0, 89.5]))
    rows = {row["name"]: row for row in found["rows"]}
    slower = rows["localization, batch 8, tiles/s"]
    assert slower["differs"] is True
    assert slower["ratio"] == pytest.approx(0.902, abs=0.002)
    assert rows["pipeline, frames/s"]["differs"] is False
    assert found["limits_broken"] == found["notes"] == []
    assert compare(record([100.0]), record([50.0]))["rows"][-1]["differs"] is None


def test_what_else_differs_is_said() -> None:
    other = record([100.0], bundle={"id": "parts-4567"}, stable="unknown", quick=True)
    other["stability"]["reasons"] = ["the processor's clock cannot be read here"]
    notes = "\n".join(compare(record([100.0]), other)["notes"])
    assert "different bundles: parts-0123; parts-4567" in notes
    assert "the second record is a quick look" in notes
    assert "not known to be stable: the processor's clock cannot be read here" in notes


@pytest.mark.parametrize(
    ("key", "facts", "says"),
    [
        ("machine", {"jetson": {"model": "Jetson Orin Nano"}}, "different Jetson modules: None; Jetson Orin Nano"),
        ("machine", {"cgroup_cpus": 2.0}, "different limits of a control group, cores: None; 2.0"),
        ("machine", {"os": "Linux 6.1"}, "different operating systems: None; Linux 6.1"),
        ("machine", {"nvidia_driver": "570.1"}, "different NVIDIA drivers: None; 570.1"),
        ("pipeline", {"tiles_a_frame": 12.0}, "different numbers of tiles a frame: None; 12.0"),
    ],
)
def test_another_machine_version_or_framing_is_told(key: str, facts: dict[str, Any], says: str) -> None:
    other = record([100.0, 101.0])
    other[key] |= facts
    assert compare(record([100.0, 101.0]), other)["notes"] == [says]
    newer = record([100.0, 101.0], version="0.2.0")
    assert compare(record([100.0, 101.0]), newer)["notes"] == ["different versions of lpcnet-edge: None; 0.2.0"]


@pytest.mark.parametrize(
    "changes",
    [
        {"pipeline": {}},
        {"pipeline": {"bulk": {"rounds_frames_per_s": [0.0]}, "rounds_memory_tiles_per_s": [1.0]}},
        {"pipeline": {"bulk": {"rounds_frames_per_s": []}, "rounds_memory_tiles_per_s": [1.0]}},
        {"stages": [{"stage": "localization", "batch": 8, "rounds_tiles_per_s": ["fast"]}]},
        {"stages": [{"stage": "localization", "batch": 8, "rounds_tiles_per_s": [10**400]}]},
        {"stages": None},
        {"bundle": "parts"},
        {"machine": {}},
        {"frames": {"says": "frames", "digest": None}},
    ],
)
def test_a_record_that_was_edited_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(record([100.0], **changes)))
    with pytest.raises(BadInput, match="is damaged: "):
        read_record(path)


def test_only_a_limit_makes_it_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow, noisy = ([100.0, 101.0, 99.0], [70.0, 71.0, 69.0], [140.0, 60.0, 30.0])
    for name, rates in (("fast", fast), ("slow", slow), ("noisy", noisy)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(rates)))
    paths = {name: str(tmp_path / f"{name}.json") for name in ("fast", "slow", "noisy")}
    assert main(["bench", "--compare", paths["fast"], paths["slow"]]) == 0
    assert "larger than noise" in capsys.readouterr().out
    assert main(["bench", "--compare", paths["fast"], paths["slow"], "--max-slowdown", "10", "--json"]) == 1
    said = capsys.readouterr()
    assert "localization, batch 8, tiles/s is 30.0 % slower" in said.err
    assert len(json.loads(said.out)["limits_broken"]) == 1
    assert main(["bench", "--compare", paths["fast"], paths["slow"], "--max-slowdown", "40"]) == 0
    assert main(["bench", "--compare", paths["fast"], paths["noisy"], "--max-slowdown", "10"]) == 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"a": 1}',
        json.dumps(record([1.0]) | {"schema_version": 9}),
        json.dumps(record([1.0]) | {"pipeline": None}),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BadInput, match=r"a\.json"):
        read_record(tmp_path / "a.json")
