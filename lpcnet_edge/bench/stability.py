"""Whether a run's figures can be trusted: clocks, throttling and drift while it measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lpcnet_edge.bench import sensors
from lpcnet_edge.bench.nvml import Nvml, open_nvml
from lpcnet_edge.bench.sensors import Sample
from lpcnet_edge.machine import ROOT, read_text

MOST_CHANGE = 0.05
"""Of a clock, or of the throughput from the first third of a run to the last: beyond it a run is unstable."""

Stable = Literal["unknown"] | bool


class Sampler:
    """Reads the sensors in a thread of its own, for as long as its ``with`` lasts.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are found.
    period_s
        Between two samples.
    nvml
        Opens NVIDIA's management library.
    """

    def __init__(
        self, root: Path = ROOT, *, period_s: float = 0.25, nvml: Callable[[], Nvml | None] = open_nvml
    ) -> None:
        self.samples: list[Sample] = []
        self._root, self._period_s, self._phase = root, period_s, ""
        self._nvml = nvml()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sample the clocks", daemon=True)
        self._stat: str | None = None
        self._energy: tuple[float, dict[str, tuple[float, float]]] = (0.0, {})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done within counts as load: only there are clocks judged."""
        self._phase, before = name, self._phase
        try:
            yield
        finally:
            self._phase = before

    def __enter__(self) -> Sampler:
        self._stat = read_text(self._root, "proc/stat")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._nvml is not None:
            self._nvml.close()

    @property
    def stolen(self) -> float | None:
        """The share of the cores' time, since the beginning, that a hypervisor gave to others; None: unknown."""
        return sensors.stolen_share(self._stat, read_text(self._root, "proc/stat"))

    def read(self) -> Sample:
        """One sample, now."""
        root, now_s = self._root, time.perf_counter()
        gpus = self._nvml.read() if self._nvml is not None else []
        energy = sensors.energy_j(root)
        power = sensors.power_w(root) | sensors.power_between(self._energy[1], energy, now_s - self._energy[0])
        self._energy = (now_s, energy)
        heat = sensors.temperatures_c(root)
        return Sample(
            now_s,
            self._phase,
            sensors.cpu_mhz(root),
            sensors.jetson_gpu_mhz(root) | {gpu.name: gpu.mhz for gpu in gpus if gpu.mhz is not None},
            heat | {gpu.name: gpu.temperature_c for gpu in gpus if gpu.temperature_c is not None},
            power | {gpu.name: gpu.power_w for gpu in gpus if gpu.power_w is not None},
            tuple(f"{gpu.name}: {reason}" for gpu in gpus for reason in gpu.throttled),
        )

    def _run(self) -> None:
        while not self._end.is_set():
            self.samples.append(self.read())
            self._end.wait(self._period_s)


@dataclass(frozen=True)
class Stability:
    """The judgement.

    Attributes
    ----------
    stable
        False with any reason; ``unknown`` without one where the clocks could not be read; else True.
    reasons
        Why it is not stable, or not known to be, a sentence each.
    clock_change
        Of each clock: how far its 5 % quantile lies below its 95 % quantile under load, 0 to 1.
    drift
        Of each measurement: the change of throughput from its first third to its last.
    """

    stable: Stable
    reasons: tuple[str, ...]
    clock_change: Mapping[str, float]
    drift: Mapping[str, float | None]


def judge(
    samples: Sequence[Sample], drifts: Mapping[str, float | None], *, threads: int, uses_gpu: bool = False
) -> Stability:
    """Judge a run by the samples taken under load and by its drifts.

    The processor's clock is the mean of its ``threads`` fastest cores, since idle ones slow down. Quantiles stand for
    smallest and largest, because a core that sleeps for a moment reports a clock that nothing ran at.
    """
    loaded = [sample for sample in samples if sample.phase]
    clocks: dict[str, list[float]] = {}
    for sample in loaded:
        if sample.cpu_mhz:
            fastest = sorted(sample.cpu_mhz)[-threads:]
            clocks.setdefault("CPU", []).append(float(np.mean(fastest)))
        for name, mhz in sample.gpu_mhz.items() if uses_gpu else ():
            clocks.setdefault(f"GPU {name}", []).append(mhz)
    change = {}
    reasons = []
    for name, values in clocks.items():
        low, high = np.quantile(values, [0.05, 0.95])
        change[name] = float(1 - low / high) if high > 0 else 0.0
        if change[name] > MOST_CHANGE:
            reasons.append(f"the {name} clock moved by {100 * change[name]:.1f} % ({low:.0f} to {high:.0f} MHz)")
    for name, value in drifts.items():
        if value is not None and abs(value) > MOST_CHANGE:
            reasons.append(f"{name}: the throughput drifted by {100 * value:+.1f} % from the first third to the last")
    held = sorted({text for sample in loaded for text in sample.throttled}) if uses_gpu else []
    reasons += [f"clocks were held down, {text}" for text in held]
    if reasons:
        return Stability(False, tuple(reasons), change, drifts)
    wanted = any(name.startswith("GPU") for name in clocks) if uses_gpu else "CPU" in clocks
    if not wanted:
        what = "GPU's" if uses_gpu else "processor's"
        return Stability("unknown", (f"the {what} clock cannot be read here",), change, drifts)
    return Stability(True, (), change, drifts)


def series(samples: Sequence[Sample], start_s: float, most: int = 240) -> list[dict[str, Any]]:
    """Samples as plain data with times from ``start_s``, thinned to ``most`` of them."""
    step = -(-len(samples) // most) or 1
    return [
        {
            "time_s": round(sample.time_s - start_s, 2),
            "phase": sample.phase,
            "cpu_mhz": [round(value) for value in sample.cpu_mhz],
            "gpu_mhz": sample.gpu_mhz,
            "temperature_c": sample.temperature_c,
            "power_w": {name: round(value, 3) for name, value in sample.power_w.items()},
            "throttled": list(sample.throttled),
        }
        for sample in samples[::step]
    ]
