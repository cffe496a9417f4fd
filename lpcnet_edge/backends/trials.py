"""``lpcnet-edge tune``: which use of the machine computes most tiles a second."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from lpcnet_edge.backends.base import Backend, Slot
from lpcnet_edge.backends.choice import AUTO, BACKENDS, open_backend, tuning_cache
from lpcnet_edge.backends.tuning import Tuning, allowed_cpus, save_tuning
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import UsageError

log = logging.getLogger(__name__)

_BATCHES = (1, 4, 8, 16)
_ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """One choice and the tiles a second that it computed, both stages on every tile: the median of its rounds."""

    tuning: Tuning
    tiles_per_s: float


def candidates(cpus: int) -> Iterator[Tuning]:
    """Streams 1, 2, 4 ... up to the cores; all cores, and half of them where there are four or more."""
    for threads in sorted({cpus, cpus // 2 if cpus >= 4 else cpus}):
        streams = 1
        while streams <= threads:
            for batch in _BATCHES:
                yield Tuning(threads, streams, batch, cpus, measured=True)
            streams *= 2


def tune(
    bundle: Bundle, name: str = "auto", *, seconds: float = 2.0, progress: Callable[[int, int], None] | None = None
) -> tuple[str, list[Trial], Trial, Path | None]:
    """Measure every candidate, keep the best in the machine's cache.

    The rounds of the best four are interleaved, since machines drift. Returns the backend's name, all trials, the best,
    and the cache folder (None where none can be made, or nothing be kept in it).

    Raises
    ------
    UsageError
        The backend has nothing to tune, or ``seconds`` is not above 0.
    """
    if not seconds > 0:
        raise UsageError(f"{seconds:g} seconds measure nothing", mend="give seconds above 0: --seconds 2")
    if name in BACKENDS and name not in AUTO:
        raise UsageError(
            f"the backend '{name}' cannot be tuned: it has no threads to share out, and prepares every batch size",
            mend=f"tune {' or '.join(AUTO)}",
        )
    if name not in ("auto", *AUTO):
        raise UsageError(f"no backend that can be tuned is called '{name}'", mend=suggest(name, ["auto", *AUTO]))
    if name == "auto":
        name = next((known for known in AUTO if find_spec(known) is not None), AUTO[0])
    cache = tuning_cache(bundle, name)  # first: it may be refused
    choices = list(candidates(allowed_cpus()))
    trials = []
    steps = len(choices) + 1
    for number, choice in enumerate(choices):
        with_one = open_backend(bundle, name, tuning=choice, use_cache=False)
        name = with_one.name
        trials.append(Trial(choice, engine_rate(with_one, choice.batch * choice.streams, seconds / 2)))
        with_one.close()
        if progress is not None:
            progress(number + 1, steps)
    first = sorted(trials, key=lambda trial: -trial.tiles_per_s)[:4]
    opened = [open_backend(bundle, name, tuning=trial.tuning, use_cache=False) for trial in first]
    rates = [
        [
            engine_rate(backend, trial.tuning.batch * trial.tuning.streams, seconds / _ROUNDS)
            for backend, trial in zip(opened, first, strict=True)
        ]
        for _ in range(_ROUNDS)
    ]
    for backend in opened:
        backend.close()
    settled = [
        replace(trial, tiles_per_s=median(column))
        for trial, column in zip(first, zip(*rates, strict=True), strict=True)
    ]
    best = max(settled, key=lambda trial: trial.tiles_per_s)
    if cache is not None:
        try:
            save_tuning(cache, best.tuning)
        except OSError as exc:  # a full disk must not cost what took minutes to measure
            log.warning("the tuning is not kept: %s", exc)
            cache = None
    if progress is not None:
        progress(steps, steps)
    found = {trial.tuning: trial for trial in settled}
    return name, [found.get(trial.tuning, trial) for trial in trials], best, cache


def engine_rate(backend: Backend, tiles: int, seconds: float) -> float:
    """Tiles a second of both stages on ready buffers, with two slots of so many tiles in flight."""
    every = np.arange(tiles, dtype=np.int32)
    slots = deque(backend.make_slot(tiles) for _ in range(2))
    rng = np.random.default_rng(0)
    for slot in slots:
        slot.pixels[:] = rng.integers(0, 256, slot.pixels.shape, np.uint8)
        _both(backend, slot, every)  # the first time allocates
    done = 0
    backend.submit(slots[0], tiles)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        now, following = slots
        backend.submit(following, tiles)
        backend.collect(now)
        backend.submit_picked(now, every)
        backend.collect_picked(now)
        done += tiles
        slots.rotate(1)
    elapsed_s = time.perf_counter() - started
    backend.collect(slots[0])
    return done / elapsed_s


def _both(backend: Backend, slot: Slot, every: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
    backend.submit(slot, len(every))
    backend.collect(slot)
    backend.submit_picked(slot, every)
    backend.collect_picked(slot)
