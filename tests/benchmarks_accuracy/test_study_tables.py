"""Tables from records that never ran: they say what they rest on, and nothing that the records do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_groups
import study_tables
from networks import PRETRAINED
from study_gate import gate_out_of_fold, sentence
from study_groups import Group, read_groups
from study_records import read_record, write_record

from lpcnet_edge.errors import BadArtifact, BadData
from lpcnet_edge.metrics import mean_iou

Make = Callable[..., dict[str, Any]]


def written(records: list[dict[str, Any]], folder: Path) -> Path:
    for number, one in enumerate(records):
        write_record(folder / f"{number}.json", one)
    return folder


def report(folder: Path, *more: str) -> tuple[str, Any]:
    out = folder.parent / "report"
    assert study_tables.main(["--records", str(folder), "--out", str(out), *more]) == 0
    return (out / "study.md").read_text(), json.loads((out / "study.json").read_text())


def both(record: Make, folds: range, seeds: range, **plan: Any) -> list[dict[str, Any]]:
    runs = [(fold, seed) for fold in folds for seed in seeds]
    return [record(c, f, s, r, **plan) for c, r in (("backbone", 0.7), ("lpc-net", 0.9)) for f, s in runs]


def test_a_gain_is_reported_with_its_interval(record: Make, tmp_path: Path) -> None:
    records = both(record, range(1, 5), range(2))
    text, data = report(written(records, tmp_path / "records"))
    pooled = {
        config: np.mean(
            [
                mean_iou(sum(np.array(r["confusion"]) for r in records if (r["config"], r["seed"]) == (config, s)))
                for s in range(2)
            ]
        )
        for config in ("backbone", "lpc-net")
    }
    found = data[0]["differences"]["lpc-net"]["mean_iou"]
    assert found["value"] == pytest.approx(100 * (pooled["lpc-net"] - pooled["backbone"]))
    assert 0 < found["low"] <= found["value"] <= found["high"]
    assert f"**{found['value']:+.2f}** ({found['low']:+.2f} to {found['high']:+.2f})" in text
    assert "line (4 parts)" in text
    assert "+1.44 +- 0.79" in text
    for picture in ("differences", "classes"):
        assert (tmp_path / "report" / f"1-magnetic-tile-tile-{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_reduced_or_unfinished_study_says_so(record: Make, tmp_path: Path) -> None:
    text, _ = report(written(both(record, range(1, 5), range(1))[:-1], tmp_path / "records"))
    assert "**A reduced study**: 1 of 5 seeds; 100 of the recipe's 3800 steps; without" in text
    assert "not that of a training" in text
    assert "**Unfinished**: 1 runs are missing" in text
    assert "missing |" in text
    assert "3 x 1" in text  # the folds that both have


def test_a_full_study_says_nothing_of_the_kind(record: Make) -> None:
    names = ("backbone", "loss-weight", "embedding", "pcm", "lpc-net")
    records = [record(name, fold, seed, 0.8) for name in names for fold in range(1, 5) for seed in range(5)]
    for one in records:
        one["budget"]["steps"] = one["budget"]["recipe_steps"]
    text = "\n".join(Group(records).caption())
    assert "educed" not in text
    assert "nfinished" not in text


def test_what_began_with_imagenet_is_told(record: Make) -> None:
    assert set(study_groups.FROM_IMAGENET) == set(PRETRAINED)
    assert "ImageNet" not in "\n".join(Group(both(record, range(1, 3), range(1))).caption())
    records = [record(name, 1, 0, 0.8) for name in ("backbone", "efficientnet-lite0")]
    assert "**efficientnet-lite0 knew ImageNet**" in "\n".join(Group(records).caption())


def test_hints_are_told(record: Make) -> None:
    hinted = record("lpc-net", 1, 0, 0.8, recipe={"loss": {"hints": 2.0}})
    assert "with hints of what ImageNet taught at weight 2." in "\n".join(Group([hinted]).caption())


def test_budgets_and_splits_are_not_mixed(record: Make, tmp_path: Path) -> None:
    records = both(record, range(1, 3), range(1)) + both(record, range(1, 3), range(1), split="image")
    records += [record("backbone", 1, 0, 0.5, recipe={"steps": 200})]
    assert len(read_groups(records)) == 3
    text, _ = report(written(records, tmp_path / "records"))
    assert text.count("**This split leaks**") == 1
    assert "by image at random (leaks)" in text


def test_pairs_come_from_the_runs_that_both_have(record: Make) -> None:
    records = [*both(record, range(1, 5), range(1)), record("lpc-net", 1, 1, 0.9)]
    group = Group(records)
    assert group.rectangle(["lpc-net"]) == (("1", "2", "3", "4"), (0,))
    assert group.rectangle(["lpc-net", "backbone"]) == (("1", "2", "3", "4"), (0,))
    assert Group(records[4:]).compare("lpc-net", "backbone") is None


def test_records_that_contradict_each_other_are_refused(record: Make, tmp_path: Path) -> None:
    records = both(record, range(1, 2), range(1))
    next(iter(records[0]["parts"].values()))["images"] = {"line": 9}
    with pytest.raises(BadData, match="disagree"):
        Group(records)
    (tmp_path / "a.json").write_text('{"schema": "something/2"}')
    with pytest.raises(BadArtifact, match="something/2"):
        read_record(tmp_path / "a.json")
    assert study_tables.main(["--records", str(tmp_path / "nothing")]) == 3


def test_the_gate_leaves_each_part_out_in_turn() -> None:
    def part(name: str, free: list[float], defective: list[float]) -> dict[str, Any]:
        return {"images": {name: 2}, "free_scores": free, "defective_scores": defective}

    parts = {
        "a": part("dot", [], [0.9, 0.2]),  # the highest counts
        "b": part("line", [], [0.4, 0.3]),
        "c": part("dot", [0.1], [0.7]),
        "d": part("free", [0.3, 0.5, 0.1], []),
    }
    found = gate_out_of_fold([{"parts": {name: row}} for name, row in parts.items()])
    assert found is not None
    assert found["threshold"] == pytest.approx(0.4)
    assert found["free_images_cleared"] == pytest.approx(75)
    assert found["missed_left_out"] == ["b"]
    assert found["held_back_by"] == {"part": "b", "class": "line"}
    assert "misses 1 (b)" in sentence(found)
    assert gate_out_of_fold([{"parts": {"d": parts["d"]}}]) is None


def test_code_of_two_states_is_told(record: Make) -> None:
    records = both(record, range(1, 2), range(1))
    records[0]["run"]["code"] = "f" * 64
    assert any("2 states of the code" in line for line in Group(records).caption())


def test_the_measured_speed_stands_beside_the_accuracy(record: Make, tmp_path: Path) -> None:
    folder = written(both(record, range(1, 2), range(1)), tmp_path / "records")
    speed = tmp_path / "networks.json"
    speed.write_text(json.dumps({"networks": {"lpc-net": {"int8_per_s": 123.4}}}))
    text, _ = report(folder, "--speed", str(speed))
    assert "| CPU images/s, INT8 |" in text
    assert "| 123 |" in text


def test_what_stands_side_by_side_is_of_the_same_runs(record: Make) -> None:
    """A network that was trained without one fold alone is not held against the mean of four."""
    group = Group([*both(record, range(1, 5), range(2)), record("unet", 3, 1, 0.8)])
    shared = group.shared_by(["lpc-net", "unet"])
    assert shared is not None
    assert (shared.configs, shared.folds, shared.seeds) == (["lpc-net", "unet"], ["3"], [1])
    assert group.shared_by([]) is None
    assert Group([record("unet", 3, 1, 0.8), record("lpc-net", 2, 1, 0.8)]).shared_by(["lpc-net", "unet"]) is None
