"""A plan on a device: TensorRT's and TensorRT-RTX's runtime as a :class:`~lpcnet_edge.backends.cuda.stage.Stage`.

Every binding has an execution context of its own, for a CUDA graph holds what one context enqueued for one set of
shapes and addresses. Contexts are made without working memory; those of one lane share the lane's. Order of calls, as
the documentation of the runtime asks for it: profile, shapes, addresses, working memory, then execution, the first of
which must not be captured.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from lpcnet_edge.backends.cuda.device import Buffer, Device, Stream
from lpcnet_edge.backends.tensorrt import Library
from lpcnet_edge.backends.tensorrt_engine import Shape, check_interface, fitting, profiles_of, shapes_for
from lpcnet_edge.backends.tensorrt_kernels import Kernels
from lpcnet_edge.backends.tensorrt_recorder import Recorded, make_recorder, runtime_error
from lpcnet_edge.backends.tensorrt_versions import Context, Engine, ErrorRecorder, Runtime, RuntimeConfig
from lpcnet_edge.bundle.manifest import StageSpec
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import BackendFailed, BadArtifact, LpcnetError, UsageError

log = logging.getLogger(__name__)

_RUN_MEND = "restart the process; lpcnet-edge selftest BUNDLE --backend NAME says whether the machine computes right"


@dataclass
class _Lane:
    """Memory of bindings that are never at work at one time: what kernels work in, and outputs nobody asked for."""

    work: Buffer | None = None
    unasked: dict[str, Buffer] = field(default_factory=dict)

    def close(self) -> None:
        for buffer in (self.work, *self.unasked.values()):
            if buffer is not None:
                buffer.close()


class BoundTensorRtStage:
    """A context with its shapes, addresses and working memory, ready to be enqueued."""

    _context: Context | None

    def __init__(self, stage: TensorRtStage, context: Context) -> None:
        self._stage, self._context = stage, context

    def enqueue(self, stream: Stream) -> None:
        """As :meth:`~lpcnet_edge.backends.cuda.stage.BoundStage.enqueue`; the first call compiles and allocates."""
        context: Context | None = self._context
        if context is None:
            raise RuntimeError("the stage was closed")
        if not context.execute_async_v3(stream.handle):
            raise self._stage.failure("when it runs")

    def close(self) -> None:
        """As :meth:`~lpcnet_edge.backends.cuda.stage.BoundStage.close`; nothing it enqueued may still be at work."""
        self._context = None


class TensorRtStage:
    """A plan, loaded on a device.

    Parameters
    ----------
    library
        That the plan was built with, in this very version: the caller has made sure of that, and of the card.
    plan
        Verified bytes: deserialising a plan is running native code.
    spec
        What the bundle says of the stage; an engine with other inputs or outputs is refused.
    device
        On which working memory is allocated, and so counted. What the library allocates by itself (weights, kernels,
        the contexts' own state) is not in the device's ledger.
    what
        For messages, such as ``the localization plan of BUNDLE``.
    rebuild
        The command that builds the plan anew.
    cache, name
        This machine's cache and the stage's name: there compiled kernels are kept, where the library compiles any.

    Raises
    ------
    BadArtifact
        The library refuses the plan, or the engine in it is of another stage.
    StaleCache, UnsafeCache
        The kernels kept must not be used.
    MissingDevice, BackendFailed
        There is no GPU, or not enough of its memory.
    """

    largest: int
    _runtime: Runtime | None = None
    _engine: Engine | None = None
    _config: RuntimeConfig | None = None
    _recorder: ErrorRecorder | None = None

    def __init__(
        self,
        library: Library,
        plan: bytes,
        spec: StageSpec,
        device: Device,
        *,
        what: str,
        rebuild: str,
        cache: Path | None = None,
        name: str = "stage",
    ) -> None:
        self._library, self._spec, self._device = library, spec, device
        self._what, self._rebuild = what, rebuild
        self._recorded = Recorded()
        self._kernels: Kernels | None = None
        self._lanes: dict[int, _Lane] = {}
        self._bound: list[BoundTensorRtStage] = []
        self._stream: Stream | None = None
        try:
            device.make_current()
            with library.messages.captured():
                engine: Engine = self._deserialised(plan)
                if library.branch.cache == "runtime":
                    self._configure(engine, cache, name)
            self._stream = device.stream()
        except BaseException:
            self.close()
            raise

    def bind(self, addresses: Mapping[str, int], rows: Mapping[str, int], lane: int = 0) -> BoundTensorRtStage:
        """As :meth:`~lpcnet_edge.backends.cuda.stage.Stage.bind`.

        Outputs without an address get memory of the lane. Raises ``UsageError`` for an unknown name, an input without
        an address or rows, or more rows than :attr:`largest`; ``BackendFailed`` for what the library refuses.
        """
        engine: Engine | None = self._engine
        if engine is None or self._stream is None:
            raise RuntimeError("the stage was closed")
        names = [spec.name for spec in (*self._spec.inputs, *self._spec.outputs)]
        for name in addresses:
            if name not in names:
                raise UsageError(f"{self._what} has no tensor '{name}'", mend=suggest(name, names))
        for spec in self._spec.inputs:
            if not addresses.get(spec.name):
                raise UsageError(f"{self._what}: no address for '{spec.name}'", mend="give one of device memory")
        shapes = shapes_for(self._spec, rows, self._what)
        profile = self._profiles.index(fitting(self._profiles, shapes, self._what))
        self.keep()  # what earlier bindings have compiled by now
        self._recorded.take()  # what was refused before has been told
        with self._library.messages.captured():
            context: Context = self._new_context(engine, profile, self._stream)
            for spec in self._spec.inputs:
                if not context.set_input_shape(spec.name, shapes[spec.name]):
                    raise self.failure(f"at the shape {shapes[spec.name]} of '{spec.name}'")
            for spec in (*self._spec.inputs, *self._spec.outputs):
                address = addresses.get(spec.name) or self._unasked(lane, spec.name, shapes[spec.name])
                if not context.set_tensor_address(spec.name, address):
                    raise self.failure(f"at the address of '{spec.name}'")
            self._check_shapes(context, shapes)
            work = self._work(engine, lane)
            if work is not None:
                context.set_device_memory(work.address, work.nbytes)
            self._stream.synchronize()  # the profile's own copies
            if self._config is not None and not context.is_stream_capturable(self._stream.handle):
                log.warning("%s cannot be captured into a CUDA graph; %s", self._what, self._rebuild)
            for warning in self._library.messages.warnings:
                log.warning("%s: %s", self._what, warning.strip())
        bound = BoundTensorRtStage(self, context)
        self._bound.append(bound)
        return bound

    def keep(self) -> None:
        """Store the kernels compiled so far for the next start, where the library compiles any and there is a cache.

        Done by every :meth:`bind` and by :meth:`close`; after a warm-up too, a process that is killed loses nothing.
        """
        if self._kernels is not None:
            self._kernels.store()

    def failure(self, doing: str) -> LpcnetError:
        """The error of a call that said no, from what the library reported since the last one."""
        lines = self._recorded.take() or self._library.messages.errors
        return runtime_error(self._library, lines, f"{doing} ({self._what})", mend=_RUN_MEND)

    def close(self) -> None:
        """As :meth:`~lpcnet_edge.backends.cuda.stage.Stage.close`; nothing that was enqueued may still be at work."""
        self.keep()
        for bound in self._bound:
            bound.close()
        self._bound.clear()
        # A context must go before its engine and the kernels that it runs, and the engine before its runtime.
        self._config = self._kernels = self._engine = self._runtime = self._recorder = None
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _deserialised(self, plan: bytes) -> Engine:
        trt = self._library.trt
        try:
            runtime: Runtime = trt.Runtime(self._library.logger)
        except (TypeError, RuntimeError) as exc:  # how the bindings say that there is no CUDA device
            raise self._refused() from exc
        recorder: ErrorRecorder = make_recorder(trt, self._recorded)
        runtime.error_recorder = recorder
        self._runtime, self._recorder = runtime, recorder
        engine: Engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._refused()
        self._engine = engine
        check_interface(engine, self._spec, self._what, self._rebuild)
        self._profiles = profiles_of(engine, self._spec)
        self.largest = max(profile.most_rows for profile in self._profiles)
        return engine

    def _refused(self) -> LpcnetError:
        lines = self._recorded.take() or self._library.messages.errors
        return runtime_error(self._library, lines, f"to load {self._what}", mend=self._rebuild, kind=BadArtifact)

    def _configure(self, engine: Engine, cache: Path | None, name: str) -> None:
        """Kernels for every shape compiled when it is first enqueued: a graph must not hold one that is replaced."""
        trt = self._library.trt
        config: RuntimeConfig = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if cache is not None:
            self._kernels = Kernels(config, cache, name)
        self._config = config

    def _new_context(self, engine: Engine, profile: int, stream: Stream) -> Context:
        alone = self._library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: Context = engine.create_execution_context(alone if self._config is None else self._config)
        if context is None:
            raise self.failure("when it makes a context")
        # Only an engine's first context has a profile of itself.
        try:
            taken = context.set_optimization_profile_async(profile, stream.handle)
        except RuntimeError as exc:  # how TensorRT's bindings say no; those of TensorRT-RTX give False
            raise self.failure(f"at optimization profile {profile}") from exc
        if not taken:
            raise self.failure(f"at optimization profile {profile}")
        return context

    def _check_shapes(self, context: Context, shapes: Mapping[str, Shape]) -> None:
        try:
            missing = [str(name) for name in context.infer_shapes()]
        except RuntimeError as exc:
            raise self.failure("when it infers shapes") from exc
        if missing:
            raise BackendFailed(f"{self._what}: {', '.join(missing)} without a shape", mend=self._rebuild)
        for spec in self._spec.outputs:
            found = tuple(int(size) for size in context.get_tensor_shape(spec.name))
            if found != shapes[spec.name]:
                raise BadArtifact(
                    f"{self._what} gives '{spec.name}' of shape {found}, {shapes[spec.name]} was expected",
                    mend=self._rebuild,
                )

    def _work(self, engine: Engine, lane: int) -> Buffer | None:
        """The lane's working memory: for the largest shapes of any profile, so that its address never changes."""
        ours = self._lanes.setdefault(lane, _Lane())
        nbytes = int(engine.device_memory_size_v2)
        if ours.work is None and nbytes:
            ours.work = self._device.memory(nbytes)
        return ours.work

    def _unasked(self, lane: int, name: str, shape: Shape) -> int:
        """The address of an output that nobody asked for: one for the largest batch serves all bindings of the lane."""
        ours = self._lanes.setdefault(lane, _Lane()).unasked
        if name not in ours:
            kind = next(spec.dtype for spec in self._spec.outputs if spec.name == name)
            ours[name] = self._device.memory(self.largest * prod(shape[1:]) * np.dtype(kind).itemsize)
        return ours[name].address
