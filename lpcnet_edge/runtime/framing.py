"""How a frame becomes tiles: the settings. ``docs/framing.md`` defines the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadConfig, UnreadableImage
from lpcnet_edge.imaging import read_image

PAINT = "paint what to inspect white (anything but 0) and the rest black"
"""The mend of a mask that leaves nothing."""

Mask = NDArray[np.uint8]
"""(H, W) uint8; 0 where nothing is inspected."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a frame, in frame px."""

    y: int
    x: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.y < 0 or self.x < 0 or self.height < 1 or self.width < 1:
            raise ValueError(f"the region {self} is empty or begins outside the frame")


@dataclass(frozen=True, slots=True)
class Framing:
    """How a frame becomes tiles.

    Attributes
    ----------
    mode
        ``resize``: the frame, or its region, is resized whole to one tile. ``tile``: it is cut into tiles.
    tile_px
        S, the side of a tile: the network's.
    overlap_px
        What neighbouring tiles share, 0..S-1; the last tile of a row or column may share more.
    region
        Only this rectangle is inspected.
    inspect_mask
        An image file of the frame's size; only where it is not 0 is inspected. A run reads it once for each frame size.
    """

    mode: Literal["resize", "tile"] = "resize"
    tile_px: int = 256
    overlap_px: int = 32
    region: Region | None = None
    inspect_mask: Path | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 1:
            raise ValueError(f"tile_px is {self.tile_px}; a tile has at least 1 px")
        if not 0 <= self.overlap_px < self.tile_px:
            raise ValueError(f"overlap_px is {self.overlap_px}; it lies between 0 and tile_px - 1 = {self.tile_px - 1}")


def check_mask(framing: Framing | None) -> None:
    """Raise ``BadConfig`` for a mask that no frame can be inspected with: before a run, not at every frame of it."""
    if framing is None or framing.inspect_mask is None:
        return
    try:
        mask = read_mask(framing.inspect_mask)
    except UnreadableImage as exc:
        raise BadConfig(f"framing.inspect_mask: {exc.message}", mend=exc.mend) from exc
    if not mask.any():
        raise BadConfig(f"framing.inspect_mask: {framing.inspect_mask} is black all over", mend=PAINT)


def read_mask(path: Path) -> Mask:
    """A mask as it was painted: 0 where every channel is, in all the bits of the file. Grey would lose the faintest."""
    return np.asarray(read_image(path, 3, bits=8).max(axis=2))
