"""Verdicts on image files, with their agreement where the masks are known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lpcnet_edge.check.evaluation import points
from lpcnet_edge.check.walk import Progress, check_batch, predict_tiles
from lpcnet_edge.datasets.folder import IMAGE_SUFFIXES, Folder
from lpcnet_edge.decision import Rules, decide
from lpcnet_edge.errors import BadData, BadInput
from lpcnet_edge.files import is_plain_file, name_as_text, name_on_disk
from lpcnet_edge.imaging import overlay, read_image, resize_image, resize_mask
from lpcnet_edge.metrics import confusion_matrix, defect_iou
from lpcnet_edge.types import ClassMap, Image, Segmenter, Verdict


@dataclass(frozen=True, slots=True)
class ImageVerdict:
    """The verdict on one image file.

    Attributes
    ----------
    name
        The file's path below the folder given, or below the common folder of several.
    verdict
        A file that cannot be read is a reject with that reason.
    score
        Stage 1's largest defect probability; None for an unreadable file.
    known
        Names of the defect classes in the known mask, none for a free image; None where no mask is known.
    defect_iou
        Points 0..100: IoU of any predicted defect with any known one; None where there is no mask, or neither has a
        defect.
    error
        Why the file could not be read.
    """

    name: str
    verdict: Verdict
    score: float | None = None
    known: tuple[str, ...] | None = None
    defect_iou: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``image``, the verdict's keys, ``score``, ``known_classes`` and ``defect_iou``."""
        return {
            "image": self.name,
            **self.verdict.to_json(),
            "score": self.score,
            "known_classes": None if self.known is None else list(self.known),
            "defect_iou": self.defect_iou,
        }


@dataclass(frozen=True, slots=True)
class _Known:
    mask: ClassMap
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Item:
    """An image file that is yet to be read."""

    name: str
    part: str
    read: Callable[[], tuple[Image, _Known | None]]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is kept of an image: its tile, its known mask, and its box (x, y, width, height), which the tile shows."""

    tile: Image
    known: _Known | None
    shown_px: tuple[int, int, int, int]


def predict_images(
    segmenter: Segmenter,
    paths: Sequence[str | Path],
    rules: Rules | None = None,
    out_dir: Path | None = None,
    *,
    batch: int = 16,
    progress: Progress | None = None,
) -> list[ImageVerdict]:
    """Decide on image files, each resized whole to one tile.

    Areas and boxes, and those of the rules, are in pixels of the tile; ``mm_per_px`` and ``frame_box_px`` are about the
    image's.

    Parameters
    ----------
    segmenter
        Images are read as grey or colour as it needs them.
    paths
        Image files, folders of them (not their subfolders), or datasets in the layout of
        :class:`~lpcnet_edge.datasets.folder.Folder`, whose masks are then compared with the prediction.
    rules
        By default any defect pixel rejects.
    out_dir
        Folder for ``verdicts.jsonl``, one line an image, and ``overlays/``; nothing is written without it.
    batch
        Images a call of ``segmenter.predict``.
    progress
        Called with the number of images done and their total.

    Returns
    -------
    list of ImageVerdict
        In the order of the paths, a folder's files sorted by name. A file that cannot be read is a reject among them.

    Raises
    ------
    UsageError
        ``batch`` is below 1.
    BadConfig
        A rule names an unknown class.
    BadData
        A dataset's folders are not as they must be.
    BadInput
        A path does not exist, a folder holds no image, or ``out_dir`` cannot be written to.
    """
    check_batch(batch)
    rules = rules or Rules()
    rules.check_classes(segmenter.classes)
    items = _find_all([Path(path).absolute() for path in paths], segmenter.channels)
    rows: list[ImageVerdict] = []
    with ExitStack() as stack:
        writer = None if out_dir is None else stack.enter_context(_Writer(out_dir))
        remaining = iter(items)
        while chunk := list(islice(remaining, batch)):
            for row, picture in _decide(segmenter, chunk, rules):
                rows.append(row)
                if writer is not None:
                    writer.write(row, picture)
            if progress is not None:
                progress(len(rows), len(items))
    return rows


def _find_all(paths: Sequence[Path], channels: int) -> list[_Item]:
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path} does not exist", mend="give an image file or a folder of images")
    if not paths:
        return []
    base = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    return [item for path in paths for item in _find(path, base, channels)]


def _find(path: Path, base: Path, channels: int) -> Iterator[_Item]:
    """The images that a path stands for, with names below ``base``."""
    if path.is_dir() and (path / "images").is_dir() and (path / "masks").is_dir():
        dataset = Folder(path, channels=channels)
        for index, entry in enumerate(dataset.entries):
            name = name_as_text((path / entry.name).relative_to(base).as_posix())
            yield _Item(name, entry.part, partial(_read_labelled, dataset, index))
        return
    if path.is_dir():
        folder = path / "images" if (path / "images").is_dir() else path
        files = sorted(file for file in folder.iterdir() if is_plain_file(file, IMAGE_SUFFIXES))
        if not files:
            raise BadInput(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})", mend="give the folder of images")
    else:
        files = [path]
    for file in files:
        name = name_as_text(file.relative_to(base).as_posix())
        yield _Item(name, name, partial(_read_plain, file, channels))


def _read_labelled(dataset: Folder, index: int) -> tuple[Image, _Known | None]:
    sample = dataset.read(index)
    return sample.image, _Known(sample.mask, tuple(dataset.classes[i] for i in np.unique(sample.mask) if i))


def _read_plain(file: Path, channels: int) -> tuple[Image, _Known | None]:
    return read_image(file, channels), None


def _decide(segmenter: Segmenter, items: Sequence[_Item], rules: Rules) -> Iterator[tuple[ImageVerdict, Image | None]]:
    """The verdict on each item, in order, and its overlay where the file could be read."""
    readings = [_read(item, segmenter.tile_px) for item in items]
    readable = [index for index, reading in enumerate(readings) if not isinstance(reading, str)]
    tiles = [reading.tile for reading in readings if not isinstance(reading, str)]
    prediction = predict_tiles(segmenter, tiles, [items[index].name for index in readable]) if tiles else None
    places = iter(range(len(tiles)))
    for item, reading in zip(items, readings, strict=True):
        if isinstance(reading, str) or prediction is None:
            error = str(reading)
            yield ImageVerdict(item.name, Verdict(item.part, "reject", (f"unreadable: {error}",)), error=error), None
            continue
        known, place = reading.known, next(places)
        classes = prediction.classes[place]
        verdict = decide(
            classes,
            prediction.confidence[place],
            segmenter.classes,
            rules,
            part_id=item.part,
            shown_px=reading.shown_px,
        )
        row = ImageVerdict(
            item.name,
            verdict,
            score=float(prediction.score[place]),
            known=None if known is None else known.classes,
            defect_iou=None if known is None else _defect_iou(known.mask, classes),
        )
        yield row, overlay(reading.tile, classes)


def _read(item: _Item, side: int) -> _Reading | str:
    """An item's tile and known mask, or why it cannot be read."""
    try:
        image, known = item.read()
    except BadData as exc:
        return str(exc)
    return _Reading(resize_image(image, side, side), known, (0, 0, image.shape[1], image.shape[0]))


def _defect_iou(known: ClassMap, predicted: ClassMap) -> float | None:
    """IoU in points of any defect with any defect: the folder's classes need not be the network's."""
    truth = resize_mask(known, *predicted.shape)
    return points(defect_iou(confusion_matrix(np.minimum(truth, 1), np.minimum(predicted, 1), 2)))


class _Writer:
    """``verdicts.jsonl`` and ``overlays/`` in a folder, written as the verdicts come."""

    def __init__(self, out_dir: Path) -> None:
        self._out_dir = out_dir
        self._overlays = out_dir / "overlays"

    def __enter__(self) -> _Writer:
        try:
            self._out_dir.mkdir(parents=True, exist_ok=True)
            self._lines = (self._out_dir / "verdicts.jsonl").open("w", encoding="utf-8")
        except OSError as exc:
            raise self._unwritable(exc) from exc
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def write(self, row: ImageVerdict, picture: Image | None) -> None:
        try:
            self._lines.write(json.dumps(row.to_json()) + "\n")
            if picture is not None:
                path = self._overlays / name_on_disk(f"{row.name}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _unwritable(self, exc: OSError) -> BadInput:
        where = exc.filename or self._out_dir
        return BadInput(f"{where}: {exc.strerror or exc}", mend="choose a folder that can be written to")
