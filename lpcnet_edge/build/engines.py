"""The network under construction as segmenters: float, or quantised with given ranges and layers in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lpcnet_edge.backends.engine import EngineSegmenter, open_engine
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.export import OnnxPair
from lpcnet_edge.build.quantise import place, quantise


class Engines:
    """Compiles forms of one float ONNX pair on one CPU backend.

    Parameters
    ----------
    pair
        The float pair.
    classes, channels, tile_px
        Of the network.
    backend
        ``openvino`` or ``onnxruntime``.
    batch
        Tiles at a time; engines have static shapes.
    cache
        Folder for compiled models, this user's own.
    """

    def __init__(
        self,
        pair: OnnxPair,
        *,
        classes: tuple[str, ...],
        channels: int,
        tile_px: int,
        backend: str,
        batch: int,
        cache: Path | None,
    ) -> None:
        self.pair, self.classes, self.channels, self.tile_px = pair, classes, channels, tile_px
        self.backend, self.batch, self.cache = backend, batch, cache
        self._reference: EngineSegmenter | None = None

    def reference(self) -> EngineSegmenter:
        """The float pair, compiled once."""
        if self._reference is None:
            self._reference = self.compile(self.pair)
        return self._reference

    def quantised_pair(self, ranges: Mapping[str, float], keep_float: Collection[str] = ()) -> OnnxPair:
        """Both stages as INT8 with Q/DQ, the layers named in float."""
        stages = []
        for model in (self.pair.localization, self.pair.confidence):
            own = set(place(from_model(model)).convs) & set(keep_float)
            stages.append(quantise(model, ranges, own))
        return OnnxPair(*stages)

    def quantised(self, ranges: Mapping[str, float], keep_float: Collection[str] = ()) -> EngineSegmenter:
        """As :meth:`quantised_pair`, compiled."""
        return self.compile(self.quantised_pair(ranges, keep_float))

    def compile(self, pair: OnnxPair) -> EngineSegmenter:
        """Any pair of this network as a segmenter."""
        side, size = self.tile_px, self.batch
        pixels = (size, side, side) if self.channels == 1 else (size, side, side, 3)
        width = next(v for v in pair.localization.graph.output if v.name == "embedding").type.tensor_type.shape.dim[1]
        embedding = (size, width.dim_value, side // 16, side // 16)
        shapes: dict[str, Any] = {"pixels": pixels, "embedding": embedding, "picked": (size,)}
        first, second = (
            open_engine(
                self.backend,
                model.SerializeToString(),
                cache=self.cache,
                shapes={value.name: shapes[value.name] for value in model.graph.input},
            )
            for model in (pair.localization, pair.confidence)
        )
        return EngineSegmenter(first, second, classes=self.classes, channels=self.channels, tile_px=side, batch=size)
