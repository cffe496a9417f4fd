"""The few blocks that both stages are made of, each of a form that quantises without loss of fusion.

A convolution is followed by its normalisation (folded at export), an optional addition and a ReLU, and a
quantiser will stand behind that ReLU only. There is no concatenation, no grouped or transposed convolution and
no activation other than ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv(nn.Module):
    """3x3 (or 1x1) convolution, batch normalisation, and a ReLU unless ``relu`` is false."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return functional.relu(y) if self.relu else y


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity.

    The second is normalised to zero at first, so that depth starts harmless.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv(width, width)
        self.conv2 = Conv(width, width, relu=False)
        nn.init.zeros_(self.conv2.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(self.conv1(x)) + x)


class Merge(nn.Module):
    """Decoder step: the coarse map, doubled by nearest neighbour, plus a 1x1 lateral, ReLU, then a 3x3 convolution.

    ``coarse`` (N, M, h, w) and ``fine`` (N, F, 2h, 2w) give (N, outputs, 2h, 2w).
    """

    def __init__(self, fine: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.lateral = Conv(fine, middle, size=1, relu=False)
        self.conv = Conv(middle, outputs)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        doubled = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        y: Tensor = self.conv(functional.relu(self.lateral(fine) + doubled))
        return y


class Context(nn.Module):
    """Adds what the whole tile looks like to every position: mean, 1x1, ReLU, 1x1 (zero at first), add, ReLU.

    The pooled vector is tiny and stays in float in every precision.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // 2, 1)
        self.expand = nn.Conv2d(width // 2, width, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(torch.as_tensor(self.expand.bias))

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return functional.relu(x + self.expand(functional.relu(self.squeeze(pooled))))
