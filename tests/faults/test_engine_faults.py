"""Backends that fail, hang and do not come back: every frame gets exactly one verdict, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from local_bundle import SIDE, frame_of, onnxruntime_of
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.tuning import Tuning
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BackendFailed, MissingDevice
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.pipeline import Result
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import BulkSettings, LiveSettings, RunSettings

FRAMES = 60
MODES = [False, True]


class Faulty:
    """A real backend, of which given calls fail or hang. ``calls`` counts over all that were opened.

    Parameters
    ----------
    fails
        (name of the method, number of its call) -> whether it raises.
    """

    def __init__(self, bundle: Bundle, fails: Callable[[str, int], bool]) -> None:
        self.bundle, self.fails = bundle, fails
        self.calls: dict[str, int] = {}
        self.opened = 0

    def open(self) -> Backend:
        self.opened += 1
        if self.fails("open", self.opened):
            raise MissingDevice("the device is gone")
        return _Proxy(self, open_backend(self.bundle, "onnxruntime", tuning=Tuning(1, batch=4), use_cache=False))

    def check(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.fails(name, self.calls[name]):
            raise BackendFailed(f"{name} failed on purpose")


class _Proxy:
    def __init__(self, faulty: Faulty, real: Backend) -> None:
        self._faulty, self._real = faulty, real
        self.name, self.about = real.name, real.about
        self.closed = False

    def make_slot(self, tiles: int) -> Slot:
        return self._real.make_slot(tiles)

    def submit(self, slot: Slot, count: int) -> None:
        self._faulty.check("submit")
        self._real.submit(slot, count)

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        done = self._real.collect(slot, timeout_s)
        if done:
            self._faulty.check("collect")
        return done

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        self._faulty.check("submit_picked")
        self._real.submit_picked(slot, picked)

    def collect_picked(self, slot: Slot, timeout_s: float | None = None) -> bool:
        done = self._real.collect_picked(slot, timeout_s)
        if done:
            self._faulty.check("collect_picked")
        return done

    def close(self) -> None:
        self._real.close()


def run(
    faulty: Faulty,
    is_live: bool,
    settings: RunSettings | None = None,
    pause_s: float = 0.0,
    reopened: int = 0,
    until: Callable[[list[Result]], bool] = lambda results: True,
) -> tuple[list[Result], Session]:
    """``FRAMES`` frames, and as many more as it takes until the backend was opened again ``reopened`` times and the
    results so far are what is waited for."""
    settings = settings or RunSettings(bulk=BulkSettings(tiles=4))
    taken = 0
    results: list[Result] = []

    def paced() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        until_s, left = time.monotonic() + 60, 10
        while taken < FRAMES or left or not until(results):
            time.sleep(pause_s)
            yield frame_of(taken, defects=taken % 2)
            taken += 1
            assert time.monotonic() < until_s
            left -= session.reopened >= reopened and left > 0

    with Session(faulty.bundle, [paced()], settings, backend=faulty.open, live=is_live) as session:
        for result in session:
            results.append(result)
    assert [result.item.sequence for result in results] == list(range(taken))
    return results, session


def is_right(result: Result) -> bool:
    return result.verdict.outcome == ("reject" if result.item.sequence % 2 else "pass") and bool(
        result.verdict.defects
    ) == bool(result.item.sequence % 2)


@pytest.mark.parametrize("is_live", MODES)
@pytest.mark.parametrize("name", ["submit", "collect", "submit_picked", "collect_picked"])
def test_a_stage_that_fails_once_is_done_again(bundle: Bundle, name: str, is_live: bool) -> None:
    faulty = Faulty(bundle, lambda call, number: call == name and number in (4, 8))
    results, session = run(faulty, is_live)
    assert all(map(is_right, results))
    assert session.reopened == 0


@pytest.mark.parametrize("is_live", MODES)
@pytest.mark.parametrize("name", ["collect", "submit_picked"])
def test_a_stage_that_fails_twice_has_the_backend_opened_again(bundle: Bundle, name: str, is_live: bool) -> None:
    faulty = Faulty(bundle, lambda call, number: call == name and number in (3, 4))
    results, session = run(faulty, is_live, pause_s=0.002, reopened=1)
    assert session.reopened == 1
    wrong = [result for result in results if not is_right(result)]
    if not is_live:
        assert not wrong  # bulk waits until it is back
    assert all(result.verdict.reasons[0].startswith("engine failed: ") for result in wrong)
    assert is_right(results[-1])


@pytest.mark.parametrize("is_live", MODES)
def test_a_backend_that_always_fails_rejects_every_frame(bundle: Bundle, is_live: bool) -> None:
    faulty = Faulty(bundle, lambda call, number: call == "collect")
    results, session = run(faulty, is_live, pause_s=0.001)
    assert all(result.verdict.reasons == ("engine failed: collect failed on purpose",) for result in results)
    assert session.pipeline.totals.refused["engine failed"] == FRAMES
    assert faulty.opened <= 3  # it waits longer and longer before it tries again


def test_rejects_flow_until_a_lost_device_is_back(bundle: Bundle) -> None:
    def fails(call: str, number: int) -> bool:
        return (call == "collect" and 10 <= number <= 11) or (call == "open" and 2 <= number <= 4)

    faulty = Faulty(bundle, fails)
    live = LiveSettings(reopen_first_s=0.05, reopen_largest_s=0.1)
    results, session = run(faulty, True, RunSettings(live=live), pause_s=0.005, reopened=1)
    said = {result.verdict.reasons[0] for result in results if not is_right(result)}
    assert "engine failed: collect failed on purpose" in said
    assert all(reason.startswith("engine failed: ") for reason in said)
    assert session.reopened == 1
    assert faulty.opened == 5
    assert is_right(results[-1])
    away = [result for result in results if result.verdict.reasons[:1] == ("engine failed: the device is gone",)]
    assert len(away) > 1  # the line went on: nobody waited for the device


class Hanging(_Proxy):
    """Its stage 1 is not done with the fifth frame until that is said to be over."""

    def __init__(self, faulty: Faulty, real: Backend, over: Event) -> None:
        super().__init__(faulty, real)
        self._over, self._hangs = over, False

    def submit(self, slot: Slot, count: int) -> None:
        calls = self._faulty.calls["submit"] = self._faulty.calls.get("submit", 0) + 1
        self._hangs = calls == 5
        self._real.submit(slot, count)

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        if self._hangs and not self._over.wait(timeout_s):
            return False
        return self._real.collect(slot, timeout_s)


def hanging(bundle: Bundle, over: Event) -> Faulty:
    faulty = Faulty(bundle, lambda call, number: False)

    def open_it() -> Backend:
        faulty.opened += 1
        return Hanging(faulty, onnxruntime_of(bundle), over)

    faulty.open = open_it  # type: ignore[method-assign]
    return faulty


def test_a_slow_frame_is_rejected_at_its_deadline_not_after(bundle: Bundle) -> None:
    over = Event()

    def is_through(results: list[Result]) -> bool:
        """The engines are done with the slow frame only when it and one behind it are told to be late."""
        said = ["".join(result.verdict.reasons) for result in results]
        busy = [place for place, reasons in enumerate(said) if "busy with an earlier frame" in reasons]
        if busy:
            over.set()
        return bool(busy) and any(map(is_right, results[busy[0] :]))

    settings = RunSettings(live=LiveSettings(deadline_ms=60, waiting=1))
    results, session = run(hanging(bundle, over), True, settings, pause_s=0.03, until=is_through)
    assert is_through(results)
    waited = [r.verdict for r in results if r.verdict.reasons == ("late: not decided within 60 ms",)]
    assert any(verdict.latency_ms["total"] >= 55 for verdict in waited)
    assert session.reopened == 0


class Early(_Proxy):
    """Waits for whole milliseconds, as a library may, and so returns before its time is up."""

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        if timeout_s is None:
            return self._real.collect(slot)
        time.sleep(min(0.03, int(1e3 * timeout_s) / 1e3))
        return timeout_s >= 0.03 and self._real.collect(slot)


@pytest.mark.parametrize("deadline_ms", [10.7, 25.3])
def test_a_late_frame_is_no_failure_of_the_engines(bundle: Bundle, deadline_ms: float) -> None:
    faulty = Faulty(bundle, lambda call, number: False)
    proxied: Any = faulty.open
    faulty.open = lambda: Early(faulty, proxied()._real)  # type: ignore[method-assign]
    results, session = run(faulty, True, RunSettings(live=LiveSettings(deadline_ms=deadline_ms)))
    said = {result.verdict.reasons[0].partition(":")[0] for result in results}
    assert said == {"late"}
    assert session.reopened == 0
    assert faulty.opened == 1


def test_openvino_with_late_frames_stays_open(bundle: Bundle) -> None:
    faulty = Faulty(bundle, lambda call, number: False)

    def open_it() -> Backend:
        faulty.opened += 1
        return open_backend(bundle, "openvino", tuning=Tuning(1, batch=64), use_cache=False)

    faulty.open = open_it  # type: ignore[method-assign]
    frames = [frame_of(number, 700, 700) for number in range(40)]  # 841 tiles each, more than 20 ms of work
    settings = RunSettings(gate="off", framing=Framing("tile", SIDE, 8), live=LiveSettings(deadline_ms=20.4, waiting=1))
    with Session(bundle, [frames], settings, backend=faulty.open, live=True) as session:
        reasons = [reason for result in session for reason in result.verdict.reasons]
    assert not [reason for reason in reasons if reason.startswith("engine failed")]
    assert faulty.opened == 1


def test_a_hang_counts_as_a_failure(bundle: Bundle) -> None:
    settings = RunSettings(live=LiveSettings(deadline_ms=50, hang_s=0.2, reopen_first_s=0.01, waiting=1))
    _, session = run(
        hanging(bundle, Event()),
        True,
        settings,
        0.02,
        reopened=1,
        until=lambda results: any(map(is_right, results[-10:])),
    )
    assert session.reopened == 1


def test_the_threads_and_files_of_failed_backends_go(bundle: Bundle) -> None:
    def counts() -> tuple[int, int]:
        return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))

    faulty = Faulty(bundle, lambda call, number: call == "collect" and number % 4 >= 2)
    run(Faulty(bundle, lambda call, number: False), False)
    before = counts()
    settings: Any = RunSettings(
        bulk=BulkSettings(tiles=1), live=LiveSettings(reopen_first_s=1e-9, reopen_largest_s=1e-9)
    )  # no pause: with one, how often it opens again would be a matter of the host's speed
    _, session = run(faulty, False, settings)
    assert session.reopened > 5
    until_s = time.monotonic() + 5
    while counts() > before and time.monotonic() < until_s:
        time.sleep(0.05)
    after = counts()
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 1
