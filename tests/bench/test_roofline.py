"""What a graph costs, against counts made another way."""

from __future__ import annotations

import exported
import pytest

from lpcnet_edge.bench.devices import DEVICES, Device, device_called
from lpcnet_edge.bench.roofline import Layer, layers_of
from lpcnet_edge.errors import UsageError
from lpcnet_edge.network.cost import network_cost


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> exported.Exported:
    return exported.small(exported.shared_cache(tmp_path_factory))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("quantised", [False, True])
def test_convolutions_cost_what_the_network_counts(small: exported.Exported, quantised: bool, batch: int) -> None:
    pair = small.int8_models if quantised else small.float_models
    cost = network_cost(small.network.network.config, 64)
    for stage, prefix in (
        ("localization", "stage1"),
        ("confidence", "stage2/encoder"),
        ("confidence", "stage2/decoder"),
    ):
        layers = layers_of(pair[stage].SerializeToString(), stage, batch, 4)
        found = sum(layer.ops for layer in layers if layer.name.startswith(prefix))
        assert found == batch * cost.flops(prefix)
        convolutions = [layer for layer in layers if layer.kind == "Conv" and layer.name.startswith(prefix)]
        assert any(layer.quantised for layer in convolutions) == quantised


def test_int8_moves_fewer_bytes_and_weights_move_once_a_batch(small: exported.Exported) -> None:
    def moved(models: object, batch: int) -> int:
        layers = layers_of(models["confidence"].SerializeToString(), "confidence", batch, 4)  # type: ignore[index]
        return sum(layer.read_bytes + layer.written_bytes for layer in layers)

    assert moved(small.int8_models, 1) < 0.6 * moved(small.float_models, 1)
    assert moved(small.int8_models, 8) < 8 * moved(small.int8_models, 1)


def test_the_slower_of_compute_and_memory_bounds() -> None:
    device = Device("made up", 1e9, 5e8, 1e9, 1e9, 2, ())
    assert Layer("a", "Conv", True, ops=4_000_000, read_bytes=1000).seconds(device) == (0.004, "compute")
    assert Layer("a", "Conv", False, ops=4_000_000, read_bytes=1000).seconds(device) == (0.008, "compute")
    assert Layer("a", "Conv", True, ops=1000, read_bytes=1_000_000, written_bytes=1_000_000).seconds(device) == (
        0.002,
        "memory",
    )


def test_devices_agree_with_the_sheets_own_dense_figures() -> None:
    """INT8 TOPS: 20 dense of Orin Nano 8GB, 67 sparse of it in MAXN SUPER, 170 sparse of AGX Orin's GPU."""
    of_the_gpu = {
        "orin-nano-4gb": 10,
        "orin-nano": 20,
        "orin-nano-super": 67 / 2,
        "orin-nx-8gb": 35 - 20 / 2,  # without the DLAs', of which the sheet has the sparse figure
        "orin-nx": 50 - 40 / 2,
        "orin-nx-super": 78 - 80 / 2,
        "agx-orin-32gb": 108 / 2,
        "agx-orin": 170 / 2,
    }
    assert of_the_gpu.keys() == DEVICES.keys()
    for name, tops in of_the_gpu.items():
        assert DEVICES[name].int8_ops == pytest.approx(tops * 1e12, rel=0.03), name
    for name, tflops in {"orin-nx-super": 2.40, "agx-orin": 5.3}.items():  # FP32 of the CUDA cores
        assert DEVICES[name].vector_ops == pytest.approx(tflops * 1e12, rel=0.01), name
    assert all(device.sources for device in DEVICES.values())
    with pytest.raises(UsageError, match="orin-nono"):
        device_called("orin-nono")
