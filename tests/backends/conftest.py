"""What several tests of backends look at: networks, exported once for all of them; a played runtime and its device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from plain_device import PlainDevice
from runtime_double import World

from lpcnet_edge.bundle.read import Bundle

if TYPE_CHECKING:  # a bare machine with a GPU lacks what exporting needs
    import exported


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> exported.Exported:
    import exported

    return exported.real(exported.shared_cache(tmp_path_factory))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> exported.Exported:
    import exported

    return exported.small(exported.shared_cache(tmp_path_factory))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from local_bundle import write_local  # of ONNX, without which the tests of devices alone run

    return write_local(tmp_path_factory.mktemp("bundle") / "local")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def device(world: World) -> Iterator[PlainDevice]:
    world.capturing = capturing = set[int]()
    world.device = made = PlainDevice("NVIDIA RTX 4070", "8.9", capturing)
    yield made
    made.close()
