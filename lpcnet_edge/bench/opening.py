"""What every measurement opens: the backend with its tuning, the frames, and the machine in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lpcnet_edge import machine
from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import AUTO, open_backend, tuning_cache
from lpcnet_edge.backends.cuda.slots import SIZES as GPU_SIZES
from lpcnet_edge.backends.tuning import Tuning, default_tuning, load_tuning
from lpcnet_edge.bench.frames import Frames, open_frames
from lpcnet_edge.bench.options import Options
from lpcnet_edge.bench.sensors import power_mode
from lpcnet_edge.bench.stability import Sampler, judge, series
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.types import Dataset

SCHEMA_VERSION = 1
CPU_BACKENDS = ("openvino", "onnxruntime")


@dataclass
class Bench:
    """An open benchmark; ``tuning`` is what a run takes on a processor, up to the largest batch measured."""

    bundle: Bundle
    backend: Backend
    tuning: Tuning
    frames: Frames
    options: Options
    sampler: Sampler
    folder: Path

    @property
    def uses_gpu(self) -> bool:
        """Whether the GPU's clocks are those that count."""
        return _on_gpu(self.backend)

    def stability(self, drifts: dict[str, float | None]) -> dict[str, Any]:
        """The keys ``stable`` and ``stability`` of a record."""
        found = judge(self.sampler.samples, drifts, threads=self.tuning.threads, uses_gpu=self.uses_gpu)
        return {
            "stable": found.stable,
            "stability": {
                "reasons": list(found.reasons),
                "clock_change": dict(found.clock_change),
                "drift": dict(found.drift),
                "stolen": self.sampler.stolen,
            },
        }

    def readings(self) -> list[dict[str, Any]]:
        """The sampled clocks, temperatures and power as plain data."""
        samples = self.sampler.samples
        return series(samples, samples[0].time_s if samples else 0.0)


@contextmanager
def opened(
    bundle: Bundle,
    data: Dataset | Path | None,
    options: Options,
    *,
    size_px: tuple[int, int] | None = None,
    backend: Backend | None = None,
) -> Iterator[Bench]:
    """Open everything and sample the clocks meanwhile; raises what opening a backend and reading frames raise."""
    with TemporaryDirectory(prefix="lpcnet-edge-bench-") as name:
        folder = Path(name)
        frames = open_frames(bundle, data, folder, count=options.frames, size_px=size_px)
        own = backend or open_measured(bundle, options)
        tuning = kept_tuning(bundle, options)
        if not options.batches and _on_gpu(own):
            tuning = replace(tuning, batch=GPU_SIZES[-1])
        try:
            with Sampler() as sampler:
                yield Bench(bundle, own, tuning, frames, options, sampler, folder)
        finally:
            if backend is None:
                own.close()


def _on_gpu(backend: Backend) -> bool:
    return backend.name not in (*CPU_BACKENDS, "null")


def open_measured(bundle: Bundle, options: Options) -> Backend:
    """The backend with the batches asked for, else its own: a GPU's are larger than those of a processor's tuning."""
    return open_backend(bundle, options.backend, tuning=kept_tuning(bundle, options) if options.batches else None)


def kept_tuning(bundle: Bundle, options: Options) -> Tuning:
    """What ``lpcnet-edge tune`` kept here for the backend, else the default; with the largest batch asked for."""
    name: str | None = options.backend
    if name == "auto":
        name = next((known for known in AUTO if find_spec(known) is not None), None)
    cache = tuning_cache(bundle, name) if name in CPU_BACKENDS else None
    tuning = (load_tuning(cache) if cache is not None else None) or default_tuning()
    return replace(tuning, batch=max(options.batches)) if options.batches else tuning


def header(bench: Bench) -> dict[str, Any]:
    """What a record begins with."""
    manifest, tuning, frames = bench.bundle.manifest, bench.tuning, bench.frames
    return {
        "schema_version": SCHEMA_VERSION,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": own_version(),
        "quick": bench.options.quick,
        "machine": machine_facts(),
        "bundle": {
            "id": bench.bundle.id,
            "path": str(bench.bundle.path),
            "precision": manifest.precision,
            "tile_px": manifest.tile_px,
            "channels": int(manifest.channels),
        },
        "backend": {
            "name": bench.backend.name,
            "about": bench.backend.about,
            "tuning": asdict(tuning) if bench.backend.name in CPU_BACKENDS else None,
        },
        "frames": {
            "says": frames.says,
            "count": len(frames.images),
            "sizes_px": [list(size) for size in frames.sizes_px],
            "digest": frames.digest,
        },
        "options": {
            "seconds": bench.options.seconds,
            "rounds": bench.options.rounds,
            "gate": bench.options.gate,
        },
    }


def not_measured() -> dict[str, Any]:
    """The keys of a record for what a special measurement leaves out."""
    left_out = ("pipeline", "raw_engine", "ratio_to_raw", "sustained", "vs", "budget", "estimate")
    return {"stages": [], **dict.fromkeys(left_out)}


def machine_facts(root: Path = machine.ROOT) -> dict[str, Any]:
    """This machine, as ``doctor`` sees it, and its power mode."""
    jetson = machine.jetson(root, None, machine.run_command(("nvpmodel", "-q")))
    mode = power_mode(root)
    return {
        "os": machine.os_name(root),
        "cpu": machine.cpu_model(root),
        "instruction_sets": list(machine.instruction_sets(root)),
        "cpus": machine.cpu_count(root),
        "cpus_allowed": machine.affinity_count(root),
        "cgroup_cpus": machine.cgroup_cpus(root),
        "memory_mb": machine.memory_mb(root),
        "nvidia_driver": machine.nvidia_driver(root),
        "jetson": asdict(jetson) if jetson else None,
        "power_mode": (jetson.power_mode if jetson else None) or mode,
    }


def own_version() -> str:
    """Of this package; ``unknown`` where it runs from a folder that was not installed."""
    return machine.package_version("lpcnet-edge")
