"""Even shares over strata, then over parts, then over images. Pure functions, drawn by hash: no generator's state."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcnet_edge.config import suggest
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import Dataset

CLASS = "class"
NONE = "none"
"""The value of a stratum for an entry that does not have it."""


def strata_of(dataset: Dataset, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """Each entry's value of each key; ``class`` is the label's name. ``BadConfig`` for a key that no entry has."""
    known = sorted({CLASS, *(key for entry in dataset.entries for key in entry.strata)})
    for key in keys:
        if key not in known:
            raise BadConfig(f"{dataset.name} is not grouped by '{key}'", mend=suggest(key, [*known, "brightness"]))
    return [
        tuple(dataset.classes[e.label] if key == CLASS else e.strata.get(key, NONE) for key in keys)
        for e in dataset.entries
    ]


def brightness_bins(greys: Sequence[float], bins: int) -> list[str]:
    """Which quantile bin, ``1`` (dark) to ``bins``, each mean grey level falls into; equal levels share a bin."""
    edges = np.quantile(greys, np.arange(1, bins) / bins)
    return [str(1 + int(place)) for place in np.searchsorted(edges, greys, side="left")]


def share_out(available: Mapping[str, int], quota: int) -> dict[str, int]:
    """Even shares of ``quota``; who has less gives all, the others make up. ``quota`` must not exceed the sum."""
    shares, left = {}, quota
    ascending = sorted(available, key=lambda value: (available[value], value))
    for position, value in enumerate(ascending):
        shares[value] = min(available[value], left // (len(ascending) - position))
        left -= shares[value]
    return shares


@dataclass(frozen=True)
class Draw:
    """Images to draw from; everything is by index.

    Attributes
    ----------
    names, parts, defective
        Of each image.
    defect_share
        0..1 of the images drawn are defective.
    counted
        (images, how many of them to draw), for what is given by number.
    first
        Name of the first stratum, for the notes on shortfalls.
    seed
        Another seed draws other images.
    """

    names: Sequence[str]
    parts: Sequence[str]
    defective: Sequence[bool]
    defect_share: float
    counted: Sequence[tuple[frozenset[int], int]]
    first: str
    seed: int

    def images(
        self, pool: Sequence[int], tiles: int, strata: Mapping[int, tuple[str, ...]], *, times: int = 1
    ) -> tuple[list[int], list[str]]:
        """``tiles`` of ``pool`` in ascending order, fewer where it is smaller, and what fell short, in sentences.

        What is given by number is drawn ``times`` over, as far as there are images.
        """
        used: Counter[str] = Counter()
        chosen: list[int] = []
        shortfalls: list[str] = []
        for members, count in self.counted:
            fits = [i for i in pool if i in members]
            chosen += self._balanced(fits, min(times * count, len(fits)), strata, used)[0]
        rest = set(pool).difference(*(members for members, _ in self.counted))
        have = {side: [i for i in pool if i in rest and self.defective[i] == side] for side in (True, False)}
        left = tiles - len(chosen)
        defective = round(tiles * self.defect_share) - sum(self.defective[i] for i in chosen)
        asked = {True: min(max(defective, 0), left)}
        asked[False] = left - asked[True]
        quota = {side: min(asked[side], len(have[side])) for side in asked}
        for side, what in ((True, "with a defect"), (False, "without one")):
            if quota[side] < asked[side]:
                shortfalls.append(f"{asked[side]} images {what} were asked for, there are {quota[side]}")
                quota[not side] = min(left - quota[side], len(have[not side]))
        for side in (True, False):
            found, notes = self._balanced(have[side], quota[side], strata, used)
            chosen += found
            shortfalls += [f"{self.first} {note}" for note in notes]
        return sorted(chosen), shortfalls

    def _balanced(
        self, pool: Sequence[int], quota: int, strata: Mapping[int, tuple[str, ...]], used: Counter[str]
    ) -> tuple[list[int], list[str]]:
        """``quota`` of ``pool``, balanced, and what fell short on the first level of the strata.

        ``used`` counts how often each part was drawn before, and is brought up to date.
        """
        notes: list[str] = []
        chosen = []
        cells = _cells(list(pool), quota, strata, 0, notes)
        for members, count in sorted(cells, key=lambda cell: (len(cell[0]), cell[0])):
            images: dict[str, list[int]] = defaultdict(list)
            for index in sorted(members, key=lambda i: _turn(self.seed, self.names[i]), reverse=True):
                images[self.parts[index]].append(index)
            heap = [(used[part], _turn(self.seed, part), part) for part in images]
            heapq.heapify(heap)
            for _ in range(count):
                _, turn, part = heapq.heappop(heap)
                chosen.append(images[part].pop())
                used[part] += 1
                if images[part]:
                    heapq.heappush(heap, (used[part], turn, part))
        return chosen, notes


def _cells(
    pool: list[int], quota: int, strata: Mapping[int, tuple[str, ...]], level: int, notes: list[str]
) -> Iterator[tuple[list[int], int]]:
    """(members, how many to take) of each cell: one value of every stratum."""
    if not quota:
        return
    if level == len(strata[pool[0]]):
        yield pool, quota
        return
    groups: dict[str, list[int]] = defaultdict(list)
    for index in pool:
        groups[strata[index][level]].append(index)
    shares = share_out({value: len(members) for value, members in groups.items()}, quota)
    for value, members in groups.items():
        if level == 0 and len(members) < quota // len(groups):
            notes.append(f"{value}: an even share is {quota // len(groups)} images, there are {len(members)}")
        yield from _cells(members, shares[value], strata, level + 1, notes)


def _turn(seed: int, name: str) -> str:
    """A draw without order: other images in the data do not change it."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()
