"""U-Net on EfficientNet-Lite0: what a user gets who starts from an encoder that has seen ImageNet.

The decoder has one 3x3 convolution at each stride after the sum of the coarser level and a lateral 1x1 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.network.imagenet import ImageNetEncoder

_DECODER = 64


def conv(inputs: int, outputs: int, size: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class EfficientNetLite0(ImageNetEncoder):
    """Logits at stride 2."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels)
        self.laterals = nn.ModuleList(conv(width, _DECODER) for width in self.widths)
        self.merges = nn.ModuleList(conv(_DECODER, _DECODER, 3) for _ in self.widths[:-1])
        self.classify = nn.Conv2d(_DECODER, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [lateral(level) for lateral, level in zip(self.laterals, self.features(x), strict=True)]
        y: Tensor = levels[-1]
        for level, merge in zip(levels[-2::-1], list(self.merges)[::-1], strict=True):
            y = merge(functional.interpolate(y, scale_factor=2.0, mode="nearest") + level)
        logits: Tensor = self.classify(y)
        return logits
