"""Video files, network streams and V4L2 cameras, through OpenCV."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import cv2

from lpcnet_edge.errors import BadInput, MissingDevice
from lpcnet_edge.runtime.sources.base import LiveSource, PartNamer, Raw, Source, now_ns
from lpcnet_edge.runtime.sources.settings import SourceSettings

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
_COUNTED_SUFFIXES = (".avi", ".m4v", ".mov", ".mp4")  # of containers that hold the number of their frames
_OPEN_MS, _READ_MS = 5000, 5000
_UNDECODED = "OpenCV could not decode the frame: {}"
_V4L2_FAILURES = 10  # reads in a row that fail before a device counts as lost


class VideoSource(Source):
    """The frames of a video file, as fast as they are wanted.

    OpenCV does not tell a broken stream from its end. Where decoding ends more than one frame and a hundredth before
    the number that the container announces, one bad frame stands for the missing rest. A container that does not count
    its frames announces a duration: OpenCV makes a number of that, too large where the rate varies, so there the last
    frame must also have come earlier than the end by more than a hundredth, and than any two frames were apart.
    """

    def __init__(self, path: str, channels: int, settings: SourceSettings, part_id: PartNamer | None = None) -> None:
        super().__init__(os.path.basename(path), channels, settings, part_id)
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            raise BadInput(f"{path} is no file that can be read", mend="check the path and its permissions")
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise BadInput(
                f"{path}: {os.path.getsize(path)} bytes that OpenCV opens as no video",
                mend="convert it, as with: ffmpeg -i IN -c:v mjpeg -q:v 2 OUT.avi",
            )
        announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._announced = announced if announced > 0 else None
        self._counted = path.lower().endswith(_COUNTED_SUFFIXES)
        self.total = self._announced if self._counted else None
        self._last_ms = self._apart_ms = 0.0

    def _read(self) -> Iterator[Raw]:
        count = 0
        try:
            while not self._stopped.is_set():
                taken_ns = now_ns()
                try:
                    got, pixels = self._capture.read()
                except cv2.error as exc:
                    yield "", _UNDECODED.format(exc.err or exc), taken_ns
                    break
                if not got:
                    break
                count += 1
                at_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                self._last_ms, self._apart_ms = at_ms, max(self._apart_ms, at_ms - self._last_ms)
                yield "", self._prepare(pixels), taken_ns
            missing = (self._announced or 0) - count
            if not self._stopped.is_set() and self._announced and self._is_short(missing, self._announced):
                self._counts["missing"] = missing
                yield "", f"the file announces {self._announced} frames, decoding ended after {count}", now_ns()
        finally:
            self._capture.release()

    def _is_short(self, missing: int, announced: int) -> bool:
        if missing <= max(1, announced // 100):
            return False
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        if self._counted or rate_hz <= 0:
            return True
        end_ms = 1e3 * announced / rate_hz
        return end_ms - self._last_ms > max(end_ms / 100, self._apart_ms + 1e3 / rate_hz)


def _without_password(address: str) -> str:
    """A stream's address as a name: before the host, where a password may have an @ itself, or in path and query."""
    plain = re.sub(r"//[^/]*@", "//", address)
    return re.sub(r"(?i)\b(pass|password|passwd|pwd|token)=[^&;/]*", r"\1=...", plain)


class StreamSource(LiveSource):
    """An RTSP (or other network) stream, or a V4L2 device; ``taken_ns`` is the moment OpenCV handed a frame over.

    Neither numbers its frames, so what is lost before OpenCV is not counted.
    """

    def __init__(self, address: str, channels: int, settings: SourceSettings, part_id: PartNamer | None = None) -> None:
        self._address = address
        self._device = address.startswith("/dev/")
        self._capture: cv2.VideoCapture | None = None
        super().__init__(address if self._device else _without_password(address), channels, settings, part_id)

    def _connect(self) -> None:
        if self._device:
            if not os.path.exists(self._address):
                raise MissingDevice(f"there is no {self._address}", mend="list cameras with: v4l2-ctl --list-devices")
            self._capture = cv2.VideoCapture(self._address, cv2.CAP_V4L2)
        else:
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
            self._capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, timeouts)
        if not self._capture.isOpened():
            shown = self.name if self.name != self.settings.name else f"the device of {self.name}"
            raise MissingDevice(
                f"{shown} does not answer as a camera or stream",
                mend="check address, user and password, and that no other program holds it",
            )

    def _grab(self) -> Iterator[Raw]:
        assert self._capture is not None
        failures = 0
        while not self._stopped.is_set():
            try:
                got, pixels = self._capture.read()
            except cv2.error as exc:  # such as an empty JPEG of a USB camera: the line goes on
                got = False
                yield "", _UNDECODED.format(exc.err or exc), now_ns()
            taken_ns = now_ns()
            if got:
                failures = 0
                yield "", self._prepare(pixels), taken_ns
                continue
            failures += 1
            if not self._device or failures >= _V4L2_FAILURES or not os.path.exists(self._address):
                self._lost = "reading failed"
                return
            time.sleep(0.05)

    def _disconnect(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
