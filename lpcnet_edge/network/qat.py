"""Quantisation-aware fine-tuning: a few hundred steps in which the network feels its own INT8 rounding."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from lpcnet_edge.network.augment import AugmentSettings
from lpcnet_edge.network.fake_quantisation import FakeQuantised
from lpcnet_edge.network.feed import Batch, Feed, prefetched
from lpcnet_edge.network.folding import folded
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.losses import LossSettings, lpc_loss, pixel_weights
from lpcnet_edge.network.model import LpcNet, Outputs, normalise
from lpcnet_edge.network.quantisation import QatSettings, Quantisation
from lpcnet_edge.network.recipe import Recipe, Sampling
from lpcnet_edge.types import Dataset

Progress = Callable[[str, int, int], None]

T = TypeVar("T", bound=torch.nn.Module)

_CLIP_NORM = 1.0
_LOSS = LossSettings()
_MILD = AugmentSettings(
    scale=1.1, aspect=1.05, gain=1.1, gamma=1.1, offset=4.0, shading=0.05, noise=2.0, tint=1.02, paste=0.0
)
"""The scales must stay right for tiles as they are: hardly more than a camera itself varies."""


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned network, its normalisation folded, the scale of every rounded tensor, and the loss of every step.

    ``sha256`` (hex) is that of the weights: names and float32 values, sorted by name.
    """

    network: FloatNetwork
    scales: dict[str, float]
    losses: tuple[float, ...]
    seconds: float

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.network.network.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def fine_tune(
    network: FloatNetwork,
    quantisation: Quantisation,
    dataset: Dataset,
    settings: QatSettings,
    progress: Progress | None = None,
) -> Tuned:
    """Train a copy of ``network`` while it rounds as ``quantisation`` says; ``network`` itself stays as it is.

    The loss is that of training plus what keeps the decisions those of the float network: the Kullback-Leibler
    divergence of the classes, weighted by where the float network's heatmap sees something, and the squared difference
    of the heatmap's logits. Equal seeds give equal weights on one machine and thread count. An exception such as
    ``KeyboardInterrupt`` ends it at once and leaves nothing behind.

    Raises
    ------
    BadData
        A defect class has no pixel in ``dataset``, or a file of it cannot be read.
    BuildFailed
        ``quantisation`` does not fit the network.
    """
    cv2.setNumThreads(1)  # the augmentation must not take the processor from the network
    torch.manual_seed(settings.seed)
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = _placed(folded(network.network), device)
    student = FakeQuantised(folded(network.network), quantisation)
    _placed(student.module, device).train()
    weights = [p for p in student.network.parameters() if p.requires_grad]
    groups = [{"params": weights, "lr": settings.learning_rate}]
    if settings.scale_rate:
        groups.append({"params": student.scale_parameters(), "lr": settings.scale_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    shape = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, settings))
    reading = None if progress is None else lambda done, total: progress("reading tiles to fine-tune on", done, total)
    feed = Feed(dataset, _recipe(network.tile_px, settings), reading)
    losses: list[float] = []
    with contextlib.closing(prefetched(feed, 0, settings.steps)) as batches:
        for step, batch in batches:
            if progress is not None:
                progress("fine-tuning", step, settings.steps)
            loss = _loss(student.module, teacher, batch, settings, device)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, _CLIP_NORM)
            optimiser.step()
            shape.step()
            losses.append(float(loss.detach()))
    scales = student.scales()
    tuned = FloatNetwork(student.restore(), network.tile_px, device=network.device.type)
    return Tuned(tuned, scales, tuple(losses), time.monotonic() - started)


def _placed(module: T, device: torch.device) -> T:
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _share(step: int, settings: QatSettings) -> float:
    """Share of the full rates at a step: linear warm-up, then half a cosine down to nothing."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _recipe(tile_px: int, settings: QatSettings) -> Recipe:
    """What the feed asks of a recipe."""
    sampling = Sampling(
        batch=settings.batch, crop_px=min(settings.crop_px, tile_px), defect_share=settings.defect_share
    )
    return Recipe(tile_px=tile_px, steps=settings.steps, seed=settings.seed, sampling=sampling, augment=_MILD)


def _loss(
    student: torch.nn.Module, teacher: LpcNet, batch: Batch, settings: QatSettings, device: torch.device
) -> Tensor:
    pixels, mask = (torch.from_numpy(array).to(device) for array in batch)
    x = normalise(pixels).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted: Outputs = teacher(x)
    found: Outputs = student(x)
    loss = settings.task * lpc_loss(found, mask.long(), _LOSS, weight_loss=teacher.config.weight_loss).total
    ours, theirs = (functional.log_softmax(logits, dim=1) for logits in (found.initial, wanted.initial))
    divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    height, width = divergence.shape[1:]
    seen = pixel_weights(wanted.heat_logits, height, width, _LOSS.weight_floor)
    loss = loss + settings.distil_classes * (divergence * seen).mean()
    return loss + settings.distil_heat * functional.mse_loss(found.heat_logits, wanted.heat_logits)
