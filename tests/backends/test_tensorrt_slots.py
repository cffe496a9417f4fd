"""TensorRT's stages under the slots of a CUDA backend: the contract of all backends, on a played runtime and device.

What the played runtime executes is computed in numpy by way of the addresses and shapes that it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import Contract, filled, some_tiles
from local_bundle import write_local
from played_plans import plans_of
from recording import DISCRETE, ORIN, LocalStage, Memory, RecordingDevice
from runtime_double import World, played

from lpcnet_edge.backends import tensorrt_open
from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.tensorrt_open import TensorRtBackend, open_tensorrt
from lpcnet_edge.bundle.cache import VARIABLE
from lpcnet_edge.bundle.machine_plans import put_plans

OPENINGS = {
    "JetPack 6": ("tensorrt", "10.3.0", ORIN, "on"),
    "TensorRT 11": ("tensorrt", "11.4.0.106", DISCRETE, "on"),
    "TensorRT 11 without graphs": ("tensorrt", "11.4.0.106", DISCRETE, "off"),
    "RTX": ("tensorrt_rtx", "1.7.1.116", DISCRETE, "on"),
}


class AlignedDevice(RecordingDevice):
    """Gives addresses as CUDA does, at multiples of 256, and streams with numbers above 0."""

    def memory(self, nbytes: int) -> Any:
        self.next_address += -self.next_address % 256
        return super().memory(nbytes)

    @property
    def live(self) -> set[int]:
        return {held.address for held in self.held if isinstance(held, Memory)}

    def __contains__(self, handle: int) -> bool:
        return self.capturing


def computing(world: World, device: AlignedDevice) -> LocalStage:
    """Let executions do the local network's work, bound at the first one of each kind, as kernels are loaded."""
    local, bound = LocalStage(device), dict[object, Any]()

    def compute(stage: str, addresses: dict[str, int], rows: dict[str, int], handle: int) -> None:
        key = tuple(addresses.items()), tuple(rows.items())
        if key not in bound:
            bound[key] = local.bind({name: at for name, at in addresses.items() if name != "heatmap"}, rows)
        next(stream for stream in device.streams if stream.handle == handle).put(bound[key].do)

    world.compute, world.device, world.capturing = compute, device, device
    return local


class TestContract(Contract):
    """With graphs and without, staged and mapped, batches of up to 4."""

    @pytest.fixture(params=OPENINGS)
    def backend(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[TensorRtBackend]:
        module, version, card, graphs = OPENINGS[request.param]
        monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
        bundle, world, device = write_local(tmp_path / "local"), World(), AlignedDevice(card, eager=0.5)
        library = played(module, version, world)
        monkeypatch.setattr(tensorrt_open, "load_library", lambda name: library)
        name = module.replace("_", "-")
        put_plans(bundle, plans_of(bundle, name, version, f"sm{card.compute_capability.replace('.', '')}"))
        device.stream().close()
        local = computing(world, device)
        found = open_tensorrt(bundle, module, device)
        settings, shape = CudaSettings(graphs=graphs), TileShape.of(bundle.manifest)
        backend = TensorRtBackend(device, found.stages, shape, settings, name=name, about=found.about, sizes=(1, 2, 4))
        yield backend
        backend.close()
        local.close()
        assert device.ledger.empty, device.ledger
        assert device.closed_under_work == 0

    def test_kernels_are_kept_as_soon_as_a_slot_is_made(self, backend: TensorRtBackend, tmp_path: Path) -> None:
        filled(backend, some_tiles(4))
        kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*.kernels")]
        assert len(kept) == (2 if backend.name == "tensorrt-rtx" else 0)
        assert all(b"4x32x32" in data for data in kept)
