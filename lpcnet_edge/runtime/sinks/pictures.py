"""Verdicts as pictures: masks for machines, overlays for people."""

from __future__ import annotations

import errno
import hashlib
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import SinkFailed
from lpcnet_edge.imaging import PALETTE, overlay, resize_mask
from lpcnet_edge.runtime.framing import Region
from lpcnet_edge.runtime.sinks.base import Sink
from lpcnet_edge.runtime.sources.frame import Frame, Item
from lpcnet_edge.types import ClassMap, Image, Verdict

_LONGEST = 200  # bytes of one part of a path; file systems take 255, and a suffix and a temporary one are added
_VERDICT_COLOURS = {"pass": (115, 158, 0), "reject": (0, 94, 213), "review": (66, 228, 240)}  # BGR, as PALETTE


def picture_path(folder: Path, name: str, suffix: str) -> Path:
    """Where the picture of a frame goes: its name below ``folder``, never outside, ``suffix`` added."""
    parts = []
    for part in name.replace("\0", "_").split("/"):
        if part in ("", "."):
            continue
        raw = part.encode("utf-8", "surrogateescape")
        if len(raw) > _LONGEST:
            digest = hashlib.sha256(raw).hexdigest()[:12]
            raw = f"{raw[: _LONGEST - 13].decode('utf-8', 'ignore')}-{digest}".encode()
        parts.append("__" if part == ".." else os.fsdecode(raw))  # UTF-8 on the disk, whatever the locale says
    target = folder.joinpath(*(parts or ["frame"]))
    return target.with_name(target.name + suffix)


class _PictureSink(Sink):
    kind = "pictures"

    def __init__(self, folder: Path, suffix: str, options: Sequence[int] = (), *, by_source: bool = False) -> None:
        self._by_source = by_source
        self.name = f"{self.kind} {folder}"
        self._folder = folder
        self._suffix = suffix
        self._options = options
        self._held: deque[tuple[Path, bytes]] = deque()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SinkFailed(f"{folder} cannot be made: {exc.strerror or exc}", mend="name another folder") from exc
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SinkFailed(f"{folder} cannot be written to", mend="name another folder, or change its permissions")
        above = folder.resolve()
        self._mount = next((str(path) for path in (above, *above.parents) if os.path.ismount(path)), "/")

    @property
    def pending(self) -> int:
        return len(self._held)

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        picture = self._draw(item, verdict, classes)
        if picture is not None:
            done, data = cv2.imencode(self._suffix, picture, self._options)
            if not done:
                raise ValueError(f"{item.name}: no picture of shape {picture.shape} can be made")
            name = item.name
            if self._by_source and not name.startswith(f"{item.source}/"):  # as those of cameras do
                name = f"{item.source}/{name}"
            self._held.append((picture_path(self._folder, name, self._suffix), data.tobytes()))

    def flush(self) -> None:
        if self._held:
            self._folder.mkdir(parents=True, exist_ok=True)  # and an automounter brings its disk back
            if not os.path.ismount(self._mount):  # the pictures would fill the disk below, where nobody looks for them
                raise OSError(errno.ENODEV, "no disk or share is mounted there any more", self._mount)
        while self._held:
            path, data = self._held[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._held.popleft()

    def surrender(self) -> Sequence[str]:
        self._held.clear()
        return ()

    @abstractmethod
    def _draw(self, item: Item, verdict: Verdict, classes: ClassMap | None) -> Image | None:
        """The picture of one frame; None where there is nothing to draw."""


class MaskSink(_PictureSink):
    """The class map of each frame that has one, as ``<frame>.png`` of class indices, whole or not at all.

    ``by_source``: in a folder by the name of its source.
    """

    kind = "masks"

    def __init__(self, folder: Path, *, by_source: bool = False) -> None:
        super().__init__(folder, ".png", (cv2.IMWRITE_PNG_COMPRESSION, 1), by_source=by_source)

    def _draw(self, item: Item, verdict: Verdict, classes: ClassMap | None) -> Image | None:
        return classes


class OverlaySink(_PictureSink):
    """Each frame that could be read, with what was found: ``<frame>.jpg`` or ``.png``, whole or not at all.

    ``classes``: class names by index, for the colours. ``region``: as in :func:`draw_verdict`. ``by_source``: as for
    :class:`MaskSink`.
    """

    kind = "overlays"

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        *,
        picture: Literal["jpg", "png"] = "jpg",
        of: Literal["all", "not-passed"] = "all",
        region: Region | None = None,
        by_source: bool = False,
    ) -> None:
        options = (cv2.IMWRITE_JPEG_QUALITY, 90) if picture == "jpg" else (cv2.IMWRITE_PNG_COMPRESSION, 1)
        super().__init__(folder, f".{picture}", options, by_source=by_source)
        self._classes = classes
        self._all = of == "all"
        self._region = region

    def _draw(self, item: Item, verdict: Verdict, classes: ClassMap | None) -> Image | None:
        if not isinstance(item, Frame) or (verdict.outcome == "pass" and not self._all):
            return None
        return draw_verdict(item.pixels, verdict, classes, self._classes, self._region)


def draw_verdict(
    image: Image,
    verdict: Verdict,
    class_map: ClassMap | None,
    classes: Sequence[str],
    region: Region | None = None,
) -> NDArray[np.uint8]:
    """An image with tinted defects, their contours and labels, and the verdict in the corner: (H, W, 3) BGR.

    A class map of another size than the image's, as that of a frame that was resized to a tile, is stretched over the
    image, or over ``region`` of it where that alone was resized. Where there is no class map, boxes stand for contours.
    Text is light on dark, so it reads on any grey.
    """
    flat = np.zeros(image.shape[:2], np.uint8)
    area = region or Region(0, 0, *image.shape[:2])
    zoom_y = zoom_x = 1.0
    if class_map is not None:
        zoom_y, zoom_x = area.height / class_map.shape[0], area.width / class_map.shape[1]
        stretched = resize_mask(class_map, area.height, area.width)
        flat[area.y : area.y + area.height, area.x : area.x + area.width] = stretched
    canvas = overlay(image, flat)
    height = max(11, min(canvas.shape[:2]) // 40)  # of a line of text, px
    placed: list[tuple[int, int, int, int]] = []
    for defect in verdict.defects:
        index = classes.index(defect.name) if defect.name in classes else 1
        colour = PALETTE[index % len(PALETTE)]
        x, y, width, tall = defect.box_px
        if class_map is not None:
            x, y, tall = area.x + round(x * zoom_x), area.y + round(y * zoom_y), round(tall * zoom_y)
        if class_map is None:
            cv2.rectangle(canvas, (x, y), (x + width - 1, y + tall - 1), colour, 1)
        below = y - height - 4 < 0
        top = y + tall + 2 if below else y - height - 4
        _label(canvas, f"{defect.name} {defect.confidence:.2f}", x, top, height, colour, placed)
    first = f": {verdict.reasons[0]}" if verdict.reasons else ""
    _label(canvas, verdict.outcome + first, 2, 2, height, _VERDICT_COLOURS[verdict.outcome], [])
    return canvas


def _label(
    canvas: NDArray[np.uint8],
    text: str,
    x: int,
    y: int,
    height: int,
    colour: tuple[int, int, int],
    placed: list[tuple[int, int, int, int]],
) -> None:
    """Write light text on a dark ground with an edge in ``colour``, held inside the picture, off earlier labels."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's font has nothing else
    scale = height / 22
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    wide, tall = width + 8, height + 4
    x = max(0, min(x, canvas.shape[1] - wide))
    y = max(0, min(y, canvas.shape[0] - tall))
    while any(x < px + pw and px < x + wide and y < py + ph and py < y + tall for px, py, pw, ph in placed):
        y += tall
    if y + tall > canvas.shape[0]:
        return  # no room left: the contour stands for itself
    placed.append((x, y, wide, tall))
    cv2.rectangle(canvas, (x, y), (x + wide - 1, y + tall - 1), (24, 24, 24), cv2.FILLED)
    cv2.rectangle(canvas, (x, y), (x + 2, y + tall - 1), colour, cv2.FILLED)
    at = (x + 5, y + height - 1)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (240, 240, 240), 1, cv2.LINE_AA)


class CallbackSink(Sink):
    """Calls a Python function once per frame, from the sink's own thread; an exception of it refuses that record."""

    name = "callback"

    def __init__(self, function: Callable[[Item, Verdict, ClassMap | None], None]) -> None:
        self._function = function

    def write(self, item: Item, verdict: Verdict, classes: ClassMap | None = None) -> None:
        self._function(item, verdict, classes)
