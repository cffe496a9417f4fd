"""Golden tiles: a few inputs and what the canonical files make of them, for the self-test of every machine."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import open_engine

GOLDEN_TILES = 6
GOLDEN_FILE = "golden/golden.npz"


def golden_files(stages: Mapping[str, bytes], tiles: NDArray[np.uint8]) -> dict[str, bytes]:
    """The golden file of a bundle: tiles spread over ``tiles``, and their outputs.

    ``golden/golden.npz`` holds ``tiles`` (G, S, S[, 3]) uint8, ``heatmap`` (G, 1, S/16, S/16) float32, ``score`` (G,)
    float32, ``classes`` and ``confidence`` (G, S, S) uint8. The outputs are the canonical ONNX files' in ONNX Runtime
    with optimisations off: what is written is what is meant, on any machine.
    """
    spread = np.linspace(0, len(tiles) - 1, min(GOLDEN_TILES, len(tiles))).round().astype(int)
    chosen = np.ascontiguousarray(tiles[spread])
    first = open_engine("onnxruntime", stages["localization.onnx"], optimise=False).run({"pixels": chosen})
    picked = np.arange(len(chosen), dtype=np.int32)
    second = open_engine("onnxruntime", stages["confidence.onnx"], optimise=False).run(
        {"pixels": chosen, "embedding": first["embedding"], "picked": picked}
    )
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        tiles=chosen,
        heatmap=first["heatmap"],
        score=first["score"],
        classes=second["classes"],
        confidence=second["confidence"],
    )
    return {GOLDEN_FILE: buffer.getvalue()}
