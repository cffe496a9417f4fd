"""One way to open every layout, and an error that says what was looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import write_coco, write_folder, write_magnetic_tile

from lpcnet_edge.datasets import Coco, Folder, MagneticTile, open_dataset
from lpcnet_edge.errors import BadConfig, BadData, LpcnetError, UsageError


def test_each_layout_is_recognised(tmp_path: Path) -> None:
    assert isinstance(open_dataset(write_magnetic_tile(tmp_path / "m")), MagneticTile)
    assert isinstance(open_dataset(str(write_magnetic_tile(tmp_path / "o", table=False))), MagneticTile)
    assert isinstance(open_dataset(write_folder(tmp_path / "f")), Folder)
    path = write_coco(tmp_path)
    assert isinstance(open_dataset(path), Coco)
    path.rename(tmp_path / "result.json")
    assert isinstance(open_dataset(tmp_path), Coco)


def test_options_reach_the_dataset(tmp_path: Path) -> None:
    assert open_dataset(write_folder(tmp_path / "f"), channels=3).channels == 3
    tiles = open_dataset(write_magnetic_tile(tmp_path / "m"), empty_masks="drop", grouping="numbers")
    assert tiles.entries[0].part == "001"
    dataset = open_dataset(write_coco(tmp_path), channels=3, images_root=tmp_path, parts="(.)")
    assert dataset.channels == 3
    assert {e.part for e in dataset.entries} == {"p"}


def test_carbon_fabric_is_a_name_with_options() -> None:
    dataset = open_dataset("carbon-fabric:count=3,seed=7,size=128")
    assert dataset.name == "carbon-fabric"
    assert len(dataset.entries) == 3
    assert dataset.read(0).image.shape == (128, 128, 3)
    assert open_dataset("carbon-fabric").channels == 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("carbon-fabric:cout=3", "did you mean 'count'"),
        ("carbon-fabric:count=3,count=4", "given twice"),
        ("carbon-fabric:count=many", "count=64"),
        ("carbon-fabric:", "unknown"),
        ("carbon-fabric:count=0", "count is 0"),
    ],
)
def test_wrong_options_of_carbon_fabric_are_named(spec: str, says: str) -> None:
    with pytest.raises((UsageError, BadConfig), match=says):
        open_dataset(spec)


def test_options_of_another_layout_are_refused(tmp_path: Path) -> None:
    root = write_magnetic_tile(tmp_path)
    with pytest.raises(UsageError, match="channels=1, not 3"):
        open_dataset(root, channels=3)
    with pytest.raises(UsageError, match="parts is not an option"):
        open_dataset(root, parts="x")
    with pytest.raises(UsageError, match="images_root is not an option"):
        open_dataset("carbon-fabric", images_root=tmp_path)
    with pytest.raises(UsageError, match="grouping is not an option"):
        open_dataset(write_folder(tmp_path / "f"), grouping="numbers")
    with pytest.raises(UsageError, match="channels is 2"):
        open_dataset(write_coco(tmp_path / "c"), channels=2)


def test_an_unknown_layout_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(BadData, match=r"looked for tiles\.csv or MT_Blowhole.*found pictures/, readme\.txt"):
        open_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="found nothing"):
        open_dataset(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "says"), [("absent", "does not exist"), ("file.txt", "no folder"), ("x.json", "x.js")]
)
def test_what_is_not_a_dataset_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(LpcnetError, match=says):
        open_dataset(tmp_path / name)
