"""The gate's threshold with its promise: how many free tiles it clears, and what it may miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData
from lpcnet_edge.metrics.conformal import Calibration, find_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCalibration(Calibration):
    """The gate's threshold: a tile is cleared where its score is below it.

    Attributes
    ----------
    cleared
        Share of the free tiles that it clears, 0..1; nan without free tiles. An image is missed where every defective
        tile of it is cleared.
    min_defect_px
        A tile is defective from this many defect pixels on.
    """

    cleared: float
    min_defect_px: int

    @property
    def guarantee(self) -> str:
        """What the threshold promises and what not, in words, one sentence a line."""
        where = "in all of its images" if self.view == "part" else "in any one of its images"
        return self.in_words(
            f"Of new defective parts, the gate is expected to miss {self.at_most}.",
            f"the gate misses, of new defective parts, {self.at_most}.",
            f"A part is missed if, {where}, every tile that shows {self.min_defect_px} px of defect or more scores "
            f"below {self.threshold:.6g}: stage 2 then sees none of them.",
            "It does not hold for each kind of defect by itself, nor for defects too small to make a tile defective; "
            "it says nothing about what stage 2 makes of the tiles it sees.",
        )


def calibrate_gate(
    scores: NDArray[np.floating],
    parts: Sequence[str],
    defective: NDArray[np.bool_],
    alpha: float | Literal["auto"] = "auto",
    *,
    images: Sequence[str] | None = None,
    view: Literal["part", "image"] = "part",
    min_defect_px: int = 1,
    confidence: float | None = None,
) -> GateCalibration:
    """The largest threshold that keeps the promise of alpha.

    Its (misses + 1) / (n + 1) is at most alpha or, with a confidence, its P[Binomial(n, alpha) <= misses] at most
    1 - confidence.

    What counts for a part is one number, its statistic: the highest score among its defective tiles or, in the
    ``image`` view, the lowest such maximum among its defective images. A part is missed where its statistic is below
    the threshold. In both views n counts parts: samples from one part are not independent.

    In the cascade the neighbours of a picked tile are picked too, which can only lower the misses.

    Parameters
    ----------
    scores
        (T,) stage 1's score of every tile, by the very network that will run (the INT8 one of the bundle).
    parts
        (T,) the physical part of every tile; parts that the network or its calibration were trained on do not belong
        here.
    defective
        (T,) whether the tile is defective.
    alpha, images, view, confidence
        As for :func:`~lpcnet_edge.metrics.conformal.find_threshold`.
    min_defect_px
        What made a tile defective; recorded.

    Raises
    ------
    UsageError
        Alpha or the confidence is not between 0 and 1, or alpha less than n parts can promise; or ``images`` are
        missing.
    BadData
        There is no defective tile, or a score is not a number.
    """
    if not np.isfinite(scores).all():
        raise BadData(
            f"{int(np.count_nonzero(~np.isfinite(scores)))} of {len(scores)} scores are not a number",
            mend="run the self-test of the bundle, and build it again if that fails",
        )
    if not defective.any():
        raise BadData(
            f"none of {len(scores)} tiles is defective, so there is no miss to bound",
            mend="calibrate on images of defective parts with their masks",
        )
    found = find_threshold(scores, parts, defective, alpha, images=images, view=view, confidence=confidence)
    free = scores[~defective]
    cleared = float(np.count_nonzero(free < found.threshold) / free.size) if free.size else float("nan")
    return GateCalibration.of(found, cleared=cleared, min_defect_px=min_defect_px)
