"""Peer networks in plain torch, written from their papers: normalised tiles (N, C, H, W) in, class logits out.

Logits come at the network's own resolution, as published; who uses them enlarges them bilinearly. Dropout and
stochastic depth are left out of all of them: training has the same augmentation and weight decay for every network.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lpcnet_edge.network.imagenet import ImageNetEncoder, load_imagenet
from networks.ddrnet23slim import DdrNet23Slim
from networks.deeplabv3plus import DeepLabV3Plus
from networks.efficientnet_lite0 import EfficientNetLite0
from networks.segformer_b0 import SegFormerB0
from networks.unet import UNet
from networks.yolov8n_seg import YoloV8nSeg

_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "unet": UNet,
    "deeplabv3plus": DeepLabV3Plus,
    "ddrnet23slim": DdrNet23Slim,
    "segformer-b0": SegFormerB0,
    "efficientnet-lite0": EfficientNetLite0,
}

PEERS = tuple(_BUILDERS)
"""Those that segment and are trained by the accuracy study."""

PRETRAINED: dict[str, Callable[[ImageNetEncoder, int], None]] = {"efficientnet-lite0": load_imagenet}
"""Those that training begins with published weights, and what loads them into a network of so many channels."""

SPEED_ONLY = ("yolov8n-seg",)
"""Measured for speed with random weights: it finds boxes, and is trained by other losses than the study's."""

__all__ = [
    "PEERS",
    "PRETRAINED",
    "SPEED_ONLY",
    "DdrNet23Slim",
    "DeepLabV3Plus",
    "EfficientNetLite0",
    "SegFormerB0",
    "UNet",
    "YoloV8nSeg",
    "build_peer",
]


def build_peer(name: str, channels: int, classes: int) -> nn.Module:
    """The network of this name with random weights, for tiles of ``channels`` and ``classes`` with the background."""
    return _BUILDERS[name](channels, classes)
