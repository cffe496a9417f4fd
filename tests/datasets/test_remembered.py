"""A dataset that reads each image once: the same samples, within its budget, also through selections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.datasets.remembered import Remembered
from lpcnet_edge.types import Sample

SIDE = 128
SAMPLE_BYTES = SIDE * SIDE * 4


class Counted(CarbonFabric):
    """Counts how often each frame is drawn, also through selections."""

    def __init__(self, count: int) -> None:
        super().__init__(count, seed=3, size=SIDE)
        self.reads: Counter[str] = Counter()

    def read(self, index: int) -> Sample:
        self.reads[self.entries[index].name] += 1
        return super().read(index)

    def select(self, indices: Sequence[int]) -> Counted:
        chosen = super().select(indices)
        assert isinstance(chosen, Counted)
        chosen.reads = self.reads
        return chosen


@pytest.fixture
def frames() -> Counted:
    return Counted(12)


def test_it_gives_what_the_dataset_gives_and_reads_once(frames: Counted) -> None:
    kept = Remembered(frames)
    assert (kept.name, kept.classes, kept.channels) == (frames.name, frames.classes, frames.channels)
    assert list(kept.entries) == list(frames.entries)
    assert kept.digest() == frames.digest()
    for _ in range(3):
        for index, entry in enumerate(kept.entries):
            sample = kept.read(index)
            assert sample.entry == entry
    plain = CarbonFabric(12, seed=3, size=SIDE)
    for index in range(12):
        assert np.array_equal(kept.read(index).image, plain.read(index).image)
        assert np.array_equal(kept.read(index).mask, plain.read(index).mask)
    assert set(frames.reads.values()) == {1}


def test_selections_share_what_was_read(frames: Counted) -> None:
    kept = Remembered(frames)
    first = kept.select([7, 2, 5])
    second = first.select([2, 0])  # 5 and 7 of the whole
    wanted = [frames.entries[5], frames.entries[7]]
    assert list(second.entries) == wanted
    assert [second.read(i).entry for i in range(2)] == wanted
    assert second.digest() == frames.select([5, 7]).digest()
    for index in range(3):
        first.read(index)
    for index in range(12):
        kept.read(index)
    assert set(frames.reads.values()) == {1}
    assert len(frames.reads) == 12
    assert np.array_equal(second.read(0).image, kept.read(5).image)


def test_what_does_not_fit_the_budget_is_read_again(frames: Counted) -> None:
    kept = Remembered(frames, budget_bytes=4 * SAMPLE_BYTES + 1)
    part = kept.select(range(6))
    for _ in range(3):
        for index in range(6):
            part.read(index)
    assert sorted(frames.reads.values()) == [1, 1, 1, 1, 3, 3]


def test_nobody_can_spoil_what_the_next_one_reads(frames: Counted) -> None:
    sample = Remembered(frames).read(0)
    for array in (sample.image, sample.mask):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
