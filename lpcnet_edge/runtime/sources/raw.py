"""Frames that a program gives: raw bytes on standard input, or any Python iterable."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadInput, UnreadableImage, UsageError
from lpcnet_edge.files import name_as_text
from lpcnet_edge.imaging import read_image
from lpcnet_edge.runtime.sources.base import PartNamer, Raw, Source, now_ns
from lpcnet_edge.runtime.sources.frame import BadFrame, Frame, Item
from lpcnet_edge.runtime.sources.settings import SourceSettings
from lpcnet_edge.types import Image

ITERABLE = "frames"
"""The name of what a program gives, where it has no other."""


class StdinSource(Source):
    """``stdin:WxH`` grey or ``stdin:WxHx3`` BGR: frames of exactly that many bytes, row by row, one after another.

    Bytes left over at the end, too few for a frame, are a bad frame.
    """

    def __init__(self, spec: str, channels: int, settings: SourceSettings, part_id: PartNamer | None = None) -> None:
        super().__init__("stdin", channels, settings, part_id)
        match = re.fullmatch(r"stdin:([1-9][0-9]{0,5})x([1-9][0-9]{0,5})(?:x([13]))?", spec)
        if not match:
            raise UsageError(f"'{spec}' does not say what comes", mend="write stdin:WxH for grey, stdin:WxHx3 for BGR")
        width, height, depth = int(match[1]), int(match[2]), int(match[3] or 1)
        self._shape = (height, width) if depth == 1 else (height, width, depth)

    def _read(self) -> Iterator[Raw]:
        try:
            handle = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError) as exc:  # None, no file, closed
            raise BadInput("standard input is closed", mend="pipe the frames into it") from exc
        while not self._stopped.is_set():
            buffer: NDArray[np.uint8] = np.empty(self._shape, np.uint8)
            got, taken_ns = self._fill(handle, buffer.data.cast("B"))
            if got < buffer.size:
                if got and not self._stopped.is_set():
                    yield "", f"standard input ended after {got} of {buffer.size} bytes", taken_ns
                return
            yield "", self._prepare(buffer), taken_ns

    def _fill(self, handle: int, view: memoryview) -> tuple[int, int]:
        """Bytes read, fewer than asked for only at the end or on closing, and when the first came."""
        got, taken_ns = 0, now_ns()
        while got < len(view) and not self._stopped.is_set():
            if not select.select([handle], [], [], 0.2)[0]:
                continue
            if not got:
                taken_ns = now_ns()
            count = os.readv(handle, [view[got:]])
            if not count:
                break
            got += count
        return got, taken_ns


class IterableSource(Source):
    """Arrays, frames, bad frames or paths of image files from any iterable, one item each.

    Arrays may be what :func:`~lpcnet_edge.runtime.sources.pixels.to_channels` takes; anything else becomes a bad frame.
    A frame keeps its part, name and moment, and gets this source's name and number. An array of the right type is not
    copied: leave it alone afterwards. An exception of the iterable itself goes through.
    """

    def __init__(
        self, items: Iterable[object], channels: int, settings: SourceSettings, part_id: PartNamer | None = None
    ) -> None:
        super().__init__(ITERABLE, channels, settings, part_id)
        self._source_items = items

    def _items(self) -> Iterator[Item]:
        for sequence, item in enumerate(self._source_items):
            if self._closed.is_set():
                return
            if isinstance(item, BadFrame):
                self._counts["bad"] += 1
                yield replace(item, source=self.name, sequence=sequence)
            elif isinstance(item, Frame):
                yield self._renumbered(item, self._prepare(item.pixels), sequence)
            else:
                name, taken_ns = f"{self.name}/{sequence:06d}", now_ns()
                if isinstance(item, np.ndarray):
                    what = self._prepare(item)
                elif isinstance(item, (str, Path)):
                    name, what = name_as_text(os.fspath(item)), self._read_file(Path(item))
                else:
                    what = f"an object of type {type(item).__name__} is no image"
                yield self._item(name, what, taken_ns, sequence)
            if self._stopped.is_set():  # before the iterable gives up another
                return

    def _read_file(self, path: Path) -> Image | str:
        try:
            return self._prepare(read_image(path, self.channels, bits=self.settings.bits))
        except UnreadableImage as exc:
            return exc.message

    def _renumbered(self, frame: Frame, what: Image | str, sequence: int) -> Item:
        if isinstance(what, str):
            self._counts["bad"] += 1
            return BadFrame(what, frame.part_id, frame.taken_ns, frame.name, self.name, sequence)
        self._counts["frames"] += 1
        return replace(frame, pixels=what, source=self.name, sequence=sequence)

    def _read(self) -> Iterator[Raw]:
        raise NotImplementedError("items are made by _items")  # pragma: no cover
