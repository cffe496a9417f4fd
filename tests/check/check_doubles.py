"""A dataset of arrays whose images spell out their masks, and a segmenter that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.types import Entry, Prediction, Sample

CLASSES = ("background", "crack", "hole")
TILE_PX = 64
STEP = 80  # the grey level of an image is its class times this

Mask = NDArray[np.uint8]


@dataclass
class ArrayDataset:
    """Masks given as arrays; an image shows its mask as grey levels."""

    masks: Sequence[Mask]
    parts: Sequence[str]
    strata: Sequence[Mapping[str, str]] = ()
    classes: tuple[str, ...] = CLASSES
    channels: int = 1
    name: str = "arrays"
    entries: Sequence[Entry] = field(init=False)

    def __post_init__(self) -> None:
        strata = self.strata or [{}] * len(self.masks)
        self.entries = [
            Entry(f"{number}.png", part, int(mask.max()), of_image)
            for number, (mask, part, of_image) in enumerate(zip(self.masks, self.parts, strata, strict=True))
        ]

    def read(self, index: int) -> Sample:
        mask = self.masks[index]
        image = mask * np.uint8(STEP)
        return Sample(self.entries[index], np.dstack([image] * 3) if self.channels == 3 else image, mask)

    def select(self, indices: Sequence[int]) -> ArrayDataset:
        strata = [self.entries[i].strata for i in indices]
        return ArrayDataset([self.masks[i] for i in indices], [self.parts[i] for i in indices], strata)

    def digest(self) -> str:
        return hashlib.sha256(b"".join(mask.tobytes() for mask in self.masks)).hexdigest()


def unchanged(classes: Mask) -> Mask:
    return classes


@dataclass
class Reader:
    """Reads the classes off the grey levels: a perfect oracle, unless ``spoil`` changes what it says.

    The confidence is 200 of 255 everywhere, the score the share of defect pixels unless ``scores`` lists them.
    """

    spoil: Callable[[Mask], Mask] = unchanged
    scores: Sequence[float] | None = None
    classes: tuple[str, ...] = CLASSES
    channels: int = 1
    tile_px: int = TILE_PX
    seen: int = 0
    batches: list[int] = field(default_factory=list)

    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        grey = tiles if tiles.ndim == 3 else tiles[..., 0]
        classes = np.stack([self.spoil(tile // np.uint8(STEP)) for tile in grey])
        score = (classes > 0).mean(axis=(1, 2)).astype(np.float32)
        if self.scores is not None:
            score = np.array(self.scores[self.seen : self.seen + len(tiles)], dtype=np.float32)
        self.seen += len(tiles)
        self.batches.append(len(tiles))
        heatmap = np.zeros((len(tiles), self.tile_px // 16, self.tile_px // 16), dtype=np.float32)
        return Prediction(classes, np.full_like(classes, 200), heatmap, score)


def mask_with(*boxes: tuple[int, int, int, int, int], size: int = TILE_PX) -> Mask:
    """A mask with boxes (class, x, y, width, height)."""
    mask = np.zeros((size, size), np.uint8)
    for label, x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = label
    return mask
