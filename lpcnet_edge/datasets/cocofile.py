"""Reading of a COCO JSON file: every way one can be bad is named with the id of the image or annotation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.datasets import regions
from lpcnet_edge.errors import BadData, UnknownClass
from lpcnet_edge.types import ClassMap

BACKGROUND_NAMES = ("background", "_background_", "__ignore__")
"""Categories of these names are index 0: labelme writes them in front of the real ones."""

MAX_CLASSES = 256
MAX_SIDE_PX = 1 << 16

Items: TypeAlias = dict[int | str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Region:
    """One annotation: its class index and either polygons, each (P, 2) float64, or run lengths."""

    label: int
    polygons: tuple[NDArray[np.float64], ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def area(self) -> float:
        """Area in px2, overlaps of its polygons counted twice; a polygon, however thin, marks a pixel or more."""
        return sum(self.counts[1::2]) + sum(max(regions.polygon_area(polygon), 1.0) for polygon in self.polygons)


@dataclass(frozen=True, slots=True)
class Annotated:
    """One image of the file: ``file_name``, its stated shape (H, W), and its regions in the order of the file."""

    name: str
    shape: tuple[int, int]
    regions: tuple[Region, ...]

    def areas(self) -> dict[int, float]:
        """Annotated area in px2 by class index, without the background's."""
        areas: dict[int, float] = defaultdict(float)
        for region in self.regions:
            if region.label:
                areas[region.label] += region.area
        return dict(areas)

    def draw(self) -> ClassMap:
        """The mask (H, W) uint8 of class indices; where regions overlap, the later one wins."""
        mask = np.zeros(self.shape, np.uint8)
        for region in self.regions:
            if region.counts:
                mask[regions.draw_counts(region.counts, *self.shape)] = region.label
            for polygon in region.polygons:
                mask[regions.draw_polygon(polygon, *self.shape)] = region.label
        return mask


def read_coco(path: Path) -> tuple[tuple[str, ...], list[Annotated]]:
    """The class names and the images of a COCO file, images in the file's order.

    Raises ``BadData`` naming the image or annotation, ``UnknownClass`` for a category that the file does not list.
    """
    content = _load(path)
    classes, index_of = _categories(path, _items(path, content, "categories"))
    images = _items(path, content, "images")
    if not images:
        raise BadData(f"{path}: it lists no images", mend="export the task with its images")
    shapes = {key: _shape(f"{path}: image {key}", image) for key, image in images.items()}
    found: dict[int | str, list[Region]] = defaultdict(list)
    for key, item in _items(path, content, "annotations").items():
        where = f"{path}: annotation {key}"
        owner = item.get("image_id")
        if not isinstance(owner, int | str) or isinstance(owner, bool) or owner not in images:
            raise BadData(f"{where}: there is no image {owner!r}", mend="export the task again, with its images")
        category = item.get("category_id")
        if not isinstance(category, int | str) or isinstance(category, bool) or category not in index_of:
            raise UnknownClass(f"{where}: there is no category {category!r}", mend="list it under categories")
        try:
            found[owner].append(_region(item.get("segmentation"), index_of[category], *shapes[owner]))
        except ValueError as exc:
            raise BadData(f"{where}: {exc}", mend="correct or remove that annotation and export again") from exc
    names: dict[str, int | str] = {}
    for key, image in images.items():
        name = image.get("file_name")
        if not isinstance(name, str) or name in names:
            problem = "has no file_name" if not isinstance(name, str) else f"is {name} again, as {names[name]} is"
            raise BadData(f"{path}: image {key} {problem}", mend="give every image a file_name of its own")
        names[name] = key
    return classes, [Annotated(name, shapes[key], tuple(found[key])) for name, key in names.items()]


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise BadData(f"{path}: {exc.strerror or exc}", mend="check the path and its permissions") from exc
    except UnicodeDecodeError as exc:
        raise BadData(f"{path}: byte {exc.start} is not UTF-8", mend="save the file as UTF-8") from exc
    except json.JSONDecodeError as exc:
        raise BadData(f"{path} line {exc.lineno} column {exc.colno}: {exc.msg}", mend="export the file again") from exc
    except (RecursionError, ValueError) as exc:
        raise BadData(f"{path}: not readable as JSON: {exc}", mend="export the file again") from exc
    if not isinstance(content, dict):
        raise BadData(
            f"{path}: expected an object with images, annotations and categories, found a {type(content).__name__}",
            mend="export in the format 'COCO 1.0' (instances)",
        )
    return content


def _items(path: Path, content: Mapping[str, Any], key: str) -> Items:
    """One of the file's three lists by the items' ids."""
    items = content.get(key)
    if not isinstance(items, list):
        raise BadData(
            f"{path}: no list {key!r}; it has {', '.join(map(str, content)) or 'nothing'}",
            mend="export in the format 'COCO 1.0' (instances)",
        )
    result: Items = {}
    for position, item in enumerate(items):
        number = item.get("id") if isinstance(item, dict) else None
        if not isinstance(number, int | str) or number in result:
            problem = "has no id" if not isinstance(number, int | str) else f"has the id {number} of another"
            raise BadData(f"{path}: {key}[{position}] {problem}", mend="give every item an id of its own")
        result[number] = item
    return result


def _categories(path: Path, items: Items) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Class names in the order of the ids, behind the background, and the class index of each category's id."""
    names = ["background"]
    index_of: dict[int | str, int] = {}
    for key in sorted(items, key=lambda key: (isinstance(key, str), key)):
        name = items[key].get("name")
        if not isinstance(name, str) or not name.strip() or name in names[1:]:
            raise BadData(f"{path}: category {key} is named {name!r}", mend="give every category a name of its own")
        index_of[key] = 0
        if name not in BACKGROUND_NAMES:
            index_of[key] = len(names)
            names.append(name)
    if not 2 <= len(names) <= MAX_CLASSES:
        raise BadData(f"{path}: {len(names) - 1} categories", mend=f"list between 1 and {MAX_CLASSES - 1} of them")
    return tuple(names), index_of


def _shape(where: str, image: Mapping[str, Any]) -> tuple[int, int]:
    """The (H, W) that the file states for an image."""

    def side(key: str) -> int:
        value = image.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIDE_PX:
            raise BadData(f"{where} has the {key} {value!r}", mend="write the image's true width and height in pixels")
        return value

    return side("height"), side("width")


def _region(segmentation: object, label: int, height: int, width: int) -> Region:
    """A region of one of COCO's three forms; raises ``ValueError``."""
    if isinstance(segmentation, list) and segmentation:
        return Region(label, polygons=tuple(regions.check_polygon(polygon) for polygon in segmentation))
    if not isinstance(segmentation, dict):
        raise ValueError("it has no segmentation, at most a box")
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"its run lengths are for {segmentation.get('size')}, the image is {[height, width]}")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = regions.unpack_counts(counts)
    if not isinstance(counts, list):
        raise ValueError("its run lengths (counts) are neither a list nor a text")
    return Region(label, counts=tuple(regions.check_counts(counts, height, width)))
