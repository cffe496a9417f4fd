"""Both stages: shapes, budgets, the three switches, and the rules that make a block quantisable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lpcnet_edge.errors import BadConfig, BadInput, UsageError
from lpcnet_edge.network.config import NetworkConfig, preset
from lpcnet_edge.network.cost import network_cost
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet, normalise

CLASSES = ("background", "a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def edge() -> LpcNet:
    torch.manual_seed(0)
    return LpcNet(preset("edge", CLASSES, 1)).eval()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (64, 96)])
def test_shapes(edge: LpcNet, height: int, width: int) -> None:
    with torch.no_grad():
        out = edge(torch.zeros(2, 1, height, width))
    assert out.heat_logits.shape == (2, 1, height // 16, width // 16)
    assert out.embedding.shape == (2, 64, height // 16, width // 16)
    assert out.initial.shape == out.refined.shape == (2, 6, height // 2, width // 2)
    assert float(out.embedding.min()) >= 0.0  # non-negative: its quantiser can be unsigned on a CPU


@pytest.mark.parametrize("channels", [1, 3])
def test_edge_preset_keeps_its_budget(channels: int) -> None:
    cost = network_cost(preset("edge", CLASSES, channels), 256)
    assert cost.flops("stage1/") <= 0.2e9
    assert cost.flops("stage2/") <= 2.5e9
    assert cost.parameters() <= 2.2e6
    assert cost.flops("stage2/pcm") < 0.05 * cost.flops("stage2/")


def test_cost_counts_what_a_hand_counts() -> None:
    cost = network_cost(preset("edge", CLASSES, 1), 256)
    blocks = {block.name: block for block in cost.blocks}
    assert blocks["stage1/stem"].flops == 2 * 128 * 128 * 9 * 1 * 16
    assert blocks["stage2/decoder/classify"].flops == 2 * 128 * 128 * 32 * 6
    assert blocks["stage2/decoder/classify"].parameters == 32 * 6 + 6
    assert cost.parameters() == sum(p.numel() for p in LpcNet(preset("edge", CLASSES, 1)).parameters())
    assert network_cost(preset("edge", CLASSES, 1), 512).flops("stage1/stem") == 4 * blocks["stage1/stem"].flops


def test_cost_refuses_an_odd_tile() -> None:
    with pytest.raises(UsageError, match="250"):
        network_cost(preset("edge", CLASSES, 1), 250)


def test_switches_are_independent() -> None:
    names = {}
    for switch in ("embed_localization", "weight_loss", "refine_pixels"):
        network = LpcNet(preset("edge", CLASSES, 1, **{switch: False}))
        names[switch] = {name for name, _ in network.named_parameters()}
    whole = {name for name, _ in LpcNet(preset("edge", CLASSES, 1)).named_parameters()}
    assert {n.rsplit(".", 1)[0] for n in whole - names["embed_localization"]} == {"confidence.encoder.project"}
    assert whole == names["weight_loss"]
    assert {n.rsplit(".", 1)[0] for n in whole - names["refine_pixels"]} == {"confidence.pcm"}


def test_embedding_changes_nothing_at_first(edge: LpcNet) -> None:
    """The projection starts at zero, so that stage 2 begins as its own backbone."""
    torch.manual_seed(0)
    fresh = LpcNet(preset("edge", CLASSES, 1)).eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        _, embedding = fresh.localization(x)
        with_it, _ = fresh.confidence(x, embedding)
        without, _ = fresh.confidence(x, torch.zeros_like(embedding))
    assert torch.equal(with_it, without)


@pytest.mark.parametrize("name", ["edge", "large"])
def test_only_quantisable_operators(name: str) -> None:
    """No grouped, transposed or dilated convolution outside the PCM, trunk widths in multiples of 32."""
    network = LpcNet(preset(name, CLASSES, 1))
    allowed = (nn.Conv2d, nn.BatchNorm2d)
    for path, module in network.named_modules():
        if not list(module.children()) and "pcm" not in path:
            assert isinstance(module, allowed), path
        if isinstance(module, nn.Conv2d):
            assert module.groups == 1, path
            assert module.dilation == (1, 1), path
    assert all(w % 32 == 0 for w in (*network.config.encoder_widths, *network.config.localization_widths[1:]))


def test_normalisation_is_lossless_at_scale_one_127th() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    quantised = torch.round(normalise(levels) * 127)
    assert torch.equal(quantised.flatten(), torch.arange(256) - 128.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("background",)}, "classes"),
        ({"classes": ("background", "a", "a")}, "classes"),
        ({"channels": 2}, "channels"),
        ({"pcm_window": 4}, "pcm_window"),
        ({"decoder_width": 0}, "width"),
    ],
)
def test_bad_configurations_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        NetworkConfig(**{"classes": CLASSES, **changes})  # type: ignore[arg-type]


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="huge"):
        preset("huge", CLASSES, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_float_network_predicts_bytes(channels: int) -> None:
    segmenter = FloatNetwork(LpcNet(preset("edge", CLASSES, channels)), 64)
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64) + ((3,) if channels == 3 else ()), dtype=np.uint8)
    found = segmenter.predict(tiles)
    assert found.classes.shape == found.confidence.shape == (3, 64, 64)
    assert found.classes.dtype == found.confidence.dtype == np.uint8
    assert found.heatmap.shape == (3, 4, 4)
    np.testing.assert_allclose(found.score, found.heatmap.max(axis=(1, 2)))
    alone = segmenter.predict(tiles[1:2])
    assert (alone.classes == found.classes[1:2]).mean() > 0.999  # a tile's result does not depend on its neighbours


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (64, 64), (2, 60, 64)])
def test_float_network_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    segmenter = FloatNetwork(LpcNet(preset("edge", CLASSES, 1)), 64)
    with pytest.raises(BadInput, match="tiles"):
        segmenter.predict(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "channels", "row"),
    [("edge", 1, "`edge`, grey"), ("edge", 3, "`edge`, colour"), ("large", 1, "`large`, grey")],
)
def test_the_documented_size_is_the_networks(name: str, channels: int, row: str) -> None:
    cost = network_cost(preset(name, CLASSES, channels), 256)
    share = 100 * cost.flops("stage2/pcm") / cost.flops("stage2")
    sizes = f"{cost.flops('stage1') / 1e9:.3f} GFLOP | {cost.flops('stage2') / 1e9:.2f} GFLOP | {share:.2f} %"
    text = (Path(__file__).parents[2] / "docs/method.md").read_text(encoding="utf-8")
    assert f"| {row} | {sizes} | {cost.parameters() / 1e6:.3g} M |" in text
