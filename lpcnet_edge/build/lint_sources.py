"""Where the images come from that a calibration set is judged by: a dataset, a picked set, or a folder of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.build.calibration_set import CalibrationSet
from lpcnet_edge.build.lint import Finding, lint_looks, repeats_itself
from lpcnet_edge.build.looks import Look, look_at, reference_of, twins
from lpcnet_edge.datasets.folder import IMAGE_SUFFIXES
from lpcnet_edge.datasets.inspect import LOOK_ALIKE
from lpcnet_edge.datasets.magnetic_tile import FOLDERS
from lpcnet_edge.datasets.spec import COCO_FILES
from lpcnet_edge.errors import BadData, UnreadableImage
from lpcnet_edge.files import is_plain_file
from lpcnet_edge.types import Dataset

SUFFIXES = (*IMAGE_SUFFIXES, ".npy")

Progress = Callable[[int, int], None]
"""Called with the number of images read and their total."""


@dataclass(frozen=True, slots=True)
class Looked:
    """The looks at some images, and the findings of those that could not be read."""

    looks: tuple[Look, ...]
    unreadable: tuple[Finding, ...]
    classes: tuple[str, ...] = ()
    name: str = ""


def look_at_dataset(dataset: Dataset, progress: Progress | None = None) -> Looked:
    """Look at every image of a dataset, as it will be read for calibration."""
    looks: list[Look] = []
    unreadable: list[Finding] = []
    entries = dataset.entries
    for index, entry in enumerate(entries):
        try:
            image: NDArray[Any] = dataset.read(index).image
        except UnreadableImage as exc:
            # What no camera delivers, OpenCV's 8-bit reading refuses; what it is says why.
            floats = _float_image(dataset, entry.name)
            if floats is None:
                unreadable.append(_unreadable(entry.name, exc))
                continue
            image = floats
        except BadData as exc:
            unreadable.append(_unreadable(entry.name, exc))
            continue
        looks.append(look_at(image, entry.name, part=entry.part, label=entry.label))
        if progress is not None:
            progress(index + 1, len(entries))
    return Looked(tuple(looks), tuple(unreadable), dataset.classes, dataset.name)


def look_at_set(chosen: CalibrationSet, progress: Progress | None = None) -> Looked:
    """Look at the images of a picked set; one whose pixels are not those that were picked cannot be used."""
    looked = look_at_dataset(chosen.dataset, progress)
    names = (entry.name for entry in chosen.dataset.entries)
    wanted = {name: picked.sha256 for name, picked in zip(names, chosen.entries, strict=True)}
    changed = [look.name for look in looked.looks if look.sha256 != wanted[look.name]]
    if not changed:
        return looked
    message = f"{len(changed)} images are not those that were picked: their pixels have another SHA-256"
    finding = Finding("refuse", "unreadable", tuple(changed), message, "pick the set again (lpcnet-edge calibrate set)")
    return Looked(looked.looks, (*looked.unreadable, finding), looked.classes, looked.name)


def without_parts_of(dataset: Dataset, check: Dataset) -> tuple[Dataset, tuple[str, ...]]:
    """The dataset without the parts that ``check`` has by name, other images of them too, and those parts' names."""
    shown = {entry.part for entry in check.entries}
    kept = [index for index, entry in enumerate(dataset.entries) if entry.part not in shown]
    parts = {entry.part for entry in dataset.entries} & shown
    return (dataset.select(kept) if parts else dataset), tuple(sorted(parts))


def without_look_alikes(
    dataset: Dataset, check: Dataset, progress: Progress | None = None
) -> tuple[Dataset, tuple[str, ...]]:
    """The dataset without the parts that ``check`` shows too, as far as looks tell, and the names of those parts.

    Grouping by part can miss that two series of photographs show one part; such a part would calibrate the engine and
    measure it as well. Where the product repeats itself (:func:`~lpcnet_edge.build.lint.repeats_itself`), looks tell
    nothing and the dataset stays whole. Raises ``BadData`` for an image that cannot be read.
    """
    sides: list[list[Look]] = []
    total = len(dataset.entries) + len(check.entries)
    for side in (dataset, check):
        sides.append([])
        for index, entry in enumerate(side.entries):
            sides[-1].append(look_at(side.read(index).image, entry.name, part=entry.part, label=entry.label))
            if progress is not None:
                progress(len(sides[0]) * (side is check) + index + 1, total)
    ours, theirs = sides
    if repeats_itself(ours):
        return dataset, ()
    parts = {ours[i].part for i, _, _ in twins(ours, theirs, LOOK_ALIKE)}
    kept = [i for i, look in enumerate(ours) if look.part not in parts]
    return (dataset.select(kept) if parts else dataset), tuple(sorted(parts))


def look_at_folder(folder: Path, channels: int | None = None, progress: Progress | None = None) -> Looked:
    """Look at the image files in a folder and the folders in it, as they are stored, and at arrays in ``.npy`` files.

    ``channels`` 1 turns colour to grey. Every image counts as a part of its own. ``BadData`` where there is none.
    """
    paths = image_files(folder)
    looks: list[Look] = []
    unreadable: list[Finding] = []
    for done, path in enumerate(paths, 1):
        name = path.relative_to(folder).as_posix()
        try:
            looks.append(look_at(read_raw(path, channels), name))
        except BadData as exc:
            unreadable.append(_unreadable(name, exc))
        if progress is not None:
            progress(done, len(paths))
    return Looked(tuple(looks), tuple(unreadable), name=folder.name)


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds image files side by side, without the layout of a dataset around them."""
    if not path.is_dir() or any(
        (path / name).exists() for name in ("classes.yaml", "tiles.csv", *FOLDERS, *COCO_FILES)
    ):
        return False
    return any(file.suffix.lower() in SUFFIXES for file in path.iterdir())


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted; raises ``BadData`` where there is none."""
    if not folder.is_dir():
        raise BadData(f"{folder} is no folder", mend="name a folder of images")
    paths = sorted(p for p in folder.rglob("*") if is_plain_file(p, SUFFIXES))
    if not paths:
        raise BadData(f"{folder} holds no image ({', '.join(SUFFIXES)})", mend="name a folder of images")
    return paths


def read_raw(path: Path, channels: int | None = None) -> NDArray[Any]:
    """The numbers in an image file or ``.npy`` file, of the type they are stored in; transparency is dropped.

    Raises ``UnreadableImage``.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as stream:  # np.load would open archives of arrays, too
                image: NDArray[Any] | None = np.lib.format.read_array(stream, allow_pickle=False)
        else:
            data = np.fromfile(path, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, ValueError, EOFError, cv2.error) as exc:
        raise UnreadableImage(f"{path}: {exc}", mend="replace or remove the file") from exc
    if image is None or image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "uif":
        what = "no known image format" if image is None else f"{image.dtype} numbers of shape {image.shape}"
        raise UnreadableImage(f"{path} holds {what}", mend="replace it with an 8-bit image, or remove it")
    if image.ndim == 3 and image.shape[-1] == 4:
        image = image[..., :3]
    if image.ndim == 3 and image.shape[-1] not in (1, 3) and image.shape[0] not in (1, 3):
        raise UnreadableImage(f"{path} has the shape {image.shape}", mend="store (H, W) or (H, W, 3)")
    if channels == 1 and image.ndim == 3 and image.shape[-1] == 3 and image.dtype in (np.uint8, np.uint16, np.float32):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return np.asarray(image)


@dataclass(frozen=True)
class Lint:
    """What :func:`lint_set` found. ``against`` says what the images were compared with, if anything."""

    images: int
    parts: int
    classes: dict[str, int]
    against: str | None
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> bool:
        """Whether the set must not be used."""
        return any(finding.severity == "refuse" for finding in self.findings)


def lint_set(ours: Looked, check: Looked | None = None, live: Looked | None = None) -> Lint:
    """Judge a set against the check data and the live frames, where they are given.

    Live frames are the reference for light, sharpness and colour; without them the check data are.
    """
    other = live or check
    reference = None
    if other is not None and other.looks:
        reference = reference_of(other.looks, "the live frames" if live else "the check data")
    found: list[Finding] = list(ours.unreadable)
    # What the set is only compared with may be judged by the rest of it.
    found += [replace(f, severity="warn") for side in (check, live) if side for f in side.unreadable]
    found += lint_looks(
        ours.looks,
        classes=ours.classes,
        check=check.looks if check else (),
        same_parts=check is None or check.name == ours.name,
        reference=reference,
    )
    labels = [look.label for look in ours.looks]
    return Lint(
        images=len(ours.looks),
        parts=len({look.part for look in ours.looks}),
        classes={name: labels.count(index) for index, name in enumerate(ours.classes)},
        against=reference.what if reference else None,
        findings=tuple(sorted(found, key=lambda finding: finding.severity)),
    )


def _unreadable(name: str, exc: BadData) -> Finding:
    return Finding("refuse", "unreadable", (name,), exc.message, exc.mend or "correct the file")


def _float_image(dataset: Dataset, name: str) -> NDArray[Any] | None:
    """The image of a dataset of files where it holds floating-point numbers, as no 8-bit reader takes them."""
    root = getattr(dataset, "root", None)
    if not isinstance(root, Path):
        return None
    try:
        image = read_raw(root / name)
    except UnreadableImage:
        return None
    return image if image.dtype.kind == "f" else None
