"""The benchmark of one bundle: stages beside the raw engine, the pipeline end to end, and how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.bench.endtoend import BulkRuns, measure_bulk, measure_live, measure_memory, tiles_a_frame
from lpcnet_edge.bench.opening import CPU_BACKENDS, Bench, header, opened
from lpcnet_edge.bench.options import Options
from lpcnet_edge.bench.probe import largest_resident_mb, probe
from lpcnet_edge.bench.raw import Inputs, RawEngine, RawFailed, open_raw
from lpcnet_edge.bench.stages import STAGES, StageRun, filled_slots, measure_latency, measure_rate
from lpcnet_edge.bench.sustained import measure_sustained
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.types import Dataset

Progress = Callable[[str, int, int], None]


def measure(
    bundle: Bundle,
    data: Dataset | Path | None,
    options: Options,
    *,
    size_px: tuple[int, int] | None = None,
    sustained_s: float | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Measure a bundle; the record, as ``schemas/bench.schema.json`` describes it.

    What is compared (our stages, the raw engine, the pipeline) is measured in turn, round after round, since machines
    drift; ratios are medians over the rounds.

    Raises
    ------
    LpcnetError
        What opening a backend and reading frames raise, and ``BackendFailed`` where the engines fail.
    """
    with opened(bundle, data, options, size_px=size_px) as bench:
        record = header(bench)
        work = _Work(bench, progress)
        work.load()
        for number in range(options.rounds):
            work.round(number)
        work.live()
        record |= work.results()
        record["sustained"] = None
        drifts = work.drifts()
        if sustained_s is not None:
            settings = _settings(options)
            record["sustained"] = measure_sustained(bench, settings, sustained_s, progress)
        record |= bench.stability(drifts)
    record["readings"] = bench.readings()
    return {**record, "vs": None, "budget": None, "estimate": None}


class _Work:
    """The measurements of one bundle, round by round."""

    def __init__(self, bench: Bench, progress: Progress) -> None:
        self.bench, self.progress = bench, progress
        options, manifest = bench.options, bench.bundle.manifest
        self.batches = sorted(set(options.batches or (1, bench.tuning.batch)))
        self.runs = [StageRun(stage, batch) for batch in self.batches for stage in STAGES]
        self.requests = bench.tuning.streams + 1
        self.bulk, self.memory_tiles_per_s = BulkRuns(), list[float]()
        self.raw_both: list[float] = []
        self.settings = _settings(options)
        tiles = bench.frames.tiles(self.batches[-1], manifest.tile_px, options.framing)
        self.slots = {batch: filled_slots(bench.backend, tiles[:batch], self.requests) for batch in self.batches}
        self.inputs = self._inputs(tiles)
        self.raw: RawEngine | None
        if self.inputs is None:
            self.raw, self.why = None, f"the backend {bench.backend.name} has no engine of its own to compare with"
        else:
            name = bench.backend.name
            self.raw, self.why = open_raw(bench.bundle, name, bench.tuning, self.requests, self.inputs, bench.folder)
        self.live_figures: dict[str, Any] = {}
        self.load_ms: dict[str, float | None] = {"compiled": None, "kept": None}

    def _inputs(self, tiles: Any) -> Inputs | None:
        """Tiles with their real embeddings, by the stage's own file in ONNX Runtime or OpenVINO."""
        backend, manifest = self.bench.backend.name, self.bench.bundle.manifest
        if backend == "null":
            return None
        name = backend if backend in CPU_BACKENDS else "onnxruntime"
        engine = open_engine(name, self.bench.bundle.read(manifest.localization.file))
        try:
            return Inputs(tiles, engine.run({"pixels": tiles})["embedding"])
        finally:
            engine.close()

    def load(self) -> None:
        """What loading takes: each stage and batch in a process of its own, and the backend as a run opens it."""
        bench = self.bench
        name, bundle = bench.backend.name, bench.bundle
        for number, run in enumerate(self.runs):
            self.progress(f"loading {run.stage}, batch {run.batch}", number, len(self.runs))
            if self.inputs is None or name not in CPU_BACKENDS:
                run.loading = f"the backend {name} opens both stages together"
                continue
            files = {}
            for place, (key, array) in enumerate(self.inputs.of(run.stage, run.batch).items()):
                files[key] = bench.folder / f"probe-{place}.npy"
                np.save(files[key], array)
            spec = bundle.manifest.stages[run.stage]
            model, threads = bundle.read(spec.file), bench.tuning.threads
            run.loading = probe(model, run.stage, spec.precision, name, threads, files, bench.folder)
        for key, use_cache in (("compiled", False), ("kept", True)):
            if name in CPU_BACKENDS and not bench.options.quick:
                started = time.perf_counter()
                open_backend(bundle, name, tuning=bench.tuning, use_cache=use_cache).close()
                self.load_ms[key] = 1e3 * (time.perf_counter() - started)

    def round(self, number: int) -> None:
        """Everything that is compared, once."""
        bench, seconds = self.bench, self.bench.options.seconds
        backend, rounds = bench.backend, bench.options.rounds
        for run in self.runs:
            self.progress(f"round {number + 1} of {rounds}: {run.stage}, batch {run.batch}", number, rounds)
            with bench.sampler.phase(f"{run.stage} batch {run.batch}"):
                measure_rate(backend, run, self.slots[run.batch], seconds)
            with bench.sampler.phase(f"raw {run.stage} batch {run.batch}"):
                self._raw(run)
            if number == 0:
                with bench.sampler.phase(f"{run.stage} batch {run.batch} latency"):
                    measure_latency(backend, run, self.slots[run.batch][0], seconds)
        self.progress(f"round {number + 1} of {rounds}: pipeline", number, rounds)
        with bench.sampler.phase("pipeline in memory"):
            rate = measure_memory(bench.bundle, backend, bench.frames, self.settings, max(seconds, 0.5))
            self.memory_tiles_per_s.append(rate)
        both = [run.raw_tiles_per_s[number] for run in self.runs[-2:] if len(run.raw_tiles_per_s) > number]
        if len(both) == len(STAGES):
            self.raw_both.append(1 / sum(1 / rate for rate in both))
        with bench.sampler.phase("pipeline"):
            going = measure_bulk(
                bench.bundle, backend, bench.frames, self.settings, self.bulk, max(seconds, 0.5), bench.folder
            )
        if not going:
            raise KeyboardInterrupt

    def _raw(self, run: StageRun) -> None:
        if self.raw is None:
            return
        try:
            run.raw_tiles_per_s.append(self.raw.rate(run.stage, run.batch, self.bench.options.seconds))
        except RawFailed as exc:
            self.raw, self.why = None, str(exc)

    def live(self) -> None:
        """Latency of frames that come one at a time."""
        bench = self.bench
        self.progress("pipeline, live", 0, 1)
        with bench.sampler.phase("pipeline live"):
            self.live_figures = measure_live(
                bench.bundle, bench.backend, bench.frames, self.settings, 2 * bench.options.seconds, bench.folder
            )

    def drifts(self) -> dict[str, float | None]:
        """Of the pipeline, and of each stage at each batch size."""
        stages = {f"{run.stage}, batch {run.batch}": run.drift for run in self.runs}
        return {"pipeline": self.bulk.drift, **stages}

    def results(self) -> dict[str, Any]:
        """The keys ``stages``, ``pipeline``, ``raw_engine`` and ``ratio_to_raw``."""
        memory = self.memory_tiles_per_s
        pairs = [a / b for a, b in zip(memory, self.raw_both, strict=False)]
        raw = {
            "name": self.raw.name if self.raw else None,
            "says": self.raw.says if self.raw else None,
            "why": self.why or None,
            "batch": self.batches[-1],
            "tiles_per_s": float(np.median(self.raw_both)) if self.raw_both and self.raw else None,
        }
        pipeline = {
            "batch": self.batches[-1],
            "tiles_a_frame": tiles_a_frame(self.bench.bundle, self.bench.frames, self.settings),
            "bulk": self.bulk.to_json(),
            "live": self.live_figures,
            "memory_tiles_per_s": float(np.median(memory)),
            "rounds_memory_tiles_per_s": memory,
            "load_ms": self.load_ms,
            "peak_memory_mb": largest_resident_mb(),
        }
        return {
            "stages": [run.to_json() for run in self.runs],
            "pipeline": pipeline,
            "raw_engine": raw,
            "ratio_to_raw": float(np.median(pairs)) if pairs and self.raw else None,
        }


def _settings(options: Options) -> RunSettings:
    return replace(RunSettings(), gate=options.gate, framing=options.framing)
