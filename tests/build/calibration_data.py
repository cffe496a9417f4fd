"""Small datasets for the tests of calibration, made on the fly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from dataset_files import write_image
from numpy.typing import NDArray

from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.types import Dataset

FOLDERS = {"MT_Free": 24, "MT_Blowhole": 5, "MT_Break": 5, "MT_Crack": 4, "MT_Fray": 2, "MT_Uneven": 5}
"""Parts of each class; every part is photographed under three exposures."""


def surface(seed: int, brightness: float = 120, shape: tuple[int, int] = (48, 40)) -> NDArray[np.uint8]:
    """A grey surface (H, W) uint8 like no other seed's, of about this mean."""
    rng = np.random.default_rng(seed)
    grain = cv2.resize(rng.normal(0, 1, (24, 20)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(brightness + 25 * grain, 2, 255).astype(np.uint8)


def write_tiles(root: Path, folders: Mapping[str, int] = FOLDERS) -> Path:
    """A folder in the Magnetic Tile layout; brightness grows with the exposure, parts are dealt into four folds."""
    rows = ["image,mask,class,tile,exposure,fold"]
    part = 0
    for folder, parts in folders.items():
        for _ in range(parts):
            part += 1
            for exposure in (1, 2, 3):
                stem = root / folder / "Imgs" / f"exp{exposure}_num_{part * 2000 + exposure * 10}"
                image = surface(part, 60 * exposure)
                mask = np.zeros(image.shape, np.uint8)
                mask[4:9, 4:9] = 0 if folder == "MT_Free" else 255
                write_image(stem.with_suffix(".jpg"), image)
                write_image(stem.with_suffix(".png"), mask)
                relative, name = stem.relative_to(root).as_posix(), folder.removeprefix("MT_").lower()
                rows.append(f"{relative}.jpg,{relative}.png,{name},{part},{exposure},{1 + part % 4}")
    (root / "tiles.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def write_frames(folder: Path, images: Sequence[NDArray[Any]], suffix: str = ".png") -> Path:
    """A folder of loose images (or arrays)."""
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        path = folder / f"{index:03d}{suffix}"
        if suffix == ".npy":
            np.save(path, image)
        else:
            write_image(path, image)
    return folder


def fabric(count: int, seed: int = 5) -> Dataset:
    """Small generated frames, colour."""
    return open_dataset(f"carbon-fabric:count={count},seed={seed},size=128")


def frames(dataset: Dataset) -> list[NDArray[np.uint8]]:
    return [dataset.read(index).image for index in range(len(dataset.entries))]
