"""Agreement of two segmenters is what counting pixels, parts and defects by hand gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from check_doubles import CLASSES, TILE_PX, ArrayDataset, Mask, Reader, mask_with
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcnet_edge.check.agreement import Agreement, Comparison, Recorder, comparing
from lpcnet_edge.decision import ClassRule, Rules

BLANK = mask_with()


class Painter(Reader):
    """Gives the maps that it was told, in the dataset's order."""

    def __init__(self, maps: Sequence[Mask]) -> None:
        super().__init__()
        self.maps = list(maps)
        self.done = 0

    def predict(self, tiles: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):  # type: ignore[no-untyped-def]
        taken = iter(self.maps[self.done : self.done + len(tiles)])
        self.done += len(tiles)
        self.spoil = lambda _: next(taken)
        return super().predict(tiles)


def data(truth: Sequence[Mask], parts: Sequence[str] | None = None) -> ArrayDataset:
    return ArrayDataset(truth, parts or [f"p{i}" for i in range(len(truth))])


def agreement(
    truth: Sequence[Mask],
    reference: Sequence[Mask],
    candidate: Sequence[Mask],
    parts: Sequence[str] | None = None,
    rules: Rules | None = None,
) -> Agreement:
    return Comparison(Painter(reference), data(truth, parts), rules=rules, batch=3).against(Painter(candidate))


def moved(mask: Mask, by: int) -> Mask:
    return np.roll(mask, by, axis=1)


def miou(truth: Sequence[Mask], found: Sequence[Mask]) -> float:
    """Mean over the classes that occur of intersection over union, over all pixels of all images."""
    t, p = np.stack(truth), np.stack(found)
    ious = [
        ((t == k) & (p == k)).sum() / either for k in range(len(CLASSES)) if (either := ((t == k) | (p == k)).sum())
    ]
    return 100 * float(np.mean(ious))


maps = st.lists(
    st.builds(
        lambda label, x, y, w, h: mask_with((label, x, y, w, h)),
        st.integers(0, 2),
        st.integers(0, 40),
        st.integers(0, 40),
        st.integers(1, 24),
        st.integers(1, 24),
    ),
    min_size=4,
    max_size=4,
)


@settings(max_examples=30)
@given(maps, maps, maps)
def test_figures_are_those_of_counting(truth: list[Mask], reference: list[Mask], candidate: list[Mask]) -> None:
    found = agreement(truth, reference, candidate)
    r, c = np.stack(reference), np.stack(candidate)
    assert found.pixels == (r == c).mean()
    either = ((r > 0) | (c > 0)).sum()
    assert found.mask_iou == (((r > 0) & (c > 0)).sum() / either if either else 1.0)
    judged = found.judgement()
    assert judged.reference_miou == pytest.approx(miou(truth, reference), abs=1e-9)
    assert judged.candidate_miou == pytest.approx(miou(truth, candidate), abs=1e-9)
    assert judged.mask_iou == pytest.approx(100 * found.mask_iou)
    assert judged.pixels == pytest.approx(100 * found.pixels)
    before, after = (r > 0).any(axis=(1, 2)), (c > 0).any(axis=(1, 2))
    defective = [bool(m.any()) for m in truth]
    assert [flip.part for flip in found.flips] == [f"p{i}" for i in range(4) if before[i] != after[i]]
    assert set(found.new_escapes) == {f"p{i}" for i in range(4) if defective[i] and before[i] and not after[i]}
    assert set(found.new_overkill) == {f"p{i}" for i in range(4) if not defective[i] and not before[i] and after[i]}
    assert list(found.differing) == [int((a != b).sum()) for a, b in zip(r, c, strict=True)]


def test_the_same_network_agrees_wholly() -> None:
    truth = [mask_with((1, 4, 4, 10, 10)), BLANK]
    found = agreement(truth, truth, truth)
    assert (found.pixels, found.mask_iou, found.flips, found.lost) == (1.0, 1.0, (), 0)
    assert found.judgement().broken(0.0) == []


def test_two_that_see_nothing_agree_on_their_masks() -> None:
    found = agreement([BLANK] * 2, [BLANK] * 2, [BLANK] * 2)
    assert found.mask_iou == 1.0
    assert found.caught == 0


def test_a_part_escapes_newly_only_where_no_view_of_it_is_rejected() -> None:
    """Part a has two views. The candidate misses one view of a (no flip), and both of b (an escape)."""
    spot = mask_with((1, 4, 4, 10, 10))
    truth = [spot, spot, spot, spot, BLANK]
    parts = ["a", "a", "b", "b", "c"]
    found = agreement(truth, truth, [BLANK, spot, BLANK, BLANK, spot], parts)
    assert found.new_escapes == ("b",)
    assert found.new_overkill == ("c",)
    assert [(f.part, f.defective, f.reference_rejects) for f in found.flips] == [("b", True, True), ("c", False, False)]
    assert found.judgement().broken(100) == [
        "1 defective parts escape that float rejects (b)",
        "3 of 4 defects that float catches are lost",
    ]


def test_a_flip_shows_the_image_where_the_masks_differ_most() -> None:
    small, large = mask_with((1, 4, 4, 3, 3)), mask_with((1, 4, 4, 20, 20))
    found = agreement([small, large], [small, large], [BLANK, BLANK], ["a", "a"])
    assert [flip.image for flip in found.flips] == ["1.png"]


def test_an_escape_of_the_reference_is_not_the_candidates() -> None:
    spot = mask_with((1, 4, 4, 10, 10))
    found = agreement([spot], [BLANK], [BLANK])
    assert found.new_escapes == ()
    assert found.flips == ()
    better = agreement([spot], [BLANK], [spot])
    assert better.new_escapes == ()
    assert [(f.defective, f.reference_rejects) for f in better.flips] == [(True, False)]


@pytest.mark.parametrize(("kept", "lost"), [(31, 0), (30, 0), (29, 1)])
def test_a_defect_is_lost_below_30_percent_of_overlap(kept: int, lost: int) -> None:
    truth = [mask_with((1, 4, 4, 10, 10))]
    partly = BLANK.copy()
    partly.reshape(-1)[np.flatnonzero(truth[0])[:kept]] = 1
    found = agreement(truth, truth, [partly])
    assert (found.caught, found.lost) == (1, lost)


def test_a_defect_that_float_missed_cannot_be_lost() -> None:
    truth = [mask_with((1, 4, 4, 10, 10))]
    found = agreement(truth, [BLANK], [BLANK])
    assert (found.caught, found.lost) == (0, 0)


def test_verdicts_follow_the_rules() -> None:
    """A spot of 9 px is below what these rules reject: seen by one and not by the other, it flips nothing."""
    truth, spot = [BLANK], [mask_with((1, 4, 4, 3, 3))]
    assert agreement(truth, [BLANK], spot).new_overkill == ("p0",)
    rules = Rules(default=ClassRule(min_area_px=10))
    assert agreement(truth, [BLANK], spot, rules=rules).flips == ()


def test_its_json_has_both_sides_and_what_is_new() -> None:
    spot = mask_with((1, 4, 4, 10, 10))
    found = agreement([spot, BLANK], [spot, BLANK], [BLANK, spot]).to_json()
    json.dumps(found)
    assert found["reference"]["mean_iou"] == 100.0
    assert found["candidate"]["mean_iou"] < 60
    assert found["agreement"]["mean_iou_drop"] == pytest.approx(100 - found["candidate"]["mean_iou"], abs=2e-3)
    assert found["escapes"]["new"] == ["p0"]
    assert found["overkill"]["new"] == ["p1"]
    assert found["agreement"]["flips"][0] == {
        "part": "p0",
        "image": "0.png",
        "defective": True,
        "reference_rejects": True,
    }
    assert (found["agreement"]["defects_caught_by_reference"], found["agreement"]["defects_lost"]) == (1, 1)


def test_the_reference_is_measured_once() -> None:
    truth = [mask_with((1, 4, 4, 10, 10)), BLANK, BLANK, BLANK]
    reference = Reader()
    phases: list[str] = []
    make = comparing(data(truth), Rules())
    judge: Callable[..., object] = make(reference, lambda phase, *_: phases.append(phase))
    assert reference.seen == 4
    for _ in range(3):
        judge(Reader())
    assert reference.seen == 4
    assert list(dict.fromkeys(phases)) == ["checking float", "checking the candidate"]


def test_maps_are_kept_as_they_were() -> None:
    rng = np.random.default_rng(3)
    truth = [rng.integers(0, 3, (TILE_PX, TILE_PX), dtype=np.uint8) for _ in range(5)]
    recorder = Recorder(Painter(truth))
    for batch in (truth[:2], truth[2:]):
        recorder.predict(np.stack(batch))
    assert all(np.array_equal(recorder.map(i), truth[i]) for i in range(5))
