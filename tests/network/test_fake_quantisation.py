"""Fake quantisation rounds as QuantizeLinear does, its gradients are the published ones, and it fits or says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lpcnet_edge.errors import BuildFailed
from lpcnet_edge.network.config import NetworkConfig
from lpcnet_edge.network.fake_quantisation import ActivationRounding, FakeQuantised
from lpcnet_edge.network.folding import folded
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.quantisation import Quantisation

TINY = NetworkConfig(
    classes=("background", "square", "line"),
    localization_widths=(4, 4, 8, 8, 8, 4),
    encoder_widths=(4, 4, 8, 8, 8),
    encoder_blocks=(1, 1, 1, 1),
    decoder_width=8,
)
STEM = "stage2/encoder/stem/relu"
BLOCK = "stage1/down16/relu"
PLACED = Quantisation(
    convs=("stage1/down4/conv", "stage2/encoder/level4/down", "stage2/decoder/up2/lateral"),
    uses={
        "preprocess/normalise": (("stage1/stem/conv", 0), ("stage2/encoder/stem", 0)),
        "stage1/stem/relu": (("stage1/down4/conv", 0),),
        BLOCK: (("stage1/block16/conv", 0), ("stage1/add", 1)),
        "stage1/block32/relu": (("stage1/merge/resize", 0),),
        STEM: (("stage2/encoder/level4/down", 0), ("stage2/decoder/up2/lateral", 0)),
    },
    scales={
        "preprocess/normalise": 1 / 127,
        "stage1/stem/relu": 0.02,
        BLOCK: 0.03,
        "stage1/block32/relu": 0.01,
        STEM: 0.05,
    },
    levels=127,
    scale_floor=2.0**-24,
)


@pytest.fixture
def network() -> LpcNet:
    torch.manual_seed(0)
    return folded(LpcNet(TINY))


def test_activations_round_as_quantise_linear() -> None:
    x = np.random.default_rng(0).normal(0, 3, 4096).astype(np.float32)
    x[:6] = [0.05 * 127.4, 0.05 * 127.6, 1e9, -1e9, 0.025, 0.075]
    scale = np.float32(0.05)
    wanted = np.clip(np.rint(x / scale), -128, 127).astype(np.float32) * scale
    rounding = ActivationRounding(0.05, 127, 2.0**-24, learned=True)
    np.testing.assert_array_equal(rounding(torch.from_numpy(x)).detach().numpy(), wanted)


def test_gradients_pass_rounding_stop_at_clipping_and_move_the_scale() -> None:
    # In scales: rounded down, rounded up, clipped above, clipped below, exact.
    ratio = torch.tensor([0.3, 0.8, 200.0, -300.0, 5.0])
    rounding = ActivationRounding(0.5, 127, 2.0**-24, learned=True)
    x = (ratio * 0.5).requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (rounding(x) * weights).sum().backward()
    assert x.grad is not None
    assert rounding.change.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0, 5.0]
    by_scale = 1 * (0 - 0.3) + 2 * (1 - 0.8) + 3 * 127 + 4 * -128 + 5 * 0  # LSQ, eq. 3
    assert float(rounding.change.grad) == pytest.approx(0.5 * by_scale, rel=1e-5)  # by the logarithm: times the scale


def test_weights_round_by_output_channel_and_come_back_as_they_were(network: LpcNet) -> None:
    conv = network.localization.down4.conv
    before = conv.weight.detach().clone()
    before[0] = 0.0  # a dead channel must not divide by zero
    with torch.no_grad():
        conv.weight.copy_(before)
    fake = FakeQuantised(network, PLACED)
    scale = np.maximum(np.abs(before.numpy()).reshape(len(before), -1).max(1) / 127, 2.0**-24).astype(np.float32)
    scale = scale[:, None, None, None]
    np.testing.assert_array_equal(conv.weight.detach().numpy(), np.rint(before.numpy() / scale) * scale)
    assert torch.equal(fake.restore().localization.down4.conv.weight, before)
    assert not [name for name in network.state_dict() if "parametrizations" in name or "rounding" in name]


def test_only_the_readers_named_read_rounded(network: LpcNet) -> None:
    """A rounded tensor has one value, for all of its readers and for nobody else."""
    fake = FakeQuantised(network, PLACED)
    index = list(PLACED.uses).index(STEM)
    (rounded,) = [node for node in fake.module.graph.nodes if node.target == f"rounding.{index}"]
    readers = {str(user.target) for user in rounded.users}
    assert readers == {"confidence.encoder.level4.down.conv", "confidence.decoder.up2.lateral.conv"}
    (plain,) = [node for node in fake.module.graph.nodes if node.op == "placeholder"]
    assert {str(user.target) for user in plain.users} == {"rounding.0"}
    (block,) = [n for n in fake.module.graph.nodes if n.target == f"rounding.{list(PLACED.uses).index(BLOCK)}"]
    assert {user.name for user in block.users} == {"localization_block16_conv", "add"}
    assert fake.scales() == {name: float(np.float32(scale)) for name, scale in PLACED.scales.items()}
    assert len(fake.scale_parameters()) == len(PLACED.scales) - 1  # the pixels' scale is not learned


def test_pixels_survive_their_rounding(network: LpcNet) -> None:
    """Every byte is a level of its own at 1/127."""
    only = replace(PLACED, convs=(), uses={"preprocess/normalise": PLACED.uses["preprocess/normalise"]})
    pixels = (torch.arange(256, dtype=torch.float32).repeat(16).reshape(1, 1, 64, 64) - 128) / 127
    with torch.no_grad():
        wanted = network(pixels)
        found = FakeQuantised(network, only).module(pixels)
    torch.testing.assert_close(found.refined, wanted.refined, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("uses", "why"),
    [
        ({STEM: (("stage2/encoder/level5/down", 0),)}, "nothing that is stage2/encoder/level5/down"),
        ({STEM: (("stage1/add_2", 0),)}, "nothing that is stage1/add_2"),
        ({STEM: (("stage2/encoder/level4/down", 0), ("stage2/encoder/level8/down", 0))}, "2 different tensors"),
    ],
)
def test_a_placement_of_another_network_is_refused(
    network: LpcNet, uses: dict[str, tuple[tuple[str, int], ...]], why: str
) -> None:
    with pytest.raises(BuildFailed, match=why):
        FakeQuantised(network, replace(PLACED, uses=uses))


def test_folding_keeps_the_function_and_is_done_once() -> None:
    torch.manual_seed(1)
    network = LpcNet(TINY)
    with torch.no_grad():
        network.train()(torch.randn(4, 1, 64, 64))  # statistics other than 0 and 1
    plain = folded(network.eval())
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(plain(x), network(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not [m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    again = folded(plain)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in again.state_dict().items())
