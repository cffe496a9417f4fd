"""Minutes of load: what the first seconds promise, and what is left once the machine is warm."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

from lpcnet_edge.bench.endtoend import frames_a_slot, slot_rates
from lpcnet_edge.bench.opening import Bench
from lpcnet_edge.bench.stability import judge
from lpcnet_edge.bench.statistics import drift
from lpcnet_edge.bench.timed import TimedBackend, TimedFiles
from lpcnet_edge.runtime.running import draining
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings

_BURST_S, _BURST_SHARE = 30.0, 0.1
_STEPS = 120


def measure_sustained(
    bench: Bench, settings: RunSettings, seconds: float, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Run the pipeline in bulk for so long, or until SIGINT or SIGTERM: then with what was measured so far.

    ``burst`` is the rate of the first tenth of the time, 30 s at most; ``sustained`` that of the last third.
    """
    started = time.perf_counter()
    files = TimedFiles(bench.frames.files, bench.bundle.manifest.channels, 1 << 40, seconds=seconds)
    done: list[float] = []
    first_sample = len(bench.sampler.samples)
    opener = lambda: TimedBackend(bench.backend)  # noqa: E731
    with (
        bench.sampler.phase("sustained"),
        Session(bench.bundle, [files], settings, backend=opener) as session,
        draining(session) as asked,
    ):
        told = 0
        for _ in session:
            done.append(time.perf_counter())
            step = int(_STEPS * (done[-1] - started) / seconds)
            if step > told:
                told = step
                progress(f"sustained: {len(done) / (done[-1] - started):.1f} frames/s", min(step, _STEPS), _STEPS)
    ended = done[-1] if done else time.perf_counter()
    rates = slot_rates(done, frames_a_slot(bench.bundle, bench.frames, settings), _STEPS)
    burst, last = burst_and_last(rates, started, min(_BURST_S, _BURST_SHARE * seconds))
    found = judge(
        bench.sampler.samples[first_sample:], {"sustained": drift([r for _, r in rates])}, threads=bench.tuning.threads,
        uses_gpu=bench.uses_gpu,
    )  # fmt: skip
    return {
        "asked_s": seconds,
        "seconds": ended - started,
        "interrupted": asked.is_set(),
        "frames": len(done),
        "burst_frames_per_s": burst,
        "sustained_frames_per_s": last,
        "sustained_of_burst": last / burst if burst and last else None,
        "stable": found.stable,
        "reasons": list(found.reasons),
        "series": [[round(moment - started, 2), rate] for moment, rate in rates],
    }


def burst_and_last(
    rates: list[tuple[float, float]], start_s: float, burst_s: float
) -> tuple[float | None, float | None]:
    """The mean rate up to ``burst_s`` from the start (the first one at least), and that of the last third."""
    if not rates:
        return None, None
    first = [rate for moment, rate in rates if moment <= start_s + burst_s] or [rates[0][1]]
    last = [rate for _, rate in rates[-max(1, len(rates) // 3) :]]
    return fmean(first), fmean(last)
