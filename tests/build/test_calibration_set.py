"""Which images are picked: as many as asked, balanced, the same every time, and written down."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_data import fabric, surface, write_tiles
from dataset_files import write_image
from hypothesis import given
from hypothesis import strategies as st

from lpcnet_edge.build.calibration_set import (
    CalibrationRecipe,
    CalibrationSet,
    is_manifest,
    open_calibration_set,
    pick_calibration_set,
)
from lpcnet_edge.build.lint_sources import look_at_set
from lpcnet_edge.build.looks import pixel_digest
from lpcnet_edge.build.strata import brightness_bins, share_out
from lpcnet_edge.cli import main
from lpcnet_edge.config import from_mapping, load_config, to_mapping
from lpcnet_edge.datasets import open_dataset, without_fold
from lpcnet_edge.errors import BadArtifact, BadConfig, BadData, LpcnetError, UsageError
from lpcnet_edge.types import Dataset

RECIPES = Path(__file__).parents[2] / "calibration" / "recipes"
EXPOSURES = CalibrationRecipe(tiles=40, strata=("class", "exposure"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def tiles(root: Path) -> Dataset:
    """135 images of 45 parts: 24 parts free, 2 with fray, under exposures 1 to 3."""
    return open_dataset(root)


def count(chosen: CalibrationSet, column: int) -> Counter[str]:
    return Counter(entry.stratum[column] for entry in chosen.entries)


def test_shares_are_even_over_class_then_exposure_then_part(tiles: Dataset) -> None:
    chosen = pick_calibration_set(tiles, EXPOSURES, 32)
    assert count(chosen, 0) == {"background": 20, "blowhole": 4, "break": 4, "crack": 4, "fray": 4, "uneven": 4}
    free = Counter(e.stratum[1] for e in chosen.entries if e.stratum[0] == "background")
    assert sorted(free.values()) == [6, 7, 7]
    for name in ("blowhole", "uneven"):
        assert sorted(Counter(e.stratum[1] for e in chosen.entries if e.stratum[0] == name).values()) == [1, 1, 2]
    parts = Counter(e.part for e in chosen.entries)
    fray = {e.part for e in chosen.entries if e.stratum[0] == "fray"}
    assert {parts[part] for part in fray} == {2}, "two parts serve four images"
    assert {n for part, n in parts.items() if part not in fray} == {1}, "elsewhere there are parts enough"
    assert chosen.shortfalls == ()


def test_a_class_that_runs_out_gives_all_and_the_others_make_up(tiles: Dataset) -> None:
    chosen = pick_calibration_set(tiles, replace(EXPOSURES, tiles=80), 32)
    assert count(chosen, 0)["fray"] == 6
    assert sum(n for name, n in count(chosen, 0).items() if name != "background") == 40
    assert chosen.shortfalls == ("class fray: an even share is 8 images, there are 6",)


def test_a_side_that_runs_out_is_stated(tiles: Dataset) -> None:
    chosen = pick_calibration_set(tiles, replace(EXPOSURES, tiles=100, defect_share=0.9), 32)
    assert "90 images with a defect were asked for, there are 63" in chosen.shortfalls
    assert count(chosen, 0)["background"] == 37


def test_brightness_is_a_stratum(tiles: Dataset) -> None:
    recipe = CalibrationRecipe(tiles=36, strata=("class", "brightness"), brightness_bins=3)
    chosen = pick_calibration_set(tiles, recipe, 32)
    assert Counter(e.stratum[1] for e in chosen.entries if e.stratum[0] == "background") == {"1": 6, "2": 6, "3": 6}
    exposure = {entry.name: entry.strata["exposure"] for entry in tiles.entries}
    assert all(exposure[e.name] == e.stratum[1] for e in chosen.entries), "exposures are what makes these bright"


def test_few_candidates_are_read(tiles: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = type(tiles).read
    monkeypatch.setattr(type(tiles), "read", lambda self, index: reads.append(index) or read(self, index))
    chosen = pick_calibration_set(tiles, CalibrationRecipe(tiles=20, candidates=60), 32)
    assert (len(reads), len(chosen.entries)) == (60, 20)
    assert count(chosen, 0)["background"] == 10


def test_counts_are_exact(tiles: Dataset) -> None:
    recipe = replace(EXPOSURES, counts={"class": {"crack": 9, "fray": 0}})
    chosen = pick_calibration_set(tiles, recipe, 32)
    assert count(chosen, 0) == {"background": 20, "blowhole": 3, "break": 4, "crack": 9, "uneven": 4}
    by_exposure = pick_calibration_set(tiles, replace(EXPOSURES, counts={"exposure": {"2": 30}}), 32)
    assert count(by_exposure, 1)["2"] == 30
    assert len(by_exposure.entries) == 40


def test_the_same_set_every_time_and_another_seed_another(tiles: Dataset) -> None:
    recipe = CalibrationRecipe(tiles=30)
    first, again = pick_calibration_set(tiles, recipe, 32), pick_calibration_set(tiles, recipe, 32)
    assert first.entries == again.entries
    assert first.digest == again.digest
    other = pick_calibration_set(tiles, replace(recipe, seed=1), 32)
    assert {e.name for e in other.entries} != {e.name for e in first.entries}
    assert pick_calibration_set(tiles, recipe, 64).digest != first.digest


def test_only_what_was_given_is_picked(tiles: Dataset) -> None:
    chosen = pick_calibration_set(without_fold(tiles, "1"), EXPOSURES, 32)
    assert {entry.strata["fold"] for entry in chosen.dataset.entries} == {"2", "3", "4"}


def test_tiles_are_the_images_at_the_size_of_a_tile(tiles: Dataset) -> None:
    chosen = pick_calibration_set(tiles, CalibrationRecipe(tiles=8, strata=()), 32)
    found = list(chosen.tiles())
    assert {(t.shape, str(t.dtype)) for t in found} == {((32, 32), "uint8")}
    colour = pick_calibration_set(fabric(8), CalibrationRecipe(tiles=4, strata=("weave", "light")), 128)
    for tile, entry in zip(colour.tiles(), colour.entries, strict=True):
        assert tile.shape == (128, 128, 3)
        assert pixel_digest(tile) == entry.sha256


def test_progress_counts_what_is_read(tiles: Dataset) -> None:
    for recipe, total in ((CalibrationRecipe(tiles=5), 135), (replace(EXPOSURES, tiles=5), 5)):
        seen: list[tuple[int, int]] = []
        pick_calibration_set(tiles, recipe, 32, lambda done, of: seen.append((done, of)))  # noqa: B023
        assert seen == [(i, total) for i in range(1, total + 1)]


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"tiles": 136}, BadData, "asks for 136 tiles, magnetic-tile has 135 images"),
        ({"strata": ("clas",)}, BadConfig, "not grouped by 'clas'"),
        ({"counts": {"class": {"fray": 7}}}, BadData, "7 images of class fray, magnetic-tile has 6"),
        ({"counts": {"class": {"frey": 1}}}, BadConfig, "no image has class 'frey'"),
        ({"tiles": 130, "counts": {"class": {"fray": 0}}}, BadData, "has 129 images of another class"),
    ],
)
def test_what_the_data_cannot_give(tiles: Dataset, changes: dict[str, Any], kind: type[LpcnetError], said: str) -> None:
    with pytest.raises(kind, match=said) as error:
        pick_calibration_set(tiles, replace(EXPOSURES, **changes), 32)
    assert error.value.mend


def test_a_side_that_is_missing(tiles: Dataset) -> None:
    free = tiles.select([i for i, entry in enumerate(tiles.entries) if not entry.label])
    with pytest.raises(BadData, match="20 images with a defect, magnetic-tile has none"):
        pick_calibration_set(free, EXPOSURES, 32)
    assert len(pick_calibration_set(free, replace(EXPOSURES, defect_share=0.0), 32).entries) == 40
    with pytest.raises(UsageError, match="0 px"):
        pick_calibration_set(free, EXPOSURES, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tiles": 0}, "tiles is 0"),
        ({"candidates": 10}, "candidates 10"),
        ({"defect_share": 1.5}, "defect_share is 1.5"),
        ({"strata": ["class", "class"]}, "twice"),
        ({"counts": {"exposure": {"1": 2}}}, "counts are given for exposure"),
        ({"counts": {"brightness": {"1": 2}}}, "counts are given for brightness"),
        ({"counts": {"class": {"crack": 200}}}, "counts add up to 200 of 128"),
        ({"stratum": []}, "unknown key 'stratum'"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        from_mapping(CalibrationRecipe, changes, "r.yaml")


def test_the_recipes_in_the_repository() -> None:
    assert to_mapping(load_config(RECIPES / "default.yaml", CalibrationRecipe)) == to_mapping(CalibrationRecipe())
    recipe = load_config(RECIPES / "magnetic-tile.yaml", CalibrationRecipe)
    assert recipe.strata == ("class", "exposure", "brightness")


def test_a_manifest_reads_back(tiles: Dataset, tmp_path: Path) -> None:
    chosen = pick_calibration_set(tiles, EXPOSURES, 32)
    path = tmp_path / "set.json"
    chosen.write(path)
    assert is_manifest(path)
    assert is_manifest(path.rename(tmp_path / "set"))  # nothing says that it has to end in .json
    (tmp_path / "set").rename(path)
    assert json.loads(path.read_text(encoding="utf-8")) == chosen.to_manifest()
    again = open_calibration_set(path, tiles)
    assert (again.entries, again.digest, again.recipe) == (chosen.entries, chosen.digest, chosen.recipe)
    assert all(np.array_equal(a, b) for a, b in zip(again.tiles(), chosen.tiles(), strict=True))
    with pytest.raises(BadData, match="are not in magnetic-tile, such as MT_"):
        open_calibration_set(path, without_fold(tiles, "2"))


@pytest.mark.skipif(os.fsencode("\udce9") != b"\xe9", reason="names of files are no bytes here")
def test_names_that_are_no_utf8_can_be_picked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a ZIP file from another system leaves them."""
    for index in range(8):
        mask = np.zeros((48, 40), np.uint8)
        mask[4:9, 4:9] = index % 2
        write_image(tmp_path / "images" / f"{index}.png", surface(index))
        write_image(tmp_path / "masks" / f"{index}.png", mask)
    for folder in ("images", "masks"):
        (tmp_path / folder / "3.png").rename(tmp_path / folder / "pr\udce9.png")
    (tmp_path / "classes.yaml").write_text("names: [background, crack]\n")
    data = open_dataset(str(tmp_path))
    chosen = pick_calibration_set(data, CalibrationRecipe(tiles=8), 32)
    assert {entry.name for entry in chosen.entries} >= {"images/0.png", r"images/pr\xe9.png"}
    path = tmp_path / "set.json"
    chosen.write(path)
    assert open_calibration_set(path, data).digest == chosen.digest
    assert len(list(open_calibration_set(path, data).tiles())) == 8
    assert not look_at_set(chosen).unreadable


def test_an_image_that_changed_is_refused(tmp_path: Path) -> None:
    tiles = open_dataset(write_tiles(tmp_path, {"MT_Free": 2, "MT_Crack": 2}))
    chosen = pick_calibration_set(tiles, CalibrationRecipe(tiles=12), 32)
    path = tmp_path / chosen.entries[3].name
    path.write_bytes((tmp_path / chosen.entries[4].name).read_bytes())
    with pytest.raises(BadData, match=rf"{chosen.entries[3].name} is not the image that was picked"):
        list(chosen.tiles())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t[:-9], "cannot be read as JSON"),
        (lambda t: t.replace("set 1", "set 7", 1), "its format is 'lpcnet-edge calibration set 7'"),
        (lambda t: t.replace('"tile_px": 32', '"tile_px": 64'), "was changed since"),
        (lambda t: t.replace("MT_Free", "MT_Fray", 1), "was changed since"),
    ],
)
def test_a_damaged_manifest(tiles: Dataset, tmp_path: Path, damage: Callable[[str], str], said: str) -> None:
    path = tmp_path / "set.json"
    pick_calibration_set(tiles, EXPOSURES, 32).write(path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert is_manifest(path)
    with pytest.raises(BadArtifact, match=said):
        open_calibration_set(path, tiles)


def test_the_verb_writes_a_manifest(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, recipe = tmp_path / "sets" / "a.json", tmp_path / "r.yaml"
    recipe.write_text("tiles: 30\nstrata: [class, exposure]\n", encoding="utf-8")
    argv = ["calibrate", "set", "--data", str(root), "--recipe", str(recipe), "--exclude-fold", "1", "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    written = json.loads(out.read_text(encoding="utf-8"))
    assert (said["digest"], said["images"]) == (written["digest"], len(written["images"])) == (said["digest"], 30)
    assert (said["left_out"], said["shortfalls"]) == ([], [])
    assert main(argv) == 0
    assert said["digest"] in capsys.readouterr().out
    assert main([*argv[:4], "--out", str(out)]) == 0  # the default recipe: 128 of 135
    assert "short: 64 images with a defect were asked for, there are 63" in capsys.readouterr().out


def write_two_views(root: Path, parts: int, folds: Callable[[int], str]) -> Path:
    """A folder of parts with two views each that do not look alike; ``folds`` says which fold an image is in."""
    rows = ["image,part,fold"]
    for index in range(2 * parts):
        mask = np.zeros((48, 40), np.uint8)
        mask[4:9, 4:9] = index % 2
        write_image(root / "images" / f"{index:03d}.png", surface(7000 + index))
        write_image(root / "masks" / f"{index:03d}.png", mask)
        rows.append(f"{index:03d}.png,part{index // 2},{folds(index)}")
    (root / "parts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "classes.yaml").write_text("names: [background, scratch]\n", encoding="utf-8")
    return root


def test_the_verb_leaves_out_the_parts_of_excluded_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other images of a part that stands in an excluded fold calibrate as little as those in it."""
    data = write_two_views(tmp_path / "data", 8, lambda index: "1" if index in (0, 4) else "2")
    recipe, out = tmp_path / "r.yaml", tmp_path / "set.json"
    recipe.write_text("tiles: 12\n", encoding="utf-8")
    argv = ["calibrate", "set", "--data", str(data), "--recipe", str(recipe), "--exclude-fold", "1", "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == ["part0", "part2"]
    assert not {"part0", "part2"} & {part for _, part, *_ in json.loads(out.read_text(encoding="utf-8"))["images"]}
    data = write_two_views(tmp_path / "mixed", 4, lambda index: str(1 + index % 2))  # every part stands in both
    argv[3] = str(data)
    assert main(argv) == 3
    assert "mixed has no image to pick from" in capsys.readouterr().err


def test_a_dataset_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    root = write_two_views(tmp_path / os.fsdecode(b"d\xe9tails"), 8, lambda index: "1")
    data = open_dataset(root)
    chosen = pick_calibration_set(data, CalibrationRecipe(tiles=8), 32)
    assert chosen.to_manifest()["dataset"] == r"d\xe9tails"
    chosen.write(tmp_path / "set.json")
    assert open_calibration_set(tmp_path / "set.json", data).digest == chosen.digest


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 40), min_size=1, max_size=8), st.data())
def test_shares_add_up_and_are_even(available: dict[str, int], data: st.DataObject) -> None:
    quota = data.draw(st.integers(0, sum(available.values())))
    shares = share_out(available, quota)
    assert sum(shares.values()) == quota
    assert all(0 <= shares[value] <= available[value] for value in available)
    unfilled = [shares[value] for value in available if shares[value] < available[value]]
    assert not unfilled or max(shares.values()) - min(unfilled) <= 1


@given(st.lists(st.floats(0, 255), min_size=1, max_size=60), st.integers(1, 6))
def test_bins_follow_brightness(greys: list[float], bins: int) -> None:
    found = brightness_bins(greys, bins)
    assert set(found) <= {str(i + 1) for i in range(bins)}
    pairs = sorted(zip(greys, map(int, found), strict=True))
    assert [b for _, b in pairs] == sorted(b for _, b in pairs)
    if len(set(greys)) == len(greys) >= bins:
        assert max(Counter(found).values()) <= len(greys) // bins + 1
