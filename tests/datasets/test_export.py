"""Writing a dataset as a folder: nothing is lost, and nothing half is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import coco_content, write_coco

from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.datasets.coco import Coco
from lpcnet_edge.datasets.export import write_folder
from lpcnet_edge.datasets.folder import Folder
from lpcnet_edge.errors import BadConfig, BadInput, UsageError
from lpcnet_edge.types import Entry, Sample


@dataclass(frozen=True)
class Renamed:
    """A dataset under other entry names, whose reading may break off."""

    base: CarbonFabric
    names: Sequence[str]
    breaks_at: int | None = None

    name = "renamed"
    channels = 3

    @property
    def classes(self) -> tuple[str, ...]:
        return self.base.classes

    @property
    def entries(self) -> list[Entry]:
        return [replace(e, name=n) for e, n in zip(self.base.entries, self.names, strict=True)]

    def read(self, index: int) -> Sample:
        if index == self.breaks_at:
            raise KeyboardInterrupt
        return self.base.read(index)


def fabric(count: int = 3) -> CarbonFabric:
    return CarbonFabric(count, seed=5, size=(128, 160))


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    dataset = fabric(6)
    steps: list[tuple[int, int]] = []
    write_folder(dataset, tmp_path / "out", progress=lambda done, total: steps.append((done, total)))
    folder = Folder(tmp_path / "out")
    assert steps == [(i, 6) for i in range(1, 7)]
    assert (folder.name, folder.classes, folder.channels) == (dataset.name, dataset.classes, 3)
    assert len(folder.entries) == 6
    for index, entry in enumerate(dataset.entries):
        written = next(i for i, e in enumerate(folder.entries) if e.part == entry.part)
        sample, original = folder.read(written), dataset.read(index)
        np.testing.assert_array_equal(sample.image, original.image)
        np.testing.assert_array_equal(sample.mask, original.mask)
        assert sample.entry.strata == entry.strata


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a/x.png", "a/y.png", "b/z.png"], ["x", "y", "z"]),
        (["a/x.png", "b/x.png", "b/y.png"], ["a_x", "b_x", "b_y"]),
        (["a b/x", "a/b x", "../é"], ["a_b_x", "a_b_x", "_"]),
    ],
)
def test_file_names(names: list[str], files: list[str], tmp_path: Path) -> None:
    write_folder(Renamed(fabric(), names), tmp_path / "out")  # type: ignore[arg-type]
    found = sorted(path.stem for path in (tmp_path / "out" / "images").iterdir())
    if len(set(files)) == 3:
        assert found == sorted(files)
    else:
        assert len(found) == 3, "names that cannot be told apart still give three files"
    assert len(Folder(tmp_path / "out").entries) == 3


def test_class_names_that_a_folder_cannot_have_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    categories = [{"id": 7, "name": "oil/water"}, {"id": 3, "name": "scratch"}]
    dataset = Coco(write_coco(tmp_path, coco_content(categories=categories)))
    with pytest.raises(BadConfig, match="'oil/water' cannot be a folder's name"):
        write_folder(dataset, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_broken_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_folder(Renamed(fabric(), ["a", "b", "c"], breaks_at=2), tmp_path / "out")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".out.partial" / "images").mkdir(parents=True)
    (tmp_path / ".out.partial" / "images" / "stray.png").touch()
    write_folder(fabric(), tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_refuses_a_place_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    write_folder(fabric(1), tmp_path / "out")  # empty is fine
    with pytest.raises(UsageError, match="holds something already"):
        write_folder(fabric(1), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        write_folder(fabric(1), tmp_path / "file")
    with pytest.raises(BadInput, match="Not a directory"):
        write_folder(fabric(1), tmp_path / "file" / "out")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match="no name of its own"):
        write_folder(fabric(1), Path())
