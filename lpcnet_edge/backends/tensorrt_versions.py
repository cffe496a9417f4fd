"""The versions of TensorRT and TensorRT-RTX that are served, and all that differs between them: the one such table.

Code that uses either module asks its branch; it compares no versions and probes for no names. A test holds every name
our code takes from the modules against the listed versions, and lets only ``own_names`` be absent elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from lpcnet_edge.errors import MissingLibrary, UsageError

ModuleName = Literal["tensorrt", "tensorrt_rtx"]

# Objects of the modules, which have no types of their own: ``Any`` to the type checker, while the test of names reads
# from the annotation which class an attribute must exist in. So every such object is annotated where it is made.
Module: TypeAlias = Annotated[Any, "the module"]
Builder: TypeAlias = Annotated[Any, "Builder"]
BuilderConfig: TypeAlias = Annotated[Any, "IBuilderConfig"]
HostMemory: TypeAlias = Annotated[Any, "IHostMemory"]
Logger: TypeAlias = Annotated[Any, "ILogger"]
Network: TypeAlias = Annotated[Any, "INetworkDefinition"]
OnnxParser: TypeAlias = Annotated[Any, "OnnxParser"]
OptimizationProfile: TypeAlias = Annotated[Any, "IOptimizationProfile"]
ParserError: TypeAlias = Annotated[Any, "ParserError"]
ProgressMonitor: TypeAlias = Annotated[Any, "IProgressMonitor"]
ErrorCode: TypeAlias = Annotated[Any, "ErrorCode"]
Tensor: TypeAlias = Annotated[Any, "ITensor"]
DataType: TypeAlias = Annotated[Any, "DataType"]
TimingCache: TypeAlias = Annotated[Any, "ITimingCache"]
Runtime: TypeAlias = Annotated[Any, "Runtime"]
Engine: TypeAlias = Annotated[Any, "ICudaEngine"]
Context: TypeAlias = Annotated[Any, "IExecutionContext"]
RuntimeConfig: TypeAlias = Annotated[Any, "IRuntimeConfig"]
RuntimeCache: TypeAlias = Annotated[Any, "IRuntimeCache"]
ErrorRecorder: TypeAlias = Annotated[Any, "IErrorRecorder"]
TensorIOMode: TypeAlias = Annotated[Any, "TensorIOMode"]
TensorLocation: TypeAlias = Annotated[Any, "TensorLocation"]


@dataclass(frozen=True)
class Branch:
    """A run of versions of one module that are used in one way.

    Attributes
    ----------
    module, since, below
        The module, its first version served, and the first one not served any more.
    cache
        What makes the next start faster: ``timing``, the builder's measurements, kept between builds; or ``runtime``,
        the kernels that an engine compiles when it first runs. With TensorRT-RTX a timing cache has no effect and
        forces a query of the GPU, which would end builds ahead (NVIDIA's documentation). Where kernels are compiled on
        the device, contexts are made from a runtime configuration that says when, and a plan can be captured into a
        CUDA graph only if it was built to allocate nothing by itself.
    compute_capabilities
        The cards it builds for ahead, without a GPU. Empty: it builds for the GPU of its own machine only.
    own_names
        Names used in this branch that the others may lack, as ``Class`` or ``Class.member``.
    """

    module: ModuleName
    since: tuple[int, ...]
    below: tuple[int, ...]
    cache: Literal["timing", "runtime"]
    compute_capabilities: tuple[str, ...] = ()
    own_names: frozenset[str] = frozenset()


BRANCHES = (
    Branch("tensorrt", since=(10, 3), below=(12,), cache="timing"),
    Branch(
        "tensorrt_rtx",
        since=(1, 7),
        below=(2,),
        cache="runtime",
        compute_capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
        own_names=frozenset(
            {
                "BuilderFlag.REQUIRE_USER_ALLOCATION",
                "ComputeCapability",
                "DynamicShapesKernelSpecializationStrategy",
                "IBuilderConfig.num_compute_capabilities",
                "IBuilderConfig.set_compute_capability",
                "ICudaEngine.create_runtime_config",  # since 10.16 in tensorrt too, with less to set
                "IExecutionContext.is_stream_capturable",
                "IRuntimeCache",
                "IRuntimeConfig",
            }
        ),
    ),
)


def branch_of(module: str, version: str) -> Branch:
    """The branch of a module's version; raises ``UsageError`` for another module, ``MissingLibrary`` for a version
    that no branch serves."""
    known = [branch for branch in BRANCHES if branch.module == module]
    if not known:
        raise UsageError(f"'{module}' is no module that builds plans", mend="use tensorrt or tensorrt_rtx")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:4])
    for branch in known:
        if branch.since <= numbers < branch.below:
            return branch
    served = " or ".join(f"{_dotted(b.since)} to below {_dotted(b.below)}" for b in known)
    raise MissingLibrary(
        f"{module} {version} is installed, and {served} is served",
        mend=f"install a version of {module} in that range",
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
