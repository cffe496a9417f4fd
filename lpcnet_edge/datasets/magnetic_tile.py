"""The Magnetic Tile surface defects of Huang, Qiu and Yuan (The Visual Computer, 2020), grouped by physical tile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from lpcnet_edge.datasets.base import FileDataset, Record, inside
from lpcnet_edge.datasets.grouping import assign_folds, group_exposures
from lpcnet_edge.datasets.tables import read_table
from lpcnet_edge.errors import BadData, UnknownClass, UsageError
from lpcnet_edge.imaging import read_image
from lpcnet_edge.types import ClassMap, Entry

CLASSES = ("background", "blowhole", "break", "crack", "fray", "uneven")
FOLDERS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Free", "MT_Uneven")
COLUMNS = ("image", "mask", "class", "tile", "exposure", "fold")
THRESHOLD = 127
"""A mask pixel above this is defect: the masks carry compression noise."""

_FILE_NAME = re.compile(r"exp(\d+)_num_(\d+)\.jpg", re.IGNORECASE)

EmptyMasks = Literal["keep", "drop"]
Grouping = Literal["index", "numbers"]


class MagneticTile(FileDataset):
    """The Magnetic Tile dataset, with ``tiles.csv`` or in its original six folders.

    An image's class is its folder's: ``label`` 0 for free tiles, and every mask pixel above 127 has the class of the
    image. ``part`` is the physical tile, from ``tiles.csv`` or from the file numbers
    (:func:`~lpcnet_edge.datasets.grouping.group_exposures`). Strata: ``fold``, ``exposure``, ``class``.

    Parameters
    ----------
    root
        The folder that holds ``MT_Blowhole`` to ``MT_Uneven``.
    empty_masks
        What becomes of an image of a defect class whose mask has no defect pixel. ``"keep"``: it stays, its label is
        its folder's class and its mask is empty. ``"drop"``: it is left out, for which the masks of the defect
        classes are decoded at opening.
    grouping
        Where parts and folds come from. ``"index"``: ``tiles.csv``. ``"numbers"``: the file numbers, even beside a
        ``tiles.csv``. By default the index where there is one; the attribute ``grouping`` says which it was.

    Raises
    ------
    BadData
        ``tiles.csv`` or the folders are not as described; names the file, the line and the column.
    """

    def __init__(self, root: str | Path, *, empty_masks: EmptyMasks = "keep", grouping: Grouping | None = None) -> None:
        if empty_masks not in ("keep", "drop"):
            raise UsageError(f"empty_masks is {empty_masks!r}", mend="use 'keep' or 'drop'")
        if grouping not in (None, "index", "numbers"):
            raise UsageError(f"grouping is {grouping!r}", mend="use 'index' or 'numbers'")
        self.root = Path(root)
        index = self.root / "tiles.csv"
        self.grouping: Grouping = grouping or ("index" if index.exists() else "numbers")
        records = _indexed(self.root, index) if self.grouping == "index" else _derived(self.root)
        if not records:
            raise BadData(f"{self.root} lists no image", mend="give the folder that holds MT_Blowhole to MT_Uneven")
        super().__init__("magnetic-tile", CLASSES, 1, records)
        if empty_masks == "drop":
            self._keep([r for r in records if r.entry.label == 0 or _defect_pixels(r.mask).any()])

    def _mask(self, record: Record, shape: tuple[int, int]) -> ClassMap:
        return np.where(_defect_pixels(record.mask), np.uint8(record.entry.label), np.uint8(0))


def _defect_pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return read_image(path, 1) > THRESHOLD


def _label(name: str, source: str) -> int:
    if name == "free":
        return 0
    if name not in CLASSES[1:]:
        raise UnknownClass(
            f"{source}: class {name!r} is none of the dataset's", mend=f"use free, {', '.join(CLASSES[1:])}"
        )
    return CLASSES.index(name)


def _indexed(root: Path, index: Path) -> list[Record]:
    """Records as ``tiles.csv`` lists them."""
    records = []
    seen: dict[str, int] = {}
    for line, row in read_table(index, COLUMNS):
        source = f"{index} line {line}"
        image = inside(root, row["image"], f"{source}, column image")
        mask = inside(root, row["mask"], f"{source}, column mask")
        name = image.relative_to(root).as_posix()
        if name in seen:
            raise BadData(f"{source}: {name} stands in line {seen[name]} already", mend="remove one of the two rows")
        seen[name] = line
        strata = {key: row[key] for key in ("fold", "exposure", "class")}
        entry = Entry(name, row["tile"], _label(row["class"], f"{source}, column class"), strata)
        records.append(Record(entry, image, mask))
    return records


def _derived(root: Path) -> list[Record]:
    """Records of the original layout: tiles from the file numbers, folds dealt by tile."""
    found: list[tuple[str, Path, int, int]] = []
    for folder in FOLDERS:
        files = (root / folder / "Imgs").glob("[!.]*")
        images = sorted(path for path in files if path.suffix.lower() == ".jpg")
        if not images:
            raise BadData(f"no .jpg in {root / folder / 'Imgs'}", mend="give the root of a complete Magnetic Tile copy")
        for image in images:
            match = _FILE_NAME.fullmatch(image.name)
            if not match:
                raise BadData(f"{image}: not named exp<E>_num_<N>.jpg", mend="rename it, or write a tiles.csv")
            found.append((folder.removeprefix("MT_").lower(), image, int(match[2]), int(match[1])))
    tiles = [f"{tile:03d}" for tile in group_exposures([(number, exposure) for _, _, number, exposure in found])]
    labels = [_label(name, str(root)) for name, *_ in found]
    folds = assign_folds(tiles, labels)
    return [
        _record(root, image, tile, label, {"fold": folds[tile], "exposure": str(exposure), "class": name})
        for (name, image, _, exposure), tile, label in zip(found, tiles, labels, strict=True)
    ]


def _record(root: Path, image: Path, tile: str, label: int, strata: dict[str, str]) -> Record:
    entry = Entry(image.relative_to(root).as_posix(), tile, label, strata)
    return Record(entry, image, image.with_suffix(".png"))
