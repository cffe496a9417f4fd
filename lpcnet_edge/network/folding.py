"""Batch normalisation folded into the convolutions before it, as engines have it."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lpcnet_edge.network.blocks import Conv
from lpcnet_edge.network.model import LpcNet


def folded(network: LpcNet) -> LpcNet:
    """A copy on the CPU, for evaluation, whose convolutions hold their normalisation; one already folded stays so."""
    plain = copy.deepcopy(network).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    for module in plain.modules():
        if isinstance(module, Conv) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
    return plain  # type: ignore[no-any-return]
