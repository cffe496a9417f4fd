"""Keeping third-party libraries from talking to anyone: a station makes no connection that its config does not name.

Two of the core's libraries report their use to their makers unless told otherwise, on Linux too:

- ``import openvino`` sends an event to a web analytics service, and writes a client id below the user's home, where
  the package ``openvino-telemetry`` is importable (its wheel requires it) and nobody has opted out.
- ``import onnxruntime``, from 1.29 on, writes a device id and an event store below the user's cache folder, and
  uploads from native code, where no patch of Python's sockets would see it.
"""

from __future__ import annotations

import os
import sys

_OPENVINO_TELEMETRY = "openvino_telemetry"
_SENDING = ("send_event", "start_session", "end_session", "send_error", "send_stack_trace")


def silence_libraries() -> None:
    """Keep OpenVINO and ONNX Runtime from reporting. Call before either is imported; later calls do no harm.

    OpenVINO takes its own stub where its telemetry package cannot be imported; ONNX Runtime's variable is a full
    opt-out when it is set before the library is loaded. No file is touched. Where a host program imported them before
    us, what they sent by then is gone; what would follow is withdrawn.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is not None:
        onnxruntime.disable_telemetry_events()
    telemetry = sys.modules.get(_OPENVINO_TELEMETRY)
    if telemetry is None:
        sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]  # how the import system says "not here"
        return
    for name in _SENDING:
        setattr(telemetry.Telemetry, name, _send_nothing)


def silence_opencv() -> None:
    """Keep OpenCV, and FFmpeg in it, from writing to standard error. Call before it is imported.

    For our own command alone: each of its errors says there what is wrong, once, and another program's OpenCV is that
    program's. Who wants their lines sets ``OPENCV_LOG_LEVEL=WARNING``, with OpenCV 4 ``OPENCV_FFMPEG_LOGLEVEL=24`` too.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; OpenCV 5 goes by the first for FFmpeg as well


def _send_nothing(*_: object, **__: object) -> None:
    """Stands in for every sending method of ``openvino_telemetry.Telemetry``."""
