"""TensorRT's runtime, played: it computes what it is told to, and insists on the documented order of calls.

A plan is JSON here. Names are those of the real bindings and no others: a test holds them against the lists of every
version, and what is set on an object must exist on its class. What is ours begins with an underscore.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from lpcnet_edge.backends.tensorrt import Library, Messages
from lpcnet_edge.backends.tensorrt_versions import branch_of

MEMORY = 4096
DTYPES = {"uint8": "UINT8", "float32": "FLOAT", "int32": "INT32"}


@dataclass
class World:
    """What the played library and device share.

    ``compute`` does the work of an execution: stage, addresses, rows by tensor, the stream's number.
    """

    device: Any = None
    deserialised: int = 0
    calls: list[str] = field(default_factory=list)
    capturing: Container[int] = field(default_factory=set)
    refuse: dict[str, str] = field(default_factory=dict)  # method -> what it reports when it refuses
    driver: bytes = b"driver 580"
    capturable: bool = True
    configs: list[Any] = field(default_factory=list)
    compute: Callable[[str, dict[str, int], dict[str, int], int], None] = lambda *_: None


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, UINT8 = range(5)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY, EAGER, NONE = range(3)


class ErrorCodeTRT(enum.Enum):
    SUCCESS, UNSPECIFIED_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT = range(4)


class IErrorRecorder:
    pass


class _Strict:
    """An object whose class has every name that is set on it."""

    def __setattr__(self, name: str, value: Any) -> None:
        assert name[0] == "_" or hasattr(type(self), name), f"{type(self).__name__} has no '{name}'"
        super().__setattr__(name, value)


class IRuntimeCache(_Strict):
    def __init__(self, world: World) -> None:
        self._world, self._kernels = world, set[str]()

    def deserialize(self, blob: bytes) -> bool:
        driver, _, kernels = blob.partition(b"|")
        if driver != self._world.driver:
            return False
        self._kernels = set(filter(None, kernels.decode().split(",")))
        return True

    def serialize(self) -> bytearray:
        return bytearray(self._world.driver + b"|" + ",".join(sorted(self._kernels)).encode())


class IRuntimeConfig(_Strict):
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self, world: World) -> None:
        self._world, self._cache = world, None
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        world.configs.append(self)

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._world)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class IExecutionContext(_Strict):
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self._engine, self._config, self._world = engine, config, engine._world
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        self._enqueued = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle
        assert not self._shapes, "a profile forgets the shapes that were set before"
        self._profile = profile_index
        if not self._engine._says_yes("set_optimization_profile_async"):
            raise RuntimeError("Error in set optimization profile async.")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None, "a context beyond the first has no profile of itself"
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = tuple(shape)
        fits = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        assert fits, f"{name} {shape} is outside the profile"
        return self._engine._says_yes("set_input_shape")

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert self._shapes.keys() == self._engine._names("INPUT"), "shapes come before addresses"
        self._addresses[name] = memory
        return self._engine._says_yes("set_tensor_address")

    def infer_shapes(self) -> list[str]:
        return sorted(self._engine._names("INPUT") - self._shapes.keys())

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        declared = self._engine._tensor(name)["axes"]
        sizes = {
            axis: self._shapes[tensor["name"]][place]
            for tensor in self._engine._io
            if tensor["name"] in self._shapes
            for place, axis in enumerate(tensor["axes"])
        }
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in declared)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        assert memory % 256 == 0
        assert memory in self._world.device.live, "memory that the device does not hold"
        self._memory = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle, "the default stream"
        engine = self._engine
        assert self._addresses.keys() == {tensor["name"] for tensor in engine._io}, "every tensor needs an address"
        assert self._memory is not None or not engine.device_memory_size_v2, "no working memory"
        assert self._memory is None or self._memory[0] in self._world.device.live, "working memory was given back"
        if stream_handle in self._world.capturing:
            assert self._enqueued, "captured before it was warmed up"
            lazy = DynamicShapesKernelSpecializationStrategy.LAZY
            assert self._config is None or self._config.dynamic_shapes_kernel_specialization_strategy is not lazy
        if not engine._says_yes("execute_async_v3"):
            return False
        self._enqueued += 1
        if self._config is not None and self._config._cache is not None:
            self._config._cache._kernels.add("x".join(map(str, self._shapes["pixels"])))
        rows = {name: self.get_tensor_shape(name)[0] for name in self._addresses}
        self._world.compute(engine._stage, self._addresses, rows, stream_handle)
        self._world.calls.append(f"{engine._stage} {sorted(self._shapes.items())}")
        return True


class RtxContext(IExecutionContext):
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        try:
            return super().set_optimization_profile_async(profile_index, stream_handle)
        except RuntimeError:
            return False

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream
        return self._world.capturable


class ICudaEngine(_Strict):
    def __init__(self, world: World, recorder: Any, plan: dict[str, Any]) -> None:
        self._world, self._recorder, self._stage = world, recorder, plan["stage"]
        self._io, self._profiles, self._memory = plan["io"], plan["profiles"], plan["memory"]

    @property
    def num_io_tensors(self) -> int:
        return len(self._io)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def device_memory_size_v2(self) -> int:
        return int(self._memory)

    def get_tensor_name(self, index: int) -> str:
        return str(self._io[index]["name"])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self._tensor(name)["mode"]]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[DTYPES[self._tensor(name)["dtype"]]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation[self._tensor(name).get("location", "DEVICE")]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [axis if isinstance(axis, int) else -1 for axis in self._tensor(name)["axes"]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        sizes = self._profiles[profile_index]
        axes = self._tensor(name)["axes"]
        return [tuple(axis if isinstance(axis, int) else size for axis in axes) for size in sizes]

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED, "it would allocate by itself"
        return IExecutionContext(self, None) if self._says_yes("create_execution_context") else None

    def _tensor(self, name: str) -> dict[str, Any]:
        return next(tensor for tensor in self._io if tensor["name"] == name)

    def _names(self, mode: str) -> set[str]:
        return {tensor["name"] for tensor in self._io if tensor["mode"] == mode}

    def _says_yes(self, method: str) -> bool:
        if method in self._world.refuse:
            self._recorder.report_error(ErrorCodeTRT.INTERNAL_ERROR, self._world.refuse[method])
            return False
        return True


class RtxEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._world)

    def create_execution_context(self, runtime_config: Any = None) -> IExecutionContext | None:
        assert runtime_config._strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return RtxContext(self, runtime_config) if self._says_yes("create_execution_context") else None


CLASSES: dict[str, dict[str, type]] = {
    "tensorrt": {
        "ICudaEngine": ICudaEngine,
        "IErrorRecorder": IErrorRecorder,
        "IExecutionContext": IExecutionContext,
        "TensorIOMode": TensorIOMode,
        "TensorLocation": TensorLocation,
        "DataType": DataType,
        "ErrorCodeTRT": ErrorCodeTRT,
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
    },
}
CLASSES["tensorrt_rtx"] = {
    **CLASSES["tensorrt"],
    "ICudaEngine": RtxEngine,
    "IExecutionContext": RtxContext,
    "IRuntimeCache": IRuntimeCache,
    "IRuntimeConfig": IRuntimeConfig,
    "DynamicShapesKernelSpecializationStrategy": DynamicShapesKernelSpecializationStrategy,
}


def played(module: str, version: str, world: World) -> Library:
    """The library, played."""

    class Runtime(_Strict):
        error_recorder: Any = None

        def __init__(self, logger: object) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            world.deserialised += 1
            try:
                plan = json.loads(serialized_engine)
            except ValueError:
                self.error_recorder.report_error(
                    ErrorCodeTRT.UNSPECIFIED_ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
                    "header.magicTag == kEXPECTED_MAGIC_TAG failed. In throwUnlessHeaderOk at /_src/runtime.cpp:48)",
                )
                return None
            engine = CLASSES[module]["ICudaEngine"](world, self.error_recorder, plan)
            assert isinstance(engine, ICudaEngine)
            return engine if engine._says_yes("deserialize_cuda_engine") else None

    trt = SimpleNamespace(**CLASSES[module], Runtime=Runtime)
    return Library(module, version, branch_of(module, version), trt, object(), Messages())
