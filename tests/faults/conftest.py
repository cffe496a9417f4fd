"""The one camera that tests of faults share."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gige_camera import CameraProcess


@pytest.fixture
def camera() -> Iterator[CameraProcess]:
    # There is one address, so workers take turns.
    with open(Path(tempfile.gettempdir(), "lpcnet-edge-test-camera.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = CameraProcess()
        yield process
        process.kill()
