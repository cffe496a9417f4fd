"""Training recipes: every choice of a training run, as one frozen value read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from lpcnet_edge.config import load_config, refuse_non_finite
from lpcnet_edge.errors import BadConfig, UsageError
from lpcnet_edge.network.augment import AugmentSettings
from lpcnet_edge.network.config import LARGEST_TILE_PX, TILE_MULTIPLE_PX
from lpcnet_edge.network.drawn import DrawnKind
from lpcnet_edge.network.losses import LossSettings


@dataclass(frozen=True)
class Sampling:
    """What a batch is made of.

    Attributes
    ----------
    batch
        Crops a step.
    crop_px
        Side of a crop, a multiple of 32.
    defect_share
        Share of crops taken around a defect, rounded to whole crops of a batch; classes are equally likely,
        then parts, then images.
    paste_in_place
        Classes whose defects are pasted where they were found (those that belong to an edge, say).
    drawn
        For classes of few parts, the kind of defect that may be drawn onto a free tile in their name
        (:mod:`~lpcnet_edge.network.drawn`); ``augment.drawn`` says how often.
    """

    batch: int = 14
    crop_px: int = 192
    defect_share: float = 0.55
    paste_in_place: tuple[str, ...] = ()
    drawn: Mapping[str, DrawnKind] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A training run. ``docs/method.md`` says which values were found by measurement.

    Attributes
    ----------
    preset
        ``edge`` or ``large``.
    tile_px
        Side that every image is resized to, in training as in use.
    steps, warmup_steps
        Optimiser steps in all, and those over which the learning rate rises; it falls by a cosine afterwards.
    learning_rate, weight_decay, clip_norm
        AdamW's rate and decoupled decay, and the largest norm of the gradient.
    ema_decay
        Decay of the averaged weights, which are those that ship.
    embed_localization, weight_loss, refine_pixels
        The three switches of :class:`~lpcnet_edge.network.config.NetworkConfig`.
    precision
        ``auto`` takes bfloat16 where the processor multiplies in it, float16 on CUDA, float32 elsewhere. On
        CUDA float32 is what torch makes of it: convolutions in TF32 unless ``torch.backends.cudnn.allow_tf32`` is off.
    validate_every, checkpoint_every
        In steps; validation needs a validation set.
    seed
        Of the initial weights and of every batch.
    """

    preset: str = "edge"
    tile_px: int = 256
    steps: int = 5000
    warmup_steps: int = 200
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    embed_localization: bool = True
    weight_loss: bool = True
    refine_pixels: bool = True
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    validate_every: int = 500
    checkpoint_every: int = 200
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        for name, side in (("tile_px", self.tile_px), ("sampling.crop_px", self.sampling.crop_px)):
            if not 0 < side <= LARGEST_TILE_PX or side % TILE_MULTIPLE_PX:
                mend = f"use a positive multiple of {TILE_MULTIPLE_PX}, {LARGEST_TILE_PX} at most"
                raise BadConfig(f"{name} is {side}", mend=mend)
        if self.steps < 1 or self.sampling.batch < 2 or self.checkpoint_every < 1 or self.validate_every < 1:
            raise BadConfig(
                f"steps is {self.steps}, checkpoint_every {self.checkpoint_every}, "
                f"validate_every {self.validate_every}, sampling.batch {self.sampling.batch}",
                mend="use 1 or more, and 2 or more for the batch",
            )
        if not 0 <= self.seed < 1 << 64 or self.warmup_steps < 0:
            raise BadConfig(
                f"seed is {self.seed}, warmup_steps {self.warmup_steps}", mend="use 0 or more, and a seed below 2**64"
            )
        if self.learning_rate < 0 or self.clip_norm <= 0 or self.weight_decay < 0 or not 0 <= self.ema_decay < 1:
            raise BadConfig(
                f"learning_rate is {self.learning_rate:g}, clip_norm {self.clip_norm:g}, weight_decay "
                f"{self.weight_decay:g}, ema_decay {self.ema_decay:g}",
                mend="use a rate and a decay of 0 or more, a norm above 0, and an ema_decay from 0 to below 1",
            )
        if not 0 <= self.sampling.defect_share <= 1:
            raise BadConfig(f"sampling.defect_share is {self.sampling.defect_share:g}", mend="use a share from 0 to 1")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in files("lpcnet_edge").joinpath("recipes").iterdir())


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A packaged recipe by name, or anyone's YAML file by path; raises ``UsageError`` or ``BadConfig``."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in recipe_names():
            raise UsageError(
                f"no recipe is called {str(name_or_path)!r}",
                mend=f"use one of {', '.join(recipe_names())}, or the path of a .yaml file",
            )
        path = Path(str(files("lpcnet_edge").joinpath("recipes", f"{name_or_path}.yaml")))
    return load_config(path, Recipe)
