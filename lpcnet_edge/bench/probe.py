"""One stage in a process of its own: how long it takes to load and to compute first, and how much memory that needs.

python -m lpcnet_edge.bench.probe '{"model": FILE, "stage": NAME, "precision": NAME, "backend": NAME, "threads": N,
    "inputs": {...}}'
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.errors import LpcnetError

_RUNS = 3
_LONGEST_S = 300


@dataclass(frozen=True, slots=True)
class Probe:
    """What one process saw.

    Attributes
    ----------
    load_ms
        From the ONNX file in memory to an engine that is ready, nothing kept from earlier.
    first_ms
        The first batch.
    peak_memory_mb
        The largest resident memory of the process, MB (2^20 bytes), of which ``before_mb`` were taken by Python, the
        runtime's library and the model's bytes.
    """

    load_ms: float
    first_ms: float
    peak_memory_mb: float
    before_mb: float


def probe(
    model: bytes, stage: str, precision: str, backend: str, threads: int, inputs: Mapping[str, Path], folder: Path
) -> Probe | str:
    """Load and run a stage in a fresh process; text that says why where that fails."""
    file = folder / f"probed-{stage}.onnx"
    file.write_bytes(model)
    task = {
        "model": str(file),
        "stage": stage,
        "precision": precision,
        "backend": backend,
        "threads": threads,
        "inputs": {name: str(path) for name, path in inputs.items()},
    }
    command = [sys.executable, "-m", "lpcnet_edge.bench.probe", json.dumps(task)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
            stdin=subprocess.DEVNULL,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"the process that loads it took over {_LONGEST_S} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"the process that loads it ended with {done.returncode}"])[-1]
    return Probe(**json.loads(done.stdout))


def child_environment() -> dict[str, str]:
    """Ours, with the folder of this package on the path wherever we were started from."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _run(task: dict[str, Any]) -> Probe:
    model = Path(task["model"]).read_bytes()
    feeds = {name: np.load(path) for name, path in task["inputs"].items()}
    if task["stage"] == "confidence":
        from lpcnet_edge.backends.lowering import without_picking

        model = without_picking(_parsed(model)).SerializeToString()
    shapes = {name: array.shape for name, array in feeds.items()}
    # Once with nothing to compile, so that importing the library is not counted as loading the stage.
    _warm(task["backend"])
    before_mb = _resident_mb()
    started = time.perf_counter()
    narrow = {"precision": task["precision"]} if task["backend"] == "openvino" else {}
    engine = open_engine(task["backend"], model, threads=task["threads"], shapes=shapes, **narrow)
    loaded = time.perf_counter()
    engine.run(feeds)
    first = time.perf_counter()
    for _ in range(_RUNS):
        engine.run(feeds)
    peak_mb = largest_resident_mb()
    engine.close()
    return Probe(1e3 * (loaded - started), 1e3 * (first - loaded), peak_mb, before_mb)


def _parsed(model: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(model)


def _warm(backend: str) -> None:
    if backend == "openvino":
        import lpcnet_edge.backends.openvino
    else:
        import lpcnet_edge.backends.onnxruntime  # noqa: F401


def largest_resident_mb() -> float:
    """The most memory that this process held, MB (2^20 bytes); ``getrusage`` would count what its parent held."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else math.nan


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _main() -> int:
    from dataclasses import asdict

    try:
        print(json.dumps(asdict(_run(json.loads(sys.argv[1])))))
    except LpcnetError as exc:
        print(exc.message, file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main())
