"""The device layer on ``cuda-bindings``: the driver's own functions, with graphs.

It retains the device's primary context, the one that TensorRT and PyTorch use in the same process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cuda.bindings import __version__, driver

from lpcnet_edge.backends.cuda.device import Event, Graph, Properties, Stream
from lpcnet_edge.backends.cuda.errors import DRIVER_MEND, NEWER_MEND, closed, cuda_error
from lpcnet_edge.backends.cuda.held import Held, HeldDevice, HeldPinned, require_addresses, require_bytes
from lpcnet_edge.errors import BackendFailed, LpcnetError, MissingDevice, MissingLibrary

_UNIFIED = driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED


def open_device(ordinal: int = 0) -> BindingsDevice:
    """Open a device by its number among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises
    ------
    MissingDevice
        There is no driver or no such device, or it cannot be used.
    MissingLibrary
        The driver is older than this ``cuda-bindings``.
    BackendFailed
        CUDA refused to make a context.
    """
    try:
        (status,) = driver.cuInit(0)  # the library is loaded at the first call
    except RuntimeError as exc:
        if "cuGetProcAddress" in str(exc):  # since CUDA 12.0
            raise MissingLibrary(f"this driver is too old for cuda-bindings {__version__}", mend=NEWER_MEND) from exc
        raise MissingDevice(f"no NVIDIA driver is here: {exc}", mend=DRIVER_MEND) from exc
    _check(status, "cuInit")
    version = _call(driver.cuDriverGetVersion)
    if version // 1000 < int(__version__.partition(".")[0]):
        offered = f"{version // 1000}.{version % 1000 // 10}"
        raise MissingLibrary(f"this driver offers CUDA {offered}, cuda-bindings is {__version__}", mend=NEWER_MEND)
    return BindingsDevice(ordinal)


class BindingsDevice(HeldDevice):
    """A device through ``cuda-bindings``; see :class:`lpcnet_edge.backends.cuda.device.Device`."""

    binding = "cuda-bindings"
    has_graphs = True

    def __init__(self, ordinal: int) -> None:
        super().__init__()
        self._device = _call(driver.cuDeviceGet, ordinal)
        self.properties = _properties(self._device)
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._device)
        try:
            self._before = _call(driver.cuCtxGetCurrent)
            self.make_current()
        except LpcnetError:
            driver.cuDevicePrimaryCtxRelease(self._device)
            raise

    def __enter__(self) -> BindingsDevice:
        return self

    def pinned(self, nbytes: int, *, mapped: bool = False, write_combined: bool = False) -> _Pinned:
        """Pinned host memory, zeroed; ``mapped``: the device reads and writes it in place, at its ``address``."""
        self.require_open()
        require_bytes(nbytes)
        return _Pinned(self, nbytes, mapped, write_combined)

    def memory(self, nbytes: int) -> _Memory:
        """Device memory."""
        self.require_open()
        require_bytes(nbytes)
        return _Memory(self, nbytes)

    def stream(self) -> _Stream:
        """A non-blocking stream."""
        self.require_open()
        return _Stream(self)

    def event(self, *, timing: bool = False) -> _Event:
        """An event whose ``wait`` blocks instead of spinning."""
        self.require_open()
        return _Event(self, timing)

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        self.require_open()
        return int(_call(driver.cuMemGetInfo)[0])

    def make_current(self) -> None:
        """Let the calling thread use the device."""
        self.require_open()
        _call(driver.cuCtxSetCurrent, self._context)

    def _enter(self) -> None:
        current = _call(driver.cuCtxGetCurrent)
        if int(current) != int(self._context):  # closed in another thread than it was opened in
            self._before = current
            self.make_current()

    def _release(self) -> None:
        try:
            _call(driver.cuCtxSetCurrent, self._before)
        finally:
            _call(driver.cuDevicePrimaryCtxRelease, self._device)


class _Pinned(HeldPinned[BindingsDevice]):
    def __init__(self, device: BindingsDevice, nbytes: int, mapped: bool, write_combined: bool) -> None:
        flags = driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0
        flags |= driver.CU_MEMHOSTALLOC_WRITECOMBINED if write_combined else 0
        super().__init__(device, nbytes, int(_call(driver.cuMemHostAlloc, nbytes, flags)))
        self.address = 0
        if mapped:
            try:
                self.address = int(_call(driver.cuMemHostGetDevicePointer, self.host_address, 0))
            except LpcnetError:
                with suppress(LpcnetError):
                    self.close()
                raise

    def _give_back(self) -> None:
        self.address = 0
        _call(driver.cuMemFreeHost, self.host_address)


class _Memory(Held[BindingsDevice]):
    kind = "memory"

    def __init__(self, device: BindingsDevice, nbytes: int) -> None:
        self.address = int(_call(driver.cuMemAlloc, nbytes))
        super().__init__(device, nbytes)

    def _give_back(self) -> None:
        address, self.address = self.address, 0
        _call(driver.cuMemFree, address)


class _Event(Held[BindingsDevice]):
    kind = "event"

    def __init__(self, device: BindingsDevice, timing: bool) -> None:
        flags = driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC
        if not timing:
            flags |= driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self._event = _call(driver.cuEventCreate, flags)
        super().__init__(device)

    @property
    def made(self) -> Any:
        """CUDA's event; ``UsageError`` once closed, for CUDA takes a stale one unasked."""
        if not self.is_open:
            raise closed("event")
        return self._event

    def done(self) -> bool:
        """Whether the work before the mark is over, without waiting; raises what that work failed with."""
        (status,) = driver.cuEventQuery(self.made)
        if status == driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        _check(status, "cuEventQuery")
        return True

    def wait(self) -> None:
        """Block the thread, without spinning, until it is."""
        _call(driver.cuEventSynchronize, self.made)

    def ms_since(self, earlier: Event) -> float:
        """Between two marks that are done, both made with ``timing=True``."""
        return float(_call(driver.cuEventElapsedTime, _made(earlier), self.made))

    def _give_back(self) -> None:
        _call(driver.cuEventDestroy, self._event)


class _Graph(Held[BindingsDevice]):
    kind = "graph"

    def __init__(self, device: BindingsDevice, captured: Any) -> None:
        self._graph = _call(driver.cuGraphInstantiate, captured, 0)
        super().__init__(device)

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it at once."""
        if not self.is_open:
            raise closed("graph")
        _call(driver.cuGraphLaunch, self._graph, _made(stream))

    def _give_back(self) -> None:
        _call(driver.cuGraphExecDestroy, self._graph)


class _Capture:
    graph: Graph


class _Stream(Held[BindingsDevice]):
    kind = "stream"

    def __init__(self, device: BindingsDevice) -> None:
        self._stream = _call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self.handle = int(self._stream)
        super().__init__(device)

    @property
    def made(self) -> Any:
        """CUDA's stream; ``UsageError`` once closed."""
        if not self.is_open:
            raise closed("stream")
        return self._stream

    def record(self, event: Event) -> None:
        """Mark what is enqueued so far."""
        _call(driver.cuEventRecord, _made(event), self.made)

    def wait_for(self, event: Event) -> None:
        """What is enqueued from here on begins after the mark; the host does not wait."""
        _call(driver.cuStreamWaitEvent, self.made, _made(event), 0)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses, of whichever kind, asynchronously: host memory must be pinned."""
        require_addresses(target, source)
        _call(driver.cuMemcpyAsync, target, source, nbytes, self.made)

    def copy_2d(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width_bytes: int, rows: int
    ) -> None:
        """Copy rows that lie ``pitch`` bytes apart."""
        require_addresses(target, source)
        rectangle = driver.CUDA_MEMCPY2D()
        rectangle.srcMemoryType = rectangle.dstMemoryType = _UNIFIED  # CUDA knows of each address what it is
        rectangle.dstDevice, rectangle.dstPitch = target, target_pitch
        rectangle.srcDevice, rectangle.srcPitch = source, source_pitch
        rectangle.WidthInBytes, rectangle.Height = width_bytes, rows
        _call(driver.cuMemcpy2DAsync, rectangle, self.made)

    @contextmanager
    def capture(self) -> Iterator[_Capture]:
        """Capture what is enqueued inside, instead of running it."""
        capture = _Capture()
        # Of this thread only: others may allocate meanwhile.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(driver.cuStreamBeginCapture, self.made, mode)
        try:
            yield capture
        except BaseException:
            if self.is_open:
                status, graph = driver.cuStreamEndCapture(self._stream)  # so that the stream serves again
                if not status and int(graph):
                    driver.cuGraphDestroy(graph)
            raise
        graph = _call(driver.cuStreamEndCapture, self.made)
        try:
            capture.graph = _Graph(self.device, graph)
        except LpcnetError:
            driver.cuGraphDestroy(graph)
            raise
        _call(driver.cuGraphDestroy, graph)

    def synchronize(self) -> None:
        """Wait for everything; for opening and closing only."""
        _call(driver.cuStreamSynchronize, self.made)

    def _give_back(self) -> None:
        self.handle = 0
        _call(driver.cuStreamDestroy, self._stream)


def _made(of_this_binding: Any) -> Any:
    """The library's object in an event or a stream of a device of this file."""
    return of_this_binding.made


def _call(function: Any, *arguments: Any) -> Any:
    """What a function of the driver returns besides its status, which is raised unless it is success."""
    try:
        status, *values = function(*arguments)
    except RuntimeError as exc:  # a function that the driver does not have
        raise MissingLibrary(f"{function.__name__} is not in this driver: {exc}", mend=NEWER_MEND) from exc
    except ValueError as exc:  # an error that is newer than the library
        raise BackendFailed(f"{function.__name__} gave an error that cuda-bindings {__version__} does not know: {exc}",
                            mend="take the cuda-bindings of the driver's CUDA") from exc  # fmt: skip
    _check(status, function.__name__)
    return values[0] if len(values) == 1 else values


def _check(status: Any, call: str) -> None:
    if status:
        _, text = driver.cuGetErrorString(status)
        raise cuda_error(status.name, (text or b"unknown").decode(errors="replace"), call)


def _properties(device: Any) -> Properties:
    attributes = driver.CUdevice_attribute

    def ask(attribute: Any) -> int:
        return int(_call(driver.cuDeviceGetAttribute, attribute, device))

    def ask_if_known(attribute: Any) -> int:
        status, value = driver.cuDeviceGetAttribute(attribute, device)
        return 0 if status else int(value)

    major = ask(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
    minor = ask(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
    name: bytes = _call(driver.cuDeviceGetName, 256, device)
    return Properties(
        name=name.split(b"\0")[0].decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        integrated=bool(ask(attributes.CU_DEVICE_ATTRIBUTE_INTEGRATED)),
        maps_host=bool(ask(attributes.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)),
        memory_bytes=int(_call(driver.cuDeviceTotalMem, device)),
        multiprocessors=ask_if_known(attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        clock_khz=ask_if_known(attributes.CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        memory_clock_khz=ask_if_known(attributes.CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
        memory_bus_bits=ask_if_known(attributes.CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
    )
