"""The network under construction as segmenters: float, or quantised with given ranges and layers in float."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx

from lpcnet_edge.backends.engine import EngineSegmenter, open_engine
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.pair import OnnxPair
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
    threads
        Inference threads; 0 leaves the choice to the runtime.
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
        threads: int = 0,
    ) -> None:
        self.pair, self.classes, self.channels, self.tile_px = pair, classes, channels, tile_px
        self.backend, self.batch, self.cache, self.threads = backend, batch, cache, threads
        self._reference: EngineSegmenter | None = None

    def of(self, pair: OnnxPair) -> Engines:
        """The same for another float pair of the same network."""
        other = copy.copy(self)
        other.pair, other._reference = pair, None
        return other

    def reference(self) -> EngineSegmenter:
        """The float pair, compiled once."""
        if self._reference is None:
            self._reference = self.compile(self.pair)
        return self._reference

    def quantised_tensors(self) -> set[str]:
        """Names of the tensors whose ranges INT8 needs."""
        stages = (self.pair.localization, self.pair.confidence)
        return {name for model in stages for name in place(from_model(model)).tensors}

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
        first, second = (
            open_engine(
                self.backend,
                model.SerializeToString(),
                cache=self.cache,
                shapes=self.shapes(model),
                threads=self.threads,
            )
            for model in (pair.localization, pair.confidence)
        )
        return EngineSegmenter(
            first, second, classes=self.classes, channels=self.channels, tile_px=self.tile_px, batch=self.batch
        )

    def shapes(self, model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
        """The static shapes of a stage's inputs: N and M are the batch."""
        return {
            value.name: tuple(dim.dim_value or self.batch for dim in value.type.tensor_type.shape.dim)
            for value in model.graph.input
        }
