"""The networks that the study compares, all with the outputs of LPC-Net, so that one trainer serves them all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lpcnet_edge.network.confidence import ConfidenceNet
from lpcnet_edge.network.config import STRIDE_PX, NetworkConfig, preset
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.recipe import Recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from networks import PEERS, PRETRAINED, build_peer

ABLATION: dict[str, tuple[bool, bool, bool]] = {
    "backbone": (False, False, False),
    "loss-weight": (False, True, False),
    "embedding": (True, False, False),
    "pcm": (False, False, True),
    "lpc-net": (True, True, True),
}
"""embed_localization, weight_loss and refine_pixels of each configuration."""

CONFIGURATIONS = (*ABLATION, *PEERS)

_AUXILIARY_WEIGHT = 0.4
"""Of the loss of a peer's auxiliary head; it takes the place of the refined prediction's."""


class NoLocalization(nn.Module):
    """Stands where stage 1 would: says nothing, costs nothing, learns nothing."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embedding = config.localization_widths[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = (x.shape[2] // STRIDE_PX, x.shape[3] // STRIDE_PX)
        return x.new_zeros(len(x), 1, *cells), x.new_zeros(len(x), self.embedding, *cells)


class SegmentationAlone(LpcNet):
    """A segmentation network without a first stage; ``segmentation(x, embedding)`` gives initial and refined logits."""

    def __init__(self, config: NetworkConfig, segmentation: nn.Module) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.localization = NoLocalization(config)  # type: ignore[assignment]
        self.confidence = segmentation  # type: ignore[assignment]


class Peer(nn.Module):
    """A peer as a second stage: its logits at its own resolution; in training those of its auxiliary head stand where
    the refined ones do, and have their weight."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, _embedding: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(x)
        if isinstance(found, Tensor):
            return found, found
        logits, auxiliary = found
        return logits, auxiliary


def needs_stage1(name: str) -> bool:
    """Whether a configuration has a first stage at all."""
    return any(ABLATION.get(name, (False, False, False))[:2])


def builder(name: str) -> Callable[[NetworkConfig], LpcNet]:
    """What makes a configuration's network; of the ablation, all start from the same weights for the same seed."""

    def ablation(config: NetworkConfig) -> LpcNet:
        switched_on = replace(config, embed_localization=True, weight_loss=True, refine_pixels=True)
        whole = LpcNet(switched_on).state_dict()
        network = LpcNet(config) if needs_stage1(name) else SegmentationAlone(config, ConfidenceNet(config))
        network.load_state_dict({key: whole[key] for key in network.state_dict()})
        return network

    def peer(config: NetworkConfig) -> LpcNet:
        return SegmentationAlone(config, Peer(build_peer(name, config.channels, len(config.classes))))

    return ablation if name in ABLATION else peer


def begin(name: str, network: LpcNet) -> None:
    """Load published weights where a configuration begins with them; raises ``MissingLibrary``."""
    if name in PRETRAINED:
        peer: Peer = network.confidence  # type: ignore[assignment]
        PRETRAINED[name](peer.network, network.config.channels)


def recipe_of(name: str, base: Recipe, seed: int) -> Recipe:
    """The recipe of one run: the same for all but for the seed, the three switches, the losses of a stage 1 and, for a
    peer, the weight of an auxiliary head."""
    embed, weight, refine = ABLATION.get(name, (False, False, False))
    loss = base.loss if needs_stage1(name) else replace(base.loss, localization=0.0, tile=0.0)
    if name not in ABLATION:
        loss = replace(loss, refinement=_AUXILIARY_WEIGHT)
    return replace(base, seed=seed, embed_localization=embed, weight_loss=weight, refine_pixels=refine, loss=loss)


@dataclass(frozen=True)
class Cost:
    """Learned values, and FLOPs (2 x multiply-adds) for one tile."""

    parameters: int
    flops: int


def cost_of(name: str, classes: tuple[str, ...], channels: int, recipe: Recipe) -> Cost:
    """What a configuration costs in use, both stages and no auxiliary head; nothing is computed."""
    one = recipe_of(name, recipe, 0)
    config = preset(
        one.preset,
        classes,
        channels,
        embed_localization=one.embed_localization,
        weight_loss=one.weight_loss,
        refine_pixels=one.refine_pixels,
    )
    with torch.device("meta"):
        network = builder(name)(config).eval()
        tile = torch.empty(1, channels, one.tile_px, one.tile_px)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(tile)
    kept = [p for key, p in network.named_parameters() if ".auxiliary." not in key]
    return Cost(sum(p.numel() for p in kept), counter.get_total_flops())
