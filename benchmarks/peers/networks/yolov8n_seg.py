"""YOLOv8n-seg's graph, for speed: the architecture as Ultralytics documents it (release 8.0, 2023), random weights.

It finds boxes with masks rather than pixels with classes, and is trained by other losses; the study does not train it.
What runs behind the network there (non-maximum suppression, assembling the masks) is not in the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_REG = 16
_MASKS = 32


def conv(inputs: int, outputs: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
        nn.SiLU(inplace=True),
    )


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, added to the input where ``add``."""

    def __init__(self, width: int, add: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(conv(width, width, 3), conv(width, width, 3))
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.main(x)
        return x + y if self.add else y


class C2f(nn.Module):
    """Half of the channels pass by, the other half goes through bottlenecks, of which each result is kept."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, add: bool = False) -> None:
        super().__init__()
        self.width = outputs // 2
        self.entry = conv(inputs, 2 * self.width)
        self.blocks = nn.ModuleList(Bottleneck(self.width, add) for _ in range(blocks))
        self.exit = conv((2 + blocks) * self.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        kept = list(self.entry(x).split(self.width, dim=1))
        for block in self.blocks:
            kept.append(block(kept[-1]))
        y: Tensor = self.exit(torch.cat(kept, dim=1))
        return y


class Sppf(nn.Module):
    """Three maxima over 5x5 in a row, joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry, self.exit = conv(width, width // 2), conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.entry(x)]
        for _ in range(3):
            kept.append(functional.max_pool2d(kept[-1], 5, 1, 2))
        y: Tensor = self.exit(torch.cat(kept, dim=1))
        return y


class YoloV8nSeg(nn.Module):
    """(N, C, H, W) to boxes with classes and mask coefficients (N, 4 + classes + 32, A), and prototypes at stride 4.

    ``classes`` does not count a background, which the network does not have.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.p2 = nn.Sequential(conv(channels, 16, 3, 2), conv(16, 32, 3, 2), C2f(32, 32, 1, add=True))
        self.p3 = nn.Sequential(conv(32, 64, 3, 2), C2f(64, 64, 2, add=True))
        self.p4 = nn.Sequential(conv(64, 128, 3, 2), C2f(128, 128, 2, add=True))
        self.p5 = nn.Sequential(conv(128, 256, 3, 2), C2f(256, 256, 1, add=True), Sppf(256))
        self.up4, self.up3 = C2f(256 + 128, 128, 1), C2f(128 + 64, 64, 1)
        self.step4, self.down4 = conv(64, 64, 3, 2), C2f(64 + 128, 128, 1)
        self.step5, self.down5 = conv(128, 128, 3, 2), C2f(128 + 256, 256, 1)
        levels = (64, 128, 256)
        box, label = max(16, levels[0] // 4, 4 * _REG), max(levels[0], min(classes, 100))
        mask = max(levels[0] // 4, _MASKS)
        self.boxes, self.labels, self.coefficients = (
            nn.ModuleList(
                nn.Sequential(conv(w, middle, 3), conv(middle, middle, 3), nn.Conv2d(middle, outputs, 1))
                for w in levels
            )
            for middle, outputs in ((box, 4 * _REG), (label, classes), (mask, _MASKS))
        )
        self.distances = nn.Parameter(torch.arange(_REG, dtype=torch.float32).view(1, _REG, 1, 1), requires_grad=False)
        self.prototypes = nn.Sequential(
            conv(levels[0], 64, 3), nn.ConvTranspose2d(64, 64, 2, 2), conv(64, 64, 3), conv(64, _MASKS)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def doubled(y: Tensor) -> Tensor:
            return functional.interpolate(y, scale_factor=2.0, mode="nearest")

        p2 = self.p2(x)
        p3 = self.p3(p2)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        u4 = self.up4(torch.cat([doubled(p5), p4], dim=1))
        n3 = self.up3(torch.cat([doubled(u4), p3], dim=1))
        n4 = self.down4(torch.cat([self.step4(n3), u4], dim=1))
        n5 = self.down5(torch.cat([self.step5(n4), p5], dim=1))
        maps = (n3, n4, n5)
        box = torch.cat([head(y).flatten(2) for head, y in zip(self.boxes, maps, strict=True)], dim=2)
        label = torch.cat([head(y).flatten(2) for head, y in zip(self.labels, maps, strict=True)], dim=2)
        mask = torch.cat([head(y).flatten(2) for head, y in zip(self.coefficients, maps, strict=True)], dim=2)
        shares = torch.softmax(box.reshape(box.shape[0], 4, _REG, -1).transpose(1, 2), dim=1)
        sides = (shares * self.distances).sum(dim=1)
        return torch.cat([sides, torch.sigmoid(label), mask], dim=1), self.prototypes(n3)
