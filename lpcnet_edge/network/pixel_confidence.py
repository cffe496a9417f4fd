"""The Pixel Confidence Module (PCM): refine each pixel's classes by what its neighbourhood says.

docs/method.md derives the formula. That a module takes the probability distribution of neighbouring pixels from the
initial segmentation, makes a pixel-confidence matrix of it and refines the prediction with it is the paper's
(Sensors 2025, 25(15), 4548); the oriented windows, the weighting by uncertainty and the gains are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_INITIAL_GAIN = 4.0


class PixelConfidence(nn.Module):
    """Refine class logits (N, C, h, w) float32 into logits of the same shape.

    1. ``P = softmax(logits)``.
    2. Neighbourhood distribution ``M``: along each of four directions (0, 45, 90, 135 degrees) a k-tap weighted mean of
       P, the border replicated. A defect class takes its best direction, so that a crack one pixel wide is supported
       by itself along its own direction; the background takes what the defects leave.
    3. Pixel-confidence matrix ``K = M - P``: how much more the neighbourhood believes in a class than the pixel does.
    4. ``refined = logits + gain * u * K`` with the pixel's own uncertainty ``u = 1 - sum(P^2)``: a sure pixel stays as
       it is, an unsure one (a fine gap inside a defect) follows its neighbours.

    Parameters: k tap weights (a softmax keeps them a mean) and one positive gain per class.
    """

    def __init__(self, classes: int, window: int) -> None:
        super().__init__()
        self.classes = classes
        self.window = window
        distance = torch.arange(window, dtype=torch.float32) - window // 2
        self.taps = nn.Parameter(-(distance**2) / (2 * (window / 3) ** 2))
        self.gain = nn.Parameter(torch.full((classes,), math.log(math.expm1(_INITIAL_GAIN))))

    def neighbourhood(self, probabilities: Tensor) -> Tensor:
        """M (N, C, h, w) of P (N, C, h, w); both sum to 1 over C."""
        defects = probabilities[:, 1:]
        count, half = self.classes - 1, self.window // 2
        padded = functional.pad(defects, (half, half, half, half), mode="replicate")
        taps = torch.softmax(self.taps, dim=0)
        lines = (torch.diag(taps), torch.diag(taps).flip(1))
        diagonals = [functional.conv2d(padded, line.expand(count, 1, -1, -1), groups=count) for line in lines]
        row = functional.conv2d(padded[:, :, half:-half, :], taps.expand(count, 1, 1, -1), groups=count)
        column = functional.conv2d(padded[..., half:-half], taps[:, None].expand(count, 1, -1, 1), groups=count)
        best = torch.maximum(torch.maximum(row, column), torch.maximum(*diagonals))
        total = best.sum(dim=1, keepdim=True)
        best = best / total.clamp(min=1.0)
        return torch.cat([1.0 - best.sum(dim=1, keepdim=True), best], dim=1)

    def forward(self, logits: Tensor) -> Tensor:
        probabilities = torch.softmax(logits, dim=1)
        confidence = self.neighbourhood(probabilities) - probabilities
        uncertainty = 1.0 - (probabilities * probabilities).sum(dim=1, keepdim=True)
        gain = functional.softplus(self.gain).view(1, -1, 1, 1)
        return logits + gain * uncertainty * confidence
