"""A small labelled dataset in memory: grey tiles with dark squares and bright lines on a noisy ground."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lpcnet_edge.types import Dataset, Entry, Sample

SIDE = 64
torch.set_num_threads(1)  # tests run side by side; threads of one would only wait for another's


class Squares:
    """Twelve parts of two images each; a third of them free, the others with a square or a line."""

    name = "squares"
    classes = ("background", "square", "line")
    channels = 1

    def __init__(self, indices: Sequence[int] = tuple(range(24))) -> None:
        self.indices = tuple(indices)

    @property
    def entries(self) -> list[Entry]:
        return [Entry(f"{i}.png", f"part{i // 2}", (i // 2) % 3, {"fold": str(i % 2 + 1)}) for i in self.indices]

    def read(self, index: int) -> Sample:
        entry = self.entries[index]
        rng = np.random.default_rng(self.indices[index])
        image = rng.normal(120, 6, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        y, x = rng.integers(10, 40, 2)
        if entry.label == 1:
            image[y : y + 12, x : x + 12] //= 3
            mask[y : y + 12, x : x + 12] = 1
        elif entry.label == 2:
            image[y : y + 2, 8:56] = 230
            mask[y : y + 2, 8:56] = 2
        return Sample(entry, image, mask)

    def select(self, indices: Sequence[int]) -> Squares:
        return Squares([self.indices[i] for i in indices])

    def digest(self) -> str:
        return hashlib.sha256(repr(self.indices).encode()).hexdigest()


@pytest.fixture
def squares() -> Dataset:
    return Squares()
