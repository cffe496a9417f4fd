"""One bundle of the shipped network at 128 px, built once and shared with the tests of building."""

from __future__ import annotations

import built
import exported
import pytest

from lpcnet_edge.bundle.read import Bundle


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> built.Workshop:
    return built.Workshop(exported.shared_cache(tmp_path_factory))


@pytest.fixture(scope="session")
def good(workshop: built.Workshop) -> Bundle:
    return workshop.once("int8", "--int8", "--max-drop", "5").bundle
