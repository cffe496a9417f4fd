"""A build that shows how far it is and that Ctrl-C ends, where the library would print exceptions and go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TypeAlias, TypeVar

from lpcnet_edge.backends.tensorrt_versions import Module, ProgressMonitor

Progress: TypeAlias = Callable[[float, str], None]
"""Called with the share done, 0..1 and never falling, and the phase; from the building thread."""

T = TypeVar("T")

_LOOK_EVERY_S = 0.1


def run_interruptibly(work: Callable[[], T], cancelled: Event) -> T:
    """Run ``work`` in a thread of its own, so that a signal reaches Python while the library computes.

    An exception in the waiting thread (``KeyboardInterrupt``) sets ``cancelled``, waits for ``work`` to see it and is
    raised then; a second one is raised at once.
    """
    outcome: Future[T] = Future()
    ended = Event()  # an interrupted Thread.join takes the thread for dead in Python 3.10 to 3.12 (gh-90882)

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as exc:
            outcome.set_exception(exc)
        finally:
            ended.set()

    thread = Thread(target=run, name="build", daemon=True)
    thread.start()
    try:
        while not ended.wait(_LOOK_EVERY_S):
            pass
    except BaseException:
        cancelled.set()
        ended.wait()
        raise
    return outcome.result()


@dataclass
class _Phase:
    parent: str | None
    total: int
    done: int = 0


class Phases:
    """The share done of nested phases, each of which fills one step of its parent at a time."""

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._share = 0.0
        self._lock = Lock()  # the builder may report from several threads

    def start(self, name: str, parent: str | None, total: int) -> float:
        """A phase of ``total`` steps begins; returns the share done of everything."""
        with self._lock:
            self._open[name] = _Phase(parent, max(total, 1))
            return self._share

    def step(self, name: str, step: int) -> float:
        """Step ``step`` (from 0) of a phase is done; returns the share done of everything, which never falls."""
        with self._lock:
            if name in self._open:
                self._open[name].done = step + 1
            share, at = 0.0, self._open.get(name)
            for _ in range(len(self._open)):  # a bound, should the parents ever form a ring
                if at is None:
                    break
                share = min((at.done + share) / at.total, 1.0)
                at = self._open.get(at.parent) if at.parent else None
            self._share = max(self._share, share)
            return self._share

    def finish(self, name: str) -> float:
        """A phase has ended, whether or not its steps were all counted; returns the share done."""
        with self._lock:
            self._open.pop(name, None)
            if not self._open:
                self._share = 1.0
            return self._share


class Watch:
    """What a build reports to, and what ends it: ``cancelled``, or a ``report`` that raises."""

    def __init__(self, report: Progress | None) -> None:
        self.cancelled = Event()
        self.failure: BaseException | None = None
        self._report = report

    def tell(self, share: float, phase: str) -> bool:
        """Report, and say whether to go on. Never raises: the library would print the exception and drop it."""
        try:
            if self._report is not None and not self.cancelled.is_set():
                self._report(share, phase)
        except BaseException as exc:
            self.failure = self.failure or exc
            self.cancelled.set()
        return not self.cancelled.is_set()


def make_monitor(trt: Module, watch: Watch) -> ProgressMonitor:
    """The library's progress monitor, telling ``watch``."""
    phases = Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of a module without types
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.tell(phases.start(phase_name, parent_phase, num_steps), phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.tell(phases.step(phase_name, step), phase_name)

        def phase_finish(self, phase_name: str) -> None:
            watch.tell(phases.finish(phase_name), phase_name)

    return Monitor()
