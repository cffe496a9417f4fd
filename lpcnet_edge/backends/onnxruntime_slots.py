"""ONNX Runtime for the pipeline: inputs and outputs bound to the slots' memory, batches run in order by a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

import onnx

from lpcnet_edge.backends.batches import Bucket
from lpcnet_edge.backends.cpu import CONFIDENCE, CpuBackend, Feeds
from lpcnet_edge.backends.lowering import without_picking
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.backends.tuning import Tuning
from lpcnet_edge.bundle.read import Bundle


class OnnxRuntimeBackend(CpuBackend["Future[None]"]):
    """Both stages on ONNX Runtime's CPU provider; raises ``BadArtifact`` where it refuses a stage."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, tuning: Tuning) -> None:
        super().__init__(bundle.manifest, tuning.sizes)
        threads = max(1, tuning.threads // tuning.streams)
        self._engines: dict[str, OnnxRuntimeEngine] = {}
        for stage, spec in bundle.manifest.stages.items():
            data = bundle.read(spec.file)
            if stage == CONFIDENCE:
                data = without_picking(onnx.load_model_from_string(data)).SerializeToString()
            self._engines[stage] = OnnxRuntimeEngine(data, threads=threads)
        # Runs wait for each other in here, not in ONNX Runtime, so that submit returns at once.
        self._pool = ThreadPoolExecutor(tuning.streams, thread_name_prefix="onnxruntime")
        self.about = f"onnxruntime {OnnxRuntimeEngine.version} on the CPU, {bundle.manifest.precision}, {tuning}"

    def close(self) -> None:
        super().close()
        self._pool.shutdown(wait=True)
        self._engines.clear()

    def _start(self, stage: str, bucket: Bucket, feeds: Feeds, results: Feeds) -> Future[None]:
        rows = slice(0, bucket.tiles)  # shapes are dynamic here: nothing is computed for waste
        feeds = {name: array[rows] for name, array in feeds.items()}
        results = {name: array[rows] for name, array in results.items()}
        return self._pool.submit(self._engines[stage].run_into, feeds, results)

    def _wait(self, job: Future[None], timeout_s: float | None) -> bool:
        if not wait([job], timeout_s).done:
            return False
        job.result()
        return True
