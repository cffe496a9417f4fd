"""What CPU backends share: slots in plain memory, and batches whose tensors are views of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Memory, Slot, aligned, plain_memory, slot_in
from lpcnet_edge.backends.batches import Bucket, buckets
from lpcnet_edge.bundle.manifest import Manifest
from lpcnet_edge.errors import BackendFailed

Feeds = dict[str, NDArray[Any]]

Job = TypeVar("Job")

LOCALIZATION, CONFIDENCE = "localization", "confidence"


@dataclass(eq=False)
class _Own(Generic[Job]):
    """The embedding of every tile, float32, as the engines lay it out; copies of picked tiles that do not adjoin."""

    embedding: NDArray[np.float32]
    stage: str = ""
    jobs: deque[Job] = field(default_factory=deque)
    staged: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None


class CpuBackend(ABC, Generic[Job]):
    """A backend whose engines take ``pixels`` and ``embedding`` of exactly the tiles to compute.

    Picked tiles that lie side by side in the slot are given as views, others are copied together first. The ONNX file's
    own gather would convert every tile of the slot to float before it picks, which costs far more than that copy.
    """

    name: str
    about: str

    def __init__(self, manifest: Manifest, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sorted(sizes))
        self.channels, self.tile_px = manifest.channels, manifest.tile_px
        outputs = {spec.name: spec.shape for spec in manifest.localization.outputs}
        self._embedding = tuple(int(size) for size in outputs["embedding"][1:])
        self._busy: list[Slot] = []

    @abstractmethod
    def _start(self, stage: str, bucket: Bucket, feeds: Feeds, results: Feeds) -> Job:
        """Start a batch: ``feeds`` and ``results`` hold ``bucket.size`` rows, of which ``bucket.tiles`` matter."""

    @abstractmethod
    def _wait(self, job: Job, timeout_s: float | None) -> bool:
        """Whether the batch is done within the time; raises what the library raised, then the job is over."""

    def make_slot(self, tiles: int) -> Slot:
        return self.make_slot_in(tiles, plain_memory)

    def make_slot_in(self, tiles: int, memory: Memory) -> Slot:
        most, side = self.sizes[-1], self.tile_px
        capacity = -(-max(tiles, 1) // most) * most
        slot = slot_in(memory, (capacity, side, side) if self.channels == 1 else (capacity, side, side, 3))
        slot.own = _Own(aligned((capacity, *self._embedding), np.float32))
        return slot

    def submit(self, slot: Slot, count: int) -> None:
        own = self._begin(slot, LOCALIZATION)
        for bucket in buckets(count, self.sizes):
            rows = slice(bucket.start, bucket.start + bucket.size)
            self._queue(
                slot,
                bucket,
                {"pixels": slot.pixels[rows]},
                {"embedding": own.embedding[rows], "score": slot.score[rows]},
            )

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        self._begin(slot, CONFIDENCE)
        for bucket in buckets(len(picked), self.sizes):
            rows = slice(bucket.start, bucket.start + bucket.size)
            feeds = self._picked(slot, picked, bucket)
            self._queue(slot, bucket, feeds, {"classes": slot.classes[rows], "confidence": slot.confidence[rows]})

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        jobs = slot.own.jobs
        while jobs:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            try:
                if not self._wait(jobs[0], left_s):
                    return False
            except Exception as exc:  # whatever the library raises
                jobs.popleft()
                self._abandon(slot)
                raise self._failed(slot, exc) from exc
            jobs.popleft()
        self._forget(slot)
        return True

    collect_picked = collect

    def close(self) -> None:
        while self._busy:
            self._abandon(self._busy[-1])

    def _begin(self, slot: Slot, stage: str) -> _Own[Job]:
        own: _Own[Job] = slot.own
        if own.jobs:
            raise RuntimeError("the slot is still at work")
        own.stage = stage
        self._busy.append(slot)
        return own

    def _queue(self, slot: Slot, bucket: Bucket, feeds: Feeds, results: Feeds) -> None:
        try:
            slot.own.jobs.append(self._start(slot.own.stage, bucket, feeds, results))
        except Exception as exc:
            self._abandon(slot)
            raise self._failed(slot, exc) from exc

    def _picked(self, slot: Slot, picked: NDArray[np.int32], bucket: Bucket) -> Feeds:
        own: _Own[Job] = slot.own
        chosen = picked[bucket.start : bucket.start + bucket.tiles]
        first = int(chosen[0])
        if int(chosen[-1]) - first == bucket.tiles - 1 and first + bucket.size <= slot.capacity:  # picked is ascending
            rows = slice(first, first + bucket.size)
            return {"pixels": slot.pixels[rows], "embedding": own.embedding[rows]}
        if own.staged is None:
            own.staged = aligned(slot.pixels.shape, np.uint8), aligned(own.embedding.shape, np.float32)
        rows = slice(bucket.start, bucket.start + bucket.size)
        used = slice(bucket.start, bucket.start + bucket.tiles)
        np.take(slot.pixels, chosen, axis=0, out=own.staged[0][used], mode="clip")  # "raise" would copy twice
        np.take(own.embedding, chosen, axis=0, out=own.staged[1][used], mode="clip")
        return {"pixels": own.staged[0][rows], "embedding": own.staged[1][rows]}

    def _abandon(self, slot: Slot) -> None:
        """Wait for the slot's batches, whatever becomes of them: none may write into it later."""
        jobs = slot.own.jobs
        while jobs:
            try:
                self._wait(jobs.popleft(), None)
            except Exception:  # the first failure is the one that is told
                continue
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        self._busy = [other for other in self._busy if other is not slot]

    def _failed(self, slot: Slot, exc: Exception) -> BackendFailed:
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
        return BackendFailed(
            f"{self.name} failed in the {slot.own.stage} stage: {reason}",
            mend="lpcnet-edge verify and show say whether the bundle is whole; try another --backend",
        )
