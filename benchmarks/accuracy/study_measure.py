"""What a finished training reaches on held-out images, part by part, and what it was made with."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from lpcnet_edge.check.walk import walk
from lpcnet_edge.config import from_mapping
from lpcnet_edge.metrics import confusion_matrix
from lpcnet_edge.network.config import NetworkConfig
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.types import Dataset, Entry

ROOT = Path(__file__).resolve().parents[2]


def load_into(network: Any, weights: Path, tile_px: int) -> FloatNetwork:
    """A network with the weights that a run left, ready to predict."""
    from safetensors.torch import load_file

    network.load_state_dict(load_file(weights), strict=False)
    return FloatNetwork(network, tile_px, device="cuda" if torch.cuda.is_available() else "cpu")


def load_run(folder: Path, build: Callable[[NetworkConfig], Any]) -> FloatNetwork:
    """The network that a finished run left in its folder; ``build`` makes one of the run's configuration."""
    card = yaml.safe_load((folder / "card.yaml").read_text())
    config = from_mapping(NetworkConfig, card["network"], f"{folder.name}/card.yaml: network")
    return load_into(build(config), folder / "weights.safetensors", card["weights"]["tile_px"])


def measure_by_part(network: FloatNetwork, held_out: Dataset, *, scores: bool) -> tuple[dict[str, Any], Any]:
    """For each physical part its images by class, its confusion matrix and stage 1's scores; and the matrices' sum."""
    count = len(network.classes)
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    confusions = defaultdict(lambda: np.zeros((count, count), np.int64))
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"free_scores": [], "defective_scores": []})
    for checked in walk(network, held_out):
        entry: Entry = checked.entry
        labels[entry.part]["free" if entry.label == 0 else held_out.classes[entry.label]] += 1
        confusions[entry.part] += confusion_matrix(checked.truth, checked.predicted, count)
        found[entry.part]["defective_scores" if checked.defective else "free_scores"].append(round(checked.score, 6))
    parts = {
        part: {
            "images": dict(sorted(labels[part].items())),
            "confusion": confusions[part].tolist(),
            **(found[part] if scores else {}),
        }
        for part in sorted(confusions)
    }
    return parts, sum(confusions.values())


def code_digest() -> str:
    """SHA-256 (hex) over the sources that figures depend on: a commit says nothing of what was not committed."""
    loaded = {Path(m.__file__).resolve() for m in tuple(sys.modules.values()) if getattr(m, "__file__", None)}
    used = ("lpcnet_edge/network", "lpcnet_edge/metrics", "lpcnet_edge/imaging.py", "benchmarks")
    files = {path for path in loaded for name in used if path.is_relative_to(ROOT / name)}
    files |= set((ROOT / "lpcnet_edge/datasets").glob("*.py"))  # some are loaded late
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
