"""Sixteen grey images in four folds on disk, and records of a study that never ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # tests run side by side; threads of one would only wait for another's


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images a part; each fold has a free part and one with a dark square or a bright line."""
    root = tmp_path_factory.mktemp("tiles")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    (root / "classes.yaml").write_text("names: [background, square, line]\nname: tiles\n")
    rng = np.random.default_rng(0)
    rows = ["image,part,fold"]
    for number in range(16):
        part = number // 2
        image = rng.normal(120, 6, (64, 64)).clip(0, 255).astype(np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        y, x = rng.integers(12, 40, 2)
        if part % 4 == 1:
            image[y : y + 12, x : x + 12] //= 3
            mask[y : y + 12, x : x + 12] = 1
        elif part % 4 == 3:
            image[y : y + 3, 8:56] = 230
            mask[y : y + 3, 8:56] = 2
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask)
        rows.append(f"{number}.png,p{part},{part // 2 + 1}")
    (root / "parts.csv").write_text("\n".join(rows) + "\n")
    return root


CLASSES = ("background", "dot", "line")


def confusion(rng: np.random.Generator, label: int, right: float) -> list[list[int]]:
    """A part of 10,000 px, of which the defect's are found at the rate ``right``."""
    counts = np.zeros((3, 3), np.int64)
    defect = int(rng.integers(200, 400)) if label else 0
    hit = round(defect * right)
    counts[0, 0], counts[0, 1] = 10_000 - defect - 20, 20
    counts[label, label] += hit
    counts[label, 0] += defect - hit
    return counts.tolist()


@pytest.fixture
def record() -> Callable[..., dict[str, Any]]:
    """Makes the record of a run whose defects are found at a given rate; 12 parts in 4 folds."""

    def make(config: str, fold: int, seed: int, right: float, **plan: Any) -> dict[str, Any]:
        rng = np.random.default_rng(fold)
        names = ["free", "dot", "line"]
        parts = {
            f"p{3 * fold + k}": {"images": {names[k]: 2}, "confusion": confusion(rng, k, right - 0.01 * seed)}
            for k in range(3)
        }
        for row in parts.values():
            row["free_scores" if "free" in row["images"] else "defective_scores"] = rng.random(2).tolist()
        total = sum(np.array(row["confusion"]) for row in parts.values())
        return {
            "schema": "lpcnet-edge/study-run/1",
            "config": config,
            "fold": str(fold),
            "seed": seed,
            "steps": 100,
            "plan": {"data": "magnetic-tile", "digest": "d" * 64, "split": "tile", "recipe": {"steps": 100}, **plan},
            "budget": {
                "recipe": "magnetic-tile", "steps": 100, "recipe_steps": 3800, "batch": 8, "crop_px": 192,
                "tile_px": 256, "crops": 800, "start": "random weights",
            },
            "network": {"parameters": 1_500_000, "flops": 2_000_000_000},
            "classes": list(CLASSES),
            "metrics": {"mean_iou": 50.0, "mean_pixel_accuracy": 60.0},
            "confusion": total.tolist(),
            "parts": parts,
            "run": {"commit": "c" * 40, "code": "e" * 64, "device": "a processor", "seconds": 60.0},
        }  # fmt: skip

    return make
