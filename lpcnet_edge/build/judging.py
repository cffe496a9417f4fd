"""What a build asks of its engines: to decide as the float network did. The check itself is given in from above."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lpcnet_edge.types import Segmenter

MAX_LOST_SHARE = 0.01
"""Of the defects that float catches, the share that INT8 may lose."""


@dataclass(frozen=True)
class Judgement:
    """How a candidate did beside the float network on the same images; points are 0..100.

    Attributes
    ----------
    reference_miou, candidate_miou
        mIoU of both against the ground truth.
    mask_iou, pixels
        IoU of the two defect masks over all images, and the share of pixels of equal class.
    new_escapes
        Defective parts that float rejects and the candidate passes.
    caught, lost
        Defects that float catches, and those of them that the candidate does not.
    report
        Everything measured, as plain data for ``accuracy.json``.
    """

    reference_miou: float
    candidate_miou: float
    mask_iou: float
    pixels: float
    new_escapes: tuple[str, ...]
    caught: int
    lost: int
    report: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def drop(self) -> float:
        """Points of mIoU lost; negative where the candidate is better."""
        return self.reference_miou - self.candidate_miou

    def broken(self, max_drop: float) -> list[str]:
        """What does not hold, a sentence each; empty where the candidate decides as float did."""
        found = []
        if not self.drop <= max_drop:
            found.append(f"mIoU fell by {self.drop:.2f} points, more than {max_drop:g}")
        if self.new_escapes:
            names = ", ".join(self.new_escapes[:3])
            found.append(f"{len(self.new_escapes)} defective parts escape that float rejects ({names})")
        if self.lost > MAX_LOST_SHARE * self.caught:
            found.append(f"{self.lost} of {self.caught} defects that float catches are lost")
        return found


Judge = Callable[[Segmenter], Judgement]
"""Measures a candidate on the check split."""
