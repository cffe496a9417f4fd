"""Our own runtime over the same files, in bulk and live; and reading the files alone, which nothing can outrun."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Semaphore
from typing import Any

from runtimes_loops import Job, Loop, Ran

from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.bench.timed import TimedBackend
from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.errors import BackendFailed
from lpcnet_edge.imaging import read_image
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sources.images import ImageSource
from lpcnet_edge.runtime.sources.settings import SourceSettings
from lpcnet_edge.types import Image


def source(job: Job, passes: int) -> ImageSource:
    """The files as a folder's source reads them, so many times over."""
    names = [path.name for path in job.files]
    return ImageSource(str(job.files[0].parent), names * passes, job.channels, SourceSettings())


class DecodeLoop(Loop):
    """Nothing but our source: files read and decoded by its threads."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.about = "our source alone: files read and decoded by its threads"

    def run(self, passes: int, *, keep: bool = False) -> Ran:
        ran = Ran()
        with source(self.job, passes) as frames:
            for _ in frames:
                ran.tiles += 1
        return ran


class OurLoop(Loop):
    """A :class:`~lpcnet_edge.runtime.session.Session` on OpenVINO: in bulk, or live with one frame in flight."""

    def __init__(self, job: Job, gate: str | float, *, live: bool = False) -> None:
        super().__init__(job)
        self._bundle = open_bundle(job.bundle)
        self._backend = open_backend(self._bundle, "openvino")
        self._settings = RunSettings(gate=gate, rules=job.rules)  # type: ignore[arg-type]
        self._live = live
        self.about = self._backend.about

    def run(self, passes: int, *, keep: bool = False) -> Ran:
        ran = Ran()
        due, started = Semaphore(1), list[float]()

        def one_at_a_time() -> Iterator[Image]:
            for path in self.job.files * passes:
                due.acquire()
                started.append(time.perf_counter())
                yield read_image(path, self.job.channels)

        frames: Any = one_at_a_time() if self._live else source(self.job, passes)
        kept = TimedBackend(self._backend)  # which its session does not close
        with Session(
            self._bundle, [frames], self._settings, backend=lambda: kept, live=self._live, keep_maps=keep
        ) as session:
            for number, result in enumerate(session):
                if self._live:
                    ran.latency_ms.append(1e3 * (time.perf_counter() - started[number]))
                    due.release()
                if keep and result.classes is not None:
                    ran.maps.append(result.classes)
                    ran.outcomes.append(result.verdict.outcome)
            totals = session.pipeline.totals
            if sum(totals.refused.values()):
                raise BackendFailed(f"frames were not computed: {dict(totals.refused)}")
        ran.tiles, ran.picked = totals.tiles, totals.picked
        if self._live:  # warming up comes before the first frame; in bulk, making the slots counts
            ran.seconds = session.ended_s - session.started_s
        return ran

    def close(self) -> None:
        self._backend.close()
