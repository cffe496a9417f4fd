"""SegFormer-B0: Xie, Wang, Yu, Anandkumar, Alvarez and Luo, NeurIPS 2021 (arXiv 2105.15203)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTHS = (32, 64, 160, 256)
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)
_BLOCKS = 2
_EXPANSION = 4
_DECODER = 256


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H W, C) to (N, C, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W, C)."""
    return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention whose keys and values are taken from a map made smaller by ``reduction``."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.reduce: nn.Module | None = None
        if reduction > 1:
            self.reduce, self.norm = nn.Conv2d(width, width, reduction, reduction), nn.LayerNorm(width, eps=1e-5)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        count, length, channels = tokens.shape
        source = tokens
        if self.reduce is not None:
            source = self.norm(to_tokens(self.reduce(to_map(tokens, height, width))))
        shape = (count, -1, self.heads, channels // self.heads)
        query = self.query(tokens).reshape(shape).transpose(1, 2)
        key, value = (part.reshape(shape).transpose(1, 2) for part in self.key_value(source).chunk(2, dim=-1))
        weights = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(count, length, channels)
        y: Tensor = self.project(mixed)
        return y


class Block(nn.Module):
    """Attention, then Mix-FFN: a depthwise 3x3 between two linear layers says where a token is."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        wide = _EXPANSION * width
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, reduction)
        self.expand, self.shrink = nn.Linear(width, wide), nn.Linear(wide, width)
        self.place = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens), height, width)
        x = to_map(self.expand(self.norm2(tokens)), height, width)
        y: Tensor = self.shrink(functional.gelu(to_tokens(self.place(x))))
        return tokens + y


class Stage(nn.Module):
    """Overlapping patches, then blocks; a map in, a map out."""

    def __init__(self, inputs: int, width: int, size: int, stride: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(inputs, width, size, stride, size // 2), nn.LayerNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(Block(width, heads, reduction) for _ in range(_BLOCKS))
        self.last = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        height, width = x.shape[2:]
        tokens = self.norm(to_tokens(x))
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return to_map(self.last(tokens), height, width)


class SegFormerB0(nn.Module):
    """MiT-B0 and the all-MLP decoder; logits at stride 4."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        sizes, strides = (7, 3, 3, 3), (4, 2, 2, 2)
        inputs = (channels, *_WIDTHS)
        self.stages = nn.ModuleList(
            Stage(*row) for row in zip(inputs, _WIDTHS, sizes, strides, _HEADS, _REDUCTIONS, strict=False)
        )
        self.project = nn.ModuleList(nn.Linear(width, _DECODER) for width in _WIDTHS)
        self.fuse = nn.Sequential(
            nn.Conv2d(4 * _DECODER, _DECODER, 1, bias=False), nn.BatchNorm2d(_DECODER), nn.ReLU(inplace=True)
        )
        self.classify = nn.Conv2d(_DECODER, classes, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for stage, project in zip(self.stages, self.project, strict=True):
            x = stage(x)
            y = to_map(project(to_tokens(x)), *x.shape[2:])
            size = levels[0].shape[2:] if levels else y.shape[2:]
            levels.append(functional.interpolate(y, size=size, mode="bilinear", align_corners=False))
        logits: Tensor = self.classify(self.fuse(torch.cat(levels[::-1], dim=1)))
        return logits


def _initialise(module: nn.Module) -> None:
    """As published: normal of 0.02 for linear layers, by fan-out for convolutions, biases at zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
