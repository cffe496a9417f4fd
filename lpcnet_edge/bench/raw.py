"""The engine without us: OpenVINO's ``benchmark_app`` or TensorRT's ``trtexec`` on the same graphs, like for like.

Where neither can run here, a plain loop over the runtime, which is named so, with the reason.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.engine import Engine, open_engine
from lpcnet_edge.backends.tuning import Tuning
from lpcnet_edge.bench.probe import child_environment
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import LpcnetError

_SLACK_S = 120.0
# As the tool's own console script, but with its telemetry silenced before OpenVINO is imported.
_BENCHMARK_APP = (
    "from lpcnet_edge.backends.quiet import silence_libraries; silence_libraries(); "
    "from openvino.tools.benchmark.main import main; main()"
)


class RawFailed(Exception):
    """The tool did not give a figure; its text says why."""


class RawEngine(Protocol):
    """Something that computes a stage and nothing else."""

    name: str
    says: str

    def rate(self, stage: str, batch: int, seconds: float) -> float:
        """Tiles a second; raises :class:`RawFailed`."""


@dataclass(frozen=True)
class Inputs:
    """Real inputs of both stages: (N, S, S[, 3]) uint8 tiles and their (N, E, S/16, S/16) float32 embeddings."""

    tiles: NDArray[np.uint8]
    embedding: NDArray[np.float32]

    def of(self, stage: str, batch: int) -> dict[str, NDArray[Any]]:
        """What a stage takes for a batch of the first tiles."""
        feeds: dict[str, NDArray[Any]] = {"pixels": self.tiles[:batch]}
        return feeds if stage == "localization" else {**feeds, "embedding": self.embedding[:batch]}


class BenchmarkApp:
    """OpenVINO's benchmark_app on each graph that the backend compiles, with its settings.

    Stage 2 of an INT8 bundle is two graphs, measured one after the other: a batch takes the sum of their times.
    """

    name = "benchmark_app"

    def __init__(self, bundle: Bundle, tuning: Tuning, requests: int, inputs: Inputs, folder: Path) -> None:
        from lpcnet_edge.backends.openvino_raw import VERSION

        self._bundle, self._tuning, self._requests, self._inputs, self._folder = (
            bundle,
            tuning,
            requests,
            inputs,
            folder,
        )
        self._parts: dict[tuple[str, int], list[Any]] = {}
        self.says = (
            f"OpenVINO's benchmark_app {VERSION} on the graphs that the backend compiles, in its precision, real tiles "
            f"as input: -hint none -api async -nthreads {tuning.threads} -nstreams {tuning.streams} "
            f"-nireq {requests}"
        )

    def rate(self, stage: str, batch: int, seconds: float) -> float:
        from lpcnet_edge.backends.openvino_raw import write_parts

        if (stage, batch) not in self._parts:
            spec, feeds = self._bundle.manifest.stages[stage], self._inputs.of(stage, batch)
            model = self._bundle.read(spec.file)
            self._parts[stage, batch] = write_parts(model, stage, spec.precision, feeds, self._folder)
        per_batch_s = sum(self._batch_s(part, seconds) for part in self._parts[stage, batch])
        return batch / per_batch_s

    def _batch_s(self, part: Any, seconds: float) -> float:
        options = [
            *("-m", part.model, "-d", "CPU", "-hint", "none", "-api", "async", "-infer_precision", part.precision),
            *("-nthreads", self._tuning.threads, "-nstreams", self._tuning.streams, "-nireq", self._requests),
            *("-t", max(1, round(seconds)), "-load_config", part.config, "-iop", part.types),
            *("-report_type", "no_counters", "-report_folder", self._folder, "-json_stats"),
            *("-i", *(f"{name}:{path}" for name, path in part.inputs.items())),
        ]
        report = self._folder / "benchmark_report.json"
        report.unlink(missing_ok=True)
        run_tool([sys.executable, "-c", _BENCHMARK_APP, *map(str, options)], "benchmark_app", seconds)
        try:
            found = json.loads(report.read_text("utf-8"))["execution_results"]
            # Its own throughput counts frames by a guess at the layout; iterations and time are exact.
            return float(found["total execution time (ms)"]) / 1e3 / int(found["total number of iterations"])
        except (OSError, ValueError, KeyError, ZeroDivisionError) as exc:
            raise RawFailed(f"benchmark_app's report cannot be read: {type(exc).__name__}: {exc}") from exc


class TrtExec:
    """TensorRT's trtexec on the bundle's ONNX files, host to device and back included. Not run on a GPU."""

    name = "trtexec"

    def __init__(self, bundle: Bundle, inputs: Inputs, folder: Path, tool: str) -> None:
        self._bundle, self._inputs, self._folder, self._tool = bundle, inputs, folder, tool
        known = _run([tool, "--help"], "trtexec", _SLACK_S)
        # Of TensorRT 11; before it, transfers were included unless they were left out.
        wanted = ("--includeDataTransfers", "--stronglyTyped", "--useCudaGraph")
        self._options = [name for name in wanted if name in known.stdout + known.stderr]
        self.says = f"trtexec on the bundle's ONNX files, transfers included: {' '.join(self._options)}"

    def rate(self, stage: str, batch: int, seconds: float) -> float:
        spec = self._bundle.manifest.stages[stage]
        model = self._folder / f"trtexec-{stage}.onnx"
        model.write_bytes(self._bundle.read(spec.file))
        feeds = self._inputs.of(stage, batch)
        shapes = [f"{name}:{'x'.join(map(str, array.shape))}" for name, array in feeds.items()]
        if stage == "confidence":
            shapes.append(f"picked:{batch}")
        given = ",".join(shapes)
        command = [
            *(self._tool, f"--onnx={model}", f"--duration={max(1, round(seconds))}", "--warmUp=500"),
            *(f"--{kind}Shapes={given}" for kind in ("min", "opt", "max")),
            *self._options,
        ]
        text = run_tool(command, "trtexec", seconds + 600)
        found = re.search(r"Throughput:\s*([\d.]+)\s*qps", text)
        if not found:
            raise RawFailed("trtexec printed no throughput")
        return batch * float(found[1])


class PlainLoop:
    """The runtime called in a loop, a batch at a time, whole arrays in and out."""

    def __init__(self, bundle: Bundle, backend: str, tuning: Tuning, inputs: Inputs, why: str) -> None:
        self.name = f"plain {backend} loop"
        self.says = f"a loop over {backend} without our pipeline, {tuning.threads} threads ({why})"
        self._bundle, self._backend, self._tuning, self._inputs = bundle, backend, tuning, inputs
        self._engines: dict[str, Engine] = {}

    def rate(self, stage: str, batch: int, seconds: float) -> float:
        feeds = self._inputs.of(stage, batch)
        if stage == "confidence":
            feeds["picked"] = np.arange(batch, dtype=np.int32)
        try:
            if stage not in self._engines:
                model = self._bundle.read(self._bundle.manifest.stages[stage].file)
                self._engines[stage] = open_engine(self._backend, model, threads=self._tuning.threads)
            engine = self._engines[stage]
            engine.run(feeds)
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < seconds or done < 2:
                engine.run(feeds)
                done += 1
        except LpcnetError as exc:
            raise RawFailed(exc.message) from exc
        return batch * done / (time.perf_counter() - started)


def open_raw(
    bundle: Bundle, backend: str, tuning: Tuning, requests: int, inputs: Inputs, folder: Path
) -> tuple[RawEngine | None, str]:
    """The raw engine beside a backend, and where it is not the real tool, why."""
    if backend == "openvino":
        if find_spec("openvino.tools.benchmark") is not None:
            return BenchmarkApp(bundle, tuning, requests, inputs, folder), ""
        why = "the openvino package here has no openvino.tools.benchmark"
        return PlainLoop(bundle, backend, tuning, inputs, why), why
    if backend == "onnxruntime":
        why = "onnxruntime's package for Python has no benchmark tool"
        return PlainLoop(bundle, backend, tuning, inputs, why), why
    if backend.startswith("tensorrt"):
        tool = shutil.which("trtexec")
        try:
            return (TrtExec(bundle, inputs, folder, tool), "") if tool else (None, "trtexec is not on PATH")
        except RawFailed as exc:
            return None, str(exc)
    return None, f"the backend {backend} has no engine of its own to compare with"


def run_tool(command: Sequence[str], name: str, seconds: float) -> str:
    """The output of a tool; raises :class:`RawFailed` with its first line about an error where it fails."""
    done = _run(command, name, seconds + _SLACK_S)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        told = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)] or lines or ["no output"]
        raise RawFailed(f"{name} ended with {done.returncode}: {told[0].strip()}")
    return done.stdout + done.stderr


def _run(command: Sequence[str], name: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as exc:
        raise RawFailed(f"{name} did not end within {timeout_s:.0f} s") from exc
    except OSError as exc:
        raise RawFailed(f"{name} cannot be started: {exc.strerror or exc}") from exc
