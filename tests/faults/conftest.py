"""What tests of faults share: one bundle a file, and the one camera."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gige_camera import CameraProcess
from local_bundle import write_local

from lpcnet_edge.bundle.read import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bundle") / "local")


@pytest.fixture
def camera() -> Iterator[CameraProcess]:
    # There is one address, so workers take turns.
    with open(Path(tempfile.gettempdir(), "lpcnet-edge-test-camera.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = CameraProcess()
        yield process
        process.kill()
