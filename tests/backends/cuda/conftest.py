"""The emulated driver, compiled once for each run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated_driver import build


@pytest.fixture(scope="session")
def emulated_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an emulated ``libcuda.so.1``."""
    return build(tmp_path_factory.mktemp("libcuda"))
