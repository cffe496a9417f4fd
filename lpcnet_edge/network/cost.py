"""What a network costs: floating-point operations and parameters, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lpcnet_edge.bundle.manifest import LARGEST_TILE_PX, is_tile_side
from lpcnet_edge.errors import UsageError
from lpcnet_edge.network.config import TILE_MULTIPLE_PX, NetworkConfig
from lpcnet_edge.network.model import LpcNet

_STAGES = {"localization": "stage1", "confidence": "stage2"}


@dataclass(frozen=True)
class BlockCost:
    """One block: its name as in the exported graph, output shape (C, H, W), FLOPs (2 x multiply-adds), parameters."""

    name: str
    shape: tuple[int, ...]
    flops: int
    parameters: int


@dataclass(frozen=True)
class NetworkCost:
    """Blocks in order of execution, and sums by stage (``stage1``, ``stage2``)."""

    tile_px: int
    blocks: tuple[BlockCost, ...]

    def flops(self, prefix: str = "") -> int:
        """FLOPs a tile of all blocks whose name starts with ``prefix``."""
        return sum(block.flops for block in self.blocks if block.name.startswith(prefix))

    def parameters(self, prefix: str = "") -> int:
        """Learned values of all blocks whose name starts with ``prefix``."""
        return sum(block.parameters for block in self.blocks if block.name.startswith(prefix))


def network_cost(config: NetworkConfig, tile_px: int) -> NetworkCost:
    """Count the convolutions' FLOPs and all parameters for one tile of side ``tile_px``; nothing is computed.

    Normalisation, additions and activations are left out, as is usual (they are under 2 % here). Raises ``UsageError``
    for a side that is no multiple of 32, or above 8192.
    """
    if not is_tile_side(tile_px, TILE_MULTIPLE_PX):
        mend = f"use a multiple of {TILE_MULTIPLE_PX} from {TILE_MULTIPLE_PX} to {LARGEST_TILE_PX}"
        raise UsageError(f"a tile of {tile_px} px", mend=mend)
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        network = LpcNet(config).eval()
        tile = torch.empty(1, config.channels, tile_px, tile_px)
    blocks = dict(_blocks(network))

    def record(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            shapes[name] = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()

        blocks[name].register_forward_hook(hook)

    for name in blocks:
        record(name)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(tile)
    counts = counter.get_flop_counts()
    rows = []
    for name, module in blocks.items():
        stage, _, rest = name.partition(".")
        flops = sum(counts.get(f"LpcNet.{name}", {}).values())
        parameters = sum(p.numel() for p in module.parameters())
        rows.append(BlockCost(f"{_STAGES[stage]}/{rest.replace('.', '/')}", shapes[name], flops, parameters))
    return NetworkCost(tile_px, tuple(rows))


def _blocks(network: LpcNet) -> Iterator[tuple[str, nn.Module]]:
    """The blocks a person would name: children of stage 1, and of stage 2's encoder, decoder and PCM."""
    for name, module in network.localization.named_children():
        yield f"localization.{name}", module
    for part, module in network.confidence.named_children():
        if part == "pcm":
            yield "confidence.pcm", module
        else:
            for name, child in module.named_children():
                yield f"confidence.{part}.{name}", child
