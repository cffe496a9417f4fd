"""Entries by strata."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import write_folder, write_magnetic_tile

from lpcnet_edge.datasets import Folder, MagneticTile, where, with_fold, without_fold
from lpcnet_edge.errors import UsageError


@pytest.fixture
def tiles(tmp_path: Path) -> MagneticTile:
    return MagneticTile(write_magnetic_tile(tmp_path))


def test_folds_divide_the_dataset(tiles: MagneticTile) -> None:
    test, train = with_fold(tiles, {"1"}), without_fold(tiles, "1")
    assert {e.strata["fold"] for e in test.entries} == {"1"}
    assert {e.strata["fold"] for e in train.entries} == {"2", "3", "4"}
    assert len(test.entries) + len(train.entries) == len(tiles)


def test_several_strata_hold_at_once(tiles: MagneticTile) -> None:
    chosen = where(tiles, fold={"1", "2"}, **{"class": "blowhole"}, exposure="2")
    assert [e.name for e in chosen.entries] == ["MT_Blowhole/Imgs/exp2_num_1925.jpg"]


def test_unknown_values_and_strata_are_named(tiles: MagneticTile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fold 9 \(mend: use one of: 1, 2, 3, 4\)"):
        where(tiles, fold={"1", "9"})
    with pytest.raises(UsageError, match=r"use one of: class, exposure, fold"):
        where(tiles, camera="left")
    with pytest.raises(UsageError, match="fold 7"):
        without_fold(tiles, {"7"})
    with pytest.raises(UsageError, match="fold nothing"):
        with_fold(tiles, set())
    with pytest.raises(UsageError, match="at once"):
        where(tiles, fold="1", **{"class": "crack"})
    with pytest.raises(UsageError, match="outside the folds"):
        without_fold(tiles, {"1", "2", "3", "4"})
    with pytest.raises(UsageError, match="leave the folds out"):
        with_fold(Folder(write_folder(tmp_path / "plain")), "1")
