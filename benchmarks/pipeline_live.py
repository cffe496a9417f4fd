"""How steady live running is: rings of frames at 80 % of what this machine can do, beside the engines alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from pipeline_runs import Image, Run, Scale, cycle, run

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.pipeline import framing_for
from lpcnet_edge.runtime.running import Percentiles
from lpcnet_edge.runtime.settings import LiveSettings, RunSettings
from lpcnet_edge.runtime.sources import Frame

LOAD = 0.8


def paced(frames: list[Image], count: int, period_s: float) -> Iterable[Frame]:
    """A ring of frames at a fixed rate, each stamped when it was due."""
    start_ns = time.monotonic_ns() + 10_000_000
    for number in range(count):
        due_ns = start_ns + int(number * period_s * 1e9)
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        yield Frame(frames[number % len(frames)], str(number), due_ns, str(number), "ring", number)


def measure_live(
    bundle: Bundle, backend: Backend, small: list[Image], threshold: float, scale: Scale
) -> dict[str, Any]:
    """Frames of one tile, gate off and on, and frames of nine, gate on.

    With the gate on a frame takes as long as its picked tiles ask for, so latencies are given by their number: 0, and
    the sizes of batches that it is rounded up to. All picked is the worst case.
    """
    side = bundle.manifest.tile_px
    size = 3 * side - 2 * framing_for(side, side, side, "tile").overlap_px
    tiled = CarbonFabric(len(small), seed=7401, size=(size, size))
    large = [tiled.read(n).image for n in range(len(small))]
    nine = framing_for(size, size, side, "tile")
    alone, paced_alone = Percentiles(), Percentiles()

    def between(capacity: float) -> None:
        count = scale.live_frames // scale.segments
        engines_alone(backend, small, count, 0.0, alone)
        engines_alone(backend, small, count, 1 / (LOAD * capacity), paced_alone)

    result = {
        "off": ring(bundle, backend, small, "off", None, scale.live_frames, scale.segments, between),
        "on": ring(bundle, backend, small, threshold, None, scale.live_frames, scale.segments),
        "nine tiles, on": ring(bundle, backend, large, threshold, nine, scale.live_frames // 4, scale.segments),
    }
    off = result["off"]["all"]
    return {
        "p50_ms": off["p50_ms"],
        "p999_ms": off["p999_ms"],
        "frames": scale.live_frames,
        "engines_alone": shape(alone),
        "engines_alone_paced": shape(paced_alone),
        "gate": result,
    }


def ring(
    bundle: Bundle,
    backend: Backend,
    frames: list[Image],
    gate: Any,
    framing: Framing | None,
    count: int,
    segments: int,
    between: Callable[[float], None] = lambda capacity: None,
) -> dict[str, Any]:
    """``count`` frames in segments, each at 80 % of what was measured just before it: machines drift.

    ``p..._ms`` is from the moment a frame was due, and has the time in it that frames before it took too long;
    ``inspected`` is from the moment when it was begun. ``between`` is called with the capacity after each segment, for
    what is to be compared with it.
    """
    settings = RunSettings(gate=gate, framing=framing, live=LiveSettings(waiting=4))
    whole: dict[str, Percentiles] = {}
    begun: dict[str, Percentiles] = {}
    capacities = []
    for _ in range(segments):
        probe = run(bundle, backend, cycle(frames, max(50, count // (4 * segments))), settings, live=True)
        capacities.append(probe.frames / probe.seconds)
        done = run(bundle, backend, paced(frames, count // segments, 1 / (LOAD * capacities[-1])), settings, live=True)
        for name, total, waiting in by_picked(done):
            for bucket in ("all", name):
                whole.setdefault(bucket, Percentiles()).add(total)
                begun.setdefault(bucket, Percentiles()).add(total - waiting)
        between(capacities[-1])
    found: dict[str, Any] = {
        bucket: {"frames": whole[bucket].count, **shape(whole[bucket]), "inspected": shape(begun[bucket])}
        for bucket in sorted(whole)
    }
    found["capacity_per_s"] = [min(capacities), max(capacities)]
    return found


def by_picked(done: Run) -> Iterable[tuple[str, float, float]]:
    """Of each frame: the size of batch that its picked tiles are rounded up to, its whole latency and its wait, ms."""
    for latency, picked in zip(done.latencies, done.picked_of, strict=True):
        bucket = f"picked {next((n for n in (0, 1, 2, 4, 8) if picked <= n), 16)}"
        yield bucket, latency["total"], latency["waiting"]


def engines_alone(backend: Backend, small: list[Image], count: int, period_s: float, times: Percentiles) -> None:
    """Both engines on a ready tile, ``count`` times, at most one a period: what of a tail is the machine's, not ours.

    With a period the thread sleeps before each, as a camera lets it: a core that slept begins later and slower.
    """
    slot, every = backend.make_slot(1), np.zeros(1, np.int32)
    slot.pixels[0] = resize_image(small[0], *slot.pixels.shape[1:3])
    due = time.perf_counter()
    for turn in range(count + 20):
        due = max(due + period_s, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        started = time.perf_counter()
        backend.submit(slot, 1)
        backend.collect(slot)
        backend.submit_picked(slot, every)
        backend.collect_picked(slot)
        if turn >= 20:
            times.add(1e3 * (time.perf_counter() - started))


def shape(times: Percentiles) -> dict[str, float]:
    """Percentiles, the largest, and how far the slowest thousandth is from the middle."""
    middle, slow = times.at(0.5), times.at(0.999)
    return {
        "p50_ms": middle,
        "p99_ms": times.at(0.99),
        "p999_ms": slow,
        "largest_ms": times.largest,
        "p999_over_p50": slow / middle,
    }
