"""The loss terms against direct computations, and the DLM's weight as DESIGN describes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lpcnet_edge.network.config import preset
from lpcnet_edge.network.losses import (
    LossSettings,
    dice_loss,
    distillation_loss,
    focal_loss,
    heatmap_target,
    lpc_loss,
    pixel_weights,
    segmentation_loss,
    stage1_loss,
)
from lpcnet_edge.network.model import LpcNet, Outputs


def test_heatmap_target_marks_every_touched_cell() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.long)
    mask[0, 15, 16] = 2
    target = heatmap_target(mask)
    assert target.shape == (1, 1, 4, 4)
    assert target.sum() == 1
    assert target[0, 0, 0, 1] == 1


def test_pixel_weights_floor_mean_and_gradient() -> None:
    heat = torch.full((2, 1, 4, 4), -20.0, requires_grad=True)
    with torch.no_grad():
        heat[0, 0, 1, 1] = 20.0
    weights = pixel_weights(heat, 64, 64, 0.25)
    assert weights.shape == (2, 64, 64)
    assert not weights.requires_grad
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-5)
    assert weights.max().item() / weights.min().item() == pytest.approx(1 / 0.25, rel=0.15)
    assert weights[0].max() > weights[1].max()


def test_focal_loss_direct() -> None:
    logits = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    target = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    t = target.numpy()
    chance = np.where(t == 1, p, 1 - p)
    expected = (-np.log(chance) * (1 - chance) ** 2).sum() / 2
    assert focal_loss(logits, target, 2.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 2.0])
def test_focal_loss_of_a_cell_that_is_sure_has_a_gradient(gamma: float) -> None:
    logits = torch.tensor([[[[30.0, -120.0, 1.0]]]], requires_grad=True)
    focal_loss(logits, torch.tensor([[[[1.0, 0.0, 1.0]]]]), gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0, 0, 2] < 0


def test_dice_is_zero_for_the_truth_and_ignores_absent_classes() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    mask[0, 2:6, 2:6] = 1
    perfect = torch.nn.functional.one_hot(mask, 3).permute(0, 3, 1, 2).float()
    assert dice_loss(perfect, mask).item() == pytest.approx(0.0, abs=1e-6)
    nothing = torch.zeros_like(perfect)
    nothing[:, 0] = 1
    assert dice_loss(nothing, mask).item() == pytest.approx(1 - 1 / 17, rel=1e-5)


def test_segmentation_loss_weights_pixels() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    weights = torch.zeros(1, 4, 4)
    weights[0, 0, 0] = 16.0
    assert segmentation_loss(logits, mask, weights, LossSettings(dice=0.0)).item() == pytest.approx(np.log(2), rel=1e-6)


def test_defect_weight_shifts_the_mean_to_defects() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0, 0] = 2.0
    mask = torch.tensor([[[1, 0], [0, 0]]])
    cross = -torch.log_softmax(logits, 1).gather(1, mask[:, None])[0, 0]
    expected = (3 * cross[0, 0] + cross[0, 1] + cross[1, 0] + cross[1, 1]) / 6
    found = segmentation_loss(logits, mask, None, LossSettings(dice=0.0, defect_weight=3.0))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_stage1_alone_has_the_same_terms() -> None:
    generator = torch.Generator().manual_seed(4)
    heat = torch.randn(2, 1, 2, 2, generator=generator)
    mask = torch.randint(0, 2, (2, 32, 32), generator=generator)
    logits = torch.randn(2, 2, 16, 16, generator=generator)
    whole = lpc_loss(Outputs(heat, torch.empty(0), logits, logits), mask, LossSettings(), weight_loss=True)
    alone = stage1_loss(heat, mask, LossSettings(segmentation=0))
    assert alone.localization == whole.localization
    assert alone.tile == whole.tile
    assert alone.total.item() == pytest.approx((alone.localization + 0.2 * alone.tile).item())


@pytest.mark.parametrize("same", [True, False])
def test_total_is_the_weighted_sum(same: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    refined = torch.randn(2, 3, 16, 16, generator=generator)
    initial = refined if same else torch.randn(2, 3, 16, 16, generator=generator)
    heat = torch.randn(2, 1, 2, 2, generator=generator)
    mask = torch.randint(0, 3, (2, 32, 32), generator=generator)
    settings = LossSettings(localization=2.0, tile=0.5, segmentation=1.5, refinement=0.25)
    terms = lpc_loss(Outputs(heat, torch.empty(0), initial, refined), mask, settings, weight_loss=True)
    expected = 2.0 * terms.localization + 0.5 * terms.tile + 1.5 * terms.initial + 0.25 * terms.refined
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (terms.refined == 0) == same


def test_distillation_is_least_where_both_say_the_same() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 4, 8, 8)
    settings = LossSettings(defect_weight=2.0)
    taught = torch.softmax(logits, dim=1)
    assert distillation_loss(logits + 5.0, taught, settings) == pytest.approx(0.0, abs=0.01)  # the +1 of the Dice term
    moved = logits.clone().requires_grad_()
    distillation_loss(moved, taught, settings).backward()
    assert moved.grad is not None
    assert moved.grad.abs().max() < 1e-6
    for other in (taught.flip(1), torch.full_like(taught, 0.25)):
        assert distillation_loss(logits, other, settings) > 0.3


def test_distillation_by_hand() -> None:
    """One pixel a tile, without Dice: KL(teacher || student), weighted by what the teacher calls a defect."""
    taught = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).reshape(2, 2, 1, 1)
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.8, 0.2]])).reshape(2, 2, 1, 1)
    apart = [0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), math.log(1 / 0.8)]
    weight = [1.0 + 2.0 * 0.5, 1.0]  # of mean 1.5
    wanted = (weight[0] * apart[0] + weight[1] * apart[1]) / 1.5 / 2
    found = distillation_loss(logits, taught, LossSettings(dice=0.0, defect_weight=3.0))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_a_teacher_adds_its_term_and_changes_no_other() -> None:
    torch.manual_seed(0)
    heat, initial, refined = torch.randn(2, 1, 2, 2), torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    mask, taught = torch.randint(0, 3, (2, 32, 32)), torch.softmax(torch.randn(2, 3, 32, 32), dim=1)
    outputs = Outputs(heat, torch.empty(0), initial, refined)
    settings = LossSettings(distillation=0.5)
    alone = lpc_loss(outputs, mask, settings, weight_loss=True)
    both = lpc_loss(outputs, mask, settings, weight_loss=True, taught=taught)
    assert alone.distilled is None
    assert both.distilled is not None
    assert both.total == pytest.approx(float(alone.total + 0.5 * both.distilled), rel=1e-5)
    full = torch.nn.functional.interpolate(initial, size=(32, 32), mode="bilinear", align_corners=False)
    assert float(both.distilled) == pytest.approx(float(distillation_loss(full, taught, settings)), rel=1e-5)


def test_the_refined_prediction_teaches_the_refinement_alone() -> None:
    """With the PCM the rest of stage 2 learns what it learns without it."""
    torch.manual_seed(0)
    network = LpcNet(preset("edge", ("background", "scratch"), 1)).train()
    x, mask = torch.randn(2, 1, 64, 64), torch.randint(0, 2, (2, 64, 64))
    gradients = []
    for settings in (LossSettings(refinement=0.0), LossSettings(refinement=1.0)):
        network.zero_grad()
        lpc_loss(network(x), mask, settings, weight_loss=True).total.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    without, with_it = gradients
    for name, gradient in with_it.items():
        if name.startswith("confidence.pcm."):
            assert gradient.abs().max() > 0
            assert without[name].abs().max() == 0
        else:
            torch.testing.assert_close(gradient, without[name], rtol=0, atol=0)
