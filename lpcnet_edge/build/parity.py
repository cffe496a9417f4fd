"""Does the float ONNX pair compute what torch does: checked on real tiles at every build."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BuildFailed
from lpcnet_edge.types import Segmenter

LEAST_CLASS_AGREEMENT = 0.9999
LARGEST_HEATMAP_ERROR = 1e-4


@dataclass(frozen=True)
class Parity:
    """Share of pixels of equal class, the heatmap's largest absolute difference, and over how many tiles."""

    class_agreement: float
    heatmap_error: float
    tiles: int


def check_parity(torch_network: Segmenter, exported: Segmenter, tiles: NDArray[np.uint8]) -> Parity:
    """Compare both on tiles; raises ``BuildFailed`` where the classes or the heatmap differ more than is allowed."""
    ours, theirs = exported.predict(tiles), torch_network.predict(tiles)
    found = Parity(
        class_agreement=float((ours.classes == theirs.classes).mean()),
        heatmap_error=float(np.abs(ours.heatmap - theirs.heatmap).max()),
        tiles=len(tiles),
    )
    if found.class_agreement < LEAST_CLASS_AGREEMENT or not found.heatmap_error <= LARGEST_HEATMAP_ERROR:
        raise BuildFailed(
            f"the exported ONNX does not compute what torch does: {100 * found.class_agreement:.3f} % of the classes "
            f"agree over {found.tiles} tiles (least {100 * LEAST_CLASS_AGREEMENT:g} %), the heatmap differs by up to "
            f"{found.heatmap_error:.2g} (largest {LARGEST_HEATMAP_ERROR:g})",
            mend="report it with the weights; another version of torch or onnxscript may export them rightly",
        )
    return found
