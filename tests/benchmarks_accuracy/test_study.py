"""Runs of the study: one record each, the same after a kill, and every configuration trained alike."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study
import study_networks
import torch
from study_networks import ABLATION, CONFIGURATIONS, SegmentationAlone, builder, recipe_of
from study_runs import deal_images

from lpcnet_edge.cli.console import TrainingDisplay
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import UsageError
from lpcnet_edge.network.config import preset
from lpcnet_edge.network.feed import Feed
from lpcnet_edge.network.recipe import Recipe, Sampling
from lpcnet_edge.types import Entry

SMALL = ["--tile", "64", "--crop", "32", "--batch", "2", "--steps", "3", "--threads", "1"]


def arguments(tiles: Path, out: Path, *more: str) -> list[str]:
    folders = ["--records", str(out / "records"), "--work", str(out / "work")]
    return ["--data", str(tiles), "--folds", "1", "--configs", "lpc-net", *SMALL, *folders, *more]


def records(out: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "records").glob("*.json"))}


def test_a_record_holds_what_it_must(tiles: Path, tmp_path: Path) -> None:
    assert study.main(arguments(tiles, tmp_path, "--configs", "backbone", "lpc-net", "--seeds", "7")) == 0
    found = records(tmp_path)
    assert list(found) == [f"tiles.tile.{name}.fold-1.seed-7" for name in ("backbone", "lpc-net")]
    backbone, whole = found.values()
    assert backbone["plan"] == whole["plan"]
    assert backbone["budget"] == whole["budget"]
    assert (whole["budget"]["steps"], whole["budget"]["crops"], whole["budget"]["recipe_steps"]) == (3, 6, 3800)
    assert backbone["network"]["parameters"] < whole["network"]["parameters"]
    for one in found.values():
        assert set(one["parts"]) == {"p0", "p1"}  # fold 1
        assert one["parts"]["p1"]["images"] == {"square": 2}
        total = sum(np.array(row["confusion"]) for row in one["parts"].values())
        assert total.sum() == 4 * 64 * 64
        np.testing.assert_array_equal(total, one["confusion"])
        assert len(one["data"]["held_out_digest"]) == len(one["run"]["code"]) == 64
        assert one["data"]["training_images"] == 12
    assert not list((tmp_path / "work").rglob("checkpoint.pt"))


def test_a_killed_run_leaves_the_record_of_an_unbroken_one(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.main(arguments(tiles, tmp_path / "whole")) == 0

    class Killing(TrainingDisplay):
        def step(self, done: int, total: int, figures: dict[str, float]) -> None:
            if done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(study, "TrainingDisplay", Killing)
        assert study.main(arguments(tiles, tmp_path / "killed")) == 130
    assert not records(tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "work").rglob("checkpoint.pt"))) == 1
    assert study.main(arguments(tiles, tmp_path / "killed")) == 0
    ((name, whole),), ((again, resumed),) = records(tmp_path / "whole").items(), records(tmp_path / "killed").items()
    assert name == again
    for one in (whole, resumed):
        del one["run"]
    assert whole == resumed


def test_finished_runs_are_found_and_not_mixed_with_another_study(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = arguments(tiles, tmp_path, "--steps", "1")
    assert study.main(args) == 0
    before = records(tmp_path)
    monkeypatch.setattr("study_runs.train", None)  # nothing is trained again
    assert study.main(args) == 0
    assert "found" in capsys.readouterr().out
    assert records(tmp_path) == before
    assert study.main([*args, "--steps", "2"]) == UsageError.exit_code
    assert "another study: recipe differ" in capsys.readouterr().err
    (path,) = (tmp_path / "records").glob("*.json")
    path.write_text("{}")
    assert study.main(args) == 3


def test_a_study_goes_on_from_what_each_configuration_learned_in_another(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = ("--configs", "backbone", "lpc-net")
    assert study.main(arguments(tiles, tmp_path / "first", *configs)) == 0
    begun = str(tmp_path / "first" / "work")
    assert study.main(arguments(tiles, tmp_path / "then", *configs, "--start", begun)) == 0
    then = records(tmp_path / "then")
    origin = "what the same configuration and seed learned in tiles.tile"
    for name, one in records(tmp_path / "first").items():
        assert (one["budget"]["start"], then[name]["budget"]["start"]) == ("random weights", origin)
        assert then[name]["weights_sha256"] != one["weights_sha256"]
    assert study.main(arguments(tiles, tmp_path / "first", *configs, "--start", begun)) == UsageError.exit_code
    assert "another study: start differ" in capsys.readouterr().err
    assert study.main(arguments(tiles, tmp_path / "none", "--seeds", "5", "--start", begun)) == UsageError.exit_code
    assert "lpc-net.fold-*.seed-5" in capsys.readouterr().err
    assert study.main(arguments(tiles, tmp_path / "none", "--start", str(tmp_path))) == UsageError.exit_code
    assert "holds 0 finished runs named" in capsys.readouterr().err


def test_taught_runs_are_another_study(tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(arguments(tiles, tmp_path / "one", "--steps", "2")) == 0
    (alone,) = records(tmp_path / "one").values()
    weights = next((tmp_path / "one").glob("**/weights.safetensors"))
    assert (
        study.main(arguments(tiles, tmp_path / "one", "--steps", "2", "--teacher", str(weights)))
        == UsageError.exit_code
    )
    assert "another study: recipe, teacher differ" in capsys.readouterr().err
    assert study.main(arguments(tiles, tmp_path / "two", "--steps", "2", "--teacher", str(weights))) == 0
    (taught,) = records(tmp_path / "two").values()
    assert taught["budget"]["teacher"] == "weights.safetensors"
    assert taught["weights_sha256"] != alone["weights_sha256"]
    folder = ("--configs", "backbone", "--steps", "2", "--teacher", str(weights.parent))  # another network's run
    assert study.main(arguments(tiles, tmp_path / "three", *folder)) == 0
    assert study.main(arguments(tiles, tmp_path / "four", "--teacher", str(tmp_path))) == UsageError.exit_code
    assert "no finished run" in capsys.readouterr().err


def test_runs_side_by_side_leave_the_records_of_runs_in_turn(tiles: Path, tmp_path: Path) -> None:
    more = ("--configs", "backbone", "pcm", "--steps", "1")
    assert study.main(arguments(tiles, tmp_path / "turn", *more)) == 0
    assert study.main(arguments(tiles, tmp_path / "side", *more, "--jobs", "2")) == 0
    turn, side = records(tmp_path / "turn"), records(tmp_path / "side")
    assert len(turn) == 2
    assert {name: one["confusion"] for name, one in turn.items()} == {n: one["confusion"] for n, one in side.items()}


def test_what_is_named_twice_is_one_run(tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes at it would find each other busy."""
    assert study.main(arguments(tiles, tmp_path, "--seeds", "0", "0", "--folds", "1", "1", "--dry-run")) == 0
    assert "[1/1] lpc-net, fold 1, seed 0: to do" in capsys.readouterr().out
    assert study.main(arguments(tiles, tmp_path, "--threads", "-1", "--dry-run")) == UsageError.exit_code


def test_a_peer_trains_and_is_measured_as_ours(tiles: Path, tmp_path: Path) -> None:
    # At stride 64 a crop of 32 px is less than a pixel: torch's gradient of a 3x3 convolution there is nan at times.
    small = ("--configs", "ddrnet23slim", "--steps", "2", "--crop", "64")
    assert study.main(arguments(tiles, tmp_path, *small)) == 0
    (found,) = records(tmp_path).values()
    assert np.sum(found["confusion"]) == 4 * 64 * 64


def test_unseen_frames_are_held_out_of_carbon_fabric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = "carbon-fabric:count={},seed={},size=128"
    args = arguments(Path(spec.format(20, 1)), tmp_path, "--steps", "1")
    del args[2:4]
    assert study.main(args) == UsageError.exit_code
    assert "--test" in capsys.readouterr().err
    assert study.main([*args, "--test", spec.format(3, 1)]) == UsageError.exit_code
    assert "3 parts of carbon-fabric:count=3,seed=1,size=128 are in" in capsys.readouterr().err
    assert study.main([*args, "--test", spec.format(3, 2)]) == 0
    ((name, found),) = records(tmp_path).items()
    assert name == "carbon-fabric.unseen.lpc-net.fold-unseen.seed-0"
    assert set(found["parts"]) == {f"fabric-2-{k}" for k in range(3)}


def test_images_at_random_tear_parts_apart_and_spread_classes() -> None:
    entries = [Entry(f"{i}", f"p{i // 6}", (i // 6) % 3) for i in range(120)]
    folds = deal_images(entries)
    assert folds == deal_images(entries)
    assert {len([f for f in folds if f == k]) for k in "1234"} == {30}
    for label in range(3):
        of = [fold for fold, entry in zip(folds, entries, strict=True) if entry.label == label]
        assert max(of.count(k) for k in "1234") - min(of.count(k) for k in "1234") <= 1
    torn = [len({f for f, e in zip(folds, entries, strict=True) if e.part == part}) for part in ("p0", "p7")]
    assert min(torn) > 1


def network(name: str, seed: int = 0) -> study_networks.LpcNet:
    switches = dict(zip(("embed_localization", "weight_loss", "refine_pixels"), ABLATION[name], strict=True))
    torch.manual_seed(seed)
    return builder(name)(preset("edge", ("background", "a", "b"), 1, **switches))


def test_configurations_start_from_the_same_weights() -> None:
    whole = network("lpc-net").state_dict()
    for name in ABLATION:
        state = network(name).state_dict()
        assert all(torch.equal(value, whole[key]) for key, value in state.items())
        assert any(key.startswith("localization.") for key in state) is study_networks.needs_stage1(name)
    other = network("lpc-net", seed=1).state_dict()
    assert not torch.equal(other["confidence.encoder.stem.conv.weight"], whole["confidence.encoder.stem.conv.weight"])


def test_the_backbone_alone_is_the_second_stage() -> None:
    alone, whole = network("backbone"), network("lpc-net")
    assert isinstance(alone, SegmentationAlone)
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        outputs = alone.eval()(x)
        expected = whole.eval()(x)
    assert outputs.refined is outputs.initial
    torch.testing.assert_close(outputs.initial, expected.initial)  # the embedding's projection starts at zero


def test_configurations_see_the_same_crops(tiles: Path) -> None:
    base = Recipe(tile_px=64, sampling=Sampling(batch=3, crop_px=32))
    data = open_dataset(tiles)
    first = Feed(data, recipe_of("backbone", base, 3)).batch(5)
    for name in CONFIGURATIONS[1:]:
        again = Feed(data, recipe_of(name, base, 3)).batch(5)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    peer, backbone = recipe_of("unet", base, 3), recipe_of("backbone", base, 0)
    alike = dataclasses.replace(peer.loss, refinement=backbone.loss.refinement)  # the weight of auxiliary heads
    assert dataclasses.replace(peer, seed=0, loss=alike) == backbone
