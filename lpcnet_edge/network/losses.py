"""What training minimises: localization on the pooled truth, segmentation weighted by where stage 1 looks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lpcnet_edge.config import refuse_non_finite
from lpcnet_edge.network.config import STRIDE_PX
from lpcnet_edge.network.model import Outputs, full_size

_ABOVE_ZERO = ("defect_weight", "weight_floor")
_LEAST_TAUGHT_PX = 20.0
"""A class of which a teacher sees less than this in a batch, in squared probabilities, has no Dice term."""


@dataclass(frozen=True)
class LossSettings:
    """Weights of the terms; docs/method.md gives the formulas. The paper publishes no coefficients: these are ours.

    Attributes
    ----------
    localization, tile, segmentation, refinement
        Weights of the heatmap's focal loss, of the tile score's cross-entropy, of the initial prediction's loss, which
        trains all of stage 2 but the PCM (0 trains stage 1 alone), and of the refined prediction's, which trains the
        PCM and nothing else.
    dice
        Weight of the Dice term beside the cross-entropy, in both predictions.
    defect_weight
        Weight of a defect pixel's cross-entropy against a background pixel's: small defects are a hundredth of the
        pixels and would be learned late.
    focal_gamma
        Focusing exponent of the heatmap's loss (Lin et al., 2017).
    weight_floor
        Least heatmap value in the pixel weights: what stage 1 does not see is learned from all the same.
    distillation
        Weight of what a teacher says, where there is one, beside what the masks say.
    hints
        Weight of saying what an encoder that has seen ImageNet sees (:mod:`~lpcnet_edge.network.imagenet`); 0 does
        without it.
    """

    localization: float = 1.0
    tile: float = 0.2
    segmentation: float = 1.0
    refinement: float = 1.0
    dice: float = 1.0
    defect_weight: float = 1.0
    focal_gamma: float = 2.0
    weight_floor: float = 0.25
    distillation: float = 1.0
    hints: float = 0.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        for name, value in vars(self).items():
            if name in _ABOVE_ZERO and value <= 0:
                raise ValueError(f"{name} is {value:g}, not above 0")
            if value < 0:
                raise ValueError(f"{name} is {value:g}, not 0 or more")
        if self.stage1_only and self.localization == 0 and self.tile == 0:
            raise ValueError("localization, tile and segmentation are all 0: nothing would be learned")
        if self.stage1_only and self.hints:
            raise ValueError("hints are for stage 2, and segmentation is 0: it is not trained")

    @property
    def stage1_only(self) -> bool:
        """Whether stage 2 has no weight, so that it need not be computed."""
        return self.segmentation == 0


@dataclass(frozen=True)
class LossTerms:
    """The scalar terms of one batch; ``total`` is differentiable. The last two are None where there is no such term."""

    total: Tensor
    localization: Tensor
    tile: Tensor
    refined: Tensor
    initial: Tensor
    distilled: Tensor | None = None
    hints: Tensor | None = None


def heatmap_target(mask: Tensor) -> Tensor:
    """(N, H, W) class indices to (N, 1, H/16, W/16) float32: 1 where a cell holds any defect pixel."""
    return functional.max_pool2d((mask > 0).float().unsqueeze(1), STRIDE_PX)


def pixel_weights(heat_logits: Tensor, height: int, width: int, floor: float) -> Tensor:
    """The DLM's pixel-wise loss weight (N, H, W): the heatmap without gradient, floored, of mean 1 over the batch."""
    heat = torch.sigmoid(heat_logits.detach().float())
    weight = functional.interpolate(heat, size=(height, width), mode="bilinear", align_corners=False).squeeze(1)
    weight = weight.clamp(min=floor)
    return weight / weight.mean()


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Binary focal loss summed over cells, divided by the number of defect cells (at least one a tile)."""
    cross = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # Never quite 0, where a power below 1 has no gradient: a cell that is that sure would make all of it nan.
    wrong = torch.abs(torch.sigmoid(logits) - target).clamp(min=torch.finfo(torch.float32).tiny)
    return (cross * wrong**gamma).sum() / target.sum().clamp(min=float(len(logits)))


def localization_losses(heat_logits: Tensor, mask: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss of the heatmap, and cross-entropy of the tile's score, against class indices (N, H, W).

    A smooth maximum lets the score, which the gate will read, learn from more than one cell.
    """
    target, heat = heatmap_target(mask), heat_logits.float()
    score = torch.logsumexp(4.0 * heat.flatten(1), dim=1) / 4.0
    tile = functional.binary_cross_entropy_with_logits(score, target.flatten(1).amax(dim=1))
    return focal_loss(heat, target, gamma), tile


def dice_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """1 - Dice, averaged over the defect classes present in the batch; (N, K, H, W) against (N, H, W)."""
    classes = probabilities.shape[1]
    truth = functional.one_hot(mask, classes).permute(0, 3, 1, 2)[:, 1:].float()
    guess = probabilities[:, 1:]
    overlap = (guess * truth).sum(dim=(0, 2, 3))
    area = truth.sum(dim=(0, 2, 3))
    score = (2 * overlap + 1.0) / (guess.sum(dim=(0, 2, 3)) + area + 1.0)
    present = (area > 0).float()
    return ((1.0 - score) * present).sum() / present.sum().clamp(min=1.0)


def segmentation_loss(logits: Tensor, mask: Tensor, weights: Tensor | None, settings: LossSettings) -> Tensor:
    """Weighted cross-entropy plus Dice of logits (N, K, H, W) against class indices (N, H, W) int64."""
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    cross = functional.nll_loss(log_probabilities, mask, reduction="none")
    if weights is not None:
        cross = cross * weights
    if settings.defect_weight != 1.0:
        by_class = torch.where(mask > 0, settings.defect_weight, 1.0)
        cross = cross * (by_class / by_class.mean())
    loss = cross.mean()
    return loss + settings.dice * dice_loss(log_probabilities.exp(), mask) if settings.dice else loss


def distillation_loss(logits: Tensor, taught: Tensor, settings: LossSettings) -> Tensor:
    """How far class logits are from a teacher's probabilities, both (N, K, H, W): 0 where they say the same.

    The mean over pixels of KL(teacher || student) (Hinton, Vinyals and Dean, 2015, at temperature 1), what the teacher
    calls a defect weighted by ``defect_weight``, and ``dice`` times a Dice term with squares (Milletari, Navab and
    Ahmadi, 2016), which is least where both are equal, as that of :func:`dice_loss` is for hard masks alone.
    """
    log_student = functional.log_softmax(logits.float(), dim=1)
    apart = functional.kl_div(log_student, taught, reduction="none").sum(dim=1)
    weight = 1.0 + (settings.defect_weight - 1.0) * (1.0 - taught[:, 0])
    loss = (apart * (weight / weight.mean())).mean()
    if settings.dice:
        guess, truth = log_student.exp()[:, 1:], taught[:, 1:]
        overlap, areas = (guess * truth).sum(dim=(0, 2, 3)), (guess**2 + truth**2).sum(dim=(0, 2, 3))
        present = ((truth**2).sum(dim=(0, 2, 3)) > _LEAST_TAUGHT_PX).float()
        score = (2 * overlap + 1.0) / (areas + 1.0)
        loss = loss + settings.dice * ((1.0 - score) * present).sum() / present.sum().clamp(min=1.0)
    return loss


def lpc_loss(
    outputs: Outputs, mask: Tensor, settings: LossSettings, *, weight_loss: bool, taught: Tensor | None = None
) -> LossTerms:
    """All terms for one batch; ``mask`` is (N, H, W) int64 at full resolution.

    Both predictions are compared at full resolution, as they are used. Without the PCM there is the initial one alone.
    ``taught`` (N, K, H, W) is a teacher's class probabilities, without gradient, for the initial prediction.
    """
    height, width = mask.shape[-2:]
    localization, tile = localization_losses(outputs.heat_logits, mask, settings.focal_gamma)
    weights = pixel_weights(outputs.heat_logits, height, width, settings.weight_floor) if weight_loss else None
    full = full_size(outputs.initial, height, width)
    initial = segmentation_loss(full, mask, weights, settings)
    refined = initial.new_zeros(())
    if outputs.refined is not outputs.initial:
        refined = segmentation_loss(full_size(outputs.refined, height, width), mask, weights, settings)
    distilled = None if taught is None else settings.segmentation * distillation_loss(full, taught, settings)
    return _sum(localization, tile, refined, initial, settings, distilled)


def stage1_loss(heat_logits: Tensor, mask: Tensor, settings: LossSettings) -> LossTerms:
    """The terms of stage 1 alone, for a recipe that gives the segmentation no weight."""
    localization, tile = localization_losses(heat_logits, mask, settings.focal_gamma)
    nothing = tile.new_zeros(())
    return _sum(localization, tile, nothing, nothing, settings)


def _sum(
    localization: Tensor,
    tile: Tensor,
    refined: Tensor,
    initial: Tensor,
    settings: LossSettings,
    distilled: Tensor | None = None,
) -> LossTerms:
    total = (
        settings.localization * localization
        + settings.tile * tile
        + settings.segmentation * initial
        + settings.refinement * refined
    )
    terms = (localization.detach(), tile.detach(), refined.detach(), initial.detach())
    if distilled is None:
        return LossTerms(total, *terms)
    return LossTerms(total + settings.distillation * distilled, *terms, distilled.detach())
