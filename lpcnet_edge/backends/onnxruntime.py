"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from lpcnet_edge.backends.lowering import lower_for_cpu
from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.errors import BadArtifact

silence_libraries()

import onnxruntime  # noqa: E402

_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """One stage on ONNX Runtime.

    Parameters
    ----------
    model
        The serialised ONNX model.
    threads
        Threads within an operator; 0 leaves the choice to ONNX Runtime.
    optimise
        Without it the canonical file is computed node by node, as written: what other runtimes are compared with.
    lower
        Compute activations behind a ReLU as uint8.
    extra_outputs
        Tensors to give back besides the model's outputs.

    Raises ``BadArtifact`` where ONNX Runtime refuses the model.
    """

    runtime = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(
        self,
        model: bytes,
        *,
        threads: int = 0,
        optimise: bool = True,
        lower: bool = True,
        cache: Path | None = None,  # ONNX Runtime compiles in no time; taken so that backends are called alike
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        extra_outputs: Sequence[str] = (),
    ) -> None:
        proto = onnx.load_model_from_string(model)
        if lower and optimise:
            proto = lower_for_cpu(proto, clip_bytes=True)
        known = {info.name: info for info in proto.graph.value_info}
        proto.graph.output.extend(known[name] for name in extra_outputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # the library has a dozen exception classes with no common base but this
            reason = str(exc).strip().splitlines()[-1]
            raise BadArtifact(
                f"ONNX Runtime refuses the {proto.graph.name} stage: {reason}",
                mend="build it again with this version of the library (lpcnet-edge doctor), or name another --backend",
            ) from exc
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def run_into(self, feeds: Mapping[str, NDArray[Any]], results: Mapping[str, NDArray[Any]]) -> None:
        """Run, writing the outputs named in ``results`` straight into those contiguous arrays."""
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, feeds), (binding.bind_output, results)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)

    def close(self) -> None:
        self._session = None
