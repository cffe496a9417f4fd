"""The small bundle, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundle_making import write_tiny


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("pristine") / "tiny").path


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """The folder of a bundle of this test's own."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))
