"""The search for what fits, with latencies that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from local_bundle import SIDE, frame_of, write_local
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Slot
from lpcnet_edge.backends.null import NullBackend
from lpcnet_edge.bench.budget import Candidate, find_budget
from lpcnet_edge.bench.budget_frames import FrameTimer, overlaps_for
from lpcnet_edge.bundle.manifest import Manifest
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.runtime.framing import Framing

OVERLAPS = [(16, 60, 6), (8, 40, 4), (0, 30, 3)]
"""(overlap px, tiles, tiles that the gate picks)."""


def fixed(candidate: Candidate, count: int) -> Sequence[float]:
    """0.25 ms a tile in stage 1, 1 ms a picked tile, and a little more a tile in smaller batches."""
    return [(0.25 + 0.01 / candidate.batch) * candidate.tiles + candidate.picked] * count


@pytest.mark.parametrize(
    ("budget_ms", "overlap", "picked", "batch"),
    [(100.0, 16, 60, 16), (30.0, 16, 14, 16), (20.0, 8, 9, 16), (14.1, 8, 4, 16), (11.0, 0, 3, 16), (9.0, 0, 1, 16)],
)
def test_it_finds_what_arithmetic_says(budget_ms: float, overlap: int, picked: int, batch: int) -> None:
    found = find_budget(fixed, budget_ms, overlaps=OVERLAPS, batches=(1, 16))
    assert found.chosen is not None
    assert (found.chosen.overlap_px, found.chosen.picked, found.chosen.batch) == (overlap, picked, batch)
    assert found.p99_ms is not None
    assert found.p99_ms <= budget_ms
    assert fixed(Candidate(16, overlap, found.chosen.tiles, picked + 1), 1)[0] > budget_ms or picked == 60
    needed = dict((o, n) for o, _, n in OVERLAPS)[overlap]
    assert ("all that it picks are seen" in found.says[1]) == (picked >= needed)


def test_nothing_fits_is_said_with_the_reason() -> None:
    found = find_budget(fixed, 2.0, overlaps=OVERLAPS, batches=(1, 16))
    assert found.chosen is None
    assert "nothing holds 2 ms: stage 1 alone on 30 tile(s) takes 7.5 ms" in found.says[0]
    assert found.to_json()["settings"] is None


def test_the_p99_of_many_frames_decides() -> None:
    """Three frames in a hundred take 5 ms longer, which the few screened ones may not show."""

    def with_a_tail(candidate: Candidate, count: int) -> Sequence[float]:
        return [value + (5.0 if n % 100 >= 97 else 0.0) for n, value in enumerate(fixed(candidate, count))]

    found = find_budget(with_a_tail, 30.0, overlaps=OVERLAPS[:1], batches=(16,))
    assert found.chosen is not None
    assert found.chosen.picked == 9
    assert found.says[1] == "14 fit on the few frames that were screened, and not by the p99 of many"
    assert find_budget(fixed, 30.0, overlaps=OVERLAPS[:1], batches=(16,)).chosen.picked == 14  # type: ignore[union-attr]


def test_all_that_the_gate_picks_goes_before_batch_and_overlap_where_the_p99_decides() -> None:
    """A batch of 16 or an overlap of 8 px holds on the few frames that are screened alone."""

    def with_a_tail(candidate: Candidate, count: int) -> Sequence[float]:
        late_ms = 4.0 if candidate.batch == 16 or candidate.overlap_px == 8 else 0.0
        spent_ms = 0.25 * candidate.tiles + candidate.picked
        return [spent_ms + (late_ms if n % 100 >= 97 else 0.0) for n in range(count)]

    by_batch = find_budget(with_a_tail, 14.0, overlaps=[(4, 40, 4)], batches=(1, 16))
    assert by_batch.chosen == Candidate(1, 4, 40, 4)
    by_overlap = find_budget(with_a_tail, 14.0, overlaps=[(8, 40, 4), (0, 30, 3)], batches=(1,))
    assert by_overlap.chosen == Candidate(1, 0, 30, 6)
    assert by_overlap.says[-1] == (
        "with 8 px (40 tiles) and batches of 1 4 picked tiles fit on the few frames that were screened, and not by the "
        "p99 of many"
    )
    neither = find_budget(with_a_tail, 14.0, overlaps=[(8, 40, 4)], batches=(1,))
    assert neither.chosen == Candidate(1, 8, 40, 0)


class Clock:
    """Seconds that only pass where somebody says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class KnownBackend(NullBackend):
    """A backend that takes exactly 1 ms a tile in stage 1 and 4 ms a picked tile, on the clock given."""

    def __init__(self, manifest: Manifest, clock: Clock, threshold_share: float = 0.25) -> None:
        super().__init__(manifest, picked_share=threshold_share)
        self._clock = clock
        self.seen: list[list[int]] = []

    def submit(self, slot: Slot, count: int) -> None:
        self._clock.now_s += 1e-3 * count

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        self.seen.append(picked.tolist())
        self._clock.now_s += 4e-3 * len(picked)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("budget") / "local")


def test_frames_are_run_as_the_candidate_says(bundle: Bundle) -> None:
    clock = Clock()
    backend = KnownBackend(bundle.manifest, clock)
    frames = tuple(frame_of(seed, 200, 200) for seed in range(3))
    timer = FrameTimer(bundle, frames, lambda batch: backend, clock=clock)
    overlaps = overlaps_for((200, 200), SIDE)
    assert overlaps[0][0] == SIDE // 2
    for overlap, tiles in overlaps:
        for picked in (0, 1, 7):
            assert timer.latencies(Candidate(4, overlap, tiles, picked), 3) == pytest.approx([tiles + 4.0 * picked] * 3)
    assert all(len(set(chosen)) == len(chosen) and chosen == sorted(chosen) for chosen in backend.seen)
    assert {len(chosen) for chosen in backend.seen} == {1, 7}
    overlap, tiles = overlaps[-1]
    needed = timer.needs(4, overlap, tiles)
    assert tiles // 4 <= needed <= tiles
    found = find_budget(timer.latencies, tiles + 30.0, overlaps=[(overlap, tiles, needed)], batches=(4,), confirmed=100)
    assert found.chosen is not None
    assert found.chosen.picked == 7
    timer.close()


def test_a_frame_of_one_tile_has_one_overlap() -> None:
    assert overlaps_for((SIDE, SIDE), SIDE) == [(4, 1)]


def test_the_framing_asked_for_is_the_one_measured(bundle: Bundle) -> None:
    """A frame of two tiles along a side would be resized to one."""
    backend = KnownBackend(bundle.manifest, clock := Clock())
    shape = (2 * SIDE, 2 * SIDE)
    cut = Framing("tile", SIDE, 0)
    assert overlaps_for(shape, SIDE) == [(4, 1)]
    assert (0, 4) in overlaps_for(shape, SIDE, cut)
    timer = FrameTimer(bundle, (frame_of(1, *shape),), lambda batch: backend, framing=cut, clock=clock)
    assert timer.latencies(Candidate(4, 0, 4, 2), 2) == pytest.approx([4 + 4.0 * 2] * 2)
    timer.close()
