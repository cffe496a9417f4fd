"""The networks that several tests of building look at, exported once for all of them."""

from __future__ import annotations

import built
import exported
import pytest


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> exported.Exported:
    return exported.real(exported.shared_cache(tmp_path_factory))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> exported.Exported:
    return exported.small(exported.shared_cache(tmp_path_factory))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> built.Workshop:
    return built.Workshop(exported.shared_cache(tmp_path_factory))
