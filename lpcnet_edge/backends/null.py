"""A backend without arithmetic: what the pipeline takes by itself is what is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Memory, Slot, plain_memory, slot_in
from lpcnet_edge.bundle.manifest import Manifest


class NullBackend:
    """Scores 1 for the given share of tiles, evenly spread, and 0 for the rest; every pixel is background.

    Its verdicts mean nothing, so it is never chosen by ``auto``.
    """

    name = "null"

    def __init__(self, manifest: Manifest, *, picked_share: float = 0.1) -> None:
        self.about = f"null: no arithmetic, {picked_share:.0%} of the tiles are picked"
        self._channels, self._side = manifest.channels, manifest.tile_px
        self._share = picked_share

    def make_slot(self, tiles: int) -> Slot:
        return self.make_slot_in(tiles, plain_memory)

    def make_slot_in(self, tiles: int, memory: Memory) -> Slot:
        capacity, side = max(tiles, 1), self._side
        slot = slot_in(memory, (capacity, side, side) if self._channels == 1 else (capacity, side, side, 3))
        count = np.arange(capacity + 1)
        slot.score[:] = np.diff(np.floor(count * self._share))
        slot.confidence[:] = 255
        return slot

    def submit(self, slot: Slot, count: int) -> None:
        pass

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        return True

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        pass

    def collect_picked(self, slot: Slot, timeout_s: float | None = None) -> bool:
        return True

    def close(self) -> None:
        pass
