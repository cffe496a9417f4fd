"""The fine-tune: what it changes, what it leaves alone, that seeds repeat it and that it can be stopped."""

from __future__ import annotations

import threading

import pytest
import torch
from test_fake_quantisation import PLACED, TINY

from lpcnet_edge.errors import BadConfig
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.qat import Tuned, fine_tune
from lpcnet_edge.network.quantisation import QatSettings
from lpcnet_edge.types import Dataset

SETTINGS = QatSettings(steps=3, warmup_steps=1, batch=2, crop_px=64)


def tuned(dataset: Dataset, settings: QatSettings = SETTINGS) -> tuple[FloatNetwork, Tuned]:
    torch.manual_seed(7)
    network = FloatNetwork(LpcNet(TINY), 64)
    return network, fine_tune(network, PLACED, dataset, settings)


def test_seeds_repeat_it_and_the_float_network_stays(squares: Dataset) -> None:
    network, first = tuned(squares)
    before = {name: value.clone() for name, value in network.network.state_dict().items()}
    _, second = tuned(squares)
    assert first.sha256 == second.sha256
    assert first.losses == second.losses
    assert first.scales == second.scales
    assert tuned(squares, QatSettings(**{**vars(SETTINGS), "seed": 1}))[1].sha256 != first.sha256
    assert all(torch.equal(value, before[name]) for name, value in network.network.state_dict().items())
    assert first.scales["preprocess/normalise"] == pytest.approx(1 / 127)
    assert first.scales["stage1/stem/relu"] != pytest.approx(PLACED.scales["stage1/stem/relu"], rel=1e-4)


def test_calibrated_scales_stay_where_they_are_not_learned(squares: Dataset) -> None:
    _, found = tuned(squares, QatSettings(**{**vars(SETTINGS), "scale_rate": 0.0}))
    assert found.scales == pytest.approx(dict(PLACED.scales), rel=1e-6)


def test_stopping_it_ends_the_feed(squares: Dataset) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        if phase == "fine-tuning" and done == 1:
            raise KeyboardInterrupt

    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(FloatNetwork(LpcNet(TINY), 64), PLACED, squares, QatSettings(steps=1000, batch=2, crop_px=64), stop)
    assert not [t for t in threading.enumerate() if t.name.startswith("feed")]


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"batch": 1}, {"crop_px": 100}, {"learning_rate": 0.0}, {"defect_share": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig):
        QatSettings(**change)  # type: ignore[arg-type]
