"""From tiles back to the frame: one class map and one confidence map, without seams.

In an overlap the tile wins whose confidence, weighted by the distance to its border, is largest: near its border a
network has seen least of the surroundings, so artefacts there lose. ``docs/framing.md`` has the formula.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.runtime.tile_plan import TilePlan
from lpcnet_edge.types import ClassMap, ConfidenceMap

Window = tuple[slice, slice]

TOP_WEIGHT = 254
"""The largest weight: (255 confidence + 1) x 254 + 1 is below 2^16."""


def side_weights(tile_px: int, overlap_px: int, low: bool, high: bool) -> NDArray[np.uint8]:
    """The weight of a tile's pixels along one axis, (S,) uint8 in 0..254.

    0 on the ``overlap_px // 4`` pixels nearest to a side at which the grid goes on, rising linearly to 254 where the
    overlap ends. ``low`` and ``high`` say whether the grid goes on before and after this tile: at the border of the
    frame there is nothing to lose to.
    """
    margin = overlap_px // 4
    ramp = np.arange(1, tile_px + 1, dtype=np.float64) - margin
    ramp = np.clip(np.ceil(TOP_WEIGHT * ramp / max(overlap_px - margin, 1)), 0, TOP_WEIGHT)
    weights = np.full(tile_px, float(TOP_WEIGHT))
    if low:
        weights = np.minimum(weights, ramp)
    if high:
        weights = np.minimum(weights, ramp[::-1])
    return weights.astype(np.uint8)


class Stitcher:
    """The maps of one frame after another, in buffers that are made once for a plan.

    For each frame: :meth:`begin`, then :meth:`add` once or more, then :meth:`finish`.

    Parameters
    ----------
    plan
        Of the frames to join. Buffers take 4 bytes a pixel of the joined map.
    """

    def __init__(self, plan: TilePlan) -> None:
        self.plan = plan
        self._classes: ClassMap = np.zeros(plan.map_shape, dtype=np.uint8)
        self._confidence: ConfidenceMap = np.zeros(plan.map_shape, dtype=np.uint8)
        side = plan.framing.tile_px
        self._windows: list[Window] = [
            (slice(y, y + height), slice(x, x + width)) for y, x, height, width in plan.window.tolist()
        ]
        self._sources: list[Window] = [
            (slice(y, y + height), slice(x, x + width))
            for (y, x), (height, width) in zip(plan.source.tolist(), plan.window[:, 2:].tolist(), strict=True)
        ]
        self._dirty: set[int] = set()
        self._alone = len(plan) == 1 or (plan.framing.overlap_px == 0 and not self._shifted())
        if not self._alone:
            # What a pixel's winner reached: 0 for a cleared tile, weight x (confidence + 1) + 1 for a picked one.
            self._reached = np.zeros(plan.map_shape, dtype=np.uint16)
            self._bid = np.zeros((side, side), dtype=np.uint16)
            self._wins = np.zeros((side, side), dtype=np.uint8)
            self._weights = self._weight_planes()

    def begin(self, scores: NDArray[np.floating] | None) -> None:
        """Start a frame: all background, as sure as stage 1 is that its tiles are free.

        A cleared tile is background with confidence ``1 - score``, in 0..255 rounded; where cleared tiles overlap, the
        most suspicious one says it. Pixels that are not inspected have class 0 and confidence 0.

        Parameters
        ----------
        scores
            (N,) stage 1's score of every tile, 0..1; None where every tile is picked.
        """
        for tile in self._dirty:
            window = self._windows[tile]
            self._classes[window] = 0
            self._confidence[window] = 0
            if not self._alone:
                self._reached[window] = 0
        self._dirty.clear()
        if scores is None:
            return
        sure = np.rint(255 * (1 - np.fmax(np.fmin(scores, 1), 0))).astype(np.uint8)  # not a number counts as 1
        levels = sure.tolist()
        if min(levels) == max(levels) and self.plan.inspected is None and len(self._windows) == self.plan.grid.size:
            region = self.plan.region
            if self.plan.framing.mode == "tile":
                self._confidence[region.y : region.y + region.height, region.x : region.x + region.width] = levels[0]
            else:
                self._confidence[:] = levels[0]
            return
        for tile in np.argsort(-sure.astype(np.int16), kind="stable").tolist():
            self._confidence[self._windows[tile]] = levels[tile]
        if self.plan.inspected is not None:
            cv2.bitwise_and(self._confidence, self.plan.inspected, dst=self._confidence)

    def add(self, tiles: NDArray[np.int32], classes: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> None:
        """Join picked tiles; a picked tile always wins over a cleared one.

        Of two picked tiles that reach the same, the one added first wins; add them in ascending order, as
        :func:`~lpcnet_edge.runtime.cascade.select` gives them, in one call or several.

        Parameters
        ----------
        tiles
            (M,) indices into the plan.
        classes, confidence
            (>= M, S, S) uint8, stage 2's answer for each.
        """
        for place, tile in enumerate(tiles.tolist()):
            window, source = self._windows[tile], self._sources[tile]
            self._dirty.add(tile)
            if self._alone:
                self._classes[window] = classes[place][source]
                self._confidence[window] = confidence[place][source]
                continue
            height, width = self.plan.window[tile, 2:]
            bid, wins = self._bid[:height, :width], self._wins[:height, :width]
            weight, offset = self._weights[self._border(tile)]
            sure = confidence[place][source]
            np.multiply(sure, weight[source], out=bid)  # ten times as fast as OpenCV's, which goes through float
            cv2.add(bid, offset[source], dst=bid)
            cv2.compare(bid, self._reached[window], cv2.CMP_GT, dst=wins)
            cv2.max(bid, self._reached[window], dst=self._reached[window])
            cv2.copyTo(classes[place][source], wins, self._classes[window])
            cv2.copyTo(sure, wins, self._confidence[window])

    def finish(self) -> tuple[ClassMap, ConfidenceMap]:
        """The joined maps, (H, W) uint8 of the plan's ``map_shape``: views, overwritten by the next :meth:`begin`."""
        if self.plan.inspected is not None:
            for tile in self._dirty:
                window = self._windows[tile]
                for joined in (self._classes[window], self._confidence[window]):
                    cv2.bitwise_and(joined, self.plan.inspected[window], dst=joined)
        return self._classes, self._confidence

    def _shifted(self) -> bool:
        """Whether any two tiles of the grid share pixels."""
        plan = self.plan
        return bool((plan.row_to - plan.row_from > 1).any() or (plan.column_to - plan.column_from > 1).any())

    def _border(self, tile: int) -> tuple[bool, bool, bool, bool]:
        """At which sides of a tile the grid goes on: before and after it along y, then along x."""
        plan = self.plan
        row, column = int(plan.row[tile]), int(plan.column[tile])
        return row > 0, row < plan.grid.shape[0] - 1, column > 0, column < plan.grid.shape[1] - 1

    def _weight_planes(self) -> dict[tuple[bool, bool, bool, bool], tuple[NDArray[np.uint16], NDArray[np.uint16]]]:
        """For each kind of border: the weights (S, S), and weights + 1, which keeps every picked pixel above 0."""
        side, overlap = self.plan.framing.tile_px, self.plan.framing.overlap_px
        planes = {}
        for border in {self._border(tile) for tile in range(len(self.plan))}:
            rows = side_weights(side, overlap, border[0], border[1])
            columns = side_weights(side, overlap, border[2], border[3])
            weights = np.minimum.outer(rows, columns).astype(np.uint16)
            planes[border] = weights, weights + np.uint16(1)
        return planes
