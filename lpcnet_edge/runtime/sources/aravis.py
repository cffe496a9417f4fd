"""Aravis, the GenICam library (GigE Vision, USB3 Vision), called straight from its C interface, version 0.8.

Its usual Python binding, ``gi``, is compiled for the system's own Python and is not seen from a virtual environment.
The shared library serves any Python, and its buffers are read where they lie. Calls let go of the interpreter's lock.

Signatures are those of the headers of Aravis 0.8 (``arvcamera.h``, ``arvstream.h``, ``arvbuffer.h``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import MissingDevice, MissingLibrary

SUCCESS, MISSING_PACKETS = 0, 3
STATUSES = {
    1: "the buffer came back empty",
    2: "it did not come in time",
    3: "packets are missing",
    4: "a packet has a wrong number",
    5: "it is larger than the buffer",
    6: "it is incomplete",
    7: "it was cut off",
    8: "its kind of payload is unknown",
}


class _GError(ctypes.Structure):
    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


_CONTROL_LOST = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
_ERROR = POINTER(POINTER(_GError))

# name -> (result, arguments); those with _ERROR at the end may fail.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arv_update_device_list": (None, ()),
    "arv_get_n_devices": (c_uint, ()),
    "arv_get_device_id": (c_char_p, (c_uint,)),
    "arv_camera_new": (c_void_p, (c_char_p, _ERROR)),
    "arv_camera_get_device": (c_void_p, (c_void_p,)),
    "arv_camera_is_gv_device": (c_int, (c_void_p,)),
    "arv_camera_is_feature_available": (c_int, (c_void_p, c_char_p, _ERROR)),
    "arv_camera_set_boolean": (None, (c_void_p, c_char_p, c_int, _ERROR)),
    "arv_camera_set_integer": (None, (c_void_p, c_char_p, c_int64, _ERROR)),
    "arv_camera_set_float": (None, (c_void_p, c_char_p, c_double, _ERROR)),
    "arv_camera_set_string": (None, (c_void_p, c_char_p, c_char_p, _ERROR)),
    "arv_camera_get_string": (c_char_p, (c_void_p, c_char_p, _ERROR)),
    "arv_camera_set_pixel_format_from_string": (None, (c_void_p, c_char_p, _ERROR)),
    "arv_camera_get_pixel_format_as_string": (c_char_p, (c_void_p, _ERROR)),
    "arv_camera_set_exposure_time": (None, (c_void_p, c_double, _ERROR)),
    "arv_camera_get_exposure_time": (c_double, (c_void_p, _ERROR)),
    "arv_camera_set_gain": (None, (c_void_p, c_double, _ERROR)),
    "arv_camera_get_gain": (c_double, (c_void_p, _ERROR)),
    "arv_camera_set_frame_rate": (None, (c_void_p, c_double, _ERROR)),
    "arv_camera_get_frame_rate": (c_double, (c_void_p, _ERROR)),
    "arv_camera_set_acquisition_mode": (None, (c_void_p, c_int, _ERROR)),
    "arv_camera_set_trigger": (None, (c_void_p, c_char_p, _ERROR)),
    "arv_camera_clear_triggers": (None, (c_void_p, _ERROR)),
    "arv_camera_software_trigger": (None, (c_void_p, _ERROR)),
    "arv_camera_gv_set_packet_size": (None, (c_void_p, c_int, _ERROR)),
    "arv_camera_get_payload": (c_uint, (c_void_p, _ERROR)),
    "arv_camera_create_stream": (c_void_p, (c_void_p, c_void_p, c_void_p, _ERROR)),
    "arv_camera_start_acquisition": (None, (c_void_p, _ERROR)),
    "arv_camera_stop_acquisition": (None, (c_void_p, _ERROR)),
    "arv_stream_push_buffer": (None, (c_void_p, c_void_p)),
    "arv_stream_timeout_pop_buffer": (c_void_p, (c_void_p, c_uint64)),
    "arv_stream_get_statistics": (None, (c_void_p, POINTER(c_uint64), POINTER(c_uint64), POINTER(c_uint64))),
    "arv_gv_stream_get_statistics": (None, (c_void_p, POINTER(c_uint64), POINTER(c_uint64))),
    "arv_buffer_new_allocate": (c_void_p, (c_size_t,)),
    "arv_buffer_get_status": (c_int, (c_void_p,)),
    "arv_buffer_get_frame_id": (c_uint64, (c_void_p,)),
    "arv_buffer_get_system_timestamp": (c_uint64, (c_void_p,)),
    "arv_buffer_get_data": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "arv_buffer_get_image_width": (c_int, (c_void_p,)),
    "arv_buffer_get_image_height": (c_int, (c_void_p,)),
}
# Only later versions have these; the Aravis of Ubuntu 22.04 is 0.8.20.
_LATER_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arv_buffer_get_image_padding": (None, (c_void_p, POINTER(c_int), POINTER(c_int))),  # 0.8.23
}
_GLIB_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "g_object_unref": (None, (c_void_p,)),
    "g_error_free": (None, (c_void_p,)),
    "g_signal_connect_data": (c_uint64, (c_void_p, c_char_p, _CONTROL_LOST, c_void_p, c_void_p, c_int)),
    "g_signal_handler_disconnect": (None, (c_void_p, c_uint64)),
}


@cache
def _library() -> Mapping[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, functions in (
        ("libaravis-0.8.so.0", _FUNCTIONS),
        ("libaravis-0.8.so.0", _LATER_FUNCTIONS),
        ("libgobject-2.0.so.0", _GLIB_FUNCTIONS),
    ):
        try:
            library = ctypes.CDLL(name)
            for function, (result, arguments) in functions.items():
                if functions is _LATER_FUNCTIONS and not hasattr(library, function):
                    continue
                call = getattr(library, function)
                call.restype, call.argtypes = result, arguments
                found[function] = call
        except (OSError, AttributeError) as exc:
            raise MissingLibrary(
                f"GenICam cameras need Aravis 0.8, and {name} cannot be used: {exc}",
                mend="sudo apt-get install libaravis-0.8-0 (aravis-tools adds arv-tool-0.8, to look for cameras)",
            ) from exc
    return found


def _call(function: str, *arguments: Any) -> Any:
    """Call a function whose last parameter is a GError; raises ``MissingDevice`` with the library's own words."""
    error = POINTER(_GError)()
    result = _library()[function](*arguments, byref(error))
    if error:
        message = (error.contents.message or b"").decode("utf-8", "replace")
        _library()["g_error_free"](error)
        raise MissingDevice(f"{function}: {message}", mend="see what it offers with: arv-tool-0.8 features")
    return result


def list_cameras() -> list[str]:
    """Ids of the cameras that answer on the network and USB, as ``genicam:`` takes them; takes about a second."""
    library = _library()
    library["arv_update_device_list"]()
    return [library["arv_get_device_id"](i).decode() for i in range(library["arv_get_n_devices"]())]


class Buffer:
    """One received frame, valid until it is given back; attributes are those of ``arvbuffer.h``."""

    def __init__(self, pointer: int) -> None:
        library = _library()
        self.pointer = pointer
        self.status: int = library["arv_buffer_get_status"](pointer)
        self.frame_id: int = library["arv_buffer_get_frame_id"](pointer)
        self.system_timestamp_ns: int = library["arv_buffer_get_system_timestamp"](pointer)
        self.width: int = library["arv_buffer_get_image_width"](pointer) if self.status == SUCCESS else 0
        self.height: int = library["arv_buffer_get_image_height"](pointer) if self.status == SUCCESS else 0
        self.row_padding = self._row_padding() if self.status == SUCCESS else 0
        """Bytes after each row; 0 where Aravis is too old to say."""

    def _row_padding(self) -> int:
        columns, rows = c_int(), c_int()
        function = _library().get("arv_buffer_get_image_padding")
        if function is not None:
            function(self.pointer, byref(columns), byref(rows))
        return columns.value

    def data(self) -> NDArray[np.uint8]:
        """(bytes,) uint8, Aravis's own memory: not to be kept beyond :meth:`Stream.give_back`."""
        size = c_size_t()
        address = _library()["arv_buffer_get_data"](self.pointer, byref(size))
        if not address or not size.value:
            return np.empty(0, np.uint8)
        view = (ctypes.c_uint8 * size.value).from_address(address)
        return np.ctypeslib.as_array(view)


class Camera:
    """An open camera and its stream. Every call raises ``MissingDevice`` where the camera does not answer or refuses.

    ``name`` is an id of :func:`list_cameras`, an IP address, or empty for the first camera that answers.
    """

    def __init__(self, name: str) -> None:
        self._stream: int | None = None
        self._camera: int | None = _call("arv_camera_new", name.encode() or None)
        if not self._camera:
            raise MissingDevice(f"there is no camera {name}", mend="list cameras with: arv-tool-0.8")
        self.control_lost = False
        self._callback = _CONTROL_LOST(self._on_control_lost)  # Aravis calls it as long as the handler is connected
        self._device: int = _library()["arv_camera_get_device"](self._camera)
        self._handler = _library()["g_signal_connect_data"](
            self._device, b"control-lost", self._callback, None, None, 0
        )
        self.is_gige = bool(_library()["arv_camera_is_gv_device"](self._camera))

    def _on_control_lost(self, _device: int, _data: int) -> None:
        self.control_lost = True

    def call(self, function: str, *arguments: Any) -> Any:
        """``arv_camera_<function>`` with text as str; the camera and the error are added."""
        encoded = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
        result = _call(f"arv_camera_{function}", self._camera, *encoded)
        return result.decode("utf-8", "replace") if isinstance(result, bytes) else result

    def has(self, feature: str) -> bool:
        """Whether the camera has a GenICam feature and it is available now."""
        return bool(self.call("is_feature_available", feature))

    def set_feature(self, feature: str, value: bool | int | float | str) -> None:
        """Set a GenICam feature by the type of its value; a whole number serves for a float feature, too."""
        kind = {bool: "boolean", int: "integer", float: "float", str: "string"}[type(value)]
        try:
            self.call(f"set_{kind}", feature, value)
        except MissingDevice:
            if kind != "integer":
                raise
            self.call("set_float", feature, float(value))

    def start(self, buffers: int) -> None:
        """Make the stream with so many buffers, and start acquisition."""
        payload = self.call("get_payload")
        self._stream = self.call("create_stream", None, None)
        if not self._stream:
            raise MissingDevice("the camera gives no stream", mend="see whether another program holds it")
        for _ in range(buffers):
            _library()["arv_stream_push_buffer"](self._stream, _library()["arv_buffer_new_allocate"](payload))
        self.call("set_acquisition_mode", 0)  # continuous
        self.call("start_acquisition")

    def pop(self, timeout_us: int) -> Buffer | None:
        """The next buffer, or None after the time."""
        pointer = _library()["arv_stream_timeout_pop_buffer"](self._stream, timeout_us)
        return Buffer(pointer) if pointer else None

    def give_back(self, buffer: Buffer) -> None:
        """Let the stream fill a buffer again."""
        _library()["arv_stream_push_buffer"](self._stream, buffer.pointer)

    def statistics(self) -> dict[str, int]:
        """``underruns`` (frames without a free buffer); for GigE Vision ``lost_packets`` and ``resent_packets``."""
        values = [c_uint64() for _ in range(5)]
        done, failed, underruns, resent, missing = values
        _library()["arv_stream_get_statistics"](self._stream, byref(done), byref(failed), byref(underruns))
        counts = {"underruns": underruns.value}
        if self.is_gige:
            _library()["arv_gv_stream_get_statistics"](self._stream, byref(resent), byref(missing))
            counts.update(lost_packets=missing.value, resent_packets=resent.value)
        return counts

    def close(self) -> None:
        """Stop, and free stream and camera; a camera that is gone is let go all the same. Twice is fine."""
        if self._camera is None:
            return
        library = _library()
        if self._stream is not None and not self.control_lost:
            try:
                self.call("stop_acquisition")
            except MissingDevice:
                self.control_lost = True
        if self._stream is not None:
            library["g_object_unref"](self._stream)
            self._stream = None
        library["g_signal_handler_disconnect"](self._device, self._handler)
        library["g_object_unref"](self._camera)
        self._camera = None
