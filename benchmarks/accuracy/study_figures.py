"""The study's plots: paired differences with their intervals, and IoU by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from study_groups import Compared, Group

_PANELS = (("mean_iou", "mIoU"), ("mean_pixel_accuracy", "mPA"))


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def plot_differences(found: dict[str, Compared], baseline: str, group: Group, path: Path) -> None:
    """A point and an interval for each configuration, zero drawn, for mIoU and mPA."""
    from matplotlib.figure import Figure

    names = [name for name, one in found.items() if one.difference is not None]
    figure = Figure(figsize=(9, 1.6 + 0.4 * max(1, len(names))), layout="constrained")
    for position, (column, title) in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(1, 2, position)
        at = group.columns.index(column)
        for row, name in enumerate(names):
            value, bounds = found[name].difference, found[name].difference_bounds
            assert value is not None
            assert bounds is not None
            axes.plot(bounds[:, at], [row, row], color="tab:blue", linewidth=2)
            axes.plot([value[at]], [row], "o", color="tab:blue")
        axes.axvline(0, color="grey", linewidth=1)
        axes.set_yticks(range(len(names)), names if position == 1 else [""] * len(names))
        axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
        axes.set_xlabel(f"{title} minus {baseline}, points (95 %)")
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(group.title)
    _save(figure, path)


def plot_classes(found: dict[str, Compared], group: Group, path: Path) -> None:
    """Bars of IoU by class with their intervals, one colour a configuration."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 1.6 * len(group.classes)), 3.8), layout="constrained")
    axes = figure.add_subplot()
    at = [group.columns.index(f"iou.{name}") for name in group.classes]
    width = 0.8 / max(1, len(found))
    for index, (name, one) in enumerate(found.items()):
        value = np.nan_to_num(one.value[at])
        low, high = np.nan_to_num(one.bounds[:, at])
        errors = np.maximum(0, np.stack([value - low, high - value]))
        places = np.arange(len(at)) - 0.4 + (index + 0.5) * width
        axes.bar(places, value, width * 0.92, yerr=errors, label=name, error_kw={"linewidth": 0.8})
    parts = group.parts_of()
    labels = [name if name == "background" else f"{name}\n{parts[name]} parts" for name in group.classes]
    axes.set_xticks(range(len(at)), labels)
    axes.set_ylim(0, 100)
    axes.set_ylabel("IoU, points (95 %)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", fontsize=8, ncols=2)
    axes.set_title(group.title)
    _save(figure, path)
