"""Training: batches that repeat, a resume equal to an unbroken run, kills that leave nothing half written."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadArtifact, BadConfig, BadData, BadWeights, StaleCheckpoint, UsageError
from lpcnet_edge.network import card as cards
from lpcnet_edge.network.config import preset
from lpcnet_edge.network.feed import Feed, prefetched
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.losses import LossSettings
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.optimisation import Optimisation
from lpcnet_edge.network.recipe import Recipe, Sampling, load_recipe, recipe_names
from lpcnet_edge.network.training import train
from lpcnet_edge.network.transfer import adopt_weights
from lpcnet_edge.network.weights import load_network
from lpcnet_edge.types import Dataset, Sample
from lpcnet_edge.yamlfile import load_yaml

RECIPE = Recipe(
    tile_px=64,
    steps=6,
    warmup_steps=2,
    validate_every=3,
    checkpoint_every=2,
    sampling=Sampling(batch=4, crop_px=32, paste_in_place=("line",)),
)


class Watch:
    """Collects figures, and asks for a stop by a real signal after ``stop_at`` steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []

    def reading(self, done: int, total: int) -> None:
        assert 1 <= done <= total

    def step(self, done: int, total: int, figures: dict[str, float]) -> None:
        self.steps.append(done)
        if done == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def averaged(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_network(folder / "weights.safetensors").network.state_dict())


def test_batches_depend_on_the_step_alone(squares: Dataset) -> None:
    feed = Feed(squares, RECIPE)
    again = dict(prefetched(Feed(squares, RECIPE), 2, 5))
    assert sorted(again) == [2, 3, 4]
    for step, (pixels, mask) in again.items():
        wanted_pixels, wanted_mask = feed.batch(step)
        np.testing.assert_array_equal(pixels, wanted_pixels)
        np.testing.assert_array_equal(mask, wanted_mask)
    assert (feed.batch(0)[0] != feed.batch(1)[0]).any()


def test_batches_show_every_class(squares: Dataset) -> None:
    feed = Feed(squares, RECIPE)
    masks = np.stack([feed.batch(step)[1] for step in range(12)])
    assert set(np.unique(masks)) == {0, 1, 2}
    assert masks.shape == (12, 4, 32, 32)


def test_a_class_without_pixels_is_named(squares: Dataset) -> None:
    lines = [i for i, e in enumerate(squares.entries) if e.label == 2]
    with pytest.raises(BadData, match="square"):
        Feed(squares.select(lines), RECIPE)


def test_a_class_too_small_for_the_tile_is_named(squares: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(index: int) -> Sample:
        mask = np.zeros((1024, 1024), dtype=np.uint8)
        mask[0, 0] = squares.entries[index].label
        return Sample(squares.entries[index], np.full((1024, 1024), 120, dtype=np.uint8), mask)

    monkeypatch.setattr(squares, "read", read)
    with pytest.raises(BadData, match=r"masks of square, line have no pixel left .* 64 px a side") as caught:
        Feed(squares, RECIPE)
    assert "tile_px" in str(caught.value.mend)
    unmarked = np.zeros((64, 64), dtype=np.uint8)
    monkeypatch.setattr(squares, "read", lambda index: Sample(squares.entries[index], unmarked, unmarked))
    with pytest.raises(BadData, match="no training image shows square, line"):
        Feed(squares, RECIPE)


def test_resume_after_a_signal_equals_an_unbroken_run(squares: Dataset, tmp_path: Path) -> None:
    whole = train(squares, RECIPE, tmp_path / "whole", validation=squares)
    assert whole.weights is not None
    part = train(squares, RECIPE, tmp_path / "part", validation=squares, progress=Watch(stop_at=3))
    assert part.weights is None
    assert part.steps == 3
    assert not (tmp_path / "part" / "weights.safetensors").exists()
    watch = Watch()
    resumed = train(squares, RECIPE, tmp_path / "part", resume=True, validation=squares, progress=watch)
    assert watch.steps == [4, 5, 6]
    assert resumed.figures["loss"] == whole.figures["loss"]
    expected, found = averaged(tmp_path / "whole"), averaged(tmp_path / "part")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "part" / "metrics.csv").read_text()


def test_a_signal_at_the_last_step_changes_nothing(squares: Dataset, tmp_path: Path) -> None:
    summary = train(squares, RECIPE, tmp_path, progress=Watch(stop_at=6))
    assert summary.weights is not None
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 6
    diverging = dataclasses.replace(RECIPE, steps=2, warmup_steps=0, learning_rate=1e30)
    with pytest.raises(BadConfig, match="diverged"):
        train(squares, diverging, tmp_path / "diverging", progress=Watch(stop_at=2))
    assert not list((tmp_path / "diverging").iterdir())


def test_a_finished_run_resumed_has_its_figures(squares: Dataset, tmp_path: Path) -> None:
    first = train(squares, RECIPE, tmp_path)
    again = train(squares, RECIPE, tmp_path, resume=True)
    assert again.weights is not None
    assert again.figures == first.figures


def test_a_run_begun_without_loss_scaling_goes_on_with_it() -> None:
    network = LpcNet(preset("edge", ("background", "a"), 1))
    here = Optimisation(network, dataclasses.replace(RECIPE, precision="float32"))
    there = Optimisation(network, dataclasses.replace(RECIPE, precision="float32"))
    there.scaler = torch.amp.GradScaler("cpu")  # as float16 has it on CUDA
    there.restore(here.state())
    assert there.scaler.get_scale() == torch.amp.GradScaler("cpu").get_scale()


def test_validation_comes_when_the_recipe_says(squares: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, validate_every=4)
    train(squares, recipe, tmp_path, validation=squares.select(range(6)))
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows if row["mean_iou"]] == [4, 6]


def test_a_card_is_read_as_it_was_written(squares: Dataset, tmp_path: Path) -> None:
    folds = ["1e1", "2"]
    train(
        squares, dataclasses.replace(RECIPE, steps=1), tmp_path, notes={"data": "1e3", "folds": folds, "again": folds}
    )
    card = load_yaml(tmp_path / "card.yaml")
    assert card["run"]["data"] == "1e3"
    assert card["run"]["folds"] == card["run"]["again"] == folds


def test_the_commit_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        said = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, capture_output=True, check=True
        )
        return said.stdout.decode().strip()

    installed = tmp_path / "venv" / "card.py"
    installed.parent.mkdir()
    installed.write_text("")
    monkeypatch.setattr(cards, "__file__", str(installed))
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "another project")
    assert cards._commit() == "unknown"
    git("add", "venv")
    git("commit", "-q", "-m", "with the code")
    assert cards._commit() == git("rev-parse", "HEAD")


def test_what_a_run_leaves(squares: Dataset, tmp_path: Path) -> None:
    summary = train(squares, RECIPE, tmp_path / "run", notes={"folds": ["1", "2"]})
    assert summary.weights == tmp_path / "run" / "weights.safetensors"
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left == {"checkpoint.pt", "weights.safetensors", "card.yaml", "metrics.csv", "curves.png"}
    card = yaml.safe_load((tmp_path / "run" / "card.yaml").read_text())
    assert card["data"]["digest"] == squares.digest()
    assert card["data"]["parts"] == 12
    assert card["run"]["folds"] == ["1", "2"]
    assert from_mapping(Recipe, card["recipe"], "card") == RECIPE
    assert len(card["weights"]["sha256"]) == 64
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_lowers_the_loss(squares: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=40, learning_rate=4e-3)
    summary = train(squares, recipe, tmp_path / "run")
    first = float((tmp_path / "run" / "metrics.csv").read_text().splitlines()[1].split(",")[1])
    assert summary.figures["loss"] < 0.7 * first


def test_stage1_can_be_trained_alone(squares: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, loss=LossSettings(segmentation=0))
    train(squares, recipe, tmp_path)
    fresh = train(squares, dataclasses.replace(recipe, steps=1, learning_rate=0.0), tmp_path / "fresh")
    assert fresh.weights is not None
    trained, untrained = averaged(tmp_path), averaged(tmp_path / "fresh")
    changed = {name for name in trained if name.endswith("weight") and not torch.equal(trained[name], untrained[name])}
    assert any(name.startswith("localization.") for name in changed)
    # Stage 2 saw no batch; only weight decay may have moved it.
    assert torch.equal(trained["confidence.encoder.stem.norm.running_mean"], torch.zeros(32))


def test_a_run_can_start_from_another_networks_weights(squares: Dataset, tmp_path: Path) -> None:
    first = train(squares, RECIPE, tmp_path / "first")
    assert first.weights is not None
    start = load_network(first.weights)
    still = dataclasses.replace(RECIPE, steps=1, learning_rate=0.0, ema_decay=0.0)
    train(squares, still, tmp_path / "second", start=start)
    expected, found = averaged(tmp_path / "first"), averaged(tmp_path / "second")
    assert all(torch.equal(expected[n], found[n]) for n in expected if n.endswith("weight"))
    with pytest.raises(StaleCheckpoint, match="--start it began with"):
        train(squares, still, tmp_path / "second", resume=True)  # without its start it is another run


def test_weights_cross_between_grey_and_colour_and_other_classes() -> None:
    colour = LpcNet(preset("edge", ("background", "a"), 3)).eval()
    grey = LpcNet(preset("edge", ("background", "b", "c"), 1)).eval()
    adopt_weights(grey, colour)
    tile = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected, _ = colour.localization(tile.expand(-1, 3, -1, -1))
        found, _ = grey.localization(tile)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadWeights, match="different sizes"):
        adopt_weights(LpcNet(preset("large", ("background", "a"), 3)), colour)


def test_a_training_that_diverges_keeps_its_last_good_checkpoint(squares: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, warmup_steps=0, learning_rate=1e30)
    with pytest.raises(BadConfig, match="diverged: after 2 steps"):
        train(squares, recipe, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_is_told_before_the_first_step(squares: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    watch = Watch()
    with pytest.raises(FileExistsError, match="file"):
        train(squares, RECIPE, tmp_path / "file", progress=watch)
    assert not watch.steps


def test_a_run_is_not_overwritten(squares: Dataset, tmp_path: Path) -> None:
    short = dataclasses.replace(RECIPE, steps=1)
    train(squares, short, tmp_path)
    with pytest.raises(UsageError, match="--resume"):
        train(squares, short, tmp_path)
    with pytest.raises(StaleCheckpoint, match="start in a new folder"):
        train(squares, dataclasses.replace(short, seed=1), tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(UsageError, match="holds a run already"):
        train(squares, short, tmp_path)
    finished = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(UsageError, match="no checkpoint to go on from"):
        train(squares, short, tmp_path, resume=True)
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == finished
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(BadArtifact, match="checkpoint"):
        train(squares, short, tmp_path, resume=True)


def test_a_recipe_made_in_python_takes_finite_numbers() -> None:
    for name in ("learning_rate", "clip_norm", "weight_decay"):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(RECIPE, **{name: math.nan})


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_load(name: str) -> None:
    assert load_recipe(name).steps > 0


def test_recipe_errors_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe is called"):
        load_recipe("nothing")
    path = tmp_path / "r.yaml"
    path.write_text("steps: 10\nsampling:\n  bach: 4\n")
    with pytest.raises(BadConfig, match=r"bach.*batch"):
        load_recipe(path)
    for text, said in (
        ("tile_px: 250", "tile_px is 250"),
        ("sampling: {crop_px: 99968}", "crop_px is 99968"),
        ("steps: 0", "steps is 0"),
        ("seed: -1", "seed is -1"),
        (f"seed: {1 << 64}", "seed is 18446744073709551616"),
        ("learning_rate: -1", "learning_rate is -1"),
        ("learning_rate: 1" + 400 * "0", "expected a finite number"),
        ("ema_decay: 1", "ema_decay 1"),
        ("sampling: {defect_share: 2}", "defect_share is 2"),
        ("augment: {scale: 0}", "augment: scale is 0"),
        ("augment: {gamma: -1}", "gamma is -1"),
        ("augment: {noise: -3}", "noise is -3"),
        ("augment: {paste: 1.5}", "paste is 1.5"),
        ("loss: {defect_weight: -1}", "loss: defect_weight is -1"),
        ("loss: {tile: -0.2}", "tile is -0.2"),
        ("loss: {localization: 0, tile: 0, segmentation: 0}", "nothing would be learned"),
        ("loss: {segmentation: 0, hints: 1}", "segmentation is 0: it is not trained"),
    ):
        path.write_text(text)
        with pytest.raises(BadConfig, match=said) as caught:
            load_recipe(path)
        assert caught.value.mend


def test_a_teacher_is_learned_from_and_resumed_with(squares: Dataset, tmp_path: Path) -> None:
    teacher = load_network(train(squares, RECIPE, tmp_path / "teacher").weights)
    alone = train(squares, RECIPE, tmp_path / "alone")
    taught = train(squares, RECIPE, tmp_path / "taught", teacher=teacher)
    assert "distilled" not in alone.figures
    assert taught.figures["distilled"] > 0
    assert "distilled" in (tmp_path / "taught" / "metrics.csv").read_text().splitlines()[0]
    train(squares, RECIPE, tmp_path / "cut", teacher=teacher, progress=Watch(stop_at=3))
    with pytest.raises(StaleCheckpoint):
        train(squares, RECIPE, tmp_path / "cut", resume=True)
    train(squares, RECIPE, tmp_path / "cut", resume=True, teacher=teacher)
    unbroken, resumed, untaught = (averaged(tmp_path / name) for name in ("taught", "cut", "alone"))
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    assert not all(torch.equal(value, untaught[name]) for name, value in unbroken.items())
    none = dataclasses.replace(RECIPE, loss=LossSettings(distillation=0.0))
    train(squares, none, tmp_path / "none", teacher=teacher)
    ignored = averaged(tmp_path / "none")
    assert all(torch.equal(value, ignored[name]) for name, value in untaught.items())


def test_teachers_that_cannot_teach(squares: Dataset, tmp_path: Path) -> None:
    teacher = FloatNetwork(LpcNet(preset("edge", ("background", "other"), 1)), 64)
    with pytest.raises(UsageError, match="the teacher knows background, other in 1 channel"):
        train(squares, RECIPE, tmp_path / "run", teacher=teacher)
    stage1 = dataclasses.replace(RECIPE, loss=LossSettings(segmentation=0.0))
    with pytest.raises(UsageError, match="stage 1 alone"):
        train(squares, stage1, tmp_path / "run", teacher=teacher)
    assert not (tmp_path / "run").exists()
