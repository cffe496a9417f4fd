"""What each quantised layer costs: the noise of its input, and what it does to the outputs by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import place, quantisable
from lpcnet_edge.build.restore import sensitivity
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.causes import reference_stages, stages_of, stated_ranges
from lpcnet_edge.check.opening import has_reference
from lpcnet_edge.check.scales import LEVELS, tensor_uses
from lpcnet_edge.errors import UsageError
from lpcnet_edge.types import Image

TILES = 8


@dataclass(frozen=True)
class Layer:
    """One quantised convolution.

    Attributes
    ----------
    layer, stage
        Its name and stage.
    tensor
        The noisiest of the quantised tensors that it reads, or that are added to what it gives.
    output_sqnr_db
        At the stage's logits, with only this layer quantised; what the layer does to the outputs.
    input_sqnr_db, saturated
        Of that tensor: the noise of its own quantisation, and the share 0..1 beyond its range.
    """

    layer: str
    stage: str
    tensor: str
    output_sqnr_db: float
    input_sqnr_db: float
    saturated: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; an SQNR without noise is null."""
        row = asdict(self)
        for key in ("output_sqnr_db", "input_sqnr_db"):
            row[key] = round(row[key], 2) if np.isfinite(row[key]) else None
        row["saturated"] = round(self.saturated, 6)
        return row


def layer_table(bundle: Bundle, tiles: Sequence[Image], progress: Callable[[int, int], None] | None) -> list[Layer]:
    """Every quantised layer with the scales of the bundle's own files, the worst for the outputs first.

    Raises ``UsageError`` for a bundle that is not INT8 or has no float pair.
    """
    manifest = bundle.manifest
    if manifest.precision != "int8" or not has_reference(bundle):
        what = f"is {manifest.precision}" if manifest.precision != "int8" else "has no reference/ pair"
        raise UsageError(f"--layers: {bundle.path} {what}", mend="leave --layers out, or build it with --int8")
    stages, reference = stages_of(bundle), reference_stages(bundle)
    scales = {stage: found.activations for stage, found in stages.items()}
    chosen = list(tiles[:TILES])
    uses = tensor_uses(reference, scales, chosen)
    models = {stage: onnx.load_model_from_string(data) for stage, data in reference.items()}
    ranges = {name: scale * LEVELS for own in scales.values() for name, scale in own.items()}
    graphs = {stage: from_model(model) for stage, model in models.items()}
    int8 = {  # as the files have it: an earlier build may have left layers in float that the rules now allow
        stage: {node.name for node in quantisable(graph) if node.inputs[1].name in stages[stage].weights}
        for stage, graph in graphs.items()
    }
    stated = {**stated_ranges(bundle), **ranges}
    order = sensitivity(OnnxPair(**models), stated, np.stack(chosen), progress, only=set().union(*int8.values()))
    table = []
    for stage, graph in graphs.items():
        convs = set(place(graph).convs)
        for layer in int8[stage]:
            own = [name for name in place(graph, convs - {layer}).tensors if name in uses]
            if own:
                tensor = min(own, key=lambda name: uses[name].sqnr_db)
                table.append(Layer(layer, stage, tensor, order[layer], uses[tensor].sqnr_db, uses[tensor].saturated))
    return sorted(table, key=lambda row: row.output_sqnr_db)
