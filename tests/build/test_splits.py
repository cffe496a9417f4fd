"""What calibrates and what checks never show one part, however the dataset is divided."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from calibration_data import surface, write_tiles
from dataset_files import write_image

from lpcnet_edge.build.lint_sources import look_at_dataset
from lpcnet_edge.build.splits import Splits, generated_splits, split, split_from, trained_on
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.types import Dataset


def silent(phase: str, done: int, total: int) -> None:
    pass


def parts(dataset: Dataset) -> set[str]:
    return {entry.part for entry in dataset.entries}


def digests(dataset: Dataset) -> set[str]:
    return {look.sha256 for look in look_at_dataset(dataset).looks}


def assert_apart(found: Splits) -> None:
    assert found.calibration.entries
    assert found.check.entries
    assert not parts(found.calibration) & parts(found.check)
    assert not digests(found.calibration) & digests(found.check)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.mark.parametrize("folds", [["1"], ["2", "3"], None])
def test_by_folds(folds: Sequence[str] | None, tiles: Path) -> None:
    found = split(open_dataset(str(tiles)), "carbon-fabric", folds, silent)
    assert_apart(found)
    wanted = {*folds} if folds else {"1"}
    assert {entry.strata["fold"] for entry in found.check.entries} == wanted
    assert f"check on fold {', '.join(sorted(wanted))}" in found.note


def test_the_folds_that_were_not_trained_on_check(tiles: Path, tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"")
    for card, wanted in (("data: {folds: ['1', '2', '4']}", {"3"}), ("data: {folds: ['1', '2', '3', '4']}", {"1"})):
        (tmp_path / "own.yaml").write_text(card + "\n")
        found = split(open_dataset(str(tiles)), weights, None, silent)
        assert {entry.strata["fold"] for entry in found.check.entries} == wanted


def test_weights_of_data_with_other_folds_tell_nothing_of_these(tiles: Path, tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"")
    (tmp_path / "own.yaml").write_text("data: {name: elsewhere, folds: [a, b]}\n")
    found = split(open_dataset(str(tiles)), weights, None, silent)
    assert {entry.strata["fold"] for entry in found.check.entries} == {"1"}


def test_the_card_of_other_weights_tells_nothing_of_these(tmp_path: Path) -> None:
    """Two trainings in one folder, or a file replaced without its card: that says where *those* were trained."""
    (tmp_path / "own.safetensors").write_bytes(b"these")
    for content, folds in ((b"those", []), (b"these", ["1", "2"])):
        stated = hashlib.sha256(content).hexdigest()
        (tmp_path / "card.yaml").write_text(f"weights: {{sha256: {stated}}}\ndata: {{name: x, folds: ['1', '2']}}\n")
        assert trained_on(tmp_path / "own.safetensors").get("folds", []) == folds


@pytest.mark.parametrize(("folds", "found"), [("3", []), ("'12'", []), ("{a: b}", []), ("[1, 2]", ["1", "2"])])
def test_only_a_list_of_folds_tells_which_were_trained_on(folds: str, found: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").write_bytes(b"")
    (tmp_path / "own.yaml").write_text(f"data: {{name: x, folds: {folds}}}\n")
    assert trained_on(tmp_path / "own.safetensors")["folds"] == found


def test_a_part_that_looks_like_one_of_the_check_does_not_calibrate(tiles: Path, tmp_path: Path) -> None:
    """Two series of photographs of one part that got two numbers, in two folds."""
    root = tmp_path / "tiles"
    shutil.copytree(tiles, root)
    dataset = open_dataset(str(root))
    by_fold = {fold: next(e for e in dataset.entries if e.strata["fold"] == fold and not e.label) for fold in "12"}
    for entry in dataset.entries:
        if entry.part == by_fold["2"].part:
            exposure = entry.strata["exposure"]
            twin = next(e for e in dataset.entries if e.part == by_fold["1"].part and e.strata["exposure"] == exposure)
            shutil.copyfile(root / twin.name, root / entry.name)
    found = split(open_dataset(str(root)), "carbon-fabric", ["1"], silent)
    assert_apart(found)
    assert by_fold["2"].part not in parts(found.calibration)
    assert found.note == "check on fold 1; 1 parts that look like one of it do not calibrate"


def folder(root: Path, count: int, start: int = 0) -> Path:
    """A folder dataset of parts photographed twice, the second shot a little brighter."""
    for index in range(count):
        for shot in (0, 1):
            image = surface(start + index, 100 + 30 * shot, (64, 64))
            mask = np.zeros((64, 64), np.uint8)
            mask[10:20, 10:20] = 1
            write_image(root / "images" / f"part{start + index:03d}_{shot}.png", image)
            write_image(root / "masks" / f"part{start + index:03d}_{shot}.png", mask)
    (root / "classes.yaml").write_text("names: [background, crack]\nparts: '(?P<part>part[0-9]+)_'\n")
    return root


def test_without_folds_a_quarter_of_the_parts_checks(tmp_path: Path) -> None:
    dataset = open_dataset(str(folder(tmp_path, 40)))
    found = split(dataset, "carbon-fabric", None, silent)
    assert_apart(found)
    assert 4 <= len(parts(found.check)) <= 16
    assert parts(found.check) | parts(found.calibration) == parts(dataset)
    again = split(open_dataset(str(tmp_path)), "carbon-fabric", None, silent)
    assert parts(again.check) == parts(found.check), "the same parts check every time"


def test_parts_may_have_names_that_are_no_utf8(tmp_path: Path) -> None:
    root = folder(tmp_path, 40)
    for kind in ("images", "masks"):
        for index in range(40):
            for path in (root / kind).glob(f"part{index:03d}_*.png"):
                path.rename(path.with_name(f"\udce9{path.name}"))
    (root / "classes.yaml").write_text("names: [background, crack]\nparts: '(?P<part>.+part[0-9]+)_'\n")
    assert_apart(split(open_dataset(str(root)), "carbon-fabric", None, silent))


def test_shots_of_one_part_that_nobody_grouped_stay_together_by_their_looks(tmp_path: Path) -> None:
    """Every image counts as a part of its own here; what looks alike still does not stand on both sides."""
    folder(tmp_path, 40)
    for path in sorted((tmp_path / "images").glob("*_1.png")):  # one shot of each, so that the product does not repeat
        path.unlink()
        (tmp_path / "masks" / path.name).unlink()
    for number in range(6):
        for kind in ("images", "masks"):
            shutil.copyfile(tmp_path / kind / "part007_0.png", tmp_path / kind / f"again{number}.png")
    (tmp_path / "classes.yaml").write_text("names: [background, crack]\n")
    found = split(open_dataset(str(tmp_path)), "carbon-fabric", None, silent)
    assert_apart(found)
    assert "look like one of it do not calibrate" in found.note


def test_a_check_without_a_defect_is_refused(tmp_path: Path) -> None:
    """On free images alone a network that has gone blind decides no worse than float, or even better."""
    dataset = open_dataset(str(folder(tmp_path, 40)))
    shown = parts(split(dataset, "carbon-fabric", None, silent).check)
    for path in (tmp_path / "masks").iterdir():
        if path.name.split("_")[0] in shown:
            write_image(path, np.zeros((64, 64), np.uint8))
    spoiled = open_dataset(str(tmp_path))
    with pytest.raises(BadData, match=f"none of the {2 * len(shown)} images of .* to check on has a defect"):
        split(spoiled, "carbon-fabric", None, silent)
    free = spoiled.select([i for i, entry in enumerate(spoiled.entries) if not entry.label])
    with pytest.raises(BadData, match="to check on has a defect"):
        split_from(dataset, free, "free", silent)
    (tmp_path / "classes.yaml").write_text("names: [background, crack]\n")
    rows = [f"{p.name},{p.name},{1 + (p.name.split('_')[0] in shown)}" for p in (tmp_path / "images").iterdir()]
    (tmp_path / "parts.csv").write_text("\n".join(["image,part,fold", *rows]) + "\n")
    with pytest.raises(BadData, match="to check on has a defect"):
        split(open_dataset(str(tmp_path)), "carbon-fabric", ["2"], silent)


def test_too_few_parts_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few to calibrate and to check"):
        split(open_dataset(str(folder(tmp_path, 1))), "carbon-fabric", None, silent)


def test_folds_of_a_dataset_without_any_are_told() -> None:
    with pytest.raises(UsageError, match="has no folds"):
        split(open_dataset("carbon-fabric:count=8,seed=1,size=128"), "carbon-fabric", ["1"], silent)


def test_other_check_data_must_show_other_images(tmp_path: Path) -> None:
    ours = open_dataset(str(folder(tmp_path / "ours", 12)))
    assert_apart(split_from(ours, open_dataset(str(folder(tmp_path / "theirs", 6, 100))), "theirs", silent))
    with pytest.raises(BadData, match="stand in the check data too, pixel for pixel"):
        split_from(ours, open_dataset(str(folder(tmp_path / "mixed", 6, 9))), "mixed", silent)
    with pytest.raises(BadData, match="calibration and check would share images"):
        split_from(ours, ours, "ours", silent)


def test_the_generator_serves_two_seeds() -> None:
    found = generated_splits()
    assert (len(found.calibration.entries), len(found.check.entries)) == (256, 96)
    assert not parts(found.calibration) & parts(found.check)
    some = found.calibration.select(range(3)), found.check.select(range(3))
    assert not digests(some[0]) & digests(some[1])
