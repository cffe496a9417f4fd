"""U-Net: Ronneberger, Fischer and Brox, MICCAI 2015 (arXiv 1505.04597).

As it is used today: padded convolutions with batch normalisation, so that the output has the size of the input.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Twice: 3x3 convolution, normalisation, ReLU."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Widths 64 to 1024, transposed convolutions on the way up; logits at full resolution."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.down = nn.ModuleList(double(i, o) for i, o in zip((channels, *widths), widths, strict=False))
        upward = widths[::-1]
        pairs = list(itertools.pairwise(upward))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.merge = nn.ModuleList(double(2 * o, o) for _, o in pairs)
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.classify(x)
        return logits
