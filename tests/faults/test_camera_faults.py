"""Cameras that fail: a GigE Vision camera process on loopback, and an RTSP camera, killed and brought back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gige_camera import CameraProcess
from numpy.typing import NDArray

from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadConfig, LpcnetError, MissingDevice, UsageError
from lpcnet_edge.runtime.sources import BadFrame, Frame, Item, Source, SourceSettings, aravis, genicam, open_source
from lpcnet_edge.runtime.sources.genicam import GenicamSource
from lpcnet_edge.runtime.sources.pixels import decode_pixels


def open_camera(process: CameraProcess, channels: int = 1, **mapping: Any) -> Source:
    quick = {"reconnect": {"first_s": 0.05, "largest_s": 0.2}, "queue_frames": 64, **mapping}
    settings = from_mapping(SourceSettings, quick, "test")
    return open_source(f"genicam:{process.address}", settings, channels=channels)


def take(iterator: Iterator[Item], count: int) -> list[Item]:
    """The next items, their numbers without a gap."""
    items = [next(iterator) for _ in range(count)]
    assert [item.sequence - items[0].sequence for item in items] == list(range(count))
    taken = [item.taken_ns for item in items if isinstance(item, Frame)]  # of a bad frame the first packet may be lost
    assert taken == sorted(taken)
    assert 0 < taken[-1] <= time.monotonic_ns()
    return items


def test_frames_of_a_camera_past_the_wrap_of_its_numbers(camera: CameraProcess) -> None:
    camera.start()
    fast = {"frame_rate_hz": 200, "exposure_us": 1000, "gain": 3, "pixel_format": "Mono8"}
    with open_camera(camera, camera=fast) as source:
        items = take(iter(source), 300)  # 65300 + 300 > 65535
        counters = source.counters()
    frames = [item for item in items if isinstance(item, Frame)]
    assert len(frames) == 300
    assert all(frame.pixels.shape == (512, 512) for frame in frames)
    assert all((a.pixels != b.pixels).any() for a, b in pairwise(frames)), "its pattern moves"
    assert frames[7].name == f"{camera.address}/000007"
    assert counters["lost_packets"] == counters["lost_frames"] == counters["losses"] == 0


@pytest.mark.parametrize(
    ("pixel_format", "channels"), [("Mono8", 3), ("Mono16", 1), ("BayerRG8", 3), ("BayerGB8", 1), ("RGB8", 3)]
)
def test_pixel_formats_of_a_camera(camera: CameraProcess, pixel_format: str, channels: int) -> None:
    camera.start()
    with open_camera(camera, channels, camera={"pixel_format": pixel_format}) as source:
        for item in take(iter(source), 2):
            assert isinstance(item, Frame)
            assert item.pixels.shape == ((512, 512) if channels == 1 else (512, 512, 3))
            assert item.pixels.std() > 10, "a picture, not noise or a plain field"
            steps = np.abs(np.diff(item.pixels.astype(int), axis=1))
            assert np.median(steps) <= 3, "its pattern is smooth: bytes stand where they belong"


def test_features_are_set_before_streaming_and_a_wrong_one_is_named(camera: CameraProcess) -> None:
    camera.start()
    with open_camera(camera, camera={"features": {"Width": 256, "Height": 128}, "packet_size": 4000}) as source:
        (item,) = take(iter(source), 1)
        assert isinstance(item, Frame)
        assert item.size_px == (256, 128)
    with open_camera(camera, camera={"features": {"AcquisitionFrameRate": 20}}) as source:  # a float, written whole
        take(iter(source), 1)
    for wrong in (
        {"features": {"Widht": 256}},
        {"pixel_format": "Mono11"},
        {"trigger": "hardware", "trigger_source": "X"},
    ):
        with pytest.raises((MissingDevice, BadConfig), match=f"camera {camera.address}: arv_camera_set"):
            open_camera(camera, camera=wrong)
    with open_camera(camera, camera={}) as source:  # what failed let the camera go
        take(iter(source), 1)


def test_a_number_that_the_camera_does_not_take_is_an_error(camera: CameraProcess) -> None:
    camera.start()
    with pytest.raises(BadConfig, match=r"frame_rate_hz is 1e\+06, the camera took 1000"):
        open_camera(camera, camera={"frame_rate_hz": 1e6})


def test_padding_that_a_camera_announces_reaches_the_pixels(
    camera: CameraProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.start()
    seen: list[int] = []

    def decode(*given: Any, row_padding: int) -> NDArray[np.uint8]:
        seen.append(row_padding)
        return decode_pixels(*given, row_padding=row_padding)

    monkeypatch.setattr(genicam, "decode_pixels", decode)
    with open_camera(camera, camera={}) as source:
        (item,) = take(iter(source), 1)
    assert isinstance(item, Frame)
    assert seen[0] == 0  # this camera has none, and Aravis could be asked
    monkeypatch.setattr(aravis.Buffer, "_row_padding", lambda _: 8)
    with open_camera(camera, camera={}) as source:
        item = next(iter(source))
    assert isinstance(item, BadFrame)
    assert "takes 266240 bytes, the camera sent 262144" in item.reason


def test_a_software_trigger_takes_exactly_one_frame(camera: CameraProcess) -> None:
    camera.start()
    with open_camera(camera, camera={"trigger": "software", "silent_s": 0.2}) as source:
        assert isinstance(source, GenicamSource)
        iterator = iter(source)
        for number in range(5):
            time.sleep(0.1)
            before_ns = time.monotonic_ns()
            source.trigger()
            (item,) = take(iterator, 1)
            assert item.sequence == number
            assert item.taken_ns > before_ns - 50_000_000
        time.sleep(0.5)
        assert source.counters()["frames"] == 5
        assert source.counters()["losses"] == 0, "silence between triggers is no loss"
    with open_camera(camera, camera={"trigger": "free"}) as source:
        assert isinstance(source, GenicamSource)
        take(iter(source), 3)
        with pytest.raises(UsageError, match="no software trigger"):
            source.trigger()


def test_packet_loss_makes_bad_frames_in_their_place(camera: CameraProcess) -> None:
    camera.start("-r", "2")  # of 1000 packets; a frame has 190
    with open_camera(camera, camera={"frame_rate_hz": 100}) as source:
        items = take(iter(source), 60)
        counters = source.counters()
    bad = [item for item in items if isinstance(item, BadFrame)]
    assert len(bad) > 5  # under load the loopback drops packets of its own
    assert all("packets are missing" in item.reason or "did not arrive" in item.reason for item in bad)
    assert counters["lost_packets"] >= len([item for item in bad if "missing" in item.reason])


def test_a_camera_killed_and_started_again(camera: CameraProcess) -> None:
    camera.start()
    with open_camera(camera, camera={"silent_s": 0.5, "frame_rate_hz": 50}) as source:
        iterator = iter(source)
        items = take(iterator, 10)
        for _ in range(2):
            camera.kill()
            time.sleep(0.3)
            camera.start()
            items += take(iterator, 40)  # some of them waited in the queue when it died
        counters = source.counters()
    assert [item.sequence for item in items] == list(range(90))
    assert all(isinstance(item, Frame) for item in items)
    assert (counters["losses"], counters["reconnects"], counters["lost_frames"]) == (2, 2, 0)


def test_a_triggered_camera_that_is_lost_is_noticed_without_a_frame(camera: CameraProcess) -> None:
    camera.start()
    with open_camera(camera, camera={"trigger": "software"}) as source:
        assert isinstance(source, GenicamSource)
        source.trigger()
        iterator = iter(source)
        take(iterator, 1)
        camera.kill()
        wait_for(lambda: source.counters()["losses"] == 1)
        with pytest.raises(MissingDevice):
            source.trigger()
        camera.start()
        wait_for(lambda: source.counters()["reconnects"] == 1)
        source.trigger()
        assert [item.sequence for item in take(iterator, 1)] == [1]


def test_a_camera_that_stays_away_ends_the_source_with_an_error(camera: CameraProcess) -> None:
    camera.start()
    rule = {"first_s": 0.05, "attempts": 1}
    with open_camera(camera, camera={"silent_s": 0.3}, reconnect=rule) as source:
        iterator = iter(source)
        take(iterator, 3)
        camera.kill()
        with pytest.raises(MissingDevice, match=f"source {camera.address} was lost .* 1 attempts"):
            list(iterator)


def test_a_camera_held_by_another_program(camera: CameraProcess) -> None:
    camera.start()
    with open_camera(camera, camera={}) as first:
        take(iter(first), 1)
        with pytest.raises(LpcnetError, match=f"camera {camera.address}"):
            open_camera(camera, camera={"exposure_us": 100})


def test_no_camera_there(camera: CameraProcess) -> None:
    with pytest.raises(MissingDevice, match=f"camera {camera.address}: ") as caught:
        open_camera(camera)
    assert "arv-tool-0.8" in str(caught.value)


def test_closing_a_camera_leaves_no_thread_and_no_descriptor(camera: CameraProcess) -> None:
    camera.start()

    def open_once() -> tuple[int, int]:
        with open_camera(camera, camera={"frame_rate_hz": 100}) as source:
            take(iter(source), 3)
        return threading.active_count(), len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))

    open_once()
    first = open_once()
    for _ in range(8):
        last = open_once()
    assert last[0] == first[0]
    assert last[1] < first[1] + 4  # a leak is 8 or more; other libraries' idle threads come and go


def test_aravis_absent_is_named_with_its_package() -> None:
    script = (
        "import ctypes\n"
        "real = ctypes.CDLL\n"
        "def absent(name, *a, **k):\n"
        "    return real('libnot-there.so' if 'aravis' in str(name) else name, *a, **k)\n"
        "ctypes.CDLL = absent\n"
        "from lpcnet_edge.errors import MissingLibrary\n"
        "from lpcnet_edge.runtime.sources import open_source\n"
        "try: open_source('genicam:127.0.0.1', channels=1)\n"
        "except MissingLibrary as exc: print(exc, exc.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "libaravis-0.8-0" in done.stdout
    assert done.stdout.strip().endswith("4")


# RTSP ---------------------------------------------------------------------------------------------------------------


class RtspProcess:
    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_camera.py")
        command = [sys.executable, str(script), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def rtsp() -> Iterator[RtspProcess]:
    process = RtspProcess()
    process.start()
    yield process
    process.kill()


def test_an_rtsp_camera_killed_and_started_again(rtsp: RtspProcess) -> None:
    mapping = {"reconnect": {"first_s": 0.05, "largest_s": 0.2}, "queue_frames": 500, "name": "hall-3"}
    settings = from_mapping(SourceSettings, mapping, "test")
    with open_source(f"rtsp://127.0.0.1:{rtsp.port}/live", settings, channels=1) as source:
        iterator = iter(source)
        before = take(iterator, 20)
        rtsp.kill()
        rtsp.start()
        wait_for(lambda: source.counters()["reconnects"] == 1)
        seen = source.counters()["frames"]
        after = take(iterator, 60)
        assert source.counters()["losses"] == 1
    levels = [round(float(item.pixels.mean()) / 4) for item in [*before, *after] if isinstance(item, Frame)]
    assert len(levels) == 80
    restarts = [i for i, (a, b) in enumerate(pairwise(levels)) if b != (a + 1) % 60]
    assert len(restarts) <= 1, "in order, but for where the camera began anew"
    assert seen >= 20
    assert before[0].name == "hall-3/000000"


def wait_for(condition: Callable[[], bool], limit_s: float = 20) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
