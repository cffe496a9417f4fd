"""An ONNX file to a plan, by the builder of TensorRT or TensorRT-RTX: strongly typed, one profile, no calibrator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from lpcnet_edge.backends.tensorrt import Library, load_library
from lpcnet_edge.backends.tensorrt_errors import build_error, parse_error
from lpcnet_edge.backends.tensorrt_network import ShapeRange, checked_ranges, read_model, tensor_specs
from lpcnet_edge.backends.tensorrt_progress import Progress, Watch, make_monitor, run_interruptibly
from lpcnet_edge.backends.tensorrt_versions import (
    Builder,
    BuilderConfig,
    HostMemory,
    Network,
    OnnxParser,
    OptimizationProfile,
    TimingCache,
)
from lpcnet_edge.bundle.manifest import TensorSpec
from lpcnet_edge.errors import UsageError
from lpcnet_edge.files import write_atomically

WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True)
class Plan:
    """A serialised engine: native code for one device and one library version.

    Attributes
    ----------
    data
        What the builder gave, bit by bit.
    inputs, outputs
        As the library's network has them, in its order.
    seconds
        How long parsing and building took.
    notes
        The library's warnings, and a timing cache that could not be used.
    """

    data: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    seconds: float
    notes: tuple[str, ...]


def build_plan(
    onnx_bytes: bytes,
    *,
    module: str,
    profiles: Mapping[str, ShapeRange],
    compute_capability: str | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Build a plan; types are the file's own (strong typing), and nothing is deserialised.

    Parameters
    ----------
    onnx_bytes
        A model of opset 19 or 20, quantised (if at all) by signed, symmetric Q/DQ.
    module
        ``tensorrt`` or ``tensorrt_rtx``.
    profiles
        The shapes of every input that has a dynamic axis.
    compute_capability
        Such as ``8.9``; None is this machine's GPU. Where the library builds ahead, no GPU is needed to name one.
    workspace_bytes
        Limit of the memory that a layer may use for its intermediate results.
    timing_cache
        A file that keeps the builder's measurements from build to build, made when absent.
    progress
        See :data:`~lpcnet_edge.backends.tensorrt_progress.Progress`; what it raises ends the build and is raised here.

    Raises
    ------
    MissingLibrary, MissingDevice
        The module, or the GPU it would build for, is not there.
    UsageError
        A profile, a compute capability or a timing cache that does not suit the file or the library.
    BadArtifact
        The bytes are no ONNX model, or one that does not stand alone.
    BuildFailed
        The parser or the builder refused, with the node where it named one.
    """
    library = load_library(module)
    check_target(library, compute_capability)
    if timing_cache is not None and library.branch.cache != "timing":
        raise UsageError(f"{library.module} has no use for a timing cache", mend="leave it out")
    request = _Request(onnx_bytes, read_model(onnx_bytes), profiles, compute_capability, workspace_bytes, timing_cache)
    watch = Watch(progress)

    def work() -> Plan:
        with library.messages.captured():
            return _build(library, request, watch)

    return run_interruptibly(work, watch.cancelled)


@dataclass(frozen=True)
class _Request:
    """The arguments of :func:`build_plan`, checked as far as they can be without the parser."""

    onnx_bytes: bytes
    model: onnx.ModelProto
    profiles: Mapping[str, ShapeRange]
    compute_capability: str | None
    workspace_bytes: int
    timing_cache: Path | None


def _build(library: Library, request: _Request, watch: Watch) -> Plan:
    trt, started = library.trt, time.perf_counter()
    try:
        builder: Builder = trt.Builder(library.logger)
    except (TypeError, RuntimeError) as exc:  # how the bindings say that there is no CUDA device
        raise build_error(library, "when it starts") from exc
    network: Network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: OnnxParser = trt.OnnxParser(network, library.logger)
    if not parser.parse(request.onnx_bytes):
        raise parse_error(library, parser)
    inputs = tensor_specs(library, [network.get_input(i) for i in range(network.num_inputs)], request.model.graph.input)
    outputs = tensor_specs(
        library, [network.get_output(i) for i in range(network.num_outputs)], request.model.graph.output
    )

    config: BuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    config.progress_monitor = make_monitor(trt, watch)
    if library.branch.compute_capabilities:
        name = "CURRENT" if request.compute_capability is None else f"SM{request.compute_capability.replace('.', '')}"
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[name], 0)
    if library.branch.cache == "runtime":
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else no CUDA graph can capture it
    ranges = checked_ranges(inputs, request.profiles)
    if ranges:
        profile: OptimizationProfile = builder.create_optimization_profile()
        for input_name, (smallest, best, largest) in ranges.items():
            profile.set_shape(input_name, smallest, best, largest)
        if config.add_optimization_profile(profile) < 0:
            raise build_error(library, "in its optimization profile")
    notes = [_load_timing_cache(library, config, request.timing_cache)] if request.timing_cache else []

    memory: HostMemory = builder.build_serialized_network(network, config)
    if watch.failure is not None:
        raise watch.failure
    if memory is None:
        raise build_error(library, "when it builds")
    if request.timing_cache is not None:
        cache: TimingCache = config.get_timing_cache()
        write_atomically(request.timing_cache, bytes(cache.serialize()))
    notes += [warning.strip() for warning in library.messages.warnings]
    return Plan(bytes(memory), inputs, outputs, time.perf_counter() - started, tuple(filter(None, notes)))


def check_target(library: Library, compute_capability: str | None) -> None:
    """Raise ``UsageError`` for a compute capability that the library does not build for."""
    ahead = library.branch.compute_capabilities
    if compute_capability is not None and ahead and compute_capability not in ahead:
        raise UsageError(
            f"{library.module} {library.version} does not build for compute capability {compute_capability}",
            mend=f"it builds for {', '.join(ahead)}; for other GPUs use tensorrt on the machine itself",
        )
    if compute_capability is not None and not ahead:
        raise UsageError(
            f"{library.module} builds for the GPU of its own machine, not for a compute capability by name",
            mend="leave the compute capability out, or use tensorrt_rtx",
        )


def _load_timing_cache(library: Library, config: BuilderConfig, path: Path) -> str:
    """Take up what earlier builds measured; returns what is to be said, or nothing."""
    stored = path.read_bytes() if path.exists() else b""
    cache: TimingCache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, False):
        return ""
    fresh: TimingCache = config.create_timing_cache(b"")
    config.set_timing_cache(fresh, False)
    library.messages.errors.clear()
    return f"{path.name} was measured with another version or GPU: measuring anew"
