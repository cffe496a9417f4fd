"""DDRNet-23-slim: Hong, Pan, Sun and Jia, Deep Dual-resolution Networks (arXiv 2101.06085; IEEE T-ITS 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Convolution, normalisation and, but for ends of branches, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def pre(inputs: int, outputs: int, size: int = 1) -> nn.Sequential:
    """Normalisation, ReLU, convolution: the order of the pyramid's layers."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """``x`` at the height and width of ``like``, bilinear."""
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Basic(nn.Module):
    """Two 3x3 convolutions beside the input, or beside a projection of it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.main = nn.Sequential(conv(inputs, outputs, 3, stride), conv(outputs, outputs, relu=False))
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else conv(inputs, outputs, 1, stride, relu=False)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.main(x) + self.skip(x)
        return functional.relu(y) if self.relu else y


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to twice the width, beside a projection; no ReLU at the end."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(inputs, width, 1), conv(width, width, 3, stride), conv(width, 2 * width, 1, relu=False)
        )
        self.skip = conv(inputs, 2 * width, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.main(x) + self.skip(x)
        return y


def pair(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two residual blocks, the second without its last ReLU."""
    return nn.Sequential(Basic(inputs, outputs, stride), Basic(outputs, outputs, relu=False))


class Pyramid(nn.Module):
    """DAPPM: means over growing windows, each merged with the one before it."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.windows = ((5, 2), (9, 4), (17, 8))
        self.scales = nn.ModuleList(pre(inputs, width) for _ in range(5))
        self.merges = nn.ModuleList(pre(width, width, 3) for _ in range(4))
        self.compress = pre(5 * width, outputs)
        self.shortcut = pre(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [functional.avg_pool2d(x, size, stride, size // 2) for size, stride in self.windows]
        pooled.append(x.mean(dim=(2, 3), keepdim=True))
        levels = [self.scales[0](x)]
        for scale, merge, coarse in zip(list(self.scales)[1:], self.merges, pooled, strict=True):
            levels.append(merge(resize(scale(coarse), x) + levels[-1]))
        y: Tensor = self.compress(torch.cat(levels, dim=1)) + self.shortcut(x)
        return y


class DdrNet23Slim(nn.Module):
    """Widths 32 to 256; a branch stays at stride 8 and trades with the deep one twice.

    Logits at stride 8; in training a pair of them, the second those of the auxiliary head on the branch at stride 8.
    """

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        w, high, head = width, 2 * width, 2 * width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, w, 3, 2, 1), nn.BatchNorm2d(w), nn.ReLU(inplace=True),
            nn.Conv2d(w, w, 3, 2, 1), nn.BatchNorm2d(w), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.layer1 = pair(w, w)
        self.layer2 = pair(w, 2 * w, 2)
        self.layer3, self.layer4 = pair(2 * w, 4 * w, 2), pair(4 * w, 8 * w, 2)
        self.high3, self.high4 = pair(2 * w, high), pair(high, high)
        self.compress3, self.compress4 = conv(4 * w, high, 1, relu=False), conv(8 * w, high, 1, relu=False)
        self.down3 = conv(high, 4 * w, 3, 2, relu=False)
        self.down4 = nn.Sequential(conv(high, 4 * w, 3, 2), conv(4 * w, 8 * w, 3, 2, relu=False))
        self.high5, self.layer5 = Bottleneck(high, high), Bottleneck(8 * w, 8 * w, 2)
        self.pyramid = Pyramid(16 * w, 4 * w, 4 * w)
        self.head = self._head(4 * w, head, classes)
        self.auxiliary = self._head(high, head, classes)

    @staticmethod
    def _head(inputs: int, width: int, classes: int) -> nn.Sequential:
        return nn.Sequential(pre(inputs, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        relu = functional.relu
        x8 = relu(self.layer2(relu(self.layer1(self.stem(x)))))
        deep, high = self.layer3(x8), self.high3(x8)
        deep, high = deep + self.down3(relu(high)), high + resize(self.compress3(relu(deep)), high)
        between = high
        deep, high = self.layer4(relu(deep)), self.high4(relu(high))
        deep, high = deep + self.down4(relu(high)), high + resize(self.compress4(relu(deep)), high)
        high, deep = self.high5(relu(high)), self.pyramid(self.layer5(relu(deep)))
        logits: Tensor = self.head(high + resize(deep, high))
        return (logits, self.auxiliary(between)) if self.training else logits
