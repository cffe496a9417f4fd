"""The device layer on PyCUDA, for stations and code that hold a PyCUDA context; it has no graphs.

A context that is current in the calling thread is used as it is; without one the device's primary context is retained.
"""

from __future__ import annotations

import ctypes
import re
import threading
from contextlib import AbstractContextManager, suppress
from typing import Any

import numpy as np
from pycuda import driver

from lpcnet_edge.backends.cuda.device import Capture, Event, Properties
from lpcnet_edge.backends.cuda.errors import closed, cuda_error
from lpcnet_edge.backends.cuda.held import Held, HeldDevice, HeldPinned, require_addresses, require_bytes
from lpcnet_edge.errors import BackendFailed, LpcnetError, UsageError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA does not name
_REFUSED = re.compile(r"(?P<call>\w+) failed: (?P<text>.*)", re.DOTALL)
_libcuda = ctypes.CDLL("libcuda.so.1")  # loaded already: PyCUDA links to it
_pushed = threading.local()  # ends with its thread


def open_device(ordinal: int = 0) -> PycudaDevice:
    """Open a device by its number among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises
    ------
    MissingDevice
        There is no such device, or it cannot be used.
    UsageError
        A context of another device is current in this thread.
    BackendFailed
        CUDA refused to make a context.
    """
    _call(driver.init)
    return PycudaDevice(ordinal)


class PycudaDevice(HeldDevice):
    """A device through PyCUDA; see :class:`lpcnet_edge.backends.cuda.device.Device`."""

    binding = "pycuda"
    has_graphs = False

    def __init__(self, ordinal: int) -> None:
        super().__init__()
        device = _call(driver.Device, ordinal)
        self.properties = _properties(device)
        current = _call(driver.Context.get_current)
        self._is_ours = current is None
        if current is not None and _call(driver.Context.get_device) != device:
            raise UsageError(
                f"a PyCUDA context of another device than {ordinal} is current in this thread",
                mend=f"pop it first, or open device {_ordinal(_call(driver.Context.get_device))}",
            )
        self._number, self._thread = ordinal, threading.get_ident()
        self._context = _call(device.retain_primary_context) if current is None else current
        try:
            self.make_current()
        except LpcnetError:
            self._release()
            raise

    def __enter__(self) -> PycudaDevice:
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
        return int(_call(driver.mem_get_info)[0])

    def make_current(self) -> None:
        """Let the calling thread use the device, until that ends."""
        self.require_open()
        current = _call(driver.Context.get_current)
        if current is None or current != self._context:
            _call(self._context.push)
            vars(_pushed).setdefault("contexts", []).append(_Pushed(self, self._context))

    def _enter(self) -> None:
        self.make_current()

    def _release(self) -> None:
        contexts = vars(_pushed).get("contexts", [])
        try:
            for pushed in [pushed for pushed in contexts if pushed.device is self]:
                contexts.remove(pushed)
                _call(pushed.pop)
        finally:
            if self._is_ours:
                self._detach()

    def _detach(self) -> None:
        before = _driver_context()
        _call(self._context.detach)
        if threading.get_ident() != self._thread:  # there PyCUDA forgets the context without releasing it
            _libcuda.cuDevicePrimaryCtxRelease_v2(self._number)
        elif _driver_context() != before:  # it pushes a primary context to release it, and leaves it there
            _libcuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


class _Pushed:
    """A context pushed in this thread. PyCUDA aborts the process when a thread ends with one: it is popped before."""

    def __init__(self, device: PycudaDevice, context: Any) -> None:
        self.device, self._context = device, context
        self._current, self._pop = driver.Context.get_current, driver.Context.pop  # modules may be gone at the end

    def pop(self) -> None:
        context, self._context = self._context, None
        current = self._current()  # this also forgets contexts that were released meanwhile
        if context is not None and current is not None and current == context:
            self._pop()

    def __del__(self) -> None:
        self.pop()


class _Pinned(HeldPinned[PycudaDevice]):
    def __init__(self, device: PycudaDevice, nbytes: int, mapped: bool, write_combined: bool) -> None:
        flags = driver.host_alloc_flags.DEVICEMAP if mapped else 0
        flags |= driver.host_alloc_flags.WRITECOMBINED if write_combined else 0
        array = _call(driver.pagelocked_empty, nbytes, np.uint8, "C", flags)
        self._allocation = array.base
        super().__init__(device, nbytes, array.ctypes.data)
        self.address = 0
        if mapped:
            try:
                self.address = int(_call(self._allocation.get_device_pointer))
            except LpcnetError:
                with suppress(LpcnetError):
                    self.close()
                raise

    def _give_back(self) -> None:
        self.address = 0
        _call(self._allocation.free)


class _Memory(Held[PycudaDevice]):
    kind = "memory"

    def __init__(self, device: PycudaDevice, nbytes: int) -> None:
        self._allocation = _call(driver.mem_alloc, nbytes)
        self.address = int(self._allocation)
        super().__init__(device, nbytes)

    def _give_back(self) -> None:
        self.address = 0
        _call(self._allocation.free)


class _Event(Held[PycudaDevice]):
    kind = "event"

    def __init__(self, device: PycudaDevice, timing: bool) -> None:
        flags = driver.event_flags.BLOCKING_SYNC | (0 if timing else driver.event_flags.DISABLE_TIMING)
        self._event = _call(driver.Event, flags)
        super().__init__(device)

    @property
    def made(self) -> Any:
        """PyCUDA's event; ``UsageError`` once closed."""
        if not self.is_open:
            raise closed("event")
        return self._event

    def done(self) -> bool:
        """Whether the work before the mark is over, without waiting; raises what that work failed with."""
        return bool(_call(self.made.query))

    def wait(self) -> None:
        """Block the thread, without spinning, until it is."""
        _call(self.made.synchronize)

    def ms_since(self, earlier: Event) -> float:
        """Between two marks that are done, both made with ``timing=True``."""
        return float(_call(self.made.time_since, _made(earlier)))

    def _give_back(self) -> None:
        self._event = None  # PyCUDA destroys what nothing refers to


class _Stream(Held[PycudaDevice]):
    kind = "stream"

    def __init__(self, device: PycudaDevice) -> None:
        self._stream = _call(driver.Stream, _NON_BLOCKING)
        self.handle = int(self._stream.handle)
        super().__init__(device)

    @property
    def made(self) -> Any:
        """PyCUDA's stream; ``UsageError`` once closed."""
        if not self.is_open:
            raise closed("stream")
        return self._stream

    def record(self, event: Event) -> None:
        """Mark what is enqueued so far."""
        _call(_made(event).record, self.made)

    def wait_for(self, event: Event) -> None:
        """What is enqueued from here on begins after the mark; the host does not wait."""
        _call(self.made.wait_for_event, _made(event))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses, of whichever kind, asynchronously: host memory must be pinned."""
        # PyCUDA's one-dimensional copies want to be told what each address is; the other kind lets CUDA find out.
        self.copy_2d(target, nbytes, source, nbytes, nbytes, 1)

    def copy_2d(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width_bytes: int, rows: int
    ) -> None:
        """Copy rows that lie ``pitch`` bytes apart."""
        require_addresses(target, source)
        rectangle = driver.Memcpy2D()
        rectangle.src_memory_type = rectangle.dst_memory_type = driver.memory_type.UNIFIED
        rectangle.dst_device, rectangle.dst_pitch = target, target_pitch
        rectangle.src_device, rectangle.src_pitch = source, source_pitch
        rectangle.width_in_bytes, rectangle.height = width_bytes, rows
        _call(rectangle, self.made)

    def capture(self) -> AbstractContextManager[Capture]:
        """There is none."""
        raise BackendFailed(
            "PyCUDA has no calls for CUDA graphs", mend="cuda.binding: cuda-bindings, or cuda.graphs: off"
        )

    def synchronize(self) -> None:
        """Wait for everything; for opening and closing only."""
        _call(self.made.synchronize)

    def _give_back(self) -> None:
        self.handle = 0
        self._stream = None  # PyCUDA destroys what nothing refers to


def _made(of_this_binding: Any) -> Any:
    """The library's object in an event or a stream of a device of this file."""
    return of_this_binding.made


def _call(function: Any, *arguments: Any) -> Any:
    """What a function of PyCUDA returns; its errors are raised as ours."""
    try:
        return function(*arguments)
    except driver.Error as exc:
        del function, arguments  # else the traceback keeps a stream alive beyond its close()
        found = _REFUSED.match(str(exc))
        call, text = (found["call"], found["text"]) if found else ("PyCUDA", str(exc))
        raise cuda_error(_name(text), text, call) from exc


def _name(text: str) -> str:
    """CUDA's name of an error, of which PyCUDA tells the text alone."""
    text = text.split(" - ")[0]  # behind that stands a remark of PyCUDA's own
    said, name = ctypes.c_char_p(), ctypes.c_char_p()
    for code in range(1, 1000):
        _libcuda.cuGetErrorString(code, ctypes.byref(said))
        if said.value is not None and said.value.decode() == text:
            _libcuda.cuGetErrorName(code, ctypes.byref(name))
            return (name.value or b"").decode()
    return "an error"


def _driver_context() -> int | None:
    context = ctypes.c_void_p()
    _libcuda.cuCtxGetCurrent(ctypes.byref(context))
    return context.value


def _ordinal(device: Any) -> int:
    return next(ordinal for ordinal in range(driver.Device.count()) if driver.Device(ordinal) == device)


def _properties(device: Any) -> Properties:
    attributes = driver.device_attribute

    def ask_if_known(attribute: Any) -> int:
        try:
            return int(device.get_attribute(attribute))
        except driver.Error:
            return 0

    major, minor = _call(device.compute_capability)
    return Properties(
        name=_call(device.name),
        compute_capability=f"{major}.{minor}",
        integrated=bool(_call(device.get_attribute, attributes.INTEGRATED)),
        maps_host=bool(_call(device.get_attribute, attributes.CAN_MAP_HOST_MEMORY)),
        memory_bytes=int(_call(device.total_memory)),
        multiprocessors=ask_if_known(attributes.MULTIPROCESSOR_COUNT),
        clock_khz=ask_if_known(attributes.CLOCK_RATE),
        memory_clock_khz=ask_if_known(attributes.MEMORY_CLOCK_RATE),
        memory_bus_bits=ask_if_known(attributes.GLOBAL_MEMORY_BUS_WIDTH),
    )
