"""Networks exported once for all tests: by one process on disk for the others, then kept in memory."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.float_onnx import float_pair
from lpcnet_edge.build.observe import observe
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import LEVELS, place, quantise
from lpcnet_edge.build.ranges import all_ranges
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.network.config import NetworkConfig
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.weights import load_network, save_weights, weights_path

STAGES = ("localization", "confidence")
SMALL = NetworkConfig(
    classes=("background", "crack", "hole"),
    channels=1,
    localization_widths=(8, 8, 16, 16, 16, 8),
    encoder_widths=(8, 8, 16, 16, 32),
    encoder_blocks=(1, 1, 1, 1),
    decoder_width=16,
    pcm_window=3,
)


@dataclass(frozen=True)
class Exported:
    """A network, its float pair, and tiles that it was made for."""

    network: FloatNetwork
    pair: OnnxPair
    tiles: NDArray[np.uint8]

    @cached_property
    def ranges(self) -> Mapping[str, float]:
        """Of every tensor that INT8 needs one for, from the first tiles, by ``mse``."""
        histograms = observe(self.pair, self.tiles[:8], 8)
        return {name: all_ranges(histogram)["mse"] for name, histogram in histograms.items()}

    @cached_property
    def int8(self) -> OnnxPair:
        """The pair quantised with these ranges."""
        return OnnxPair(*(quantise(model, self.ranges) for model in self.float_models.values()))

    @property
    def float_models(self) -> dict[str, onnx.ModelProto]:
        return {stage: getattr(self.pair, stage) for stage in STAGES}

    @property
    def int8_models(self) -> dict[str, onnx.ModelProto]:
        return {stage: getattr(self.int8, stage) for stage in STAGES}


def exported(network: FloatNetwork, weights_sha256: str, cache: Path, tiles: NDArray[np.uint8]) -> Exported:
    """Export, or read what another worker of the same run exported."""
    cache.mkdir(mode=0o700, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Exported(network, float_pair(network, weights_sha256, cache / "exports")[0], tiles)


def shared_cache(factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run, the same for all of its workers; laid out as a build's own cache is."""
    base = factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "network-cache"


@lru_cache
def fabric_tiles(count: int, side: int, channels: int) -> NDArray[np.uint8]:
    """Generated fabric, every other tile or so with a defect."""
    dataset = open_dataset(f"carbon-fabric:count={count},seed=31,size={max(side, 128)}")
    tiles = [resize_image(dataset.read(index).image, side, side) for index in range(count)]
    return np.stack(tiles if channels == 3 else [cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY) for tile in tiles])


@lru_cache
def real(cache: Path) -> Exported:
    """The shipped carbon-fabric network: colour, 256 px."""
    path = weights_path("carbon-fabric")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return exported(load_network("carbon-fabric"), digest, cache, fabric_tiles(16, 256, 3))


@lru_cache
def small(cache: Path) -> Exported:
    """A narrow grey network of 64 px with random weights, none of them zero."""
    return exported(FloatNetwork(random_network(SMALL), 64), "small", cache, fabric_tiles(16, 64, 1))


def random_network(config: NetworkConfig, seed: int = 5) -> LpcNet:
    """A network that no training made: every parameter and statistic random, none without effect, all classes seen."""
    generator = torch.Generator().manual_seed(seed)
    network = LpcNet(config).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith("norm.weight"):
            tensor.uniform_(0.6, 1.4, generator=generator)
        elif tensor.is_floating_point():
            fan_in = float(np.prod(tensor.shape[1:]))
            tensor.normal_(0, (2 / fan_in) ** 0.5 if tensor.ndim > 1 else 0.2, generator=generator)
    head = network.confidence.decoder.classify
    head.weight.data -= head.weight.data.mean(dim=1, keepdim=True)  # so that no class wins by its mean
    head.weight.data *= 4
    return network


def write_fabric_weights(path: Path, tile_px: int = 128) -> Path:
    """The shipped carbon-fabric network for smaller tiles, which it takes as well."""
    if not path.exists():
        network = load_network("carbon-fabric").network
        save_weights(path, network.config, network.state_dict(), tile_px)
    return path


def wide_ranges(model: onnx.ModelProto, value: float = LEVELS / 16) -> dict[str, float]:
    """One range for every tensor of a float stage."""
    return dict.fromkeys(place(from_model(model)).tensors, value)
