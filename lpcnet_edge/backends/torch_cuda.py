"""Stages run by torch on a CUDA device: on our streams, with our buffers, captured in our graphs.

For a machine with PyTorch and no TensorRT. The tensors of a binding are views of the addresses that it is bound to.
What torch allocates in between comes from a pool of its own for each lane: torch's allocator hands out the memory of
tensors that are gone, and a graph that was captured goes on using it, so that nobody else may get that memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lpcnet_edge.backends.cuda.device import Stream
from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.backends.cuda.open import open_device
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.slots import SIZES, CudaBackend
from lpcnet_edge.bundle.manifest import TensorSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BackendFailed, BadArtifact, DeviceLost, LpcnetError, MissingDevice

NAME = "torch-cuda"
LARGEST = 32

_POOLS = Lock()
"""Held by who allocates from a pool or destroys one: torch ends the process where a pool is destroyed while a thread is
at work in any, as when a backend that failed is closed in the background while the next one is made."""

_LOST = (  # cudaGetErrorString of errors after which the process cannot use the device any more, as in cuda/errors.py
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "not supported on global/shared address space",
    "hardware stack error",
    "uncorrectable",
    "context is destroyed",
    "access of peer GPU memory",
    "tensor memory not completely freed",
    "MPS client has been terminated",
    "an async error has occured in external entity",  # CUDA's own spelling
    "CUDA error: unknown error",
)


class TorchStage:
    """A module as a :class:`~lpcnet_edge.backends.cuda.stage.Stage`.

    Parameters
    ----------
    module
        Takes the inputs as keywords and gives the outputs by name, in the types of their specs; it must never make the
        host wait for the device. It is moved to the device.
    inputs, outputs
        The tensors that bindings give addresses for. Outputs beyond these are dropped.
    largest
        The largest batch.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], largest: int = LARGEST
    ) -> None:
        self.largest = largest
        self._specs = {spec.name: spec for spec in (*inputs, *outputs)}
        self._inputs = {spec.name for spec in inputs}
        self._pools: dict[int, torch.cuda.MemPool] = {}
        self._streams: dict[int, torch.cuda.ExternalStream] = {}
        with translated("when it is loaded"):
            self._module: nn.Module | None = module.eval().requires_grad_(False).to("cuda")
            # torch may still cast on its own stream, for which ours do not wait. Not for the whole device, here and
            # below: others in this process may be capturing, which that would end.
            torch.cuda.current_stream().synchronize()

    def bind(self, addresses: Mapping[str, int], rows: Mapping[str, int], lane: int = 0) -> BoundTorchStage:
        """As in the protocol. Tensors lie in device memory, or in pinned host memory that is mapped."""
        with translated("when it is bound"):
            tensors = {name: self._tensor(name, address, rows[name]) for name, address in addresses.items()}
            if lane not in self._pools:
                self._pools[lane] = torch.cuda.MemPool()
        inputs = {name: tensor for name, tensor in tensors.items() if name in self._inputs}
        outputs = {name: tensor for name, tensor in tensors.items() if name not in self._inputs}
        return BoundTorchStage(self, inputs, outputs, lane)

    def run(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], lane: int, stream: Stream) -> None:
        """Enqueue the module, and the copies of what it made to where it belongs."""
        if self._module is None:
            raise RuntimeError("the stage was closed")
        ours = self._streams.get(stream.handle)
        if ours is None:
            ours = self._streams[stream.handle] = torch.cuda.ExternalStream(stream.handle)  # type: ignore[no-untyped-call]
        with (
            translated("when it runs"),
            torch.inference_mode(),
            torch.cuda.stream(ours),
            _POOLS,
            torch.cuda.use_mem_pool(self._pools[lane]),
            # Nothing is tried out, which would take a minute for all sizes; and float32 is float32, not TF32.
            torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
        ):
            made: Mapping[str, Tensor] = self._module(**inputs)
            for name, target in outputs.items():
                # By a kernel: a copy between devices, which torch would enqueue, is not defined to mapped host memory.
                torch.mul(made[name], 1, out=target)

    def close(self) -> None:
        """Give back weights and pools; twice is fine. Its bindings are closed by then, and their graphs gone."""
        if self._module is None:
            return
        self._module = None
        self._streams.clear()
        pools = list(self._pools.values())
        self._pools.clear()
        with translated("when it is closed"):
            try:
                torch.cuda.current_stream().synchronize()
            except RuntimeError:
                # A lost device frees nothing, and over that the destructor of torch's pools aborts the process.
                for pool in pools:
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))
                raise
            with _POOLS:
                pools.clear()
                torch.cuda.empty_cache()

    def _tensor(self, name: str, address: int, rows: int) -> Tensor:
        spec = self._specs[name]
        shape = (rows, *(int(size) for size in spec.shape[1:]))
        tensor: Tensor = torch.as_tensor(_Memory(address, shape, spec.dtype), device="cuda")
        if tensor.data_ptr() != address:
            raise BackendFailed(
                f"torch copied '{name}' instead of using it in place", mend="report this, with versions"
            )
        return tensor


class BoundTorchStage:
    """A stage with its tensors; see :class:`~lpcnet_edge.backends.cuda.stage.BoundStage`."""

    def __init__(
        self, stage: TorchStage, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], lane: int
    ) -> None:
        self._stage: TorchStage | None = stage
        self._inputs, self._outputs, self._lane = inputs, outputs, lane

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream; after the first, what torch allocates comes from the lane's pool."""
        if self._stage is None:
            raise RuntimeError("the binding was closed")
        self._stage.run(self._inputs, self._outputs, self._lane, stream)

    def close(self) -> None:
        """Let go of the tensors."""
        self._stage, self._inputs, self._outputs = None, {}, {}


class _Memory:
    """An address as torch takes it; see the CUDA Array Interface, version 3."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


@contextmanager
def translated(when: str) -> Iterator[None]:
    """torch's errors as ours."""
    try:
        yield
    except LpcnetError:
        raise
    except torch.cuda.OutOfMemoryError as exc:
        raise BackendFailed(
            f"the GPU has no memory left {when}: {_last_line(exc)}", mend="fewer slots, or end what else uses the GPU"
        ) from exc
    except RuntimeError as exc:
        error, mend = BackendFailed, "try graphs: off, or another --backend"
        if any(text in str(exc) for text in _LOST):
            error, mend = DeviceLost, "run it in a process of its own: isolate: true"
        elif "no kernel image" in str(exc):
            mend = "install a torch that is built for this GPU, or use another --backend"
        raise error(f"torch failed {when}: {_last_line(exc)}", mend=mend) from exc


def _last_line(exc: Exception) -> str:
    """torch's errors begin with what happened, and go on with advice on debugging it."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def open_torch_cuda(
    bundle: Bundle, settings: CudaSettings | None = None, *, half: bool = True, sizes: Sequence[int] = SIZES
) -> CudaBackend:
    """Both stages of a bundle, as its canonical ONNX files say, the trunk in float16.

    Parameters
    ----------
    half
        False computes all of it in float32.

    Raises
    ------
    MissingDevice
        torch sees no GPU, or there is none.
    MissingLibrary
        The binding is not installed.
    BadArtifact
        A stage has operators that our graphs do not have.
    BackendFailed
        CUDA or torch refused something.
    """
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise MissingDevice(
            f"torch {torch.__version__}, {built}, sees no GPU",
            mend="install the torch that fits this driver; lpcnet-edge doctor says what is here",
        )
    import onnx  # here, so that a network that was never exported runs where there is no onnx

    from lpcnet_edge.backends.torch_graph import TorchGraph

    settings = settings or CudaSettings()
    device = open_device(settings.binding)
    with ExitStack() as scope:
        scope.callback(device.close)
        stages: dict[str, TorchStage] = {}
        for name, spec in bundle.manifest.stages.items():
            try:
                graph = TorchGraph(onnx.load_model_from_string(bundle.read(spec.file)), half=half)
            except BadArtifact as exc:
                raise type(exc)(f"{bundle.path}: {spec.file}: {exc.message}", mend=exc.mend) from exc
            stages[name] = TorchStage(graph, spec.inputs, spec.outputs, sizes[-1])
            scope.callback(stages[name].close)
        scope.pop_all()  # the backend owns them, also where it cannot be made
    words = "float16" if half else "float32"
    kind = f"INT8 steps in {words}" if bundle.manifest.precision == "int8" else words
    return CudaBackend(
        device,
        stages,
        TileShape.of(bundle.manifest),
        settings,
        name=NAME,
        about=f"{NAME}: torch {torch.__version__} on {device.properties.name}, {kind}",
        sizes=sizes,
    )
