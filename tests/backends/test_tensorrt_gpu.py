"""TensorRT-RTX where a card that it serves is here: plans built, loaded and put to every backend's contract."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from contract import Contract, filled, some_tiles
from local_bundle import LIMIT, write_local

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda_driver import cuda_driver
from lpcnet_edge.backends.tensorrt import load_library
from lpcnet_edge.bundle.cache import VARIABLE
from lpcnet_edge.bundle.read import Bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]

NAME = "tensorrt-rtx"
SETTINGS = {
    "graphs": CudaSettings(),
    "plain enqueue": CudaSettings(graphs="off"),
    "mapped": CudaSettings(memory="mapped"),
}


@pytest.fixture(scope="module", params=["float", "quantised"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    served = load_library("tensorrt_rtx").branch.compute_capabilities
    cards = cuda_driver(None).devices
    if not cards or cards[0].compute_capability not in served:
        here = f"{cards[0].name} ({cards[0].compute_capability})" if cards else "no GPU"
        pytest.skip(f"tensorrt_rtx serves {', '.join(served)}; here is {here}")
    from lpcnet_edge.build.station import plans_for_station  # imports what a machine without the library lacks

    folder: Path = tmp_path_factory.mktemp("rtx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "cache"))
        made = write_local(folder / "local", quantised=request.param == "quantised")
        plans_for_station(made, NAME, (), lambda *_: None)
        yield made


@pytest.fixture(scope="module", params=SETTINGS)
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Backend]:
    opened = open_backend(bundle, NAME, cuda=SETTINGS[request.param])
    yield opened
    opened.close()


class TestTensorRtRtx(Contract):
    """With graphs and without, with copies and without."""


def test_auto_takes_it(bundle: Bundle) -> None:
    opened = open_backend(bundle)
    assert opened.name == NAME
    opened.close()


def test_kernels_are_kept_and_a_second_start_decides_the_same(bundle: Bundle) -> None:
    tiles, results = some_tiles(8), []
    for _ in range(2):
        opened = open_backend(bundle, NAME)
        slot = filled(opened, tiles)
        opened.submit(slot, 8)
        assert opened.collect(slot)
        opened.submit_picked(slot, np.arange(8, dtype=np.int32))
        assert opened.collect_picked(slot)
        results.append(slot.classes[:8].copy())
        opened.close()
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], tiles > LIMIT)
