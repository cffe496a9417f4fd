"""Starting a network from another one's weights, trained on other data."""

from __future__ import annotations

import torch
from torch import Tensor

from lpcnet_edge.errors import BadWeights
from lpcnet_edge.network.model import LpcNet

_STEMS = ("localization.stem.conv.weight", "confidence.encoder.stem.conv.weight")
_BY_CLASS = ("confidence.decoder.classify.", "confidence.pcm.gain")


@torch.no_grad()
def adopt_weights(network: LpcNet, source: LpcNet) -> int:
    """Copy into ``network`` what ``source`` has of the same name and shape; returns the number of tensors copied.

    A first layer is adapted where one network is grey and the other colour, so that a grey tile gives the same features
    in both. What belongs to a list of classes is taken over only where the lists are equal. Raises ``BadWeights``
    where fewer than half of the tensors fit.
    """
    theirs = source.state_dict()
    same_classes = network.config.classes == source.config.classes
    copied = 0
    for name, value in network.state_dict().items():
        found = theirs.get(name)
        if found is None or (name.startswith(_BY_CLASS) and not same_classes):
            continue
        if name in _STEMS:
            found = _match_channels(found, value.shape[1])
        if found.shape == value.shape:
            value.copy_(found)
            copied += 1
    if copied < len(theirs) // 2:
        raise BadWeights(
            f"only {copied} of {len(theirs)} tensors fit: the two networks are of different sizes",
            mend="start from weights of the same preset",
        )
    return copied


def _match_channels(stem: Tensor, channels: int) -> Tensor:
    if stem.shape[1] == channels:
        return stem
    grey = stem.sum(dim=1, keepdim=True)
    return grey if channels == 1 else grey.expand(-1, channels, -1, -1) / channels
