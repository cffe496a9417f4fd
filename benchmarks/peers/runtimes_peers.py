"""The loops of anomalib and of Ultralytics: their structure, step by step, written here in our own words.

Neither package installs without torch and torchvision, and what they add to these steps only costs time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from runtimes_loops import OUTPUTS, Job, Loop, Ran, Shot, compiled

from lpcnet_edge.imaging import resize_mask
from lpcnet_edge.types import ClassMap, ConfidenceMap, Image

PAD = 114
"""The grey that Ultralytics pads with."""


class AnomalibLoop(Loop):
    """One image after the other, as ``OpenVINOInferencer.predict`` of anomalib 2 does it.

    Pixels to 0..1 in float64, then float32, the channels first, one synchronous call on a compiled model with no
    settings, outputs by name. What we leave out costs it time: torch, its batch class, the check of its fields.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        shape = [1, 3 if job.channels == 3 else 1, job.tile_px, job.tile_px]
        self._model, words = compiled(job.hosted, shape, {})
        self._input = self._model.input(0).any_name
        self.about = f"{words}, batch 1, no settings"

    def read(self, path: Path) -> Image:
        if self.job.channels == 1:
            return super().read(path)
        # RGB, as Pillow gives it.
        return np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)

    def run(self, passes: int, *, keep: bool = False) -> Ran:
        ran = Ran()
        for shot in self.shots(passes):
            for number, tile in enumerate(shot.tiles):
                unit = (tile / 255.0).astype(np.float32)
                if unit.max() > 1.0:
                    unit /= 255.0
                feed = unit[None].transpose(0, 3, 1, 2) if unit.ndim == 3 else unit[None, None]
                answer = self._model({self._input: feed})
                found = {
                    name: value
                    for names, value in zip(answer.names(), answer.to_tuple(), strict=True)
                    for name in names
                }
                shot.take(number, found["classes"][0], found["confidence"][0])
            self.conclude(shot, ran, keep)
        return ran


class UltralyticsLoop(Loop):
    """One image after the other, as ``predict`` of Ultralytics 8.4 does it with an OpenVINO export.

    A thread reads the next file; letterbox to the network's size; BGR to RGB, channels first, float32, / 255; one
    synchronous call, hint latency; the class map without its padding at the image's own size. What we leave out costs
    it time: torch tensors, the ``Results``, callbacks and the log.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        shape = [1, 3 if job.channels == 3 else 1, job.tile_px, job.tile_px]
        self._model, words = compiled(job.hosted, shape, {"PERFORMANCE_HINT": "LATENCY"})
        self.about = f"{words}, batch 1, hint latency"

    def run(self, passes: int, *, keep: bool = False) -> Ran:
        ran = Ran()
        for shot in _ahead(self.shots(passes)):
            if shot.plan.framing.mode == "resize":
                self.decide(shot, *self._predict(shot.image), ran, keep)
                continue
            for number, tile in enumerate(shot.tiles):
                shot.take(number, *self._predict(tile))
            self.conclude(shot, ran, keep)
        return ran

    def _predict(self, image: Image) -> tuple[ClassMap, ConfidenceMap]:
        side = self.job.tile_px
        boxed, inner = letterbox(image, side)
        planes = boxed[None].transpose(0, 3, 1, 2) if boxed.ndim == 3 else boxed[None, None]
        feed = np.ascontiguousarray(planes[:, ::-1]).astype(np.float32)
        feed /= 255
        answer = self._model(feed)
        classes, confidence = (resize_mask(answer[name][0][inner], *image.shape[:2]) for name in OUTPUTS)
        return classes, confidence


def letterbox(image: Image, side: int) -> tuple[Image, tuple[slice, slice]]:
    """An image at the largest size within a square, padded on both sides, and where in the square it lies."""
    height, width = image.shape[:2]
    scale = min(side / height, side / width)
    high, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    if (high, wide) != (height, width):
        image = np.asarray(cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR), np.uint8)
    top, left = (side - high) // 2, (side - wide) // 2
    if (high, wide) != (side, side):
        rest = (top, side - high - top, left, side - wide - left)
        grey = (PAD,) * 3
        image = np.asarray(cv2.copyMakeBorder(image, *rest, cv2.BORDER_CONSTANT, value=grey), np.uint8)
    return image, (slice(top, top + high), slice(left, left + wide))


def _ahead(shots: Iterator[Shot]) -> Iterator[Shot]:
    """The same, the next one being read meanwhile; that a frame lay waiting then is not charged to it."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, shots, None)
        while (shot := coming.result()) is not None:
            shot.started_s = time.perf_counter() - shot.read_s
            coming = reader.submit(next, shots, None)
            yield shot
