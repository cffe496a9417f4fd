"""``genicam:``: GigE Vision and USB3 Vision cameras through Aravis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from lpcnet_edge.errors import BadConfig, MissingDevice, UnreadableImage, UsageError
from lpcnet_edge.runtime.sources import aravis
from lpcnet_edge.runtime.sources.base import LiveSource, PartNamer, Raw, now_ns
from lpcnet_edge.runtime.sources.pixels import decode_pixels, parse_format
from lpcnet_edge.runtime.sources.settings import SourceSettings
from lpcnet_edge.types import Image

_POP_US = 100_000
_MOST_GAPS = 1000  # lost frames that get a bad frame each; a longer gap gets one for all
_ROUNDED, _ROUNDED_AT_LEAST = 0.05, 0.5  # a share, and in the setting's unit
_STALE_NS = 10_000_000_000  # a time stamp further from now than this is another clock's


def lost_between(last: int, now: int) -> int:
    """Frames lost between two that came with these numbers, 0 where the camera began to count anew.

    GigE Vision 1 counts in 16 bits and leaves 0 out, so 1 follows 65535; later versions and USB3 Vision use 64 bits.
    """
    if now > last:
        return now - last - 1
    wrapped = 65535 - last + now - 1
    return wrapped if last <= 65535 and wrapped <= _MOST_GAPS else 0


class GenicamSource(LiveSource):
    """Frames of one camera. Every frame the camera numbered is one item: those that did not come, or came with holes,
    are bad frames in their place.

    ``taken_ns`` is when the first packet came, which is the exposure and the sensor's readout after the trigger.
    """

    def __init__(self, address: str, channels: int, settings: SourceSettings, part_id: PartNamer | None = None) -> None:
        self._address = address
        self._camera: aravis.Camera | None = None
        self._in_use = threading.Lock()  # held while the camera is closed, and while another thread triggers it
        self._format = ""
        self._base = {"underruns": 0, "lost_packets": 0, "resent_packets": 0}  # of connections before this one
        super().__init__(address or "genicam", channels, settings, part_id)

    def trigger(self) -> None:
        """Take one frame now (``trigger: software``); raises ``MissingDevice`` while the camera is lost."""
        if self.settings.camera.trigger != "software":
            raise UsageError(f"camera {self.name} has no software trigger", mend="set source.camera.trigger: software")
        with self._in_use:
            if self._camera is None:
                raise MissingDevice(
                    f"camera {self.name} is lost", mend="wait until it is back: counters()['reconnects']"
                )
            self._camera.call("software_trigger")

    def _connect(self) -> None:
        try:
            with self._in_use:
                self._camera = aravis.Camera(self._address)
            self._set_up(self._camera)
        except MissingDevice as exc:
            self._disconnect()
            raise MissingDevice(
                f"camera {self.name}: {exc.message}", mend=f"arv-tool-0.8 lists cameras; {exc.mend}"
            ) from exc
        except BaseException:
            self._disconnect()
            raise

    def _set_up(self, camera: aravis.Camera) -> None:
        wanted = self.settings.camera
        for feature, value in wanted.features.items():
            camera.set_feature(feature, value)
        if wanted.pixel_format:
            camera.call("set_pixel_format_from_string", wanted.pixel_format)
        numbers = (
            ("exposure_us", "exposure_time", "ExposureAuto", wanted.exposure_us),
            ("gain", "gain", "GainAuto", wanted.gain),
            ("frame_rate_hz", "frame_rate", "", wanted.frame_rate_hz),
        )
        for _, feature, automatic, number in numbers:
            if number is not None:
                if automatic and camera.has(automatic):
                    camera.set_feature(automatic, "Off")
                camera.call(f"set_{feature}", number)
        for name, feature, _, number in numbers:  # when all are set, for one may bound another
            if number is not None:
                self._check_taken(name, number, camera.call(f"get_{feature}"))
        if wanted.trigger == "free":
            camera.call("clear_triggers")
        else:
            camera.call("set_trigger", "Software" if wanted.trigger == "software" else wanted.trigger_source)
        if wanted.packet_size and camera.is_gige:
            camera.call("gv_set_packet_size", wanted.packet_size)
        self._format = camera.call("get_pixel_format_as_string")
        if parse_format(self._format) is None:
            raise BadConfig(
                f"camera {self.name} sends {self._format}, which is not decoded",
                mend="set source.camera.pixel_format to one that is (docs/sources.md), such as Mono8",
            )
        camera.start(wanted.buffers)

    def _check_taken(self, name: str, wanted: float, taken: float) -> None:
        """Aravis and many cameras hold a number to their range without a word; a little they all round."""
        if abs(taken - wanted) > max(_ROUNDED * abs(wanted), _ROUNDED_AT_LEAST):
            raise BadConfig(
                f"camera {self.name}: source.camera.{name} is {wanted:g}, the camera took {taken:g}",
                mend=f"write {name}: {taken:g}, or set what bounds it",
            )

    def _grab(self) -> Iterator[Raw]:
        camera = self._camera
        assert camera is not None
        last_id: int | None = None
        heard_s = time.monotonic()
        while not self._stopped.is_set():
            buffer = camera.pop(_POP_US)
            if buffer is None:
                silent_s = time.monotonic() - heard_s
                if camera.control_lost:
                    self._lost = "the camera no longer answers"
                    return
                if self.settings.camera.trigger == "free" and silent_s > self.settings.camera.silent_s:
                    self._lost = f"no frame for {silent_s:.1f} s"
                    return
                continue
            heard_s = time.monotonic()
            taken_ns = _monotonic(buffer.system_timestamp_ns)
            what = self._what(buffer)
            frame_id = buffer.frame_id
            camera.give_back(buffer)
            yield from self._gap(0 if last_id is None else lost_between(last_id, frame_id), last_id or 0, taken_ns)
            last_id = frame_id
            self._count(camera)
            if isinstance(what, str):
                self._counts["incomplete"] += 1
            yield "", what, taken_ns

    def _what(self, buffer: aravis.Buffer) -> Image | str:
        if buffer.status != aravis.SUCCESS:
            why = aravis.STATUSES.get(buffer.status, f"status {buffer.status}")
            return f"the camera's frame {buffer.frame_id} cannot be used: {why}"
        try:
            data = buffer.data()
            image = decode_pixels(
                data, buffer.width, buffer.height, self._format, self.channels, row_padding=buffer.row_padding
            )
        except UnreadableImage as exc:
            return exc.message
        return self._prepare(image)

    def _gap(self, lost: int, last_id: int, taken_ns: int) -> Iterator[Raw]:
        self._counts["lost_frames"] += lost
        if lost > _MOST_GAPS:
            yield "", f"{lost} frames after the camera's frame {last_id} did not arrive", taken_ns
            return
        for step in range(1, lost + 1):
            yield "", f"the camera's frame {last_id + step} did not arrive", taken_ns

    def _count(self, camera: aravis.Camera) -> None:
        for key, value in camera.statistics().items():
            self._counts[key] = self._base[key] + value

    def _disconnect(self) -> None:
        with self._in_use:
            camera, self._camera = self._camera, None
            if camera is not None:
                camera.close()
        for key in self._base:
            self._base[key] = self._counts[key]


def _monotonic(system_ns: int) -> int:
    """A moment of the wall clock, just past, on the monotonic clock; now, where the wall clock was set meanwhile."""
    ago_ns = time.time_ns() - system_ns
    return now_ns() - ago_ns if 0 <= ago_ns < _STALE_NS else now_ns()
