"""Two bundles in turn on the same frames: the ratio pair by pair, so that a machine that drifts does not decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lpcnet_edge.bench.endtoend import BulkRuns, measure_bulk
from lpcnet_edge.bench.opening import header, not_measured, open_measured, opened
from lpcnet_edge.bench.options import Options
from lpcnet_edge.bench.statistics import paired_ratio
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import UsageError
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.types import Dataset

QUICK_PAIRS, PAIRS = 3, 10


def measure_against(
    bundle: Bundle,
    other: Bundle,
    data: Dataset | Path | None,
    options: Options,
    *,
    size_px: tuple[int, int] | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """The pipeline of both on the same frames, each with its own gate: pairs of runs, in the order A B, B A, A B ...

    The ratio is the geometric mean of the pairs' ratios, with the 95 % interval of Student's t on their logarithms.

    Raises
    ------
    UsageError
        The bundles take frames of different channels.
    """
    if bundle.manifest.channels != other.manifest.channels:
        raise UsageError(
            f"{bundle.id} takes {bundle.manifest.channels} channel(s), {other.id} {other.manifest.channels}: there are "
            "no frames for both",
            mend="compare bundles that take the same frames",
        )
    pairs = QUICK_PAIRS if options.quick else PAIRS
    settings = replace(RunSettings(), gate=options.gate, framing=options.framing)
    with opened(bundle, data, options, size_px=size_px) as bench:
        second = open_measured(other, options)
        try:
            runs = {"a": BulkRuns(), "b": BulkRuns()}
            sides = {"a": (bundle, bench.backend), "b": (other, second)}
            for place in sides:  # the first run of each allocates
                if not measure_bulk(*sides[place], bench.frames, settings, BulkRuns(), 0.2, bench.folder):
                    raise KeyboardInterrupt
            for pair in range(pairs):
                progress("pairs", pair, pairs)
                for place in ("a", "b") if pair % 2 == 0 else ("b", "a"):
                    with bench.sampler.phase(f"{place}, pair {pair + 1}"):
                        going = measure_bulk(
                            *sides[place], bench.frames, settings, runs[place], options.seconds, bench.folder
                        )
                    if not going:
                        raise KeyboardInterrupt
        finally:
            second.close()
        record = header(bench) | bench.stability({"a": runs["a"].drift, "b": runs["b"].drift})
    ours, theirs = runs["a"].frames_per_s, runs["b"].frames_per_s
    versus = {
        "other": {"id": other.id, "path": str(other.path), "precision": other.manifest.precision},
        "pairs": [[a, b, a / b] for a, b in zip(ours, theirs, strict=True)],
        "frames_per_s": {"this": float(np.median(ours)), "other": float(np.median(theirs))},
        **paired_ratio(ours, theirs).to_json(),
    }
    return {**record, **not_measured(), "readings": bench.readings(), "vs": versus}
