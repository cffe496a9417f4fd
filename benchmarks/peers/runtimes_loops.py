"""The loops that one writes around a network: read a file, infer, decide. Each is given the same files and framing.

What such a loop lacks (cutting large frames, joining them again, the verdict) is ours in all of them, so that the
runtimes are compared and nothing else. No library here is asked for anything that its users do not ask for: no lowering
to unsigned activations, no graph cut in two, no gate.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.decision import Rules, decide
from lpcnet_edge.imaging import read_image, resize_image
from lpcnet_edge.runtime.pipeline import framing_for
from lpcnet_edge.runtime.stitching import Stitcher
from lpcnet_edge.runtime.tile_plan import TilePlan, plan_tiles, write_tiles
from lpcnet_edge.types import ClassMap, ConfidenceMap, Image

OUTPUTS = ["classes", "confidence"]


@dataclass(frozen=True)
class Job:
    """What every runtime is given.

    Attributes
    ----------
    files
        Image files, one frame each.
    model
        The joined graph; ``hosted`` is the one whose input is normalised on the host.
    bundle
        What our own runtime opens in its place.
    threads
        Of the processor.
    """

    files: tuple[Path, ...]
    model: Path
    hosted: Path
    bundle: Path
    tile_px: int
    channels: int
    classes: tuple[str, ...]
    rules: Rules
    threads: int


@dataclass
class Ran:
    """What a run over the files, once or more, came to; class maps and outcomes by frame, where they were kept.

    ``seconds`` is the run's own account, where its caller's clock would count what is no part of it.
    """

    latency_ms: list[float] = field(default_factory=list)
    maps: list[ClassMap] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    tiles: int = 0
    picked: int = 0
    seconds: float | None = None


@dataclass(eq=False)
class Shot:
    """A frame between its file and its verdict: (N, S, S[, 3]) tiles, and what the network says of each."""

    started_s: float
    read_s: float
    image: Image
    plan: TilePlan
    tiles: NDArray[np.uint8]
    classes: list[Any] = field(default_factory=list)
    confidence: list[Any] = field(default_factory=list)
    left: int = 0

    def take(self, tile: int, classes: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> None:
        self.classes[tile], self.confidence[tile] = classes, confidence
        self.left -= 1


class Loop(ABC):
    """One way of running the network over files. ``about`` says how, in a few words."""

    about: str

    def __init__(self, job: Job) -> None:
        self.job = job
        self._plans: dict[tuple[int, ...], tuple[TilePlan, Stitcher]] = {}

    @abstractmethod
    def run(self, passes: int, *, keep: bool = False) -> Ran:
        """All files so many times over, a verdict on each; ``keep`` class maps and outcomes."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Let go of what it holds."""

    def read(self, path: Path) -> Image:
        return read_image(path, self.job.channels)

    def shots(self, passes: int) -> Iterator[Shot]:
        """Frames, read and cut, in order."""
        for _ in range(passes):
            for path in self.job.files:
                started = time.perf_counter()
                image = self.read(path)
                plan, _ = self._planned(image)
                side = self.job.tile_px
                if plan.framing.mode == "resize":
                    tiles = resize_image(image, side, side)[None]
                else:
                    tiles = np.empty((len(plan), side, side, *image.shape[2:]), np.uint8)
                    write_tiles(image, plan, tiles, 0, len(plan))
                count = len(tiles)
                read_s = time.perf_counter() - started
                yield Shot(started, read_s, image, plan, tiles, [None] * count, [None] * count, count)

    def conclude(self, shot: Shot, ran: Ran, keep: bool) -> None:
        """Join the tiles of a frame and decide."""
        if len(shot.plan) == 1:
            self.decide(shot, shot.classes[0], shot.confidence[0], ran, keep)
            return
        stitcher = self._planned(shot.image)[1]
        stitcher.begin(None)
        every = np.arange(len(shot.plan), dtype=np.int32)
        stitcher.add(every, shot.classes, shot.confidence)  # type: ignore[arg-type]  # it only indexes the first axis
        self.decide(shot, *stitcher.finish(), ran, keep)

    def decide(self, shot: Shot, classes: ClassMap, confidence: ConfidenceMap, ran: Ran, keep: bool) -> None:
        verdict = decide(classes, confidence, self.job.classes, self.job.rules, part_id="")
        ran.latency_ms.append(1e3 * (time.perf_counter() - shot.started_s))
        ran.tiles += len(shot.plan)
        ran.picked += len(shot.plan)
        if keep:
            ran.maps.append(classes.copy())
            ran.outcomes.append(verdict.outcome)

    def _planned(self, image: Image) -> tuple[TilePlan, Stitcher]:
        if image.shape not in self._plans:
            height, width = image.shape[:2]
            plan = plan_tiles(height, width, framing_for(height, width, self.job.tile_px))
            self._plans[image.shape] = plan, Stitcher(plan)
        return self._plans[image.shape]


class PlainLoop(Loop):
    """Tiles in batches; a batch takes tiles of several frames where they are small."""

    def __init__(self, job: Job, batch: int) -> None:
        super().__init__(job)
        self.batch = batch
        self._under_way: deque[Shot] = deque()

    @abstractmethod
    def compute(self, waiting: list[tuple[Shot, int]]) -> None:
        """Compute a batch and :meth:`give` it back; or start it, and have given it back when :meth:`drain` returns."""

    def run(self, passes: int, *, keep: bool = False) -> Ran:
        ran = Ran()
        waiting: list[tuple[Shot, int]] = []
        for shot in self.shots(passes):
            self._under_way.append(shot)
            for tile in range(len(shot.tiles)):
                waiting.append((shot, tile))
                if len(waiting) == self.batch:
                    self.compute(waiting)
                    waiting = []
            self._conclude_done(ran, keep)
        if waiting:
            self.compute(waiting)
        self.drain()
        self._conclude_done(ran, keep)
        return ran

    def drain(self) -> None:
        """Wait for what is under way."""

    def stacked(self, waiting: list[tuple[Shot, int]]) -> NDArray[np.uint8]:
        """A batch of tiles, filled up with the last one: shapes are static."""
        if self.batch == 1:
            shot, tile = waiting[0]
            return shot.tiles[tile : tile + 1]
        rows = [shot.tiles[tile] for shot, tile in waiting]
        return np.stack([*rows, *rows[-1:] * (self.batch - len(rows))])

    def give(self, waiting: list[tuple[Shot, int]], classes: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> None:
        for row, (shot, tile) in enumerate(waiting):
            shot.take(tile, classes[row], confidence[row])

    def _conclude_done(self, ran: Ran, keep: bool) -> None:
        """Decide on frames in their order, as far as they are done."""
        while self._under_way and self._under_way[0].left == 0:
            self.conclude(self._under_way.popleft(), ran, keep)


class OnnxRuntimeLoop(PlainLoop):
    """``InferenceSession.run`` with all its optimisations, on all cores."""

    def __init__(self, job: Job, batch: int) -> None:
        super().__init__(job, batch)
        silence_libraries()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = job.threads
        self._session = onnxruntime.InferenceSession(str(job.model), options, providers=["CPUExecutionProvider"])
        self.about = f"onnxruntime {onnxruntime.__version__}, batch {batch}, {job.threads} threads"

    def compute(self, waiting: list[tuple[Shot, int]]) -> None:
        self.give(waiting, *self._session.run(OUTPUTS, {"pixels": self.stacked(waiting)}))


def compiled(path: Path, shape: Sequence[int], settings: dict[str, Any]) -> tuple[Any, str]:
    """A file on OpenVINO's CPU device with static shapes, and in words what it computes floats in."""
    silence_libraries()
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    made = core.compile_model(model, "CPU", settings)
    precision = made.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return made, f"openvino {openvino.__version__.split('-')[0]}, {precision}"


class OpenVinoLoop(PlainLoop):
    """``InferRequest.infer`` with the hint for latency, static shapes, inputs shared."""

    def __init__(self, job: Job, batch: int) -> None:
        super().__init__(job, batch)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        shape = [batch, job.tile_px, job.tile_px, *([3] if job.channels == 3 else [])]
        model, words = compiled(job.model, shape, settings)
        self._request = model.create_infer_request()
        self.about = f"{words}, batch {batch}, hint latency"

    def compute(self, waiting: list[tuple[Shot, int]]) -> None:
        found = self._request.infer({"pixels": self.stacked(waiting)}, share_inputs=True)
        self.give(waiting, *(found[name] for name in OUTPUTS))


class OpenVinoAsyncLoop(PlainLoop):
    """``AsyncInferQueue`` with the hint for throughput: while requests are under way, the loop reads and decides."""

    def __init__(self, job: Job, batch: int) -> None:
        super().__init__(job, batch)
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        shape = [batch, job.tile_px, job.tile_px, *([3] if job.channels == 3 else [])]
        model, words = compiled(job.model, shape, settings)
        import openvino

        self._queue = openvino.AsyncInferQueue(model)
        self._queue.set_callback(self._take)
        self._lock = Lock()  # callbacks of several requests may run side by side
        self.about = f"{words}, batch {batch}, hint throughput, {len(self._queue)} requests"

    def compute(self, waiting: list[tuple[Shot, int]]) -> None:
        pixels = self.stacked(waiting)
        # The array must outlive the request that reads it.
        self._queue.start_async({"pixels": pixels}, userdata=(waiting, pixels), share_inputs=True)

    def drain(self) -> None:
        self._queue.wait_all()

    def _take(self, request: Any, userdata: tuple[list[tuple[Shot, int]], Any]) -> None:
        classes, confidence = (np.array(request.get_tensor(name).data) for name in OUTPUTS)
        with self._lock:
            self.give(userdata[0], classes, confidence)
