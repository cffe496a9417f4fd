"""Precision restore: which layers return to float, in what order, when it stops, and that it finds a ruined one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from exported import Exported
from hypothesis import given
from hypothesis import strategies as st

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.judging import MAX_LOST_SHARE, Judgement
from lpcnet_edge.build.quantise import place
from lpcnet_edge.build.restore import (
    LEAST_INT8_SHARE,
    Step,
    kept_sensitivity,
    multiply_adds,
    restore,
    sensitivity,
    sqnr_db,
)
from lpcnet_edge.errors import BuildFailed

LAYERS = ("a", "b", "c", "d")
COSTS = {"a": 10, "b": 20, "c": 30, "d": 40}


def judgement(drop: float = 0.0, escapes: Sequence[str] = (), lost: int = 0, caught: int = 100) -> Judgement:
    return Judgement(80.0, 80.0 - drop, 99.0, 99.9, tuple(escapes), caught, lost)


def run(drops: Sequence[float], order: Sequence[str] = LAYERS, max_drop: float = 0.5) -> tuple[list[Step], list[int]]:
    """Restore where the candidate with k layers in float loses ``drops[k]`` points; also how often it was judged."""
    judged: list[int] = []

    def judge(restored: tuple[str, ...]) -> Judgement:
        judged.append(len(restored))
        return judgement(drops[len(restored)])

    return restore(order, COSTS, judge, max_drop, judgement(drops[0])), judged


def test_what_holds_at_once_keeps_every_layer() -> None:
    steps, judged = run([0.5])
    assert [step.restored for step in steps] == [()]
    assert steps[0].int8_share == 1.0
    assert judged == []


def test_layers_return_in_order_until_it_holds() -> None:
    steps, judged = run([3.0, 2.0, 0.4, 0.0])
    assert [step.restored for step in steps] == [(), ("a",), ("a", "b")]
    assert [step.int8_share for step in steps] == pytest.approx([1.0, 0.9, 0.7])
    assert [step.judgement.drop for step in steps] == pytest.approx([3.0, 2.0, 0.4])
    assert judged == [1, 2, 1], "in order until it holds, then without each of the earlier ones"


def test_layers_that_were_not_needed_return_to_int8() -> None:
    """Only c matters: a and b, restored before it because alone they disturb the logits more, go back."""

    def judge(restored: tuple[str, ...]) -> Judgement:
        return judgement(0.1 if "c" in restored else 2.0)

    steps = restore(("a", "b", "c"), {**COSTS, "d": 200}, judge, 0.5, judgement(2.0))
    assert [step.restored for step in steps] == [(), ("a",), ("a", "b"), ("a", "b", "c"), ("c",)]
    assert steps[-1].int8_share == pytest.approx(1 - 30 / 260)


def test_of_layers_needed_together_only_the_others_return_to_int8() -> None:
    judged: list[tuple[str, ...]] = []

    def judge(restored: tuple[str, ...]) -> Judgement:
        judged.append(restored)
        return judgement(0.1 if {"a", "c"} <= set(restored) else 2.0)

    steps = restore(("a", "b", "c"), {**COSTS, "d": 200}, judge, 0.5, judgement(2.0))
    assert steps[-1].restored == ("a", "c")
    assert judged == [("a",), ("a", "b"), ("a", "b", "c"), ("c",), ("a", "c")], "c alone is asked once"


def test_a_fine_tune_that_was_tried_is_not_proposed_again() -> None:
    with pytest.raises(BuildFailed) as failure:
        restore((), COSTS, lambda _: judgement(3.0), 0.5, judgement(3.0), tuned=True)
    assert failure.value.mend is not None
    assert failure.value.mend.startswith("fine-tune for longer (--qat STEPS), with --fp16")


def test_it_stops_before_int8_is_worth_nothing() -> None:
    with pytest.raises(BuildFailed) as failure:
        run([3.0, 2.0, 1.5, 1.0, 0.0])
    assert "with 2 layers in float, and one more leaves INT8 40% of the multiply-adds" in failure.value.message
    assert "mIoU fell by 1.50 points, more than 0.5" in failure.value.message
    assert failure.value.mend is not None
    assert all(way in failure.value.mend for way in ("--qat", "--fp16", "--max-drop"))
    assert failure.value.exit_code == 1


def test_it_stops_where_not_even_float_holds() -> None:
    with pytest.raises(BuildFailed, match=r"with every layer in float: mIoU fell by 2\.00"):
        run([3.0, 2.5, 2.0], order=("a", "b"))


def test_exactly_the_least_share_is_allowed() -> None:
    steps, _ = run([3.0, 3.0, 0.0], order=("d", "a"))
    assert steps[-1].int8_share == pytest.approx(LEAST_INT8_SHARE)


points = st.integers(0, 320).map(lambda n: n / 64)  # which 80 - (80 - n / 64) gives back exactly


@given(st.lists(points, min_size=5, max_size=5), st.permutations(LAYERS), points)
def test_the_last_step_holds_and_restoring_ends_with_the_first_that_does(
    drops: list[float], order: list[str], max_drop: float
) -> None:
    try:
        steps, _ = run(drops, order, max_drop)
    except BuildFailed:
        assert drops[0] > max_drop
        return
    assert not steps[-1].judgement.broken(max_drop)
    first = next(n for n, step in enumerate(steps) if not step.judgement.broken(max_drop))
    assert all(len(step.restored) == n for n, step in enumerate(steps[: first + 1]))
    assert steps[first].restored == tuple(order[:first])
    for before, after in zip(steps[first:], steps[first + 1 :], strict=False):
        assert set(after.restored) < set(before.restored)
        assert not after.judgement.broken(max_drop)
    assert all(step.int8_share >= LEAST_INT8_SHARE for step in steps)


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (judgement(0.51), "mIoU fell by 0.51 points"),
        (judgement(float("nan")), "mIoU fell"),
        (judgement(escapes=["p1", "p2", "p3", "p4"]), r"4 defective parts escape that float rejects \(p1, p2, p3\)"),
        (judgement(lost=2, caught=199), "2 of 199 defects that float catches are lost"),
    ],
)
def test_each_thing_that_breaks_is_said(found: Judgement, what: str) -> None:
    with pytest.raises(BuildFailed, match=what):
        restore((), COSTS, lambda _: found, 0.5, found)


def test_what_is_allowed_is_not_broken() -> None:
    assert judgement(0.5).broken(0.5) == []
    assert judgement(-2.0).broken(0.0) == []
    assert judgement(lost=2, caught=round(2 / MAX_LOST_SHARE)).broken(0.5) == []


def test_sqnr_is_the_ratio_in_decibels() -> None:
    x = np.array([3.0, 4.0], np.float32)
    assert sqnr_db(x, x) == float("inf")
    assert sqnr_db(x, np.array([3.0, 4.5], np.float32)) == pytest.approx(20.0)
    assert sqnr_db(x, np.zeros(2, np.float32)) == pytest.approx(0.0)
    assert sqnr_db(np.zeros(2, np.float32), x) < -100


def test_multiply_adds_are_those_of_the_network(real: Exported) -> None:
    costs = multiply_adds(real.pair.localization)
    assert costs["stage1/stem/conv"] == 128 * 128 * 16 * 3 * 9
    assert costs["stage1/merge/lateral"] == 16 * 16 * 64 * 96
    assert set(costs) == set(place(from_model(real.pair.localization)).convs)


RUINED = {
    "localization": ("stage1/down8/relu", ("stage1/down16/conv",)),
    "confidence": ("stage2/decoder/up4/relu", ("stage2/decoder/up4/conv",)),
}


@pytest.mark.parametrize("stage", RUINED)
def test_a_layer_whose_range_is_far_too_small_comes_first(stage: str, small: Exported) -> None:
    tensor, readers = RUINED[stage]
    seen: list[tuple[int, int]] = []
    ranges = {**small.ranges, tensor: small.ranges[tensor] / 200}
    found = sensitivity(small.pair, ranges, small.tiles[:4], lambda done, total: seen.append((done, total)))
    assert next(iter(found)) in readers
    assert found[readers[0]] < 3 < min(list(found.values())[1:])
    assert list(found.values()) == sorted(found.values())
    layers = [name for m in small.float_models.values() for name in place(from_model(m)).convs]
    assert sorted(found) == sorted(layers)
    assert seen == [(done, len(layers)) for done in range(1, len(layers) + 1)]


def test_what_was_measured_is_kept_for_just_these_networks_ranges_and_tiles(
    small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = small.tiles[:2]
    first = kept_sensitivity(small.pair, small.ranges, tiles, tmp_path)
    monkeypatch.setattr("lpcnet_edge.build.restore.sensitivity", lambda *_: {"measured": 1.0})
    again = kept_sensitivity(small.pair, small.ranges, tiles, tmp_path)
    assert list(again.items()) == list(first.items()), "in the same order"
    (path,) = tmp_path.iterdir()
    other = {name: 2 * value for name, value in small.ranges.items()}
    swapped = type(small.pair)(small.pair.confidence, small.pair.localization)
    for asked in ((swapped, small.ranges, tiles), (small.pair, other, tiles), (small.pair, small.ranges, tiles[:1])):
        assert kept_sensitivity(*asked, tmp_path) == {"measured": 1.0}
    for damaged in ("", "[]", '{"stage1/stem/conv": 3.0}', json.dumps({**first, "stage1/stem/conv": None})):
        path.write_text(damaged)
        assert kept_sensitivity(small.pair, small.ranges, tiles, tmp_path) == {"measured": 1.0}


def test_a_layer_with_an_outlier_weight_comes_first(small: Exported) -> None:
    """One channel whose one weight is huge: its scale leaves the others of the channel no levels."""
    model = type(small.pair.confidence).FromString(small.pair.confidence.SerializeToString())
    name = "stage2.encoder.level8.down.conv.weight"
    weight = next(w for w in model.graph.initializer if w.name == name)
    values = np.frombuffer(weight.raw_data, np.float32).copy().reshape(weight.dims)
    values[:, 0, 0, 0] += 40 * np.abs(values).max()
    weight.raw_data = values.tobytes()
    pair = type(small.pair)(small.pair.localization, model)
    spoiled = Exported(small.network, pair, small.tiles)
    found = sensitivity(pair, spoiled.ranges, small.tiles[:4])
    assert next(iter(found)) == "stage2/encoder/level8/down"
