"""DeepLabV3+ on MobileNetV2 at output stride 16.

Chen, Zhu, Papandreou, Schroff and Adam, ECCV 2018 (arXiv 1802.02611); Sandler, Howard, Zhu, Zhmoginov and Chen, CVPR
2018 (arXiv 1801.04381). Atrous rates 6, 12 and 18 with plain 3x3 convolutions, decoder of two 3x3 convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# expansion, channels, blocks, stride, dilation: MobileNetV2's table 2, the last stride turned into a dilation
_STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 2, 1),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 1, 2),
    (6, 320, 1, 1, 2),
)
_LOW_LEVEL_STAGE = 1  # its output, at stride 4, goes to the decoder


def conv(
    inputs: int, outputs: int, size: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1, six: bool = False
) -> nn.Sequential:
    """Convolution, normalisation, ReLU (ReLU6 where ``six``)."""
    pad = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, pad, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True) if six else nn.ReLU(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project back without an activation; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = [conv(inputs, wide, six=True)] if expansion > 1 else []
        layers.append(conv(wide, wide, 3, stride=stride, dilation=dilation, groups=wide, six=True))
        layers += [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class DeepLabV3Plus(nn.Module):
    """Logits at stride 4."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width = 32
        for expansion, outputs, blocks, stride, dilation in _STAGES:
            layers = []
            for index in range(blocks):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(width, outputs, step, dilation, expansion))
                width = outputs
            stages.append(nn.Sequential(*layers))
        self.stem = conv(channels, 32, 3, stride=2, six=True)
        self.stages = nn.ModuleList(stages)
        rates = (6, 12, 18)
        self.pyramid = nn.ModuleList([conv(width, 256), *(conv(width, 256, 3, dilation=rate) for rate in rates)])
        self.pooled = conv(width, 256)
        self.project = conv(5 * 256, 256)
        self.low_level = conv(_STAGES[_LOW_LEVEL_STAGE][1], 48)
        self.decode = nn.Sequential(conv(256 + 48, 256, 3), conv(256, 256, 3))
        self.classify = nn.Conv2d(256, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        low = x
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == _LOW_LEVEL_STAGE:
                low = x
        whole = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        x = self.project(torch.cat([*(branch(x) for branch in self.pyramid), whole], dim=1))
        x = functional.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classify(self.decode(torch.cat([x, self.low_level(low)], dim=1)))
        return logits
