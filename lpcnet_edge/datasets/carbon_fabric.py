"""Woven carbon fabric with five kinds of defect, drawn from a seed: a dataset that needs no download."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property

from lpcnet_edge.datasets.fabric_camera import render
from lpcnet_edge.datasets.fabric_plan import CLASSES, FabricSettings, plan_frame
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import Entry, Sample

GENERATOR_VERSION = 1
"""Raised whenever the same settings, seed and index give other pixels: it is part of every digest."""

MOST_FRAMES = 10_000_000
"""What a list of them still fits in memory."""

MIN_DEFECT_PX = 40
"""A frame's labelled defect covers at least this many pixels of its mask."""


class CarbonFabric:
    """Procedural frames of woven carbon fabric, colour, with exact masks.

    Every frame is one part. ``label`` is the class of the frame's first defect; where a frame has several, the others
    may be of other classes. Classes are balanced: over any 20 consecutive indices that start at a multiple of 20,
    the share of defective frames and of each class is as even as it can be. Strata: ``weave`` (``twill``, ``plain``)
    and ``light`` (``raking``, ``ring``, ``dome``).

    A frame is a pure function of settings, seed and index. Machines with other vector units may round some pixels
    to the neighbouring grey value.

    Parameters
    ----------
    count
        Number of frames: indices 0..count-1 of ``seed``.
    seed
        Sets with different seeds have no frame in common.
    size
        (height, width) in pixels, or the side of a square; replaces those of ``settings``.
    defect_share
        Probability that a frame has defects; replaces that of ``settings``.
    settings
        Everything else about the frames.

    Raises
    ------
    BadConfig
        A value is out of its range.
    """

    def __init__(
        self,
        count: int = 1000,
        seed: int = 0,
        *,
        size: int | tuple[int, int] | None = None,
        defect_share: float | None = None,
        settings: FabricSettings | None = None,
    ) -> None:
        settings = settings or FabricSettings()
        if size is not None:
            height_px, width_px = (size, size) if isinstance(size, int) else size
            settings = replace(settings, height_px=height_px, width_px=width_px)
        if defect_share is not None:
            settings = replace(settings, defect_share=defect_share)
        if not 1 <= count <= MOST_FRAMES:
            raise BadConfig(f"count is {count}", mend=f"ask for 1 to {MOST_FRAMES:,} frames")
        plan_frame(settings, seed, 0)  # refuses a bad seed here rather than at the first read
        self.settings = settings
        self.seed = seed
        self._indices: tuple[int, ...] = tuple(range(count))

    @property
    def name(self) -> str:
        """Short name of the dataset."""
        return "carbon-fabric"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; index 0 is the background."""
        return CLASSES

    @property
    def channels(self) -> int:
        """3: frames are BGR."""
        return 3

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """All entries in a fixed order; nothing is drawn."""
        return tuple(self._entry(index) for index in self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Sample:
        """Draw one sample: image (H, W, 3) uint8 BGR, mask (H, W) uint8 class indices."""
        frame = self._indices[index]
        image, mask = render(self.settings, self.seed, frame)
        return Sample(self._entry(frame), image, mask)

    def select(self, indices: Sequence[int]) -> CarbonFabric:
        """The same dataset with only these entries, in this order."""
        chosen = copy.copy(self)
        chosen.__dict__.pop("entries", None)
        chosen._indices = tuple(self._indices[int(i)] for i in indices)
        return chosen

    def digest(self) -> str:
        """SHA-256 (hex) over the generator's version, the settings, the seed and the indices: the content follows."""
        facts = [GENERATOR_VERSION, CLASSES, asdict(self.settings), self.seed, self._indices]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _entry(self, index: int) -> Entry:
        plan = plan_frame(self.settings, self.seed, index)
        part = f"fabric-{self.seed}-{index}"
        return Entry(part, part, plan.label, {"weave": plan.weave, "light": plan.light})
