"""The float network on a GPU says what it says on the CPU, and trains there. Run with ``pytest -m gpu``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lpcnet_edge.network.config import preset
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.recipe import Recipe, Sampling
from lpcnet_edge.network.training import train
from lpcnet_edge.types import Dataset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_predictions_equal_the_cpus() -> None:
    torch.manual_seed(0)
    network = LpcNet(preset("edge", ("background", "a", "b"), 1))
    tiles = np.random.default_rng(0).integers(0, 256, (4, 256, 256), dtype=np.uint8)
    here = FloatNetwork(network, 256).predict(tiles)
    there = FloatNetwork(network, 256, device="cuda").predict(tiles)
    assert (here.classes == there.classes).mean() > 0.999
    np.testing.assert_allclose(here.heatmap, there.heatmap, atol=2e-3)  # TF32 may round the products


def test_training_on_the_gpu_lowers_the_loss(squares: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(tile_px=64, steps=60, warmup_steps=5, sampling=Sampling(batch=4, crop_px=32))
    first = train(squares, dataclasses.replace(recipe, steps=1), tmp_path / "first")
    last = train(squares, recipe, tmp_path / "last")
    assert last.figures["loss"] < 0.8 * first.figures["loss"]
