"""Cameras that share the engines: a slow one beside greedy ones waits for no more frames of theirs than is promised."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import pytest
from gige_camera import CameraProcess
from local_bundle import frame_of, write_local

from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import from_mapping
from lpcnet_edge.runtime.pipeline import Result
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sources import open_source
from lpcnet_edge.runtime.sources.settings import SourceSettings

FRAMES = 60
HANDED_OVER_NS = 50_000_000
"""From the moment a frame was taken until it surely waits at the head of its queue, also on a busy machine."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bundle") / "local")


def folder(path: Path) -> Path:
    """Frames that take longer to decide than to read, so that some always wait."""
    path.mkdir()
    blob = cv2.imencode(".bmp", frame_of(1, 256, 256, defects=3))[1].tobytes()
    for number in range(FRAMES):
        (path / f"{number}.bmp").write_bytes(blob)
    return path


def begun_ns(result: Result) -> int:
    """When the engines turned to a frame."""
    return result.item.taken_ns + int(1e6 * result.verdict.latency_ms["waiting"])


def ended_ns(result: Result) -> int:
    """When its verdict was there."""
    return result.item.taken_ns + int(1e6 * result.verdict.latency_ms["total"])


def frames_waited_for(results: list[Result], source: str) -> list[int]:
    """For each frame of a source: how many of others were begun while it was at the head of its queue."""
    mine = [result for result in results if result.item.source == source]
    others = [begun_ns(result) for result in results if result.item.source != source]
    found, free_ns = [], 0  # the moment before which an earlier frame of the same source was in front
    for result in mine:
        head_ns = max(free_ns, result.item.taken_ns + HANDED_OVER_NS)
        found.append(sum(head_ns <= other_ns < begun_ns(result) for other_ns in others))
        free_ns = ended_ns(result)
    return found


def test_a_slow_camera_beside_greedy_sources(bundle: Bundle, tmp_path: Path, camera: CameraProcess) -> None:
    camera.start()
    rate = from_mapping(
        SourceSettings, {"camera": {"frame_rate_hz": 10, "features": {"Width": 128, "Height": 128}}}, "test"
    )
    settings = RunSettings(gate="off")
    with (
        open_source(f"genicam:{camera.address}", rate, channels=1) as slow,
        Session(bundle, [folder(tmp_path / "a"), slow, folder(tmp_path / "b")], settings, live=True) as session,
    ):
        results = []
        ended: dict[str, int] = defaultdict(int)
        for result in session:
            results.append(result)
            ended[result.item.source] += 1
            if sum(count == FRAMES for count in ended.values()) == 2:
                session.stop()
        names = session.source_names
    taken = {name: [r.item.sequence for r in results if r.item.source == name] for name in names}
    assert len(taken[slow.name]) >= 10
    for name, sequences in taken.items():
        assert sequences == list(range(len(sequences))), name
        waited = frames_waited_for(results, name)
        assert max(waited) <= len(names) - 1, (name, waited)
