"""What a finished run leaves: weights, the card that says where they come from, figures and curves."""

from __future__ import annotations

import csv
import io
import platform
import subprocess
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lpcnet_edge.config import to_mapping
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.recipe import Recipe
from lpcnet_edge.network.weights import save_weights
from lpcnet_edge.types import Dataset
from lpcnet_edge.yamlfile import dump_yaml

_CURVES = (("loss", "localization", "refined", "initial"), ("mean_iou", "mean_pixel_accuracy", "defect_iou"))


def finish_run(
    out_dir: Path,
    network: FloatNetwork,
    dataset: Dataset,
    recipe: Recipe,
    rows: list[dict[str, float]],
    notes: dict[str, Any],
) -> Path:
    """Write ``weights.safetensors``, ``card.yaml``, ``metrics.csv`` and ``curves.png``; returns the weights' path."""
    path = out_dir / "weights.safetensors"
    digest = save_weights(path, network.network.config, network.network.state_dict(), network.tile_px)
    card = {
        "weights": {"file": path.name, "sha256": digest, "tile_px": network.tile_px},
        "network": to_mapping(network.network.config),
        "data": _describe(dataset),
        "recipe": to_mapping(recipe),
        "last": {name: round(value, 5) for name, value in rows[-1].items()} if rows else {},
        "run": {**notes, "finished": datetime.now(timezone.utc).isoformat(timespec="seconds")},
        "versions": _versions(),
    }
    write_atomically(out_dir / "metrics.csv", metrics_csv(rows))
    write_atomically(out_dir / "curves.png", curves_png(rows))
    write_atomically(out_dir / "card.yaml", dump_yaml(card))
    return path


def _describe(dataset: Dataset) -> dict[str, Any]:
    entries = dataset.entries
    labels = Counter("free" if e.label == 0 else dataset.classes[e.label] for e in entries)
    folds = sorted({e.strata["fold"] for e in entries if "fold" in e.strata})
    return {
        "name": dataset.name,
        "digest": dataset.digest(),
        "images": len(entries),
        "parts": len({e.part for e in entries}),
        "labels": dict(sorted(labels.items())),
        "folds": folds,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("lpcnet-edge", "torch", "numpy", "opencv-python-headless"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["commit"] = _commit()
    return found


def _commit() -> str:
    """The commit that the code is at, where it is a checkout and git is installed."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # An environment within another project's checkout is none of that project's commits.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def metrics_csv(rows: list[dict[str, float]]) -> str:
    """The rows as CSV; a figure that was not taken at a step is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    return stream.getvalue()


def curves_png(rows: list[dict[str, float]]) -> bytes:
    """Losses, and the validation's figures where there are any, against the step."""
    from matplotlib.figure import Figure

    panels = [names for names in _CURVES if any(name in row for row in rows for name in names)]
    figure = Figure(figsize=(6.4 * max(1, len(panels)), 4), layout="constrained")
    for position, names in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1)
        axes.set_xlabel("step")
        axes.set_ylabel("loss" if "loss" in names else "points")
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
