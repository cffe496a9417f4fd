"""LPC-Net: both stages joined, as training and the float reference use them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.network.confidence import ConfidenceNet
from lpcnet_edge.network.config import NetworkConfig
from lpcnet_edge.network.localization import LocalizationNet


class Outputs(NamedTuple):
    """What both stages say of N tiles of H x W pixels."""

    heat_logits: Tensor  # (N, 1, H/16, W/16)
    embedding: Tensor  # (N, E, H/16, W/16)
    initial: Tensor  # (N, K, H/2, W/2) class logits before the PCM
    refined: Tensor  # (N, K, H/2, W/2) class logits after it


def normalise(pixels: Tensor) -> Tensor:
    """Camera bytes (N, H, W) or (N, H, W, 3) uint8 to (N, C, H, W) float32 by (p - 128) / 127.

    With this offset and scale an INT8 first layer at scale 1/127 loses nothing.
    """
    planes = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return (planes.to(torch.float32) - 128.0) / 127.0


def full_size(logits: Tensor, height: int, width: int) -> Tensor:
    """Class logits (N, K, H/2, W/2) brought to H x W pixels, float32, as they are trained, used and compared."""
    return functional.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)


class LpcNet(nn.Module):
    """Localization and Pixel-Confidence Network; input and outputs as in :class:`Outputs`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.localization = LocalizationNet(config)
        self.confidence = ConfidenceNet(config)

    def forward(self, x: Tensor) -> Outputs:
        heat_logits, embedding = self.localization(x)
        initial, refined = self.confidence(x, embedding)
        return Outputs(heat_logits, embedding, initial, refined)
