"""What every dataset of files shares: lazy reading, selection, digests and safe paths."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from lpcnet_edge.errors import BadData, MaskMismatch, UnreadableImage, UsageError
from lpcnet_edge.imaging import read_image
from lpcnet_edge.types import ClassMap, Entry, Sample

DatasetT = TypeVar("DatasetT", bound="FileDataset")


@dataclass(frozen=True, slots=True)
class Record:
    """An entry, its image file, and what the dataset makes its mask from (a path, a list of annotations...)."""

    entry: Entry
    image: Path
    mask: Any = None


class FileDataset(ABC):
    """Labelled image files below one root. A subclass says what a record's mask is.

    Parameters
    ----------
    name, classes, channels
        As in :class:`~lpcnet_edge.types.Dataset`.
    records
        The images in their fixed order.
    """

    def __init__(self, name: str, classes: Sequence[str], channels: int, records: Sequence[Record]) -> None:
        if channels not in (1, 3):
            raise UsageError(f"channels is {channels}, which no camera here delivers", mend="use 1 (grey) or 3 (BGR)")
        self._name = name
        self._classes = tuple(classes)
        self._channels = channels
        self._keep(records)
        self._hashes: dict[Path, str] = {}  # shared with every selection of this dataset

    @property
    def name(self) -> str:
        """Short name of the dataset."""
        return self._name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; index 0 is the background."""
        return self._classes

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for BGR."""
        return self._channels

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries in a fixed order; nothing is decoded."""
        return self._entries

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> Sample:
        """Decode one sample.

        Raises
        ------
        UnreadableImage
            The image or its mask is missing, truncated or of no known format.
        MaskMismatch
            The mask has another size than the image.
        UnknownClass
            The mask holds a class index that the dataset does not have.
        """
        record = self._records[index]
        image = read_image(record.image, self._channels)
        mask = self._mask(record, (image.shape[0], image.shape[1]))
        if mask.shape != image.shape[:2]:
            raise size_mismatch(f"the mask of {record.image}", mask.shape, image.shape)
        return Sample(record.entry, image, mask)

    def image_path(self, index: int) -> Path:
        """The image file of one sample."""
        return self._records[index].image

    def select(self: DatasetT, indices: Sequence[int]) -> DatasetT:
        """The same dataset with only these entries, in this order."""
        chosen = copy.copy(self)
        chosen._keep([self._records[int(i)] for i in indices])
        return chosen

    def digest(self) -> str:
        """SHA-256 (hex) over class names and, entry by entry, name, part, label, image bytes and mask bytes.

        Files are hashed at the first call and remembered for as long as the object lives.
        """
        total = hashlib.sha256(json.dumps(self._classes).encode())
        for record in self._records:
            entry = record.entry
            row = [entry.name, entry.part, entry.label, self._hash(record.image), self._mask_digest(record)]
            total.update(json.dumps(row).encode() + b"\n")
        return total.hexdigest()

    def _keep(self, records: Sequence[Record]) -> None:
        """Make these the records of the dataset."""
        self._records = tuple(records)
        self._entries = tuple(record.entry for record in records)

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            try:
                self._hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as exc:
                raise UnreadableImage(
                    f"{path}: {exc.strerror or exc}", mend="check the path and its permissions"
                ) from exc
        return self._hashes[path]

    @abstractmethod
    def _mask(self, record: Record, shape: tuple[int, int]) -> ClassMap:
        """The mask of one image of ``shape`` (H, W) as (H, W) uint8 class indices."""

    def _mask_digest(self, record: Record) -> str:
        """SHA-256 (hex) of what the mask is made from, or an empty string where an image has none."""
        return self._hash(record.mask) if isinstance(record.mask, Path) else ""


def size_mismatch(what: object, shape: Sequence[int], image: Sequence[int]) -> MaskMismatch:
    """The error of a mask whose ``shape`` (H, W) is not that of its image."""
    return MaskMismatch(
        f"{what} is {shape[1]} x {shape[0]} px, the image {image[1]} x {image[0]}",
        mend="export the mask again at the size of its image",
    )


def largest_class(areas: Mapping[int, float]) -> int:
    """The class of the largest area, the lower index of equals, 0 where nothing is covered."""
    covered = {index: area for index, area in areas.items() if area > 0}
    return max(covered, key=lambda index: (covered[index], -index), default=0)


def inside(root: Path, relative: str, source: str) -> Path:
    """The path ``relative`` below ``root``; one that leaves the root is refused.

    ``source`` says where the path was written (``tiles.csv line 7``), for the error. Raises ``BadData``.
    """
    text = relative.replace("\\", "/")
    path = PurePosixPath(text)
    if not text.strip() or "\0" in text or path.is_absolute() or PureWindowsPath(relative).drive or ".." in path.parts:
        raise BadData(
            f"{source}: the path {relative!r} does not stay below {root}", mend="write it relative to that folder"
        )
    return root / path
