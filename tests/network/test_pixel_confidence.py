"""What the PCM must and must not do: close fine gaps, keep thin cracks, leave sure pixels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lpcnet_edge.network.pixel_confidence import PixelConfidence

WINDOW = 5


def logits_of(probability: np.ndarray) -> Tensor:
    """Two-class logits (1, 2, h, w) whose softmax gives the defect this probability."""
    p = torch.from_numpy(np.asarray(probability, dtype=np.float32))
    return torch.stack([torch.log(1 - p), torch.log(p)])[None]


def refined_mask(probability: np.ndarray) -> np.ndarray:
    pcm = PixelConfidence(2, WINDOW)
    with torch.no_grad():
        return pcm(logits_of(probability)).argmax(1)[0].numpy().astype(bool)


def draw_line(angle: str, size: int = 34) -> np.ndarray:
    line = np.zeros((size, size), dtype=bool)
    at = np.arange(3, size - 3)
    if angle == "row":
        line[size // 2, at] = True
    elif angle == "column":
        line[at, size // 2] = True
    elif angle == "falling":
        line[at, at] = True
    else:
        line[at, size - 1 - at] = True
    return line


@pytest.mark.parametrize("angle", ["row", "column", "falling", "rising"])
@pytest.mark.parametrize("sure", [0.55, 0.6, 0.75, 0.95])
def test_one_pixel_line_survives(angle: str, sure: float) -> None:
    line = draw_line(angle)
    refined = refined_mask(np.where(line, sure, 0.02))
    # The ends may lose a pixel or two, having neighbours on one side only; the crack itself stays, and stays thin.
    inner = line.copy()
    inner[:6], inner[-6:], inner[:, :6], inner[:, -6:] = False, False, False, False
    assert refined[inner].all()
    assert not (refined & ~line).any()


@pytest.mark.parametrize("gap_px", [1, 2])
def test_fine_gaps_between_strands_are_closed(gap_px: int) -> None:
    """Strands of a broken tow with gaps that the first segmentation doubtfully calls background."""
    probability = np.full((40, 40), 0.02)
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30] = True
    probability[truth] = 0.9
    gaps = np.zeros_like(truth)
    for x in range(13, 28, 3 + gap_px):
        gaps[10:30, x : x + gap_px] = True
    probability[gaps & truth] = 0.35
    before = probability > 0.5
    after = refined_mask(probability)
    assert (before & truth).sum() < 0.85 * truth.sum()
    assert (after & truth).sum() == truth.sum()
    assert not (after & ~truth).any()


def test_lone_doubtful_pixel_is_dropped() -> None:
    probability = np.full((22, 22), 0.02)
    probability[10, 10] = 0.55
    assert not refined_mask(probability).any()


def test_sure_background_inside_a_defect_stays_a_hole() -> None:
    probability = np.full((32, 32), 0.95)
    probability[12:19, 12:19] = 0.01
    assert not refined_mask(probability)[12:19, 12:19].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31), st.sampled_from([3, 5, 7, 9]))
def test_support_lies_between_the_extremes_of_its_neighbourhood(classes: int, seed: int, window: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(3 * torch.randn(2, classes, 12, 8, generator=generator), dim=1)
    with torch.no_grad():
        found = PixelConfidence(classes, window).support(probabilities)
    assert found.shape == probabilities.shape
    assert (found >= probabilities.amin(dim=(2, 3), keepdim=True) - 1e-6).all()
    assert (found <= probabilities.amax(dim=(2, 3), keepdim=True) + 1e-6).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_against_a_direct_computation(seed: int) -> None:
    """Loops over blocks, pixels and directions, the border replicated, as docs/method.md writes it."""
    rng = np.random.default_rng(seed)
    classes, h, w, half = 3, 12, 10, 2
    logits = rng.normal(0, 2, (classes, h, w))
    pcm = PixelConfidence(classes, 2 * half + 1).double()
    taps = torch.softmax(pcm.taps, 0).detach().numpy()
    gain = torch.nn.functional.softplus(pcm.gain).detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(0)
    rows, columns = h // 2, w // 2
    blocks = p.reshape(classes, rows, 2, columns, 2).max(axis=(2, 4))
    expected = logits.copy()
    for y in range(h):
        for x in range(w):
            best = np.zeros(classes)
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                mean = np.zeros(classes)
                for t in range(-half, half + 1):
                    by, bx = np.clip(y // 2 + t * dy, 0, rows - 1), np.clip(x // 2 + t * dx, 0, columns - 1)
                    mean += taps[t + half] * blocks[:, by, bx]
                best = np.maximum(best, mean)
            own = p[:, y, x]
            expected[1:, y, x] += gain * (own * (1 - own) * (best - own))[1:]
    with torch.no_grad():
        found = pcm(torch.from_numpy(logits)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)
