"""What the tensors that will be quantised look like on the calibration set: one pass, a histogram each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.histogram import Histogram
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import place
from lpcnet_edge.types import Image

Progress = Callable[[int, int], None]

BATCH = 8


def observe(
    pair: OnnxPair, tiles: Iterable[Image], total: int, progress: Progress | None = None
) -> dict[str, Histogram]:
    """Histograms of every tensor that a quantised form of ``pair`` needs a range for, by name.

    ``tiles`` are uint8 of the network's size. Memory is bounded by one batch's activations. The float network is
    computed by ONNX Runtime.
    """
    stages = {"localization": pair.localization, "confidence": pair.confidence}
    wanted = {stage: place(from_model(model)).tensors for stage, model in stages.items()}
    engines = {
        stage: open_engine("onnxruntime", model.SerializeToString(), extra_outputs=_extra(model, wanted[stage]))
        for stage, model in stages.items()
    }
    histograms = {name: Histogram(name) for names in wanted.values() for name in names}
    done = 0
    for batch in batches(tiles, BATCH):
        first = engines["localization"].run({"pixels": batch})
        picked = np.arange(len(batch), dtype=np.int32)
        second = engines["confidence"].run({"pixels": batch, "embedding": first["embedding"], "picked": picked})
        for stage, found in (("localization", first), ("confidence", second)):
            for name in wanted[stage]:
                histograms[name].update(found[name])
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return histograms


def batches(tiles: Iterable[Image], size: int) -> Iterator[NDArray[np.uint8]]:
    """Tiles stacked ``size`` at a time, the last batch smaller."""
    source = iter(tiles)
    while chunk := list(islice(source, size)):
        yield np.stack(chunk)


def _extra(model: object, names: Iterable[str]) -> list[str]:
    own = {value.name for value in model.graph.output}  # type: ignore[attr-defined]
    return [name for name in names if name not in own]
