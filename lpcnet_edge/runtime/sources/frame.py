"""What a source yields: frames, and in the place of a frame that cannot be had the reason why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from lpcnet_edge.types import Image


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image to be decided on.

    Attributes
    ----------
    pixels
        (H, W) grey or (H, W, 3) BGR, uint8. Owned by the frame: no source writes to them again.
    part_id
        The physical part; the frame's name where nobody says otherwise.
    taken_ns
        ``time.monotonic_ns`` when it was taken; for files and streams of bytes, when reading it began.
    name
        Unique within its source: a file's path below its folder, else ``source/number``.
    source
        Name of the source.
    sequence
        0, 1, 2 ... within the source, frames and bad frames alike, so a gap means that an item was lost.
    """

    pixels: Image
    part_id: str
    taken_ns: int
    name: str
    source: str
    sequence: int

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that was taken and cannot be inspected: its part is a reject, with ``reason``.

    The other attributes are those of :class:`Frame`.
    """

    reason: str
    part_id: str
    taken_ns: int
    name: str
    source: str
    sequence: int


Item: TypeAlias = Frame | BadFrame
"""Every frame taken is exactly one of these, in the order of taking."""
