"""Both stages from camera bytes to bytes, as engines have them, for whatever runs modules of torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.bundle.manifest import TensorSpec
from lpcnet_edge.network.config import STRIDE_PX
from lpcnet_edge.network.folding import folded
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet, normalise


class LocalizationStage(nn.Module):
    """Stage 1 with its convolutions in ``dtype``: ``pixels`` (N, S, S[, 3]) uint8 to ``embedding`` and ``score``,
    float32."""

    def __init__(self, network: LpcNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        self.network = _as(folded(network).localization, dtype)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        logits, embedding = self.network(normalise(pixels).to(self._dtype))
        score = torch.sigmoid(logits.float()).amax(dim=(1, 2, 3))
        return {"embedding": embedding.float(), "score": score}


class ConfidenceStage(nn.Module):
    """Stage 2 with its convolutions in ``dtype`` and the PCM in float32: ``pixels`` and ``embedding`` of N tiles and
    the indices ``picked`` (M,) int32 to ``classes`` and ``confidence`` (M, S, S) uint8, as
    :class:`~lpcnet_edge.network.inference.FloatNetwork` defines them."""

    def __init__(self, network: LpcNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        plain = folded(network).confidence
        self.encoder, self.decoder = _as(plain.encoder, dtype), _as(plain.decoder, dtype)
        self.pcm = plain.pcm

    def forward(self, pixels: Tensor, embedding: Tensor, picked: Tensor) -> dict[str, Tensor]:
        x = normalise(pixels.index_select(0, picked)).to(self._dtype)
        known = embedding.index_select(0, picked).to(self._dtype)
        logits = self.decoder(self.encoder(x, known)).float()
        refined = self.pcm(logits) if self.pcm is not None else logits
        doubled = functional.interpolate(refined, scale_factor=2.0, mode="bilinear", align_corners=False)
        best, classes = torch.softmax(doubled, dim=1).max(dim=1)
        return {"classes": classes.to(torch.uint8), "confidence": (best * 255.0).round().to(torch.uint8)}


def tensor_specs(network: FloatNetwork) -> dict[str, TensorSpec]:
    """What goes in and out of both stages, by name."""
    config, side = network.network.config, network.tile_px
    plane = (side, side) if config.channels == 1 else (side, side, 3)
    cells = side // STRIDE_PX
    return {
        spec.name: spec
        for spec in (
            TensorSpec("pixels", "uint8", ("N", *plane)),
            TensorSpec("embedding", "float32", ("N", config.localization_widths[-1], cells, cells)),
            TensorSpec("score", "float32", ("N",)),
            TensorSpec("picked", "int32", ("M",)),
            TensorSpec("classes", "uint8", ("M", side, side)),
            TensorSpec("confidence", "uint8", ("M", side, side)),
        )
    }


def _as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In a type, and in the layout that tensor cores read."""
    return module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
