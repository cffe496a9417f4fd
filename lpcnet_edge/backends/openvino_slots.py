"""OpenVINO for the pipeline: static shapes, asynchronous requests bound to the slots' memory, a compile cache."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lpcnet_edge.backends.batches import Bucket
from lpcnet_edge.backends.cpu import CpuBackend, Feeds
from lpcnet_edge.backends.openvino import OpenVinoEngine, in_bfloat16, settings_for, slot_parts
from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.backends.signal_stack import signal_stack_kept
from lpcnet_edge.backends.tuning import Tuning
from lpcnet_edge.bundle.cache import get_artifact, put_artifact
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BadArtifact

silence_libraries()

import openvino  # noqa: E402

log = logging.getLogger(__name__)


class _Chain:
    """A request of each compiled part of a stage; the first writes the tensor that the second reads.

    The second is started by :meth:`wait`, not by a callback: that would hold up OpenVINO's own thread until Python's
    interpreter lock is free. Requests that are queued behind it keep the cores at work in the meantime.
    """

    def __init__(self, models: list[Any]) -> None:
        self._requests = [model.create_infer_request() for model in models]
        for before, after in zip(self._requests, self._requests[1:], strict=False):
            after.set_input_tensor(before.get_output_tensor())
        self._bound: dict[str, int] = {}
        self._at = 0

    def start(self, feeds: Feeds, results: Feeds) -> None:
        for name, array in feeds.items():
            self._bind(self._requests[0], name, array)
        for name, array in results.items():
            self._bind(self._requests[-1], name, array)
        self._at = 0
        self._requests[0].start_async()

    def wait(self, timeout_s: float | None) -> bool:
        """Whether it is done within the time."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            request = self._requests[self._at]
            if until_s is None:
                request.wait()
            elif not request.wait_for(math.ceil(1e3 * max(0.0, until_s - time.monotonic()))):  # whole ms, not less
                return False
            if self._at + 1 == len(self._requests):
                return True
            self._at += 1
            self._requests[self._at].start_async()

    def _bind(self, request: Any, name: str, array: NDArray[Any]) -> None:
        address = array.ctypes.data
        if self._bound.get(name) != address:
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            self._bound[name] = address


class OpenVinoBackend(CpuBackend["tuple[str, int, _Chain]"]):
    """Both stages on OpenVINO's CPU device.

    For each batch size each stage is compiled with static shapes, once: what OpenVINO makes of it is kept in the
    machine's cache, under its digest, and imported from there the next time, in a fifth of the time. The weights of
    each size are a copy of their own, a few MB.

    Raises ``BadArtifact`` where OpenVINO refuses a stage.
    """

    name = "openvino"
    version = OpenVinoEngine.version

    @signal_stack_kept()
    def __init__(self, bundle: Bundle, tuning: Tuning, *, cache: Path | None = None) -> None:
        super().__init__(bundle.manifest, tuning.sizes)
        self._embedding = (*self._embedding[1:], self._embedding[0])  # channels last
        self._core = openvino.Core()
        self._cache = cache
        settings = settings_for(threads=tuning.threads, streams=tuning.streams)
        self._models: dict[tuple[str, int], list[Any]] = {}
        self._idle: dict[tuple[str, int], list[_Chain]] = {}
        for stage, spec in bundle.manifest.stages.items():
            parts = slot_parts(bundle.read(spec.file), stage, spec.precision)
            for size in self.sizes:
                with _refusals(stage):
                    self._models[stage, size] = self._compile(stage, parts, size, settings)
                self._idle[stage, size] = []
        precision: str = bundle.manifest.precision
        if precision == "fp16":
            precision += f" computed in {'bfloat16' if in_bfloat16(precision) else 'float32'}"
        self.about = f"openvino {OpenVinoEngine.version} on {self.device(self._core)}, {precision}, {tuning}"

    @staticmethod
    @signal_stack_kept()
    def device(core: Any = None) -> str:
        """The processor's name, as OpenVINO has it."""
        return str((core or openvino.Core()).get_property("CPU", "FULL_DEVICE_NAME")).strip()

    def close(self) -> None:
        super().close()
        self._idle.clear()
        self._models.clear()

    def _compile(self, stage: str, parts: Any, size: int, settings: dict[str, Any]) -> list[Any]:
        models: list[Any] = []
        for number, (part, extra) in enumerate(parts):
            wanted = {**settings, **extra}
            data = part.SerializeToString()
            key = hashlib.sha256(data + repr(sorted(wanted.items())).encode()).hexdigest()[:12]
            name = f"{stage}-{number}-b{size}-{key}.blob"
            blob = None if self._cache is None else get_artifact(self._cache, name)
            if blob is not None:
                try:
                    models.append(self._core.import_model(blob, "CPU", wanted))
                    continue
                except RuntimeError as exc:  # a processor of this name with other instructions, another OpenVINO
                    reason = str(exc).strip().splitlines()[-1].strip()
                    log.warning("%s of the machine's cache is compiled anew, OpenVINO refuses it: %s", name, reason)
            graph = self._core.read_model(data)
            before = {tensor.any_name: models[-1].output(0).get_partial_shape() for tensor in graph.inputs[:number]}
            shapes = {tensor.any_name: [size, *list(tensor.partial_shape)[1:]] for tensor in graph.inputs}
            graph.reshape({**shapes, **before})
            models.append(self._core.compile_model(graph, "CPU", wanted))
            if self._cache is not None:
                self._keep(self._cache, name, models[-1].export_model().getvalue())
        return models

    @staticmethod
    def _keep(cache: Path, name: str, data: bytes) -> None:
        try:
            put_artifact(cache, name, data)
        except OSError as exc:  # a full disk must not stop a station that can compile
            log.warning("%s is not kept for the next start: %s", name, exc)

    def _start(self, stage: str, bucket: Bucket, feeds: Feeds, results: Feeds) -> tuple[str, int, _Chain]:
        idle = self._idle[stage, bucket.size]
        chain = idle.pop() if idle else _Chain(self._models[stage, bucket.size])
        chain.start(feeds, results)
        return stage, bucket.size, chain

    def _wait(self, job: tuple[str, int, _Chain], timeout_s: float | None) -> bool:
        stage, size, chain = job
        done = chain.wait(timeout_s)  # one that raises is not used again
        if done:
            self._idle[stage, size].append(chain)
        return done


@contextmanager
def _refusals(stage: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        reason = str(exc).strip().splitlines()[-1]
        raise BadArtifact(
            f"OpenVINO refuses the {stage} stage: {reason}", mend="build the bundle again, or use another --backend"
        ) from exc
