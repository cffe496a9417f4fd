"""COCO annotations, as CVAT, Label Studio and labelme export them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lpcnet_edge.datasets.base import FileDataset, Record, inside, largest_class, size_mismatch
from lpcnet_edge.datasets.cocofile import Annotated, read_coco
from lpcnet_edge.datasets.parts import group_images
from lpcnet_edge.errors import BadData
from lpcnet_edge.types import ClassMap, Entry


class Coco(FileDataset):
    """Images with the polygons or run lengths of a COCO file.

    Classes are ``background`` and then the categories in the order of their ids. Where annotations overlap, the later
    one in the file wins. An image without annotations is free of defects; an image's label is the class with the
    largest annotated area. Parts come from ``parts.csv`` beside the file, from the pattern ``parts``, or else each
    image is a part of its own.

    Parameters
    ----------
    path
        The JSON file.
    images_root
        The folder that ``file_name`` starts from. By default the first in which the first image is found: the file's
        own folder, ``images/`` in it, the folder above, ``images/`` in that; ``images/NAME`` and ``NAME`` in the folder
        above for ``instances_NAME.json``; ``data/`` in the file's own.
    channels
        1 to read the images as grey, 3 as BGR.
    parts
        Regular expression that finds the part in a ``file_name``; see
        :func:`~lpcnet_edge.datasets.parts.group_by_pattern`.

    Raises
    ------
    BadData
        The file is not COCO as described; names the image or annotation by its id.
    UnknownClass
        An annotation's category is not in the file.
    """

    def __init__(
        self,
        path: str | Path,
        images_root: str | Path | None = None,
        *,
        channels: int = 1,
        parts: str | None = None,
    ) -> None:
        self.path = Path(path)
        classes, images = read_coco(self.path)
        self.root = Path(images_root) if images_root is not None else _find_root(self.path, images[0].name)
        groups = group_images([image.name for image in images], self.path.parent / "parts.csv", parts, str(self.path))
        records = []
        for image, (part, strata) in zip(images, groups, strict=True):
            file = inside(self.root, image.name, f"{self.path}, file_name")
            records.append(Record(Entry(image.name, part, largest_class(image.areas()), strata), file, image))
        super().__init__(self.path.stem, classes, channels, records)

    def _mask(self, record: Record, shape: tuple[int, int]) -> ClassMap:
        annotated: Annotated = record.mask
        if annotated.shape != shape:
            raise size_mismatch(f"{self.path}: the annotation of {record.image}", annotated.shape, shape)
        return annotated.draw()

    def _mask_digest(self, record: Record) -> str:
        annotated: Annotated = record.mask
        content = [[r.label, [p.tolist() for p in r.polygons], list(r.counts)] for r in annotated.regions]
        return hashlib.sha256(json.dumps([annotated.shape, content]).encode()).hexdigest()


def _find_root(path: Path, name: str) -> Path:
    """The folder that the file names start from."""
    above, subset = path.parent.parent, path.stem.removeprefix("instances_")
    candidates = [path.parent, path.parent / "images", above, above / "images"]
    candidates += [above / "images" / subset, above / subset, path.parent / "data"]
    for folder in candidates:
        if inside(folder, name, f"{path}, file_name").is_file():
            return folder
    raise BadData(
        f"{path}: its first image {name} is in none of {', '.join(map(str, candidates))}",
        mend="say which folder its file names start from: --images-root DIR",
    )
