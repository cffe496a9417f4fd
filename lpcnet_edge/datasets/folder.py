"""A folder of images with PNG masks, as an integrator collects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lpcnet_edge.config import load_config, suggest
from lpcnet_edge.datasets.base import FileDataset, Record, largest_class, size_mismatch
from lpcnet_edge.datasets.masks import read_binary_mask, read_index_mask
from lpcnet_edge.datasets.parts import group_images
from lpcnet_edge.errors import BadConfig, BadData, MaskMismatch, UnknownClass
from lpcnet_edge.types import ClassMap, Entry

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
MAX_CLASSES = 256


@dataclass(frozen=True)
class FolderConfig:
    """What ``classes.yaml`` says.

    Attributes
    ----------
    names
        Class names by index, ``background`` first.
    channels
        1 to read the images as grey, 3 as BGR.
    parts
        Regular expression that finds the part in an image's file name; see
        :func:`~lpcnet_edge.datasets.parts.group_by_pattern`.
    name
        Short name of the dataset; the folder's by default.
    """

    names: tuple[str, ...]
    channels: Literal[1, 3] = 1
    parts: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        check_names(self.names)


def check_names(names: Sequence[str]) -> None:
    """Raise ``BadConfig`` unless these can be the class names of a dataset."""
    if not names or names[0] != "background":
        raise BadConfig("names must begin with background, which is index 0", mend="names: [background, scratch, dent]")
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise BadConfig(
            f"names lists {len(names)} classes, {len(set(names))} of them different",
            mend=f"give 2 to {MAX_CLASSES} different names",
        )
    for name in names:
        if not name.strip() or name in (".", "..") or any(c in name for c in "/\\\0"):
            raise BadConfig(f"the class name {name!r} cannot be a folder's name", mend="use letters, digits, - and _")


class Folder(FileDataset):
    """``images/``, ``masks/`` and ``classes.yaml`` below one root.

    Masks are either one PNG of class indices for every image (``masks/a.png`` for ``images/a.jpg``) or one binary PNG
    for every class that an image shows (``masks/scratch/a.png``); where classes overlap, the one named later in
    ``classes.yaml`` wins. Parts come from ``parts.csv`` (``image,part`` and any strata), from ``parts`` in
    ``classes.yaml``, or else each image is a part of its own.

    An image's label is the class that covers most of it, for which all masks are decoded once at opening. A mask that
    cannot be used gives label 0 there and is an error in ``read``.

    Parameters
    ----------
    root
        The folder that holds ``classes.yaml``.
    channels
        Read the images as grey (1) or BGR (3) whatever ``classes.yaml`` says.

    Raises
    ------
    BadConfig
        ``classes.yaml`` is absent or wrong.
    BadData
        The folders are not as described: no images, a mask without an image, both kinds of masks, a wrong table.
    """

    def __init__(self, root: str | Path, *, channels: int | None = None) -> None:
        self.root = Path(root)
        settings = self.root / "classes.yaml"
        config = load_config(settings, FolderConfig)
        images = _list_images(self.root / "images")
        masks = _list_masks(self.root / "masks", config.names)
        stray = sorted(set(masks) - {path.stem for path in images})
        if stray:
            raise BadData(
                f"{self.root / 'masks'}: {len(stray)} masks have no image, such as that of {stray[0]!r}",
                mend="give mask and image the same name before the suffix",
            )
        groups = group_images([p.name for p in images], self.root / "parts.csv", config.parts, str(settings))
        absent = () if any(path.is_dir() for path in _visible(self.root / "masks")) else None
        records = [
            Record(Entry(f"images/{path.name}", part, 0, strata), path, masks.get(path.stem, absent))
            for path, (part, strata) in zip(images, groups, strict=True)
        ]
        name = config.name or self.root.resolve().name
        super().__init__(name, config.names, channels or config.channels, records)
        self._keep([replace(r, entry=replace(r.entry, label=self._label(r))) for r in records])

    def _mask(self, record: Record, shape: tuple[int, int]) -> ClassMap:
        if record.mask is None:
            raise MaskMismatch(f"{record.image} has no mask", mend="add one, all 0 where the image is without a defect")
        if isinstance(record.mask, Path):
            return read_index_mask(record.mask, self.classes)
        mask: ClassMap = np.zeros(shape, np.uint8)
        for index, path in record.mask:
            inside = read_binary_mask(path)
            if inside.shape != shape:
                raise size_mismatch(path, inside.shape, shape)
            mask[inside] = index
        return mask

    def _label(self, record: Record) -> int:
        """The class that covers most of a mask, 0 for an empty one and for one that ``read`` will refuse."""
        try:
            if isinstance(record.mask, tuple):
                areas = {index: int(read_binary_mask(path).sum()) for index, path in record.mask}
            elif record.mask is not None:
                counts = np.bincount(read_index_mask(record.mask, self.classes).ravel())
                areas = {index: int(area) for index, area in enumerate(counts) if index}
            else:
                areas = {}
        except BadData:
            return 0
        return largest_class(areas)

    def _mask_digest(self, record: Record) -> str:
        if not isinstance(record.mask, tuple):
            return super()._mask_digest(record)
        return " ".join(f"{index}:{self._hash(path)}" for index, path in record.mask)


def _list_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadData(f"{folder} is no folder", mend="put the images there")
    images: dict[str, Path] = {}
    for path in _visible(folder):
        if path.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES:
            raise BadData(
                f"{path} is not an image ({', '.join(IMAGE_SUFFIXES)})",
                mend=f"keep only images in {folder.name}/, side by side; parts.csv says which part each one shows",
            )
        if path.stem in images:
            raise BadData(f"{images[path.stem]} and {path.name} would share a mask", mend="rename one of them")
        images[path.stem] = path
    if not images:
        raise BadData(f"{folder} is empty", mend="put the images there")
    return list(images.values())


def _list_masks(folder: Path, names: Sequence[str]) -> dict[str, Path | tuple[tuple[int, Path], ...]]:
    """The masks of each image by its name before the suffix: one of class indices, or (class, path) in class order."""
    if not folder.is_dir() or not (content := _visible(folder)):
        raise BadData(f"{folder} holds no masks", mend="add masks/<image>.png or masks/<class>/<image>.png")
    folders = [path for path in content if path.is_dir()]
    if not folders:
        return {path.stem: _png(path) for path in content}
    if len(folders) < len(content):
        raise BadData(f"{folder} holds masks of class indices and folders of classes", mend="keep one of the two kinds")
    masks: dict[str, tuple[tuple[int, Path], ...]] = {}
    for path in folders:
        if path.name not in names[1:]:
            raise UnknownClass(f"{path}: {path.name!r} is no class of classes.yaml", mend=suggest(path.name, names[1:]))
    for path in sorted(folders, key=lambda path: names.index(path.name)):
        for mask in _visible(path):
            masks[mask.stem] = (*masks.get(mask.stem, ()), (names.index(path.name), _png(mask)))
    return dict(masks)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _png(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise BadData(f"{path}: masks are PNG files", mend="export it as PNG, which keeps every class index")
    return path
