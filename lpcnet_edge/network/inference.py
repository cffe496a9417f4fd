"""The float network as a segmenter: camera bytes in, class and confidence bytes out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lpcnet_edge.errors import BadInput
from lpcnet_edge.network.model import LpcNet, full_size, normalise
from lpcnet_edge.types import Prediction


class FloatNetwork:
    """A trained network in float32, ready to predict; implements :class:`~lpcnet_edge.types.Segmenter`.

    What it computes is the definition that engines are compared with: normalise, both stages, bilinear doubling of the
    refined logits, softmax, arg max; the confidence is the largest probability, rounded to 0..255.
    """

    def __init__(self, network: LpcNet, tile_px: int, *, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tile_px = tile_px
        self.classes = network.config.classes
        self.channels = network.config.channels

    @torch.inference_mode()
    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        """Predict tiles (N, S, S) or (N, S, S, 3) uint8; S a multiple of 32. Raises ``BadInput`` on other shapes."""
        wanted = 3 if self.channels == 1 else 4
        if tiles.dtype != np.uint8 or tiles.ndim != wanted or (wanted == 4 and tiles.shape[3] != 3):
            raise BadInput(
                f"tiles are {tiles.dtype} of shape {tiles.shape}, this network has {self.channels} channel(s)",
                mend=f"give uint8 of shape (N, S, S{', 3' if wanted == 4 else ''})",
            )
        if tiles.shape[1] % 32 or tiles.shape[2] % 32:
            raise BadInput(f"tiles of {tiles.shape[1]} x {tiles.shape[2]} px", mend="use sides of a multiple of 32 px")
        pixels = normalise(torch.from_numpy(np.ascontiguousarray(tiles)).to(self.device))
        outputs = self.network(pixels.contiguous(memory_format=torch.channels_last))
        heat = torch.sigmoid(outputs.heat_logits[:, 0])
        logits = full_size(outputs.refined, *tiles.shape[1:3])
        best, classes = torch.softmax(logits, dim=1).max(dim=1)
        return Prediction(
            classes=classes.to(torch.uint8).cpu().numpy(),
            confidence=(best * 255.0).round().to(torch.uint8).cpu().numpy(),
            heatmap=heat.cpu().numpy(),
            score=heat.flatten(1).amax(dim=1).cpu().numpy(),
        )
