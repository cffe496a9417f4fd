"""Cameras that share the engines: a slow one beside greedy ones waits for no more frames of theirs than is promised."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import pytest
from gige_camera import CameraProcess
from local_bundle import frame_of

from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import from_mapping
from lpcnet_edge.runtime.inbox import Inbox
from lpcnet_edge.runtime.live import LiveRun
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import RunSettings
from lpcnet_edge.runtime.sources import open_source
from lpcnet_edge.runtime.sources.settings import SourceSettings

FRAMES = 60


def folder(path: Path) -> Path:
    """Frames that take longer to decide than to read, so that some always wait."""
    path.mkdir()
    blob = cv2.imencode(".bmp", frame_of(1, 256, 256, defects=3))[1].tobytes()
    for number in range(FRAMES):
        (path / f"{number}.bmp").write_bytes(blob)
    return path


class Turns:
    """Each time the engines turn to a source: which ones had a frame waiting just before, and which one it was.

    Seen where the choice is made, not by the times of the frames: on a busy machine nobody can say from outside when a
    frame that was taken has come to the head of its queue. A frame seen waiting still waits when the choice is made.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[set[int], int]] = []
        choose = LiveRun._next

        def watched(run: LiveRun) -> Inbox | None:
            waiting = {place for place, inbox in enumerate(run._inboxes) if inbox.has_item}
            chosen = choose(run)
            if chosen is not None:
                self.seen.append((waiting, run._inboxes.index(chosen)))
            return chosen

        monkeypatch.setattr(LiveRun, "_next", watched)

    def waited(self, place: int) -> list[int]:
        """For each frame of the source at this place: how many of others were begun while it was seen waiting."""
        found, others = [], 0
        for waiting, chosen in self.seen:
            if chosen == place:
                found.append(others)
                others = 0
            elif place in waiting:
                others += 1
        return found


def test_a_slow_camera_beside_greedy_sources(
    bundle: Bundle, tmp_path: Path, camera: CameraProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(monkeypatch)
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
    assert {chosen for _, chosen in turns.seen} == set(range(len(names)))
    assert any(len(waiting) > 1 for waiting, _ in turns.seen), "no frame ever waited for another source's"
    for place, name in enumerate(names):
        assert taken[name] == list(range(len(taken[name]))), name
        assert len(turns.waited(place)) == len(taken[name]), name
        assert max(turns.waited(place)) <= len(names) - 1, (name, turns.waited(place))
