"""What a quantisation-aware fine-tune is told, as plain data: nothing here needs torch or ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lpcnet_edge.errors import BadConfig
from lpcnet_edge.network.config import TILE_MULTIPLE_PX


@dataclass(frozen=True)
class Quantisation:
    """Where both stages round, in the names of the exported graphs, and to what.

    Attributes
    ----------
    convs
        Convolutions whose weights are rounded, such as ``stage2/encoder/level4/block1/conv1``.
    uses
        Rounded tensor -> the nodes (with input index) that read it rounded; every other reader has it as it is. Readers
        are convolutions, additions (``stage1/add``) and doublings (``stage1/merge/resize``).
    scales
        Scale of each rounded tensor: x becomes ``scale * clip(round(x / scale), -levels - 1, levels)``.
    levels
        Steps on either side of zero, 127 for INT8.
    scale_floor
        Least scale.
    """

    convs: tuple[str, ...]
    uses: Mapping[str, tuple[tuple[str, int], ...]]
    scales: Mapping[str, float]
    levels: int
    scale_floor: float


@dataclass(frozen=True)
class QatSettings:
    """A quantisation-aware fine-tune. docs/qat.md says which values were found by measurement.

    Attributes
    ----------
    steps, warmup_steps
        Optimiser steps in all, and those over which the rates rise; they fall by a cosine afterwards.
    learning_rate
        AdamW's rate of the weights.
    scale_rate
        AdamW's rate of the logarithms of the activation scales: 0.03 changes a scale by about 3 % a step at most. 0
        keeps the calibrated scales.
    batch, crop_px
        Crops a step, and their side; a network of smaller tiles takes its tile's.
    defect_share
        Share of crops taken around a defect.
    task, distil_classes, distil_heat
        Weights of the loss against the masks, of the divergence of the classes from the float network's, and of the
        squared difference of the heatmap's logits from its.
    seed
        Of every batch.
    """

    steps: int = 150
    warmup_steps: int = 10
    learning_rate: float = 5e-5
    scale_rate: float = 3e-2
    batch: int = 8
    crop_px: int = 192
    defect_share: float = 0.6
    task: float = 0.05
    distil_classes: float = 10.0
    distil_heat: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.warmup_steps < 0:
            raise BadConfig(
                f"steps is {self.steps}, batch {self.batch}, warmup_steps {self.warmup_steps}",
                mend="use at least 1 step, a batch of 2, and 0 steps of warm-up",
            )
        if self.crop_px < TILE_MULTIPLE_PX or self.crop_px % TILE_MULTIPLE_PX:
            raise BadConfig(f"crop_px is {self.crop_px}", mend=f"use a positive multiple of {TILE_MULTIPLE_PX}")
        weights = (self.task, self.distil_classes, self.distil_heat)
        if self.learning_rate <= 0 or self.scale_rate < 0 or min(weights) < 0 or not sum(weights):
            raise BadConfig(
                "a rate or a weight of the loss is below 0, or all weights are 0", mend="use positive numbers"
            )
        if not 0 <= self.defect_share <= 1:
            raise BadConfig(f"defect_share is {self.defect_share}", mend="use a number from 0 to 1")
