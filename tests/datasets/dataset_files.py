"""Small datasets written to a temporary folder, for the tests of this folder."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPE = (20, 30)


def surface(seed: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    """A grey surface (H, W) uint8 like no other seed's."""
    return np.random.default_rng(seed).integers(60, 200, shape, dtype=np.uint8)


def write_image(path: Path, image: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(data.tobytes())
    return path


def write_png(path: Path, rows: NDArray[np.uint8], bits: int, kind: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG byte by byte: ``rows`` (H, W) of stored values, ``kind`` 0 grey or 3 palette, ``bits`` 1, 2, 4 or 8."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = rows.shape
    as_bits = np.unpackbits(rows[..., None], axis=2)[..., 8 - bits :].reshape(height, width * bits)
    packed = np.packbits(as_bits, axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def blot(value: int, rows: slice = slice(4, 8), columns: slice = slice(5, 12)) -> NDArray[np.uint8]:
    """A mask with one rectangle of ``value``."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[rows, columns] = value
    return mask


MAGNETIC = (
    # folder, exposure, number, tile, fold
    ("MT_Free", 1, 100, "0", "1"),
    ("MT_Free", 2, 120, "0", "1"),
    ("MT_Blowhole", 1, 1900, "1", "2"),
    ("MT_Blowhole", 2, 1925, "1", "2"),
    ("MT_Break", 1, 4000, "2", "3"),
    ("MT_Crack", 1, 6000, "3", "4"),
    ("MT_Fray", 1, 8000, "4", "1"),
    ("MT_Uneven", 1, 9900, "5", "2"),
)


def write_magnetic_tile(root: Path, *, table: bool = True) -> Path:
    """Eight photographs of six tiles in the Magnetic Tile layout."""
    rows = ["image,mask,class,tile,exposure,fold"]
    for seed, (folder, exposure, number, tile, fold) in enumerate(MAGNETIC):
        stem = root / folder / "Imgs" / f"exp{exposure}_num_{number}"
        name = folder.removeprefix("MT_").lower()
        write_image(stem.with_suffix(".jpg"), surface(seed))
        write_image(stem.with_suffix(".png"), blot(0 if name == "free" else 255))
        relative = stem.relative_to(root).as_posix()
        rows.append(f"{relative}.jpg,{relative}.png,{name},{tile},{exposure},{fold}")
    if table:
        (root / "tiles.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def write_folder(root: Path, names: Sequence[str] = ("a1", "a2", "b1"), **settings: Any) -> Path:
    """A folder dataset with index masks: image i has a blot of class i % 3."""
    for index, name in enumerate(names):
        write_image(root / "images" / f"{name}.png", surface(index))
        write_image(root / "masks" / f"{name}.png", blot(index % 3))
    settings = {"names": ["background", "scratch", "dent"], **settings}
    (root / "classes.yaml").write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in settings.items()))
    return root


def coco_content(**changes: Any) -> dict[str, Any]:
    """A COCO file for two images, the first with a square of 3 x 3 px and the second without a defect."""
    content: dict[str, Any] = {
        "categories": [{"id": 7, "name": "dent"}, {"id": 3, "name": "scratch"}],
        "images": [
            {"id": 1, "file_name": "p1.png", "height": SHAPE[0], "width": SHAPE[1]},
            {"id": 2, "file_name": "p2.png", "height": SHAPE[0], "width": SHAPE[1]},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[2, 4, 5, 4, 5, 7, 2, 7]], "iscrowd": 0}
        ],
    }
    return {**content, **changes}


def write_coco(root: Path, content: object = None) -> Path:
    """A COCO file with its two images beside it; returns the file's path."""
    for index in (1, 2):
        write_image(root / f"p{index}.png", surface(index))
    path = root / "labels.json"
    path.write_text(json.dumps(coco_content() if content is None else content), encoding="utf-8")
    return path
