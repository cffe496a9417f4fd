"""The Pixel Confidence Module (PCM): refine each pixel's classes by what its neighbourhood says.

docs/method.md derives the formula. That a module takes the probability distribution of neighbouring pixels from the
initial segmentation, makes a pixel-confidence matrix of it and refines the prediction with it is the paper's
(Sensors 2025, 25(15), 4548); the blocks, the oriented windows, the weighting by uncertainty and the gains are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK_PX = 2
"""Side of the blocks, in pixels of the logits, over which neighbours are gathered."""

_INITIAL_GAIN = 8.0


class PixelConfidence(nn.Module):
    """Refine class logits (N, C, h, w) float32, h and w even, into logits of the same shape.

    1. ``P = softmax(logits)``.
    2. Each block of 2 x 2 pixels speaks for its most likely pixel, class by class: ``B = maxpool(P)``.
    3. Support ``S`` of a class: along each of four directions (0, 45, 90, 135 degrees) a k-tap weighted mean of B, the
       border replicated; the best direction counts, so that a crack one pixel wide is supported by itself along its
       own direction. Every pixel of a block has the block's support.
    4. Pixel-confidence matrix ``K = S - P``: how much more the neighbourhood believes in a class than the pixel does.
    5. ``refined_c = logits_c + gain_c * u_c * K_c`` for the defect classes, with the pixel's own uncertainty
       ``u_c = P_c * (1 - P_c)``: a sure pixel stays as it is, an unsure one (a fine gap inside a defect) follows its
       neighbours. The background's logit is left alone: logits count by their differences.

    Parameters: k tap weights (a softmax keeps them a mean) and one positive gain per defect class.
    """

    def __init__(self, classes: int, window: int) -> None:
        super().__init__()
        self.classes = classes
        self.window = window
        distance = torch.arange(window, dtype=torch.float32) - window // 2
        self.taps = nn.Parameter(-(distance**2) / (2 * (window / 3) ** 2))
        self.gain = nn.Parameter(torch.full((classes - 1,), math.log(math.expm1(_INITIAL_GAIN))))

    def support(self, probabilities: Tensor) -> Tensor:
        """S (N, C, h, w) of P (N, C, h, w), each value in 0..1."""
        count, half = self.classes, self.window // 2
        blocks = functional.max_pool2d(probabilities, BLOCK_PX)
        padded = functional.pad(blocks, (half, half, half, half), mode="replicate")
        taps = torch.softmax(self.taps, dim=0)
        lines = (torch.diag(taps), torch.diag(taps).flip(1))
        diagonals = [functional.conv2d(padded, line.expand(count, 1, -1, -1), groups=count) for line in lines]
        row = functional.conv2d(padded[:, :, half:-half, :], taps.expand(count, 1, 1, -1), groups=count)
        column = functional.conv2d(padded[..., half:-half], taps[:, None].expand(count, 1, -1, 1), groups=count)
        best = torch.maximum(torch.maximum(row, column), torch.maximum(*diagonals))
        return functional.interpolate(best, scale_factor=float(BLOCK_PX), mode="nearest")

    def forward(self, logits: Tensor) -> Tensor:
        probabilities = torch.softmax(logits, dim=1)
        confidence = self.support(probabilities) - probabilities
        uncertainty = probabilities * (1.0 - probabilities)
        gain = functional.pad(functional.softplus(self.gain), (1, 0)).view(1, -1, 1, 1)
        return logits + gain * uncertainty * confidence
