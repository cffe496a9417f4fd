"""What the tensors that will be quantised look like on the calibration set: one pass, a histogram each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.histogram import Histogram
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import place
from lpcnet_edge.types import Image

Progress = Callable[[int, int], None]

Activations: TypeAlias = list[tuple[str, NDArray[Any]]]
"""Tensor by tensor, stage 1's before stage 2's: one name may stand in both."""

BATCH = 8


def observe(
    pair: OnnxPair, tiles: Iterable[Image], total: int, progress: Progress | None = None
) -> dict[str, Histogram]:
    """Histograms of every tensor that a quantised form of ``pair`` needs a range for, by name.

    ``tiles`` are uint8 of the network's size. Memory is bounded by three batches' activations: while those of one are
    counted, ONNX Runtime computes the float network on the next.
    """
    stages = {"localization": pair.localization, "confidence": pair.confidence}
    wanted = {stage: place(from_model(model)).tensors for stage, model in stages.items()}
    engines = {
        stage: open_engine("onnxruntime", model.SerializeToString(), extra_outputs=_extra(model, wanted[stage]))
        for stage, model in stages.items()
    }
    histograms = {name: Histogram(name) for names in wanted.values() for name in names}

    def activations(batch: NDArray[np.uint8]) -> Activations:
        first = engines["localization"].run({"pixels": batch})
        picked = np.arange(len(batch), dtype=np.int32)
        second = engines["confidence"].run({"pixels": batch, "embedding": first["embedding"], "picked": picked})
        found = {"localization": first, "confidence": second}
        return [(name, found[stage][name]) for stage in stages for name in wanted[stage]]

    done = 0
    with ThreadPoolExecutor(1, "activations") as ahead:
        for size, found in _one_ahead(ahead, activations, batches(tiles, BATCH)):
            for name, values in found:
                histograms[name].update(values)
            done += size
            if progress is not None:
                progress(done, total)
    return histograms


def _one_ahead(
    pool: ThreadPoolExecutor,
    compute: Callable[[NDArray[np.uint8]], Activations],
    source: Iterable[NDArray[np.uint8]],
) -> Iterator[tuple[int, Activations]]:
    """Size and result of each batch in order, the next one begun before a result is handed out."""
    coming: tuple[int, Future[Activations]] | None = None
    for batch in source:
        begun = len(batch), pool.submit(compute, batch)
        if coming is not None:
            yield coming[0], coming[1].result()
        coming = begun
    if coming is not None:
        yield coming[0], coming[1].result()


def batches(tiles: Iterable[Image], size: int) -> Iterator[NDArray[np.uint8]]:
    """Tiles stacked ``size`` at a time, the last batch smaller."""
    source = iter(tiles)
    while chunk := list(islice(source, size)):
        yield np.stack(chunk)


def _extra(model: object, names: Iterable[str]) -> list[str]:
    own = {value.name for value in model.graph.output}  # type: ignore[attr-defined]
    return [name for name in names if name not in own]
