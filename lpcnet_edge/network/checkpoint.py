"""Checkpoints of a training run: everything that the next step depends on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpcnet_edge.config import to_mapping
from lpcnet_edge.errors import BadArtifact, StaleCheckpoint
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.config import NetworkConfig
from lpcnet_edge.network.recipe import Recipe
from lpcnet_edge.types import Dataset


@dataclass(frozen=True)
class Checkpoint:
    """``step`` steps are done, in ``seconds`` of work; ``rows`` is metrics.csv so far; ``state`` is the run's own."""

    digest: str
    step: int
    seconds: float
    rows: list[dict[str, float]]
    state: dict[str, Any]


def run_digest(
    config: NetworkConfig,
    recipe: Recipe,
    dataset: Dataset,
    start: Mapping[str, Tensor] | None,
    teacher: Mapping[str, Tensor] | None = None,
) -> str:
    """SHA-256 (hex) of all that a run's losses depend on; how often it is saved or validated is not part of it.

    ``start`` is the state that the network begins with, where that is another network's; ``teacher`` that of the
    network that it learns from.
    """
    settings = to_mapping(recipe)
    for name in ("checkpoint_every", "validate_every"):
        del settings[name]
    if teacher is None:
        del settings["loss"]["distillation"]
    if not recipe.loss.hints:
        del settings["loss"]["hints"]
    content = {"config": to_mapping(config), "recipe": settings, "data": dataset.digest()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for prefix, state in (("", start), ("teacher.", teacher)):
        for name, value in sorted((state or {}).items()):
            digest.update(f"{prefix}{name}".encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a kill leaves the checkpoint before."""
    buffer = io.BytesIO()
    torch.save(
        {
            "digest": checkpoint.digest,
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "rows": checkpoint.rows,
            "state": checkpoint.state,
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, digest: str) -> Checkpoint:
    """Read a checkpoint of the run with this digest; raises ``BadArtifact`` or ``StaleCheckpoint``."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(**content)
    except Exception as exc:  # torch raises many kinds for many kinds of damage
        kind = type(exc).__name__
        raise BadArtifact(f"{path}: not a readable checkpoint ({kind})", mend="start in a new folder") from exc
    if checkpoint.digest != digest:
        raise StaleCheckpoint(
            f"{path} is of run {checkpoint.digest[:12]}, this recipe, data and start make run {digest[:12]}",
            mend="resume with the recipe, data and --start it began with, or start in a new folder",
        )
    return checkpoint
