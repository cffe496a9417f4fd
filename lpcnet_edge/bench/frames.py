"""What is measured with: real frames, as pixels and as files, never random numbers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.datasets.base import FileDataset
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.files import is_plain_file
from lpcnet_edge.imaging import read_image
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.pipeline import framing_for
from lpcnet_edge.runtime.sources.images import IMAGE_SUFFIXES
from lpcnet_edge.runtime.tile_plan import plan_tiles, write_tiles
from lpcnet_edge.types import Dataset, Image

GOLDEN = "golden/golden.npz"
SEED = 7_500_001
"""Of generated frames: none that a shipped network was trained, calibrated or checked on."""


@dataclass(frozen=True)
class Frames:
    """Frames to measure with.

    Attributes
    ----------
    images
        As the network's camera gives them: (H, W) or (H, W, 3) uint8.
    files
        The same, as image files to decode.
    says
        Where they come from.
    digest
        SHA-256 (hex) of all pixels: equal frames, equal digest.
    """

    images: tuple[Image, ...]
    files: tuple[Path, ...]
    says: str
    digest: str

    @property
    def sizes_px(self) -> list[tuple[int, int]]:
        """(width, height) of those there are."""
        return sorted({(image.shape[1], image.shape[0]) for image in self.images})

    def framing(self, image: Image, tile_px: int, framing: Framing | None) -> Framing:
        """How one of them becomes tiles in a run without settings, or as ``framing`` says."""
        return framing or framing_for(image.shape[0], image.shape[1], tile_px)

    def tiles(self, count: int, tile_px: int, framing: Framing | None = None) -> NDArray[np.uint8]:
        """(count, S, S[, 3]) tiles, cut as a run would cut them, over and over the same where there are too few."""
        cut: list[NDArray[np.uint8]] = []
        for image in self.images:
            plan = plan_tiles(image.shape[0], image.shape[1], self.framing(image, tile_px, framing))
            out = np.empty((len(plan), tile_px, tile_px, *image.shape[2:]), np.uint8)
            write_tiles(image, plan, out, 0, len(plan))
            cut.extend(out)
            if len(cut) >= count:
                break
        return np.stack([cut[index % len(cut)] for index in range(count)])


def open_frames(
    bundle: Bundle, data: Dataset | Path | None, folder: Path, *, count: int, size_px: tuple[int, int] | None = None
) -> Frames:
    """Frames for a bundle.

    Parameters
    ----------
    data
        A dataset, or a folder of images. None: generated carbon fabric for a bundle of its classes; else the bundle's
        golden tiles, joined to frames of ``size_px``; else generated fabric in the bundle's channels.
    folder
        Where files are written for frames that have none, as PNG.
    count
        The most that are taken, spread over the data.
    size_px
        (width, height) of generated frames and of mosaics; frames of files have their own.

    Raises
    ------
    UsageError
        A size for frames that have one, or data with other channels than the bundle's.
    BadData, BadInput
        What reading them raises.
    """
    if data is not None:
        if size_px is not None:
            raise UsageError("--frame-size is for generated frames; those of --data have a size", mend="leave one out")
        return (
            _from_folder(bundle, data, count) if isinstance(data, Path) else _from_dataset(bundle, data, folder, count)
        )
    manifest = bundle.manifest
    side = manifest.tile_px
    width, height = size_px or (side, side)
    fits = manifest.channels == 3 and manifest.classes == CarbonFabric(1).classes
    if not fits and GOLDEN in manifest.files:
        with np.load(io.BytesIO(bundle.read(GOLDEN)), allow_pickle=False) as content:
            golden = content["tiles"]
        says = f"the bundle's {len(golden)} golden tiles"
        if (width, height) == (side, side):
            images = list(golden)
        else:
            images = [_mosaic(golden, first, height, width) for first in range(len(golden))]
            says += f", joined to frames of {width} x {height} px"
    else:
        generated = CarbonFabric(count, SEED, size=(max(height, 128), max(width, 128)))
        images = [generated.read(index).image[:height, :width] for index in range(count)]
        if manifest.channels == 1:
            images = [np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) for image in images]
        images = [np.ascontiguousarray(image) for image in images]
        says = f"{count} frames of generated carbon fabric (seed {SEED}), {width} x {height} px"
        if not fits:
            says += "; not what this bundle was made for: the gate will pick other tiles than on your parts"
    return _written(images[:count], folder, says)


def _from_dataset(bundle: Bundle, data: Dataset, folder: Path, count: int) -> Frames:
    if data.channels != bundle.manifest.channels:
        raise UsageError(
            f"{data.name} has images of {data.channels} channel(s), the bundle takes {bundle.manifest.channels}",
            mend="give data of the kind that the bundle was built for, or --channels where its layout leaves it open",
        )
    chosen = _spread(len(data.entries), count)
    if not chosen:
        raise BadData(f"{data.name} has no images", mend="give data with images")
    images = [data.read(index).image for index in chosen]
    says = f"{len(chosen)} of the {len(data.entries)} images of {data.name}"
    if isinstance(data, FileDataset):
        return Frames(tuple(images), tuple(data.image_path(index) for index in chosen), says, _digest(images))
    return _written(images, folder, says)


def _from_folder(bundle: Bundle, data: Path, count: int) -> Frames:
    paths = sorted(path for path in data.rglob("*") if is_plain_file(path, IMAGE_SUFFIXES))
    if not paths:
        raise BadData(f"{data} holds no images", mend=f"give a dataset, or a folder of {', '.join(IMAGE_SUFFIXES)}")
    chosen = [paths[index] for index in _spread(len(paths), count)]
    images = [read_image(path, bundle.manifest.channels) for path in chosen]
    return Frames(
        tuple(images), tuple(chosen), f"{len(chosen)} of the {len(paths)} images in {data.name}", _digest(images)
    )


def _written(images: Sequence[Image], folder: Path, says: str) -> Frames:
    files = [folder / f"{number:05}.png" for number in range(len(images))]
    for path, image in zip(files, images, strict=True):
        cv2.imwrite(str(path), image)
    return Frames(tuple(images), tuple(files), f"{says}, decoded from PNG", _digest(images))


def _spread(total: int, count: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, total - 1, min(count, total)).round()}) if total else []


def _mosaic(tiles: NDArray[np.uint8], first: int, height: int, width: int) -> Image:
    """A frame of real tiles side by side, beginning with tile ``first``."""
    side = tiles.shape[1]

    def places() -> Iterator[list[Image]]:
        columns = -(-width // side)
        for row in range(-(-height // side)):
            yield [tiles[(first + row * columns + column) % len(tiles)] for column in range(columns)]

    rows = [np.concatenate(row, axis=1) for row in places()]
    return np.ascontiguousarray(np.concatenate(rows)[:height, :width])


def _digest(images: Sequence[Image]) -> str:
    total = hashlib.sha256()
    for image in images:
        total.update(repr(image.shape).encode() + image.tobytes())
    return total.hexdigest()
