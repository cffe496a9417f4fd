"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lpcnet_edge.backends.cpu import CONFIDENCE
from lpcnet_edge.backends.doubling import double_by_rows
from lpcnet_edge.backends.lowering import lower_for_cpu, with_channels_last, without_picking
from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.backends.signal_stack import signal_stack_kept
from lpcnet_edge.errors import BadArtifact
from lpcnet_edge.machine import multiplies_bfloat16

silence_libraries()

import openvino  # noqa: E402

_LOGITS = "stage2/decoder/classify"
"""Where the quantised trunk of stage 2 ends and its float tail begins."""

PRECISION = "INFERENCE_PRECISION_HINT"
"""Set for every model, or OpenVINO takes bfloat16 wherever the processor has it."""

_NO_SNIPPETS = {"SNIPPETS_MODE": "DISABLE"}
_BFLOAT16 = {PRECISION: "bf16"}


def is_quantised(proto: onnx.ModelProto) -> bool:
    """Whether a stage has Q/DQ nodes."""
    return any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def is_half(proto: onnx.ModelProto) -> bool:
    """Whether a stage is typed in float16."""
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)


def in_bfloat16(precision: str) -> bool:
    """Whether float stages of a bundle's ``precision`` are computed in bfloat16 on this processor."""
    return precision == "fp16" and multiplies_bfloat16()


def settings_for(*, threads: int, streams: int = 1) -> dict[str, Any]:
    """OpenVINO's settings; 0 threads leave the number to it."""
    settings: dict[str, Any] = {PRECISION: "f32", "NUM_STREAMS": streams}
    return {**settings, "INFERENCE_NUM_THREADS": threads} if threads else settings


def parts_of(
    proto: onnx.ModelProto, *, quantised: bool, bfloat16: bool = False
) -> list[tuple[onnx.ModelProto, dict[str, Any]]]:
    """The models that a stage is compiled as, in their order, each with settings of its own.

    A quantised second stage becomes two, of which the second takes the first one's output. OpenVINO's code generator
    for elementwise chains takes the additions away from INT8 convolutions that could have fused them, so it is off for
    the trunk; the tail (PCM, arg max) is nothing but such chains, and there it is on. With ``bfloat16`` a float stage
    is cut there, too, and its trunk computed in that. The logits are doubled as
    :func:`~lpcnet_edge.backends.doubling.double_by_rows` says.
    """
    proto = double_by_rows(proto)
    settings = _NO_SNIPPETS if quantised else _BFLOAT16 if bfloat16 else None
    if settings is None:
        return [(proto, {})]
    if not any(_LOGITS in node.output for node in proto.graph.node):
        return [(proto, settings)]
    extractor = onnx.utils.Extractor(proto)
    inputs, outputs = ([value.name for value in values] for values in (proto.graph.input, proto.graph.output))
    trunk, tail = extractor.extract_model(inputs, [_LOGITS]), extractor.extract_model([_LOGITS], outputs)
    return [(trunk, settings), (tail, {})]


def slot_parts(model: bytes, stage: str, precision: str) -> list[tuple[onnx.ModelProto, dict[str, Any]]]:
    """:func:`parts_of` of a bundle's stage of this precision, as the pipeline's slots run it.

    Stage 2 computes every tile it is given, and the embedding between the stages has its channels last:
    (N, S/16, S/16, E).
    """
    proto = onnx.load_model_from_string(model)
    quantised = is_quantised(proto)
    if stage == CONFIDENCE:
        proto = without_picking(proto)
    proto = with_channels_last(proto)
    lowered = lower_for_cpu(proto) if quantised else proto
    return parts_of(lowered, quantised=quantised, bfloat16=in_bfloat16(precision))


class OpenVinoEngine:
    """One stage on OpenVINO, from its canonical ONNX file, lowered here and compiled as :func:`parts_of` says.

    A file typed in float16 is computed in bfloat16 where the processor multiplies in that.

    Parameters
    ----------
    model
        The serialised ONNX model.
    threads
        Inference threads; 0 leaves the choice to OpenVINO.
    cache
        Folder for compiled models; must be trusted, since what is in it is run.
    shapes
        Static shapes by input name; without them N and M are dynamic.
    lower
        Compute activations behind a ReLU as uint8.
    precision
        Of the bundle that the stage is from; ``fp16`` has it computed as a file typed in float16 is.

    Raises ``BadArtifact`` where OpenVINO refuses the model.
    """

    runtime = "openvino"
    version = openvino.__version__.split("-")[0]

    @signal_stack_kept()
    def __init__(
        self,
        model: bytes,
        *,
        threads: int = 0,
        cache: Path | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        lower: bool = True,
        precision: str = "",
    ) -> None:
        proto = onnx.load_model_from_string(model)
        quantised = is_quantised(proto)
        if quantised and lower:
            proto = lower_for_cpu(proto)
        settings = {**settings_for(threads=threads), "PERFORMANCE_HINT": "LATENCY"}
        if cache is not None:
            settings["CACHE_DIR"] = str(cache)
        self.outputs = [value.name for value in proto.graph.output]
        try:
            self._core = openvino.Core()
            self._models: list[Any] = []
            narrow = in_bfloat16("fp16" if is_half(proto) else precision)
            for part, extra in parts_of(proto, quantised=quantised, bfloat16=narrow):
                if self._models:
                    shapes = {part.graph.input[0].name: self._models[-1].output(0).get_partial_shape()}
                self._models.append(self._compile(part, {**settings, **extra}, shapes))
        except RuntimeError as exc:
            reason = str(exc).strip().splitlines()[-1]
            raise BadArtifact(
                f"OpenVINO refuses the {proto.graph.name} stage: {reason}",
                mend="build it again with this version of the library (lpcnet-edge doctor), or name another --backend",
            ) from exc
        self._requests = [model.create_infer_request() for model in self._models]

    def _compile(self, proto: onnx.ModelProto, settings: Mapping[str, Any], shapes: Mapping[str, Any] | None) -> Any:
        graph = self._core.read_model(proto.SerializeToString())
        if shapes:
            graph.reshape(dict(shapes))
        return self._core.compile_model(graph, "CPU", dict(settings))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name, as new arrays."""
        first, *rest = self._requests
        first.infer(dict(feeds), share_inputs=True)
        for request in rest:
            request.set_input_tensor(first.get_output_tensor())
            request.infer()
        last = self._requests[-1]
        return {name: np.array(last.get_tensor(name).data) for name in self.outputs}

    def executed(self) -> list[dict[str, str]]:
        """What OpenVINO made of the graph: of every layer its name, type, primitive, precision and the nodes in it."""
        rows = []
        for model in self._models:
            for node in model.get_runtime_model().get_ordered_ops():
                info = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
                rows.append({"name": node.get_friendly_name(), **info})
        return rows

    def close(self) -> None:
        """Free the compiled models; closing twice is fine."""
        self._requests, self._models = [], []
