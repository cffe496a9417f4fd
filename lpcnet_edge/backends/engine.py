"""An engine: one ONNX stage compiled for this machine; and the two joined into a segmenter.

This is the plain way, whole arrays in and out, that building and checking use. The station's pipeline has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadInput, UsageError
from lpcnet_edge.types import Prediction

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A compiled stage."""

    runtime: str
    version: str

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name for inputs by name, as new arrays."""

    def close(self) -> None:
        """Free what it holds; closing twice is fine."""


Compile = Callable[..., Engine]


def open_engine(backend: str, model: bytes, **options: Any) -> Engine:
    """Compile an ONNX stage on a CPU backend, ``openvino`` or ``onnxruntime``; raises ``UsageError`` for others."""
    if backend == "openvino":
        from lpcnet_edge.backends.openvino import OpenVinoEngine

        return OpenVinoEngine(model, **options)
    if backend == "onnxruntime":
        from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, **options)
    raise UsageError(f"no CPU backend is called {backend!r}", mend="use openvino or onnxruntime")


class EngineSegmenter:
    """Two engines as a :class:`~lpcnet_edge.types.Segmenter`: stage 2 runs on every tile, no gate.

    Tiles are given to the engines ``batch`` at a time, the last ones filled up, so that shapes never change.
    """

    def __init__(
        self,
        localization: Engine,
        confidence: Engine,
        *,
        classes: tuple[str, ...],
        channels: int,
        tile_px: int,
        batch: int = 8,
    ) -> None:
        self.localization, self.confidence = localization, confidence
        self.classes, self.channels, self.tile_px, self.batch = classes, channels, tile_px, batch
        self._every = np.arange(batch, dtype=np.int32)

    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        """Predict tiles (N, S, S) or (N, S, S, 3) uint8; raises ``BadInput`` on other shapes."""
        shape = (self.tile_px, self.tile_px) if self.channels == 1 else (self.tile_px, self.tile_px, 3)
        if tiles.dtype != np.uint8 or tiles.shape[1:] != shape:
            raise BadInput(
                f"tiles are {tiles.dtype} of shape {tiles.shape}, this bundle takes uint8 of (N, {str(shape)[1:]}",
                mend="resize them, and convert grey to colour or back",
            )
        parts = [self._predict(tiles[start : start + self.batch]) for start in range(0, len(tiles), self.batch)]
        return Prediction(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _predict(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        count = len(tiles)
        if count < self.batch:
            filled = np.zeros((self.batch, *tiles.shape[1:]), np.uint8)
            filled[:count] = tiles
            tiles = filled
        first = self.localization.run({"pixels": tiles})
        second = self.confidence.run({"pixels": tiles, "embedding": first["embedding"], "picked": self._every})
        return (
            second["classes"][:count],
            second["confidence"][:count],
            first["heatmap"][:count, 0],
            first["score"][:count],
        )

    def close(self) -> None:
        """Close both engines."""
        self.localization.close()
        self.confidence.close()
