"""Timing one call."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_seconds(call: Callable[[], object], seconds: float) -> float:
    """The shortest of the calls that fit into so many seconds, three at least, after one that warms up."""
    call()
    best, count, until = float("inf"), 0, time.perf_counter() + seconds
    while count < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - started), count + 1
    return best
