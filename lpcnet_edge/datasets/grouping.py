"""Which photographs show one physical part, and how whole parts are dealt into folds. Pure functions."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

NEAR_NUMBERS = 100
"""File numbers at most this far apart belong to one tile."""

CONTINUATION_NUMBERS = 1500
"""A series of exposures may pause for up to this many file numbers before it goes on."""


def group_exposures(shots: Sequence[tuple[int, int]]) -> list[int]:
    """Group photographs into physical tiles by file number and exposure.

    Photographs are numbered in the order in which they were taken, a tile mostly under exposures 1 to 6. Neighbours at
    most ``NEAR_NUMBERS`` apart are one tile. A longer pause, up to ``CONTINUATION_NUMBERS``, is bridged where the run
    of photographs after it repeats no exposure of the run before it: 1, 2, 3, pause, 4, 5, 6 is one tile; 1 to 6,
    pause, 1 to 6 is two. In doubt photographs are joined, so that no tile is ever on both sides of a split.

    Parameters
    ----------
    shots
        (file number, exposure) of each photograph, in any order.

    Returns
    -------
    list of int
        The tile of each photograph, counted from 0 in the order of the numbers.
    """
    if not shots:
        return []
    order = sorted(range(len(shots)), key=lambda i: shots[i])
    runs: list[list[int]] = [[order[0]]]
    for before, now in itertools.pairwise(order):
        if shots[now][0] - shots[before][0] > NEAR_NUMBERS:
            runs.append([])
        runs[-1].append(now)
    groups = [0] * len(shots)
    tile = 0
    for position, run in enumerate(runs):
        if position and not _continues([shots[i] for i in runs[position - 1]], [shots[i] for i in run]):
            tile += 1
        for index in run:
            groups[index] = tile
    return groups


def _continues(earlier: Sequence[tuple[int, int]], later: Sequence[tuple[int, int]]) -> bool:
    """Whether ``later`` can be the rest of the series of exposures that ``earlier`` began."""
    pause = later[0][0] - earlier[-1][0]
    return pause <= CONTINUATION_NUMBERS and not {e for _, e in earlier} & {e for _, e in later}


def assign_folds(parts: Sequence[str], labels: Sequence[int], folds: int = 4) -> dict[str, str]:
    """Deal whole parts into folds ``"1"`` .. ``"<folds>"`` so that every class is spread evenly.

    The rarest class is dealt first, its largest parts first, each part to the fold that has the fewest images of that
    class so far (then the fewest images). Nothing is drawn by chance: the same images give the same folds.

    Parameters
    ----------
    parts, labels
        Part and class index of each image.
    """
    rarity = Counter(labels)
    images: Mapping[str, Counter[int]] = _count_by_part(parts, labels)

    def stratum(part: str) -> int:
        """The class a part is dealt under: its rarest."""
        return min(images[part], key=lambda label: (rarity[label], label))

    def turn(part: str) -> tuple[int, int, int, str]:
        label = stratum(part)
        return rarity[label], label, -images[part].total(), part

    have: list[Counter[int]] = [Counter() for _ in range(folds)]
    result: dict[str, str] = {}
    for part in sorted(images, key=turn):
        label = stratum(part)
        fold = min(range(folds), key=lambda k: (have[k][label], have[k].total(), k))
        have[fold] += images[part]
        result[part] = str(fold + 1)
    return result


def _count_by_part(parts: Sequence[str], labels: Sequence[int]) -> dict[str, Counter[int]]:
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for part, label in zip(parts, labels, strict=True):
        counts[part][label] += 1
    return dict(counts)


def pairwise_agreement(ours: Sequence[object], theirs: Sequence[object]) -> tuple[float, float]:
    """Precision and recall of the pairs that ``ours`` puts into one group, against ``theirs``."""

    def pairs(groups: Sequence[object]) -> int:
        return sum(n * (n - 1) // 2 for n in Counter(groups).values())

    both = pairs(list(zip(ours, theirs, strict=True)))
    return both / max(pairs(ours), 1), both / max(pairs(theirs), 1)
