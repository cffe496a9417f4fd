"""The gate's threshold with a promise: conformal risk control by physical part.

Angelopoulos, Bates, Fisch, Lei and Schuster, *Conformal Risk Control*, ICLR 2024 (arXiv 2208.02814). The loss of a part
is 1 where the gate misses it and 0 elsewhere; it grows with the threshold and is at most 1, so the largest threshold
with (misses + 1) / (n + 1) <= alpha has an expected loss of at most alpha on a part exchangeable with the n it was
calibrated on. ``docs/metrics.md`` defines when a tile is cleared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.metrics.gate import gate_by_part

AUTO_ALPHA = 0.01
"""What ``alpha: auto`` takes where there are parts enough for it."""


@dataclass(frozen=True, slots=True)
class GateCalibration:
    """A threshold, and what may be said of it.

    Attributes
    ----------
    threshold
        A tile is cleared where its score is below this.
    alpha
        The bound on the expected share of defective parts that are missed.
    alpha_is_auto
        Whether alpha was ``auto``.
    parts
        n, the defective parts it was calibrated on.
    misses
        How many of those it misses.
    cleared
        Share of the free tiles that it clears, 0..1; nan without free tiles.
    view
        ``part``: a part is missed where every defective tile in all of its images is cleared. ``image``: already where
        every defective tile of one of its defective images is.
    min_defect_px
        A tile is defective from this many defect pixels on.
    """

    threshold: float
    alpha: float
    alpha_is_auto: bool
    parts: int
    misses: int
    cleared: float
    view: Literal["part", "image"]
    min_defect_px: int

    @property
    def bound(self) -> float:
        """(misses + 1) / (n + 1), at most alpha."""
        return (self.misses + 1) / (self.parts + 1)

    @property
    def guarantee(self) -> str:
        """What the threshold promises and what not, in words, one sentence a line."""
        where = "in all of its images" if self.view == "part" else "in any one of its images"
        n, share = self.parts, f"{self.alpha:.4g}"
        lines = [
            f"Of new defective parts, the gate is expected to miss at most {100 * self.alpha:.3g} % (alpha = {share}).",
            f"A part is missed if, {where}, every tile that shows {self.min_defect_px} px of defect or more scores "
            f"below {self.threshold:.6g}: stage 2 then sees none of them.",
            f"The grounds: {self.misses} of {n} independent defective parts were missed in calibration, and "
            f"({self.misses} + 1) / ({n} + 1) = {self.bound:.4g} <= {share} (conformal risk control).",
            "It holds on average over calibration sets and new parts, as long as new parts come as these did: the same "
            "product, camera, light and mix of defects.",
            "It does not hold for each kind of defect by itself, nor for defects too small to make a tile defective; "
            "it says nothing about what stage 2 makes of the tiles it sees.",
        ]
        if self.alpha_is_auto and self.alpha == AUTO_ALPHA:
            lines.append(f"alpha: auto took {AUTO_ALPHA}.")
        elif self.alpha_is_auto:
            lines.append(
                f"alpha: auto took 1 / ({n} + 1) = {share}, the least that {n} parts can promise; "
                f"{AUTO_ALPHA} takes {parts_needed(AUTO_ALPHA)} defective parts."
            )
        return "\n".join(lines)


def parts_needed(alpha: float) -> int:
    """The fewest defective parts that can promise ``alpha``: the least n with 1 / (n + 1) <= alpha."""
    count = max(int(1 / alpha) - 2, 0)
    while 1 / (count + 1) > alpha:
        count += 1
    return count


def calibrate_gate(
    scores: NDArray[np.floating],
    parts: Sequence[str],
    defective: NDArray[np.bool_],
    alpha: float | Literal["auto"] = "auto",
    *,
    images: Sequence[str] | None = None,
    view: Literal["part", "image"] = "part",
    min_defect_px: int = 1,
) -> GateCalibration:
    """The largest threshold whose (misses + 1) / (n + 1) is at most alpha.

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
    alpha
        Above 0 and below 1. ``auto`` is 0.01, or 1 / (n + 1) where that is larger.
    images
        (T,) the image of every tile, each unique to its part; needed for the ``image`` view.
    view
        When a part is missed.
    min_defect_px
        What made a tile defective; recorded.

    Raises
    ------
    UsageError
        Alpha is not between 0 and 1, or less than n parts can promise; or ``images`` are missing.
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
    deciding = defective
    if view == "image":
        if images is None:
            raise UsageError("the image view needs to know which tiles are one image", mend="give images")
        deciding = _weakest_images(scores, parts, images, defective)
    gate = gate_by_part(scores, parts, deciding)
    count = len(gate.threshold)
    level = max(AUTO_ALPHA, 1 / (count + 1)) if alpha == "auto" else float(alpha)
    if not 0 < level < 1:
        raise UsageError(f"alpha is {level}", mend="give a share above 0 and below 1, or auto")
    if 1 / (count + 1) > level:
        raise UsageError(
            f"alpha {level:.4g} from {count} defective parts: no calibration can promise less than "
            f"1 / ({count} + 1) = {1 / (count + 1):.4g}",
            mend=f"bring {parts_needed(level)} defective parts, or take alpha: auto",
        )
    allowed = min(int(level * (count + 1)), count - 1)
    while (allowed + 1) / (count + 1) > level:
        allowed -= 1
    threshold = float(gate.threshold[allowed])
    free = scores[~defective]
    return GateCalibration(
        threshold=threshold,
        alpha=level,
        alpha_is_auto=alpha == "auto",
        parts=count,
        misses=int(np.count_nonzero(gate.threshold < threshold)),
        cleared=float(np.count_nonzero(free < threshold) / free.size) if free.size else float("nan"),
        view=view,
        min_defect_px=min_defect_px,
    )


def _weakest_images(
    scores: NDArray[np.floating], parts: Sequence[str], images: Sequence[str], defective: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(T,) the one tile that decides for each part: the highest-scored of the part's lowest-scored defective image."""
    chosen = np.zeros(len(scores), dtype=np.bool_)
    seen: set[str] = set()
    for tile in gate_by_part(scores, images, defective).weakest.tolist():  # ascending by the images' maxima
        if parts[tile] not in seen:
            seen.add(parts[tile])
            chosen[tile] = True
    return chosen
