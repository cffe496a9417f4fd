"""A dataset that decodes, or draws, each image once: a build goes over the same few hundred several times."""

from __future__ import annotations

from collections.abc import Sequence

from lpcnet_edge.types import Dataset, Entry, Sample

BUDGET_BYTES = 128 << 20


class Remembered:
    """Gives what ``dataset`` gives, and keeps what was read until the budget is spent; selections share what is kept.

    The arrays of a sample may not be written to: the next reader gets the same ones.

    Parameters
    ----------
    dataset
        Read where an image is not kept yet.
    budget_bytes
        Of pixels, images and masks together. What comes when it is spent is read each time.
    """

    def __init__(self, dataset: Dataset, budget_bytes: int = BUDGET_BYTES) -> None:
        self._dataset = dataset
        self._places: Sequence[int] = range(len(dataset.entries))
        self._kept: dict[int, Sample] = {}
        self._left = [budget_bytes]  # one number for all selections

    @property
    def name(self) -> str:
        """Short name, as in ``magnetic-tile``."""
        return self._dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; index 0 is the background."""
        return self._dataset.classes

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for BGR."""
        return self._dataset.channels

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries in a fixed order."""
        return self._dataset.entries

    def read(self, index: int) -> Sample:
        """One sample, its arrays read-only; raises as the dataset does."""
        place = self._places[index]
        sample = self._kept.get(place)
        if sample is None:
            sample = self._dataset.read(index)
            sample.image.setflags(write=False)
            sample.mask.setflags(write=False)
            size = sample.image.nbytes + sample.mask.nbytes
            if size <= self._left[0]:
                self._left[0] -= size
                self._kept[place] = sample
        return sample

    def select(self, indices: Sequence[int]) -> Remembered:
        """The same dataset with only these entries, in this order."""
        chosen = Remembered(self._dataset.select(indices))
        chosen._places = [self._places[int(i)] for i in indices]
        chosen._kept, chosen._left = self._kept, self._left
        return chosen

    def digest(self) -> str:
        """SHA-256 (hex) over names, labels and contents, for provenance."""
        return self._dataset.digest()
