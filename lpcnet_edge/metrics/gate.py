"""What a threshold on stage 1's score would clear and miss, as seen on one set of images.

An image is cleared where its score is below the threshold. A defective part is missed where every defective image of it
is cleared, so what counts for a part is the highest score among its defective images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gate:
    """How far a gate can close, one step of the curve for each defective unit (part or image) given up.

    Attributes
    ----------
    threshold
        (U,) float64, ascending: ``threshold[k]`` is the lowest score but k among the defective units, so the largest
        threshold that misses at most k of them. Equal scores are missed together, so it may miss fewer.
    cleared
        (U,) float64, share of the free images below that threshold; nan without free images.
    weakest
        (U,) int64, the image that decides each unit (the highest-scored defective image of a part), in the same
        order: ``weakest[0]`` is what holds the gate back.
    free_images
        Number of images without a defect.
    """

    threshold: NDArray[np.float64]
    cleared: NDArray[np.float64]
    weakest: NDArray[np.int64]
    free_images: int


def gate_by_image(scores: NDArray[np.floating], defective: NDArray[np.bool_]) -> Gate:
    """The gate whose unit is the image: every defective image counts on its own."""
    return gate_by_part(scores, [str(index) for index in range(len(scores))], defective)


def gate_by_part(scores: NDArray[np.floating], parts: Sequence[str], defective: NDArray[np.bool_]) -> Gate:
    """The gate whose unit is the physical part.

    Parameters
    ----------
    scores
        (N,) finite, stage 1's score of every image.
    parts
        (N,) the physical part of every image.
    defective
        (N,) whether the image has a defect; the others are the free images, whatever part they show.
    """
    best: dict[str, int] = {}
    for index in np.flatnonzero(defective).tolist():
        part = parts[index]
        if part not in best or scores[index] > scores[best[part]]:
            best[part] = index
    deciding = np.array(list(best.values()), dtype=np.int64)
    weakest = deciding[np.argsort(scores[deciding], kind="stable")]
    threshold = scores[weakest].astype(np.float64)
    free = np.sort(scores[~defective].astype(np.float64))
    below = np.searchsorted(free, threshold, side="left")
    cleared = below / free.size if free.size else np.full(threshold.shape, np.nan)
    return Gate(threshold, cleared, weakest, int(free.size))
