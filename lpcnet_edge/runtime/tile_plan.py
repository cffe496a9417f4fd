"""From frames to tiles: which windows of a frame the network sees, and writing them into a slot's buffer.

``docs/framing.md`` defines the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadConfig, BadInput
from lpcnet_edge.imaging import resize_image, resize_mask
from lpcnet_edge.runtime.framing import PAINT, Framing, Mask, Region, read_mask
from lpcnet_edge.types import Image

MAX_TILES = 1 << 16
"""A frame that is cut into more tiles than this is a mistake in the settings."""


@dataclass(frozen=True, slots=True, eq=False)
class TilePlan:
    """Where the N tiles of a frame of one size lie. Arrays are read-only; tiles go row by row, left to right.

    Tiles stand on a grid of R rows and C columns, of which those with nothing to inspect are left out. Two tiles are
    neighbours where their windows share a pixel; those of tile ``i`` are the tiles in rows ``row_from[r]`` to
    ``row_to[r]`` (exclusive) and columns ``column_from[c]`` to ``column_to[c]``, with ``r, c = row[i], column[i]``.

    Attributes
    ----------
    height, width
        Of the frame, px.
    framing
        What the plan was made from.
    region
        What is inspected of the frame: the framing's region, or all of it.
    map_shape
        (height, width) of the joined class map: the frame's, or (S, S) in ``resize`` mode.
    y, x
        (N,) int32, the top left corner of each tile, frame px.
    window
        (N, 4) int32, y, x, height and width of what each tile says something about: its part inside frame and region,
        in px of the joined map.
    source
        (N, 2) int32, y and x in the tile where its window begins.
    row, column
        (N,) int32, a tile's place on the grid.
    row_from, row_to, column_from, column_to
        (R,) and (C,) int32, as above.
    grid
        (R, C) int32, the tile at each place, -1 for one left out.
    inspected
        255 where pixels of the joined map are inspected, 0 elsewhere; None without a mask.
    """

    height: int
    width: int
    framing: Framing
    region: Region
    map_shape: tuple[int, int]
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    window: NDArray[np.int32]
    source: NDArray[np.int32]
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    row_from: NDArray[np.int32]
    row_to: NDArray[np.int32]
    column_from: NDArray[np.int32]
    column_to: NDArray[np.int32]
    grid: NDArray[np.int32]
    inspected: Mask | None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def frame_px_per_map_px(self) -> tuple[float, float]:
        """Along y and x, how many frame px a px of the joined map stands for; 1 and 1 in ``tile`` mode."""
        if self.framing.mode == "tile":
            return 1.0, 1.0
        return self.region.height / self.map_shape[0], self.region.width / self.map_shape[1]

    @property
    def shown_px(self) -> tuple[int, int, int, int] | None:
        """The box of the frame (x, y, width, height) that the joined map shows; None in ``tile`` mode, where it is the
        frame's pixel by pixel."""
        if self.framing.mode == "tile":
            return None
        return self.region.x, self.region.y, self.region.width, self.region.height

    def neighbours(self, tile: int) -> NDArray[np.int32]:
        """The tiles whose windows share a pixel with that of ``tile``, itself left out, ascending."""
        row, column = self.row[tile], self.column[tile]
        rows = self.grid[self.row_from[row] : self.row_to[row]]
        block = rows[:, self.column_from[column] : self.column_to[column]].ravel()
        near: NDArray[np.int32] = block[(block >= 0) & (block != tile)]
        return near


def plan_tiles(height: int, width: int, framing: Framing) -> TilePlan:
    """The plan for frames of one size, made once, and once more where the file of the mask has changed.

    Raises
    ------
    BadConfig
        The region does not lie in the frame, the mask is of another size or leaves nothing to inspect, or there would
        be more than ``MAX_TILES`` tiles.
    UnreadableImage
        The mask cannot be read.
    """
    mask, version = framing.inspect_mask, None
    if mask is not None and mask.exists():
        stat = mask.stat()
        version = stat.st_ino, stat.st_mtime_ns, stat.st_size
    return _kept_plan(height, width, framing, version)


@lru_cache(maxsize=32)
def _kept_plan(height: int, width: int, framing: Framing, version: tuple[int, ...] | None) -> TilePlan:
    mask = None if framing.inspect_mask is None else read_mask(framing.inspect_mask)
    return make_plan(height, width, framing, mask)


def make_plan(height: int, width: int, framing: Framing, mask: Mask | None = None) -> TilePlan:
    """As :func:`plan_tiles`, from a mask in memory (H, W) uint8 and without keeping the plan."""
    region = framing.region or Region(0, 0, height, width)
    if region.y + region.height > height or region.x + region.width > width:
        raise BadConfig(
            f"the region to inspect ends at y={region.y + region.height}, x={region.x + region.width}; the frame is "
            f"{width} x {height} px",
            mend="correct framing.region, or give this camera a framing of its own",
        )
    if mask is not None and mask.shape != (height, width):
        raise BadConfig(
            f"the mask of what to inspect is {mask.shape[1]} x {mask.shape[0]} px, the frame {width} x {height} px",
            mend="draw the mask on a frame of this camera",
        )
    side = framing.tile_px
    if framing.mode == "resize":
        return _resized(height, width, framing, region, mask)
    rows = axis_starts(region.y, region.height, height, side, framing.overlap_px)
    columns = axis_starts(region.x, region.width, width, side, framing.overlap_px)
    if len(rows) * len(columns) > MAX_TILES:
        raise BadConfig(
            f"a frame of {width} x {height} px would be {len(rows) * len(columns)} tiles of {side} px that overlap "
            f"by {framing.overlap_px}; the most is {MAX_TILES}",
            mend="use less overlap_px, or resize",
        )
    window, source = _windows(rows, columns, side, region)
    row, column = (place.ravel().astype(np.int32) for place in np.indices((len(rows), len(columns))))
    inspected = None if mask is None else _levels(mask)
    keep = np.ones(len(row), dtype=np.bool_) if inspected is None else _sums(inspected != 0, window) > 0
    if not keep.any():
        raise _nothing_left()
    grid = np.full(len(row), -1, dtype=np.int32)
    grid[keep] = np.arange(np.count_nonzero(keep), dtype=np.int32)
    plan = TilePlan(
        height=height,
        width=width,
        framing=framing,
        region=region,
        map_shape=(height, width),
        y=rows[row[keep]],
        x=columns[column[keep]],
        window=window[keep],
        source=source[keep],
        row=row[keep],
        column=column[keep],
        row_from=np.searchsorted(rows, rows - side + 1).astype(np.int32),
        row_to=np.searchsorted(rows, rows + side).astype(np.int32),
        column_from=np.searchsorted(columns, columns - side + 1).astype(np.int32),
        column_to=np.searchsorted(columns, columns + side).astype(np.int32),
        grid=grid.reshape(len(rows), len(columns)),
        inspected=inspected,
    )
    return _frozen(plan)


def _resized(height: int, width: int, framing: Framing, region: Region, mask: Mask | None) -> TilePlan:
    """The plan of one tile. A folder may have photographs of a hundred sizes: they share all but their place, and a
    stitcher. With a mask, which a stitcher holds, nothing is shared."""
    side = framing.tile_px
    tile, inspected = _one_tile(side), None
    if mask is not None:
        tile = _one_tile.__wrapped__(side)
        inspected = _levels(resize_mask(np.ascontiguousarray(_cut(mask, region)), side, side))
        if not inspected.any():
            raise _nothing_left()
    y, x = np.array([[region.y], [region.x]], dtype=np.int32)
    own: dict[str, Any] = {"height": height, "width": width, "framing": framing, "region": region, "y": y, "x": x}
    return _frozen(replace(tile, inspected=inspected, **own))


@lru_cache(maxsize=4)
def _one_tile(side: int) -> TilePlan:
    return make_plan(side, side, Framing("tile", side, 0))


def _frozen(plan: TilePlan) -> TilePlan:
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, np.ndarray):  # plans are shared
            value.setflags(write=False)
    return plan


def _levels(mask: Mask) -> Mask:
    return np.where(mask != 0, 255, 0).astype(np.uint8)


def _nothing_left() -> BadConfig:
    return BadConfig("the mask of what to inspect leaves nothing of the frame", mend=PAINT)


def axis_starts(offset: int, length: int, frame: int, tile: int, overlap: int) -> NDArray[np.int32]:
    """Where tiles begin along one axis, ascending.

    They are ``tile - overlap`` apart; the last is shifted back to end where the region ends. A region shorter than a
    tile gets one tile around its middle, inside the frame; a frame shorter than a tile gets one tile at 0.

    Parameters
    ----------
    offset, length
        The region to cover, within the frame.
    frame
        Size of the frame.
    tile, overlap
        Side of a tile, and what neighbours share at least.
    """
    if length <= tile:
        start = min(offset - (tile - length) // 2, frame - tile)
        return np.array([max(start, 0)], dtype=np.int32)
    count = -(-(length - tile) // (tile - overlap)) + 1
    steps = np.arange(count, dtype=np.int64) * (tile - overlap)
    starts: NDArray[np.int32] = (offset + np.minimum(steps, length - tile)).astype(np.int32)
    return starts


def write_tiles(frame: Image, plan: TilePlan, out: NDArray[np.uint8], first: int, count: int) -> None:
    """Write tiles ``first`` to ``first + count`` into ``out[:count]``.

    Tiles inside the frame are copied and nothing is allocated. Where the frame is smaller than a tile, its last row and
    column are repeated. In ``resize`` mode the tile is that of :func:`lpcnet_edge.imaging.resize_image`.

    Parameters
    ----------
    frame
        (H, W) or (H, W, 3) uint8, of the plan's size.
    out
        (N, S, S) or (N, S, S, 3) uint8, as many channels as the frame, N >= ``count``.

    Raises
    ------
    BadInput
        The frame has another size than the plan or other channels than the buffer.
    """
    if frame.shape[:2] != (plan.height, plan.width) or frame.shape[2:] != out.shape[3:]:
        raise BadInput(
            f"a frame of shape {frame.shape} for tiles of shape {out.shape[1:]} cut from {plan.height} x {plan.width}",
            mend="plan the tiles for the frame's size, and read frames with the network's channels",
        )
    side = plan.framing.tile_px
    if plan.framing.mode == "resize":
        out[0] = resize_image(_cut(frame, plan.region), side, side)
        return
    height, width = min(side, plan.height), min(side, plan.width)
    rows, columns = plan.y[first : first + count].tolist(), plan.x[first : first + count].tolist()
    for tile, y, x in zip(out, rows, columns, strict=False):  # the buffer may hold more tiles
        tile[:height, :width] = frame[y : y + height, x : x + width]
        if width < side:
            tile[:height, width:] = tile[:height, width - 1 : width]
        if height < side:
            tile[height:] = tile[height - 1]


def count_defect_px(mask: NDArray[np.uint8], plan: TilePlan) -> NDArray[np.int64]:
    """How many inspected defect pixels each tile shows: (N,) int64, from a mask of class indices (H, W) uint8.

    In ``resize`` mode the mask is resized to the tile as the checks do it (nearest neighbour).
    """
    if plan.framing.mode == "resize":
        mask = resize_mask(np.ascontiguousarray(_cut(mask, plan.region)), *plan.map_shape)
    defective = mask != 0 if plan.inspected is None else (mask != 0) & (plan.inspected != 0)
    return _sums(defective, plan.window)


def _cut(pixels: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    return pixels[region.y : region.y + region.height, region.x : region.x + region.width]


def _windows(
    rows: NDArray[np.int32], columns: NDArray[np.int32], side: int, region: Region
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The plan's ``window`` and ``source`` for tiles that begin at every row and column."""
    corner = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    begin = np.maximum(corner, (region.y, region.x))
    end = np.minimum(corner + side, (region.y + region.height, region.x + region.width))
    return np.concatenate([begin, end - begin], axis=1).astype(np.int32), (begin - corner).astype(np.int32)


def _sums(flags: NDArray[np.bool_], window: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many flags are set in each window (N, 4)."""
    total = np.zeros((flags.shape[0] + 1, flags.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(flags, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
    top, left, height, width = window.astype(np.int64).T
    bottom, right = top + height, left + width
    counts: NDArray[np.int64] = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return counts
