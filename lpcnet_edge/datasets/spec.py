"""From what a user writes on a command line to an open dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpcnet_edge.config import suggest
from lpcnet_edge.datasets.coco import Coco
from lpcnet_edge.datasets.folder import Folder
from lpcnet_edge.datasets.magnetic_tile import FOLDERS, EmptyMasks, Grouping, MagneticTile
from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.types import Dataset

FABRIC = "carbon-fabric"
FABRIC_OPTIONS = ("count", "seed", "size")
COCO_FILES = ("annotations/instances_default.json", "result.json", "annotations.json")
"""Where CVAT, Label Studio and labelme put the COCO file of an export."""


def open_dataset(
    spec: str | Path,
    *,
    channels: int | None = None,
    images_root: str | Path | None = None,
    parts: str | None = None,
    empty_masks: EmptyMasks | None = None,
    grouping: Grouping | None = None,
) -> Dataset:
    """Open the dataset that ``spec`` names.

    Parameters
    ----------
    spec
        ``carbon-fabric`` or ``carbon-fabric:count=64,seed=7``; a folder of the Magnetic Tile dataset; a folder with
        ``classes.yaml``, ``images/`` and ``masks/``; a COCO JSON file, or the folder of a COCO export.
    channels
        1 or 3: how images are read, for layouts that leave it open. Magnetic Tile has 1, carbon fabric 3.
    images_root, parts
        For COCO only: see :class:`~lpcnet_edge.datasets.coco.Coco`.
    empty_masks, grouping
        For Magnetic Tile only: see :class:`~lpcnet_edge.datasets.magnetic_tile.MagneticTile`.

    Raises
    ------
    UsageError
        An option that the dataset does not have.
    BadData
        Nothing is there, or a layout that is none of these; says what was looked for and what was found.
    """
    text = str(spec)
    coco_only: dict[str, object] = {"images_root": images_root, "parts": parts}
    tiles_only: dict[str, object] = {"empty_masks": empty_masks, "grouping": grouping}
    if text == FABRIC or text.startswith(f"{FABRIC}:"):
        _refuse(text, coco_only | tiles_only)
        return _settled(_open_fabric(text), channels)
    path = Path(spec)
    if _is_magnetic_tile(path):
        _refuse(text, coco_only)
        return _settled(MagneticTile(path, empty_masks=empty_masks or "keep", grouping=grouping), channels)
    _refuse(text, tiles_only)
    if (path / "classes.yaml").exists():
        _refuse(text, coco_only)
        return Folder(path, channels=channels)
    coco = path if path.suffix.lower() == ".json" else _coco_file(path)
    if coco is not None:
        return Coco(coco, images_root, channels=channels or 1, parts=parts)
    if not path.is_dir():
        problem = "is no folder and no .json file" if path.exists() else "does not exist"
        raise BadData(f"{path} {problem}", mend=f"give the path of a dataset, or the name {FABRIC}")
    found = sorted(f"{p.name}/" if p.is_dir() else p.name for p in path.iterdir())
    raise BadData(
        f"{path} has no known layout; looked for tiles.csv or {', '.join(FOLDERS)}; classes.yaml; "
        f"{', '.join(COCO_FILES)}; found {', '.join(found[:8]) or 'nothing'}{' ...' if len(found) > 8 else ''}",
        mend="see docs/data.md for the layouts; most often a classes.yaml is missing",
    )


def _is_magnetic_tile(path: Path) -> bool:
    return any((path / name).exists() for name in ("tiles.csv", *FOLDERS))


def _coco_file(path: Path) -> Path | None:
    found = [path / name for name in COCO_FILES if (path / name).is_file()][:1]
    found = found or sorted((path / "annotations").glob("instances_*.json"))
    if len(found) > 1:
        raise UsageError(
            f"{path} has {len(found)} COCO files, one for each subset", mend=f"name one, such as {found[0]}"
        )
    return found[0] if found else None


def _settled(dataset: Dataset, channels: int | None) -> Dataset:
    """The dataset, whose channels are its own; asking for others is refused."""
    if channels not in (None, dataset.channels):
        raise UsageError(f"{dataset.name} has channels={dataset.channels}, not {channels}", mend="leave --channels out")
    return dataset


def _refuse(spec: str, options: Mapping[str, object]) -> None:
    """Refuse options that this layout does not have, if they are given."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} is not an option of {spec}, whose layout is another", mend=f"leave {name} out")


def _open_fabric(spec: str) -> Dataset:
    """Open ``carbon-fabric:key=number,...``."""
    options: dict[str, Any] = {}
    for item in spec.partition(":")[2].split(",") if ":" in spec else []:
        key, _, value = item.partition("=")
        key = key.strip()
        if key not in FABRIC_OPTIONS:
            raise UsageError(f"{spec}: unknown option {key!r}", mend=suggest(key, FABRIC_OPTIONS))
        if key in options:
            raise UsageError(f"{spec}: {key!r} is given twice", mend="keep one of the two")
        try:
            options[key] = int(value)
        except ValueError as exc:
            raise UsageError(f"{spec}: {key} is {value!r}", mend=f"write a whole number: {key}=64") from exc
    from lpcnet_edge.datasets.carbon_fabric import CarbonFabric

    return CarbonFabric(**options)
