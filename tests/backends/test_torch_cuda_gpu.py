"""Both stages on a real GPU, by torch on our streams, buffers and graphs. Run with ``pytest -m gpu``."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from contract import Contract, check_picked, filled, some_tiles
from local_bundle import heat_of, write_local
from numpy.typing import NDArray

from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.backends.cuda.open import open_device
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.slots import CudaBackend
from lpcnet_edge.backends.torch_cuda import TorchStage, open_torch_cuda
from lpcnet_edge.errors import MissingDevice, MissingLibrary
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.stages import ConfidenceStage, LocalizationStage, tensor_specs
from lpcnet_edge.network.weights import load_network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch tells of its own interfaces that will change
    pytest.mark.filterwarnings("default::UserWarning", "default::FutureWarning"),
]

BINDINGS = ("cuda-bindings", "pycuda")
Binding = Literal["cuda-bindings", "pycuda"]
Memory = Literal["staged", "mapped"]
Graphs = Literal["on", "off"]


def need(binding: Binding) -> None:
    """Skip where a binding is not installed, which the reason says."""
    try:
        open_device(binding).close()
    except (MissingLibrary, MissingDevice) as exc:
        pytest.skip(str(exc))


class TestContract(Contract):
    """On the network in closed form, through each binding, with each memory, with graphs and without."""

    @pytest.fixture(
        scope="class",
        params=[
            (binding, memory, graphs, kind)
            for binding in BINDINGS
            for memory in ("staged", "mapped")
            for graphs in ("on", "off")
            for kind in ("float", "quantised")
            if binding != "pycuda" or graphs == "off"
        ],
        ids="-".join,
    )
    def backend(
        self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[CudaBackend]:
        binding, memory, graphs, kind = request.param
        need(binding)
        bundle = write_local(tmp_path_factory.mktemp("bundle") / "local", quantised=kind == "quantised")
        backend = open_torch_cuda(bundle, CudaSettings(memory, graphs, binding), sizes=(1, 2, 4))
        device = backend._device
        yield backend
        backend.close()
        assert device.ledger.empty, device.ledger


@dataclass(frozen=True)
class Known:
    """A trained network, tiles, and what the processor says of them in float32."""

    network: FloatNetwork
    tiles: NDArray[np.uint8]
    scores: NDArray[np.float32]
    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


@pytest.fixture(scope="module")
def known() -> Known:
    """The shipped weights, read from safetensors: no ONNX."""
    network = load_network("carbon-fabric")
    rng = np.random.default_rng(0)
    side = network.tile_px
    y, x = np.mgrid[:side, :side]
    weave = (110 + 40 * np.sin(x / 3.1) * np.sin(y / 2.7))[None] + rng.normal(0, 6, (6, side, side))
    for number in range(1, 6):
        at = rng.integers(20, side - 60, 2)
        weave[number, at[0] : at[0] + 30, at[1] : at[1] + 4 * number] += 70
    tiles = np.clip(weave, 0, 255).astype(np.uint8)
    if network.channels == 3:
        tiles = tiles[..., None].repeat(3, axis=-1)
    said = network.predict(tiles)
    return Known(network, tiles, said.score, said.classes, said.confidence)


def opened(
    network: FloatNetwork, settings: CudaSettings, dtype: torch.dtype = torch.float16, sizes: tuple[int, ...] = (2, 8)
) -> CudaBackend:
    """The network itself as stages."""
    specs = tensor_specs(network)
    first = [specs["pixels"]], [specs["embedding"], specs["score"]]
    second = [specs[n] for n in ("pixels", "embedding", "picked")], [specs[n] for n in ("classes", "confidence")]
    device = open_device(settings.binding)
    stages = {
        "localization": TorchStage(LocalizationStage(network.network, dtype), *first),
        "confidence": TorchStage(ConfidenceStage(network.network, dtype), *second),
    }
    embedding = int(np.prod([int(size) for size in specs["embedding"].shape[1:]])) * 4
    shape = TileShape(network.tile_px, network.channels, embedding)
    return CudaBackend(device, stages, shape, settings, name="torch-cuda", about="torch-cuda: a network", sizes=sizes)


def results(backend: CudaBackend, tiles: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    count = len(tiles)
    slot = filled(backend, tiles)
    backend.submit(slot, count)
    assert backend.collect(slot, 30.0)
    backend.submit_picked(slot, np.arange(count, dtype=np.int32))
    assert backend.collect_picked(slot, 30.0)
    return slot.score[:count].copy(), slot.classes[:count].copy(), slot.confidence[:count].copy()


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("memory", ["staged", "mapped"])
@pytest.mark.parametrize(
    ("dtype", "score", "pixels", "confidence"),
    [(torch.float32, 1e-4, 1e-4, 1), (torch.float16, 0.01, 0.002, 8)],
    ids=["float32", "float16"],
)
def test_results_are_the_processors(
    known: Known, binding: Binding, memory: Memory, dtype: torch.dtype, score: float, pixels: float, confidence: int
) -> None:
    """Float32: scores within 1e-4, one pixel in ten thousand may differ. Float16: within 0.01, two in a thousand."""
    need(binding)
    backend = opened(known.network, CudaSettings(memory, "on", binding), dtype)
    scores, classes, confidences = results(backend, known.tiles)
    backend.close()
    np.testing.assert_allclose(scores, known.scores, rtol=0, atol=score)
    assert np.mean(classes != known.classes) <= pixels
    same = classes == known.classes
    assert np.percentile(np.abs(confidences[same].astype(int) - known.confidence[same]), 99) <= confidence


@pytest.mark.parametrize("memory", ["staged", "mapped"])
def test_a_graph_does_what_the_calls_do(known: Known, memory: Memory) -> None:
    """To the last bit: the same kernels on the same data. Each twice, so that a replay is compared too."""
    need("cuda-bindings")
    found = []
    for graphs in ("on", "off"):
        backend = opened(known.network, CudaSettings(memory, graphs, "cuda-bindings"))
        assert f"graphs {graphs}" in backend.about
        found += [results(backend, known.tiles), results(backend, known.tiles)]
        backend.close()
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_graphs_survive_what_torch_does_beside_them(known: Known) -> None:
    """Other tensors of the process must not get the memory that captured kernels work in."""
    need("cuda-bindings")
    backend = opened(known.network, CudaSettings(binding="cuda-bindings"))
    wanted = results(backend, known.tiles)
    slot = filled(backend, known.tiles)
    count = len(known.tiles)
    for _ in range(5):
        torch.cuda.empty_cache()
        noise = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(200)]  # 0.8 GB of nan
        torch.cuda.synchronize()
        backend.submit(slot, count)
        assert backend.collect(slot, 30.0)
        backend.submit_picked(slot, np.arange(count, dtype=np.int32))
        assert backend.collect_picked(slot, 30.0)
        del noise
        np.testing.assert_array_equal(slot.score[:count], wanted[0])
        np.testing.assert_array_equal(slot.classes[:count], wanted[1])
    backend.close()


@pytest.mark.parametrize("graphs", ["on", "off"])
def test_ten_thousand_batches_leave_memory_as_it_was(tmp_path: Path, graphs: Graphs) -> None:
    need("cuda-bindings")
    backend = open_torch_cuda(write_local(tmp_path / "local"), CudaSettings("staged", graphs, "cuda-bindings"))
    device = backend._device
    tiles, picked = some_tiles(4), np.array([0, 2, 3], np.int32)
    slots = [filled(backend, tiles) for _ in range(2)]

    def batches(count: int) -> None:
        backend.submit(slots[0], 4)
        for number in range(count):
            slot, following = slots[number % 2], slots[(number + 1) % 2]
            backend.submit(following, 4)
            assert backend.collect(slot)
            backend.submit_picked(slot, picked)
            assert backend.collect_picked(slot)
        assert backend.collect(slots[count % 2])

    batches(200)
    gc.collect()
    torch.cuda.synchronize()
    before = device.free_bytes(), torch.cuda.memory_reserved(), device.ledger.made
    host_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches(10_000)
    assert (device.free_bytes(), torch.cuda.memory_reserved(), device.ledger.made) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - host_kib < 8 << 10  # KiB
    np.testing.assert_allclose(slots[0].score[:4], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)
    check_picked(slots[1], tiles, picked)
    backend.close()
    assert device.ledger.empty


def test_opening_and_closing_gives_all_memory_back(tmp_path: Path) -> None:
    need("cuda-bindings")
    bundle = write_local(tmp_path / "local", quantised=True)
    reserved = []
    for _ in range(4):
        backend = open_torch_cuda(bundle, CudaSettings(binding="cuda-bindings"), sizes=(1, 4))
        results(backend, some_tiles(5))
        backend.close()
        del backend
        gc.collect()
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[1] == reserved[-1], reserved
