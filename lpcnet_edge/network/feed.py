"""Batches for training: which crops, how changed. A batch is a pure function of (dataset, recipe, step)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData
from lpcnet_edge.imaging import resize_image, resize_mask
from lpcnet_edge.network import augment
from lpcnet_edge.network.drawn import DrawnKind, draw
from lpcnet_edge.network.recipe import Recipe
from lpcnet_edge.types import ClassMap, Dataset, Image

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Feed:
    """All tiles of a dataset in memory, and the batches cut from them.

    Batches depend on the recipe's seed and the step alone, so that a resumed run sees what an unbroken one sees.
    Raises ``BadData`` where a defect class that the dataset names has no pixel in it, or none left at the tile's size.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> None:
        self.recipe = recipe
        self.images: list[Image] = []
        self.masks: list[ClassMap] = []
        self._patches: dict[int, augment.Patch | None] = {}
        free: dict[str, list[int]] = defaultdict(list)
        defective: dict[int, dict[str, list[int]]] = {c: defaultdict(list) for c in range(1, len(dataset.classes))}
        side, shrunk = recipe.tile_px, set[int]()  # classes that an image loses at that size
        for index, entry in enumerate(dataset.entries):
            sample = dataset.read(index)
            self.images.append(resize_image(sample.image, side, side))
            self.masks.append(resize_mask(sample.mask, side, side))
            found = [int(c) for c in np.unique(self.masks[-1]) if c]
            for c in found:
                defective[c][entry.part].append(index)
            if entry.label and entry.label not in found and (sample.mask == entry.label).any():
                shrunk.add(entry.label)
            if not found and entry.label == 0:
                free[entry.part].append(index)
            if progress is not None:
                progress(index + 1, len(dataset.entries))
        missing = [c for c, parts in defective.items() if not parts]
        vanished = sorted(shrunk & set(missing))
        if vanished:
            raise BadData(
                f"{dataset.name}: the masks of {', '.join(dataset.classes[c] for c in vanished)} have no pixel left in "
                f"any training image once it is {side} px a side",
                mend="raise the recipe's tile_px, or cut the images into pieces",
            )
        if missing:
            raise BadData(
                f"{dataset.name}: no training image shows {', '.join(dataset.classes[c] for c in missing)}",
                mend="add images of it to the training folds, or take the class out of the dataset's list",
            )
        self._free = [free[part] for part in sorted(free)]
        self._defective = [[parts[part] for part in sorted(parts)] for _, parts in sorted(defective.items())]
        self._drawn: dict[int, DrawnKind] = {
            dataset.classes.index(c): kind for c, kind in recipe.sampling.drawn.items() if c in dataset.classes
        }
        self._in_place = {dataset.classes.index(c) for c in recipe.sampling.paste_in_place if c in dataset.classes}

    def batch(self, step: int) -> Batch:
        """Pixels (N, S, S[, 3]) uint8 and class indices (N, S, S) uint8 of one step."""
        crops = [self._crop(step, slot) for slot in range(self.recipe.sampling.batch)]
        return np.stack([image for image, _ in crops]), np.stack([mask for _, mask in crops])

    def _crop(self, step: int, slot: int) -> tuple[Image, ClassMap]:
        sampling, settings = self.recipe.sampling, self.recipe.augment
        rng = np.random.default_rng((self.recipe.seed, step, slot))
        focus = None
        if slot < round(sampling.defect_share * sampling.batch) or not self._free:
            wanted = int(rng.integers(len(self._defective)))
            index = _pick(self._defective[wanted], rng)
            image, mask = self.images[index], self.masks[index]
            focus = _place(mask, wanted + 1, rng)
        else:
            index = _pick(self._free, rng)
            image, mask = self.images[index], self.masks[index]
            if rng.random() < settings.paste:
                image, mask = self._paste(image, mask, rng)
                if mask.any():
                    focus = _place(mask, int(mask.max()), rng)
        image, mask = augment.crop(image, mask, sampling.crop_px, settings, rng, focus)
        return augment.light(image, settings, rng), mask

    def _paste(self, image: Image, mask: ClassMap, rng: np.random.Generator) -> tuple[Image, ClassMap]:
        wanted = int(rng.integers(len(self._defective)))
        kind = self._drawn.get(wanted + 1)
        if kind is not None and rng.random() < self.recipe.augment.drawn:
            image, drawn = draw(kind, image, self.images[_pick(self._free, rng)], rng)
            return image, np.asarray(drawn * np.uint8(wanted + 1))
        donor = _pick(self._defective[wanted], rng)
        if donor not in self._patches:
            self._patches[donor] = augment.lift(self.images[donor], self.masks[donor])
        patch = self._patches[donor]
        if patch is None:
            return image, mask
        return augment.paste(image, mask, patch, rng, keep_place=wanted + 1 in self._in_place)


def _pick(parts: list[list[int]], rng: np.random.Generator) -> int:
    """One image: parts are equally likely, since many exposures of one part are not more evidence."""
    images = parts[int(rng.integers(len(parts)))]
    return images[int(rng.integers(len(images)))]


def _place(mask: ClassMap, wanted: int, rng: np.random.Generator) -> tuple[float, float]:
    ys, xs = np.nonzero(mask == wanted)
    at = int(rng.integers(len(ys)))
    return float(ys[at]), float(xs[at])


def prefetched(feed: Feed, first: int, last: int, ahead: int = 3) -> Generator[tuple[int, Batch], None, None]:
    """Batches of steps ``first`` to ``last - 1`` in order, made ``ahead`` of time in another thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as pool:
        waiting: list[tuple[int, Future[Batch]]] = []
        step = first
        try:
            while waiting or step < last:
                while step < last and len(waiting) < ahead:
                    waiting.append((step, pool.submit(feed.batch, step)))
                    step += 1
                at, future = waiting.pop(0)
                yield at, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
