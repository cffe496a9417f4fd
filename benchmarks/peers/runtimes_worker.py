"""One runtime in a process of its own: asked over a pipe to run over the files, it says how long that took.

Memory is then its own, and no two runtimes share threads. While one works the others wait for a line on their pipe.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from runtimes_loops import Job, Loop, OnnxRuntimeLoop, OpenVinoAsyncLoop, OpenVinoLoop
from runtimes_peers import AnomalibLoop, UltralyticsLoop

from lpcnet_edge.bench.probe import child_environment, largest_resident_mb
from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.decision import Rules


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes
    ----------
    name
        As in the table.
    file
        ``fp32``, ``int8``; empty for what runs no network.
    kind
        ``ours``, ``live``, ``decode``, or one of the peers that :func:`open_loop` lists.
    batch
        Of plain loops.
    gate
        ``off`` or a threshold, of ours.
    latency
        Whether the time from a file to its verdict says something: not where frames wait for others on purpose.
    """

    name: str
    file: str
    kind: str
    batch: int = 1
    gate: str | float = "off"
    latency: bool = False

    @property
    def key(self) -> str:
        """Unique among contenders."""
        return f"{self.name}, {self.file}" if self.file else self.name


def open_loop(contender: Contender, job: Job) -> Loop:
    """The loop of a contender, ready to run."""
    if contender.kind in ("ours", "live", "decode"):
        from runtimes_ours import DecodeLoop, OurLoop  # peers need not load what is ours

        if contender.kind == "decode":
            return DecodeLoop(job)
        return OurLoop(job, contender.gate, live=contender.kind == "live")
    plain: dict[str, Callable[[Job, int], Loop]] = {
        "onnxruntime": OnnxRuntimeLoop,
        "openvino": OpenVinoLoop,
        "openvino-async": OpenVinoAsyncLoop,
    }
    if contender.kind in plain:
        return plain[contender.kind](job, contender.batch)
    return {"anomalib": AnomalibLoop, "ultralytics": UltralyticsLoop}[contender.kind](job)


class WorkerFailed(Exception):
    """A runtime cannot be measured here; its text says why."""


class Worker:
    """The near end: a process with a runtime in it. A context manager."""

    def __init__(self, contender: Contender, job: Job, folder: Path) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        task = {
            "contender": asdict(contender),
            "job": {
                **{name: str(getattr(job, name)) for name in ("model", "hosted", "bundle")},
                **{name: getattr(job, name) for name in ("tile_px", "channels", "classes", "threads")},
                "files": [str(path) for path in job.files],
                "rules": to_mapping(job.rules),
            },
        }
        place = folder / f"{len(list(folder.glob('*.task')))}.task"
        place.write_text(json.dumps(task))
        self._maps = place.with_suffix(".npz")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=child_environment(),
        )
        try:
            self.about = str(self._answer()["about"])
        except WorkerFailed:
            self.close()
            raise

    def run(self, passes: int) -> dict[str, Any]:
        """Seconds, CPU seconds, latencies, tiles, picked tiles and the largest memory so far."""
        return self._ask({"passes": passes})

    def maps(self) -> tuple[list[NDArray[np.uint8]], list[str], float]:
        """The class map of every frame, its outcome, and the seconds that this run over the files took."""
        seconds = float(self._ask({"passes": 1, "maps": str(self._maps)})["seconds"])
        with np.load(self._maps) as found:
            maps = [found[f"map{number}"] for number in range(len(found.files) - 1)]
            outcomes = [str(outcome) for outcome in found["outcomes"]]
        self._maps.unlink()
        return maps, outcomes, seconds

    def close(self) -> None:
        """End the process; twice is fine."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()  # it ends where its input does
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are read below
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            last = self._log.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise WorkerFailed(f"its process ended with {self._process.wait(20)}: {last[-1]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _serve(task: dict[str, Any], answers: Any) -> None:
    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    given = task["job"]
    job = Job(
        files=tuple(Path(path) for path in given["files"]),
        model=Path(given["model"]),
        hosted=Path(given["hosted"]),
        bundle=Path(given["bundle"]),
        tile_px=given["tile_px"],
        channels=given["channels"],
        classes=tuple(given["classes"]),
        rules=from_mapping(Rules, given["rules"], "rules"),
        threads=given["threads"],
    )
    cv2.setNumThreads(1)  # for all alike: small images gain nothing, and OpenCV's threads fight with the engine's
    loop = open_loop(Contender(**task["contender"]), job)
    try:
        say({"about": loop.about})
        for line in sys.stdin:
            question = json.loads(line)
            keep = question.get("maps")
            cpu, started = _cpu_s(), time.perf_counter()
            ran = loop.run(question["passes"], keep=bool(keep))
            seconds, cpu = time.perf_counter() - started, _cpu_s() - cpu
            if keep:
                maps = {f"map{number}": found for number, found in enumerate(ran.maps)}
                np.savez(keep, outcomes=np.array(ran.outcomes), **maps)  # type: ignore[arg-type]
            say({
                "seconds": ran.seconds or seconds, "cpu_s": cpu, "tiles": ran.tiles, "picked": ran.picked,
                "latency_ms": [] if keep else ran.latency_ms, "memory_mb": largest_resident_mb(),
            })  # fmt: skip
    finally:
        loop.close()


def main() -> int:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        _serve(json.loads(Path(sys.argv[1]).read_text()), answers)
    except Exception as exc:  # whatever a runtime raises ends that runtime's measurement, and is told
        said = str(exc).strip().splitlines() or [""]
        answers.write(json.dumps({"error": f"{type(exc).__name__}: {said[-1]}"}) + "\n")
        answers.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
