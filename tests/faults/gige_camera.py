"""A GigE Vision camera as a process on loopback, made of real packets."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

FAKE = "arv-fake-gv-camera-0.8"


class CameraProcess:
    """``arv-fake-gv-camera`` on loopback: 512x512, frames numbered from 65300 on."""

    address = "127.0.0.1"  # it takes none that no interface has

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        if shutil.which(FAKE) is None:
            pytest.fail(f"{FAKE} is not installed: sudo apt-get install aravis-tools (scripts/test does it as root)")
        command = [FAKE, "-i", self.address, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while "0100007F:0F74" not in Path("/proc/net/udp").read_text():  # GVCP's port 3956, bound: it listens
            assert self._process.poll() is None, "the camera process ended"
            assert time.monotonic() < until, "the camera process does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
