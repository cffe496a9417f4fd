"""The peers are the published networks: their parameters, counted, and the sizes of what they put out."""

from __future__ import annotations

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

from lpcnet_edge.network.imagenet import ImageNetEncoder, load_imagenet
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


def test_the_pretrained_peer_has_the_published_encoder() -> None:
    assert {"efficientnet-lite0": load_imagenet} == PRETRAINED
    assert issubclass(EfficientNetLite0, ImageNetEncoder)  # by whose names load_imagenet goes


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
