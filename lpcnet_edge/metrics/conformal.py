"""A threshold with a promise by physical part, on average or with a confidence: the gate's, or that of verdict rules.

On average: Angelopoulos, Bates, Fisch, Lei and Schuster, *Conformal Risk Control*, ICLR 2024 (arXiv 2208.02814). The
loss of a part is 1 where it is missed and 0 elsewhere; it grows with the threshold and is at most 1, so the largest
threshold with (misses + 1) / (n + 1) <= alpha has an expected loss of at most alpha on a part exchangeable with the n
it was calibrated on. ``docs/metrics.md`` defines when a tile is cleared.

With a confidence: a tolerance limit by order statistics (S. S. Wilks, *Ann. Math. Stat.* 12, 1941), the threshold being
the (k+1)-th smallest statistic of n independent parts. Draw every statistic as Q(U), U uniform and Q the quantile
function, which never falls: a new part is missed, Q(U) < Q(U_(k+1)), only if U < U_(k+1), so the true share of missed
parts is at most U_(k+1), and equal to it without ties. That is above alpha exactly if at most k of the n uniforms are
not, which has the probability P[Binomial(n, alpha) <= k]; k is the largest for which it is at most 1 - confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import UsageError
from lpcnet_edge.metrics.gate import gate_by_part

AUTO_ALPHA = 0.01
"""What ``alpha: auto`` takes where there are parts enough for it."""

CalibrationT = TypeVar("CalibrationT", bound="Calibration")

_SLACK = 1e-12
"""On the logarithm of a probability: rounding must not refuse the least alpha itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A threshold on a statistic of parts, and what may be said of it.

    Attributes
    ----------
    threshold
        A part whose statistic is below this is missed.
    alpha
        The bound on the share of defective parts that are missed: its expectation or, with a confidence, the share.
    alpha_is_auto
        Whether alpha was ``auto``.
    parts
        n, the defective parts it was calibrated on.
    misses
        How many of those it misses.
    view
        ``part``: a part is missed where all of its defective images are. ``image``: already where one of them is.
    confidence
        The probability of a calibration that keeps the bound; None where it holds on average over calibrations.
    """

    threshold: float
    alpha: float
    alpha_is_auto: bool
    parts: int
    misses: int
    view: Literal["part", "image"] = "part"
    confidence: float | None = None

    @classmethod
    def of(cls: type[CalibrationT], found: Calibration, **more: Any) -> CalibrationT:
        """One of this kind from what :func:`find_threshold` found, with the fields that it adds, or has otherwise."""
        return cls(**{f.name: getattr(found, f.name) for f in fields(Calibration)} | more)

    @property
    def bound(self) -> float:
        """(misses + 1) / (n + 1), the expected share; without a confidence at most alpha."""
        return (self.misses + 1) / (self.parts + 1)

    @property
    def at_most(self) -> str:
        """The bound, for the sentences that :meth:`in_words` takes."""
        return f"at most {100 * self.alpha:.3g} % (alpha = {self.alpha:.4g})"

    def in_words(self, on_average: str, surely: str, meaning: str, limits: str) -> str:
        """What is promised, what that means, why and when it holds, and where not, one sentence a line.

        ``on_average`` is the promise as a sentence; ``surely`` follows "With 95 % confidence, ", where there is one.
        """
        n, share, sure = self.parts, f"{self.alpha:.4g}", self.confidence
        if sure is None:
            promise = on_average
            grounds = f"({self.misses} + 1) / ({n} + 1) = {self.bound:.4g} <= {share} (conformal risk control)"
            holds = "It holds on average over calibration sets and new parts"
        else:
            promise = f"With {100 * sure:.6g} % confidence, {surely}"
            tail = math.exp(_log_tails(n, self.alpha)[self.misses])
            grounds = f"P[Binomial({n}, {share}) <= {self.misses}] = {tail:.4g} <= 1 - {sure:.6g} (Wilks 1941)"
            holds = f"At least {100 * sure:.6g} % of calibrations on {n} such parts find a threshold that keeps this"
        lines = [
            promise,
            meaning,
            f"The grounds: {self.misses} of {n} independent defective parts were missed in calibration, and {grounds}.",
            f"{holds}, as long as new parts come as these did: the same product, camera, light and mix of defects.",
            limits,
        ]
        if self.alpha_is_auto and self.alpha == AUTO_ALPHA:
            lines.append(f"alpha: auto took {AUTO_ALPHA}.")
        elif self.alpha_is_auto:
            lines.append(
                f"alpha: auto took {_least_in_words(n, sure)}, the least that {n} parts can promise; "
                f"{AUTO_ALPHA} takes {parts_needed(AUTO_ALPHA, sure)} defective parts."
            )
        return "\n".join(lines)


def parts_needed(alpha: float, confidence: float | None = None) -> int:
    """The fewest defective parts that can promise ``alpha``.

    The least n with 1 / (n + 1) <= alpha or, with a confidence, with (1 - alpha)^n <= 1 - confidence.
    """
    if confidence is not None:
        return max(math.ceil(Fraction(math.log1p(-confidence) + _SLACK) / Fraction(math.log1p(-alpha))), 1)
    count = max(math.ceil(1 / Fraction(alpha)) - 2, 0)  # a float this large would stay the same for one part more
    while 1 / (count + 1) > alpha:
        count += 1
    return count


def _least_alpha(parts: int, confidence: float | None) -> float:
    """The least alpha that so many parts can promise, by no miss at all."""
    return 1 / (parts + 1) if confidence is None else -math.expm1(math.log1p(-confidence) / parts)


def _least_in_words(parts: int, confidence: float | None) -> str:
    least = _least_alpha(parts, confidence)
    if confidence is None:
        return f"1 / ({parts} + 1) = {least:.4g}"
    return f"1 - (1 - {confidence:.6g})^(1 / {parts}) = {least:.6g}"


def _log_tails(parts: int, alpha: float) -> NDArray[np.float64]:
    """(parts,) log P[Binomial(parts, alpha) <= k] for k = 0, 1, ..., parts - 1, each term from the one before."""
    above = np.arange(1, parts)
    ratios = np.log((parts - above + 1) / above) + math.log(alpha) - math.log1p(-alpha)
    terms = np.cumsum(np.concatenate([[parts * math.log1p(-alpha)], ratios]))
    return np.asarray(np.logaddexp.accumulate(terms), dtype=np.float64)


def _misses_allowed(parts: int, alpha: float, confidence: float | None) -> int:
    """The most misses in calibration that promise ``alpha``, fewer than ``parts``; -1 where not even none does."""
    if confidence is not None:
        return int(np.searchsorted(_log_tails(parts, alpha), math.log1p(-confidence) + _SLACK, side="right")) - 1
    allowed = min(int(alpha * (parts + 1)), parts - 1)
    while (allowed + 1) / (parts + 1) > alpha:
        allowed -= 1
    return allowed


def find_threshold(
    scores: NDArray[np.floating],
    parts: Sequence[str],
    defective: NDArray[np.bool_],
    alpha: float | Literal["auto"] = "auto",
    *,
    images: Sequence[str] | None = None,
    view: Literal["part", "image"] = "part",
    confidence: float | None = None,
) -> Calibration:
    """The largest threshold that keeps the promise of alpha, for whatever was scored: tiles, or whole images.

    Parameters
    ----------
    scores, parts, defective
        (T,) a score, the physical part, and whether it is defective; at least one is. A part's statistic is the highest
        score of its defective ones or, in the ``image`` view, the lowest such maximum among its images.
    alpha
        Above 0 and below 1. ``auto`` is 0.01 or, where that is larger, the least that n defective parts can
        promise: 1 / (n + 1) or, with a confidence, 1 - (1 - confidence)^(1 / n).
    images
        (T,) the image of every score, each unique to its part; needed for the ``image`` view.
    view
        When a part is missed.
    confidence
        Above 0 and below 1: the probability, over the parts it is calibrated on, that the true share of missed parts
        is at most alpha. None bounds the expected share alone.

    Raises
    ------
    UsageError
        Alpha or the confidence is not between 0 and 1, or alpha less than so many parts can promise; or ``images`` are
        missing.
    """
    if confidence is not None and not 0 < confidence < 1:
        raise UsageError(f"the confidence is {confidence}", mend="give a share above 0 and below 1, such as 0.95")
    deciding = defective
    if view == "image":
        if images is None:
            raise UsageError("the image view needs to know which tiles are one image", mend="give images")
        deciding = _weakest_images(scores, parts, images, defective)
    statistics = gate_by_part(scores, parts, deciding).threshold
    count = len(statistics)
    level = max(AUTO_ALPHA, _least_alpha(count, confidence)) if alpha == "auto" else float(alpha)
    if not 0 < level < 1:
        raise UsageError(f"alpha is {level}", mend="give a share above 0 and below 1, or auto")
    allowed = _misses_allowed(count, level, confidence)
    if allowed < 0:
        sure = "" if confidence is None else f" with confidence {confidence:.6g}"
        raise UsageError(
            f"alpha {level:.4g}{sure} from {count} defective parts: no calibration can promise less than "
            f"{_least_in_words(count, confidence)}",
            mend=f"bring {parts_needed(level, confidence)} defective parts, or take alpha: auto",
        )
    threshold = float(statistics[allowed])
    return Calibration(
        threshold=threshold,
        alpha=level,
        alpha_is_auto=alpha == "auto",
        parts=count,
        misses=int(np.count_nonzero(statistics < threshold)),
        view=view,
        confidence=confidence,
    )


def _weakest_images(
    scores: NDArray[np.floating], parts: Sequence[str], images: Sequence[str], defective: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(T,) the one score that decides for each part in the image view: the highest of its lowest defective image."""
    chosen = np.zeros(len(scores), dtype=np.bool_)
    seen: set[str] = set()
    for tile in gate_by_part(scores, images, defective).weakest.tolist():  # ascending by the images' maxima
        if parts[tile] not in seen:
            seen.add(parts[tile])
            chosen[tile] = True
    return chosen
