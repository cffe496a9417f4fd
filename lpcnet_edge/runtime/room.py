"""The engine room: the backend, what is in its slots, and the way back after it has failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.errors import LpcnetError
from lpcnet_edge.runtime.pipeline import Pipeline, Work

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
_OPEN_S = 30.0
"""The end of a run waits so long for a backend that is being opened: a process that ends in the midst of it is aborted
by the library's own threads."""


@dataclass(eq=False)
class Load:
    """A slot with the frames in it, in order; those without tiles only keep their place.

    ``stage`` is 0 while it is filled, 1 and 2 while the stages work on it, 3 when they are through.
    """

    slot: Slot | None
    backend: Backend | None
    works: list[Work] = field(default_factory=list)
    tiles: int = 0
    stage: int = 0
    picked: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    since_s: float = 0.0

    @property
    def place(self) -> tuple[Backend, Slot]:
        """Where its tiles are; raises ``RuntimeError`` where it has none."""
        if self.backend is None or self.slot is None:
            raise RuntimeError("a load without tiles is not computed")
        return self.backend, self.slot


class Room:
    """Holds the backend, and opens it again after a failure.

    Parameters
    ----------
    backend
        Open; owned from here on.
    reopen
        Opens another like it.
    first_s, largest_s
        The pause before it is opened again, from the second failure on; it doubles with each, until some work is done.
    background
        Open it in a thread, while :meth:`ready` gives None; otherwise :meth:`ready` itself does.
    """

    def __init__(
        self,
        backend: Backend,
        reopen: Callable[[], Backend],
        *,
        first_s: float = 0.5,
        largest_s: float = 10.0,
        background: bool = False,
    ) -> None:
        self.name = backend.name
        self.failure = ""
        """Why there is no backend at present."""
        self.reopened = 0
        self._backend: Backend | None = backend
        self._reopen = reopen
        self._first_s, self._largest_s, self._background = first_s, largest_s, background
        self._pause_s = 0.0
        self._retry_at_s = 0.0
        self._lock = Lock()
        self._opening: Thread | None = None
        self._closed = Event()

    def ready(self) -> Backend | None:
        """The backend, or None while there is none."""
        if self._backend is not None or self._closed.is_set():
            return self._backend
        if self._background:
            with self._lock:
                if self._opening is None:
                    self._opening = Thread(target=self._open_until_back, name="reopen the backend", daemon=True)
                    self._opening.start()
        elif time.monotonic() >= self._retry_at_s:
            self._open_once()
        return self._backend

    def failed(self, exc: Exception) -> None:
        """Let go of the backend: it failed, and failed again."""
        broken, self._backend = self._backend, None
        self.failure = exc.message if isinstance(exc, LpcnetError) else f"{type(exc).__name__}: {exc}"
        log.error("the backend is opened again: %s", self.failure)
        self._retry_at_s = time.monotonic() + self._pause_s
        self._pause_s = min(max(2 * self._pause_s, self._first_s), self._largest_s)
        if broken is not None:
            closing = Thread(target=_close, args=(broken,), name="close the failed backend", daemon=True)
            closing.start()  # it may hang
            if not self._background:
                closing.join(_CLOSE_S)

    def worked(self) -> None:
        """Some work was done: the next failure is a new one."""
        self._pause_s = 0.0

    def close(self) -> None:
        """Close the backend; twice is fine."""
        with self._lock:
            self._closed.set()
            backend, self._backend = self._backend, None
            opening = self._opening
        if backend is not None:
            backend.close()
        if opening is not None:
            opening.join(_OPEN_S)

    def _open_until_back(self) -> None:
        while self._backend is None and not self._closed.wait(max(0.0, self._retry_at_s - time.monotonic())):
            self._open_once()
        with self._lock:
            self._opening = None

    def _open_once(self) -> None:
        try:
            backend = self._reopen()
        except Exception as exc:  # a library's own exceptions too: the line must go on
            self.failure = exc.message if isinstance(exc, LpcnetError) else f"{type(exc).__name__}: {exc}"
            log.error("the backend does not open: %s", self.failure)
            self._pause_s = min(max(2 * self._pause_s, self._first_s), self._largest_s)
            self._retry_at_s = time.monotonic() + self._pause_s
            return
        with self._lock:
            closed = self._closed.is_set()
            if not closed:
                self._backend = backend
                self.reopened += 1
        if closed:
            backend.close()
        else:
            log.warning("the backend is open again")


def compute(load: Load, pipeline: Pipeline, backend: Backend) -> None:
    """Both stages of a load at once, from its pixels on; raises what the backend raises."""
    _, slot = load.place
    backend.submit(slot, load.tiles)
    backend.collect(slot)
    load.picked = pipeline.gate(load.works, slot)
    if len(load.picked):
        backend.submit_picked(slot, load.picked)
        backend.collect_picked(slot)
    load.stage = 3


def _close(backend: Backend) -> None:
    try:
        backend.close()
    except Exception:
        log.exception("closing the failed backend")
