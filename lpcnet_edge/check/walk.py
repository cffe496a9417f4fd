"""The way a dataset passes through a segmenter when it is checked: the protocol that every figure shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lpcnet_edge.bundle.manifest import Manifest
from lpcnet_edge.errors import BadArtifact, BadData, UsageError
from lpcnet_edge.imaging import resize_image, resize_mask
from lpcnet_edge.types import ClassMap, ConfidenceMap, Dataset, Entry, Image, Prediction, Segmenter

Progress = Callable[[int, int], None]
"""Called with the number of images done and their total."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One image after its way through the segmenter; all maps are (S, S) at the segmenter's tile size.

    ``defective`` comes from the mask as it was annotated: resizing could lose a defect of a few pixels. ``shown_px`` is
    the box (x, y, width, height) that the maps show, the whole image as it was.
    """

    entry: Entry
    defective: bool
    image: Image
    truth: ClassMap
    predicted: ClassMap
    confidence: ConfidenceMap
    score: float
    shown_px: tuple[int, int, int, int]


def walk(
    segmenter: Segmenter, dataset: Dataset, *, batch: int = 16, progress: Progress | None = None
) -> Iterator[Checked]:
    """Predict every image of a dataset, resized whole to one tile, in the dataset's order.

    Raises
    ------
    UsageError
        The dataset has other channels or classes than the segmenter, or ``batch`` is below 1.
    BadData
        The dataset is empty; its subclasses for an image that cannot be read.
    BadArtifact
        The segmenter gave a score that is not a number, or a class that it does not have.
    """
    check_compatible(segmenter, dataset)
    check_batch(batch)
    total = len(dataset.entries)
    if total == 0:
        raise BadData(
            f"{dataset.name} has no images to check", mend="choose another fold, or look at the dataset's folder"
        )
    for start in range(0, total, batch):
        yield from _predict(segmenter, dataset, range(start, min(start + batch, total)))
        if progress is not None:
            progress(min(start + batch, total), total)


def check_batch(batch: int) -> None:
    """Raise ``UsageError`` for a batch that holds no image."""
    if batch < 1:
        raise UsageError(f"a batch of {batch} images", mend="use 1 or more")


def check_compatible(segmenter: Segmenter | Manifest, dataset: Dataset, who: str = "the network") -> None:
    """Raise ``UsageError`` where a dataset does not fit a network, or a bundle's manifest; ``who`` names it."""
    own = "weights that were trained on" if who == "the network" else "a bundle of"
    if segmenter.channels != dataset.channels:
        raise UsageError(
            f"{who} takes {_channels(segmenter.channels)} images, {dataset.name} has "
            f"{_channels(dataset.channels)} ones",
            mend=f"choose {own} such images, or --channels {segmenter.channels} where the data's layout leaves it open",
        )
    if segmenter.classes != dataset.classes:
        raise UsageError(
            f"{who} has the classes {', '.join(segmenter.classes)}; {dataset.name} has {', '.join(dataset.classes)}",
            mend=f"choose {own} these classes, in this order",
        )


def predict_tiles(segmenter: Segmenter, tiles: Sequence[Image], names: Sequence[str]) -> Prediction:
    """Predict some tiles and see that the answer is one: ``BadArtifact`` names the image for which it is not."""
    prediction = segmenter.predict(np.stack(tiles))
    mend = "the weights or the engine are damaged: train or build them again"
    finite = np.isfinite(prediction.score)
    if not finite.all():
        name = names[int(np.argmin(finite))]
        raise BadArtifact(f"the localization network's score of {name} is not a number", mend=mend)
    highest = prediction.classes.reshape(len(names), -1).max(axis=1)
    if (highest >= len(segmenter.classes)).any():
        name = names[int(np.argmax(highest))]
        raise BadArtifact(
            f"the network says class {int(highest.max())} of {name}, its classes end at {len(segmenter.classes) - 1}",
            mend=mend,
        )
    return prediction


def _predict(segmenter: Segmenter, dataset: Dataset, indices: range) -> Iterator[Checked]:
    side = segmenter.tile_px
    samples = [dataset.read(index) for index in indices]
    tiles = [resize_image(sample.image, side, side) for sample in samples]
    prediction = predict_tiles(segmenter, tiles, [sample.entry.name for sample in samples])
    for i, sample in enumerate(samples):
        yield Checked(
            entry=sample.entry,
            defective=bool(sample.mask.any()),
            image=tiles[i],
            truth=resize_mask(sample.mask, side, side),
            predicted=prediction.classes[i].copy(),  # who keeps one image does not keep its batch
            confidence=prediction.confidence[i].copy(),
            score=float(prediction.score[i]),
            shown_px=(0, 0, sample.image.shape[1], sample.image.shape[0]),
        )


def _channels(channels: int) -> str:
    return "grey (1 channel)" if channels == 1 else "colour (3 channels)"
