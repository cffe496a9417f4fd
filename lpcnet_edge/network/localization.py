"""Stage 1, the Defect Localization Module: where on a tile something may be wrong."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.network.blocks import Conv, Merge
from lpcnet_edge.network.config import NetworkConfig

_PRIOR_LOGIT = -4.0  # a cell is a defect in 1.8 % of cases before anything is learned: keeps the first losses small


class LocalizationNet(nn.Module):
    """Light fully convolutional network at stride 16.

    Input: normalised tiles (N, C, H, W) float32, H and W multiples of 32. Output: heatmap logits
    (N, 1, H/16, W/16) and the embedding (N, E, H/16, W/16), non-negative. A sigmoid makes the heatmap of the logits;
    the score of a tile is the largest heatmap value.

    That a light network localises first, and that its features are embedded into the second stage, is the paper's
    (Sensors 2025, 25(15), 4548); this network is ours.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        w2, w4, w8, w16, w32, embedding = config.localization_widths
        self.stem = Conv(config.channels, w2, stride=2)
        self.down4 = Conv(w2, w4, stride=2)
        self.down8 = Conv(w4, w8, stride=2)
        self.down16 = Conv(w8, w16, stride=2)
        self.block16 = Conv(w16, w16, relu=False)
        self.down32 = Conv(w16, w32, stride=2)
        self.block32 = Conv(w32, embedding)
        self.merge = Merge(w16, embedding, embedding)
        self.head = nn.Conv2d(embedding, 1, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, _PRIOR_LOGIT)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down16(self.down8(self.down4(self.stem(x))))
        x = functional.relu(self.block16(x) + x)
        embedding = self.merge(self.block32(self.down32(x)), x)
        return self.head(embedding), embedding
