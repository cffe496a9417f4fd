"""Frames to verdicts on a network that is known in closed form, in bulk and live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_bundle import LIMIT, SIDE, frame_of, onnxruntime_of, write_local
from numpy.typing import NDArray

import lpcnet_edge
from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.decision import ClassRule, Rules, find_defects
from lpcnet_edge.errors import BadConfig, LpcnetError, SignatureError, UsageError
from lpcnet_edge.runtime.framing import Framing, Region
from lpcnet_edge.runtime.pipeline import Result
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import BulkSettings, LiveSettings, RunSettings
from lpcnet_edge.runtime.sources import BadFrame, Frame
from lpcnet_edge.runtime.verdict_lines import from_json, to_json
from lpcnet_edge.types import PartVerdict, Verdict

MODES = [False, True]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bundle") / "local")


@pytest.fixture(scope="module")
def opener(bundle: Bundle) -> Callable[[], Backend]:
    return partial(onnxruntime_of, bundle)


def run(
    bundle: Bundle,
    opener: Callable[[], Backend],
    frames: Any,
    is_live: bool = False,
    keep_maps: bool = False,
    **settings: Any,
) -> list[Result]:
    """All results, with what holds for every run checked: one each, in order, with every latency."""
    with Session(
        bundle, [frames], RunSettings(**settings), backend=opener, live=is_live, keep_maps=keep_maps
    ) as session:
        results = list(session)
        totals = session.pipeline.totals
    assert [result.item.sequence for result in results] == list(range(len(results)))
    assert totals.frames == len(results)
    for result in results:
        verdict = result.verdict
        assert verdict.bundle == bundle.id
        assert verdict.backend == "onnxruntime"
        assert verdict.latency_ms["total"] >= 0
        assert min(verdict.latency_ms.values()) >= 0
        assert (verdict.outcome == "pass") == (not verdict.reasons)
        assert from_json(json.loads(json.dumps(to_json(verdict)))) == verdict
    return results


def mixed_frames() -> list[NDArray[np.uint8]]:
    sizes = [(32, 32), (32, 32), (300, 200), (32, 32), (31, 33), (1, 1), (140, 999), (64, 64)]
    return [frame_of(n, *size, defects=(n % 3) * (min(size) > 8)) for n, size in enumerate(sizes * 4)]


@pytest.mark.parametrize("live", MODES)
@pytest.mark.parametrize("gate", ["off", "auto", 0.0])
def test_every_defect_of_frames_of_any_size_is_found(
    bundle: Bundle, opener: Callable[[], Backend], live: bool, gate: Any
) -> None:
    frames = mixed_frames()
    framing = Framing("tile", SIDE, 8)
    for frame, result in zip(
        frames, run(bundle, opener, frames, live, keep_maps=True, gate=gate, framing=framing), strict=True
    ):
        wanted = (frame > LIMIT).astype(np.uint8)
        np.testing.assert_array_equal(result.classes, wanted)
        expected = find_defects(wanted, wanted, bundle.manifest.classes)
        assert [defect.box_px for defect in result.verdict.defects] == [defect.box_px for defect in expected]
        assert result.verdict.outcome == ("reject" if expected else "pass")


@pytest.mark.parametrize("live", MODES)
def test_a_resized_frame_says_where_in_it_a_defect_is(
    bundle: Bundle, opener: Callable[[], Backend], live: bool
) -> None:
    frame = frame_of(0, 80, 120)
    frame[28:40, 40:56] = 255
    framing = Framing("resize", SIDE, 0, Region(16, 24, 48, 64))
    rules = Rules(ClassRule(min_area_mm2=47), mm_per_px=0.5)
    (result,) = run(bundle, opener, [frame], live, framing=framing, rules=rules)
    (defect,) = result.verdict.defects
    assert (defect.box_px, defect.area_px) == ((8, 8, 8, 8), 64)
    assert defect.frame_box_px == (40, 28, 16, 12)
    assert defect.area_mm2 == pytest.approx(16 * 12 * 0.25)


def test_bulk_and_live_and_backends_agree(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    def plain(results: Sequence[Result]) -> list[dict[str, Any]]:
        return [result.verdict.to_json() for result in results]

    frames = mixed_frames()
    bulk = plain(run(bundle, opener, frames))
    assert plain(run(bundle, opener, frames, True)) == bulk
    assert plain(run(bundle, opener, frames, bulk=BulkSettings(slots=2, tiles=1))) == bulk
    assert plain(run(bundle, opener, frames, bulk=BulkSettings(slots=5, tiles=200))) == bulk
    verdicts = lpcnet_edge.inspect(bundle.path, frames, backend="openvino")
    assert [verdict.to_json() for verdict in verdicts] == bulk


def test_stage_2_sees_only_what_the_gate_leaves(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    frame = frame_of(0, 160, 160)
    frame[60:65, 60:65] = 255  # in one tile, with 8 neighbours
    with Session(bundle, [[frame]], RunSettings(framing=Framing("tile", SIDE, 8)), backend=opener) as session:
        list(session)
        assert (session.pipeline.totals.tiles, session.pipeline.totals.picked) == (49, 9)
        assert session.gate_in_words.startswith("scores from 0.6: at most 10 % of defective parts")
    with Session(bundle, [[frame]], RunSettings(gate="off"), backend=opener) as session:
        list(session)
        assert session.pipeline.totals.picked == session.pipeline.totals.tiles
        assert session.gate_in_words == "off: stage 2 sees every tile"


def test_a_frame_is_cut_up_by_itself_only_where_resizing_would_lose_much(
    bundle: Bundle, opener: Callable[[], Backend]
) -> None:
    frames = [frame_of(0, 4 * SIDE, 40), frame_of(1, 4 * SIDE + 1, 40)]
    small, large = run(bundle, opener, frames, keep_maps=True)
    assert small.classes is not None
    assert small.classes.shape == (SIDE, SIDE)
    assert large.classes is not None
    assert large.classes.shape == frames[1].shape


@pytest.mark.parametrize("live", MODES)
def test_over_budget_is_a_reject_and_the_gate_stays(bundle: Bundle, opener: Callable[[], Backend], live: bool) -> None:
    dirty, clean = np.full((160, 160), 250, np.uint8), frame_of(0, 160, 160, defects=1)
    first, second = run(bundle, opener, [dirty, clean], live, budget_tiles=12, framing=Framing("tile", SIDE, 8))
    assert first.verdict.outcome == "reject"
    assert first.verdict.reasons[0].startswith("overload: 49 of 49 tiles")
    assert second.verdict.defects


def test_an_uncertain_score_asks_for_review(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    frame = frame_of(0)
    frame[3, 3] = 180  # a score of 0.706
    (result,) = run(bundle, opener, [frame], uncertain=(0.65, 0.75))
    assert result.verdict.outcome == "review"
    assert result.verdict.reasons == ("uncertain: 1 tile(s) score in [0.65, 0.75]",)
    (result,) = run(bundle, opener, [frame], uncertain=(0.75, 0.8))
    assert result.verdict.outcome == "pass"


def test_rules_of_the_run_replace_the_bundles(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    frame = frame_of(1, defects=1)
    (result,) = run(bundle, opener, [frame], rules=Rules(ClassRule(min_area_px=26)))
    assert result.verdict.outcome == "pass"
    with pytest.raises(BadConfig, match="names the class 'dull'"):
        run(bundle, opener, [frame], rules=Rules(per_class={"dull": ClassRule()}))
    with pytest.raises(BadConfig, match=r"framing\.tile_px is 256"):
        run(bundle, opener, [frame], framing=Framing())


@pytest.mark.parametrize("live", MODES)
def test_what_cannot_be_inspected_is_a_reject_in_its_place(
    bundle: Bundle, opener: Callable[[], Backend], live: bool, tmp_path: Path
) -> None:
    import cv2

    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame_of(number))
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:60])
    cv2.imwrite(str(tmp_path / "9.png"), np.zeros((9, 40, 3), np.uint8))  # another size, and colour
    results = run(bundle, opener, tmp_path, live)
    assert len(results) == 12
    bad = {result.item.name: result.verdict.reasons[0] for result in results if result.verdict.reasons}
    assert set(bad) == {"3.png", "7.png"}
    assert all(reason.startswith("unreadable: ") for reason in bad.values())


@pytest.mark.parametrize("live", MODES)
def test_frames_of_other_channels_and_types_mid_stream(
    bundle: Bundle, opener: Callable[[], Backend], live: bool
) -> None:
    now = time.monotonic_ns()
    arrays: list[Any] = [
        frame_of(0),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((32, 32), np.float32),
        np.zeros((0, 32), np.uint8),
        np.zeros((32 * 1000, 32 * 1000), np.uint8)[:, :],
        frame_of(1),
    ]
    frames = [Frame(array, str(n), now, str(n), "made", n) for n, array in enumerate(arrays)]
    results = run_items(bundle, opener, frames, live)
    assert [result.verdict.outcome for result in results] == ["pass", *["reject"] * 4, "pass"]
    assert all(result.verdict.reasons[0].startswith("not inspected: ") for result in results[1:5])


def run_items(
    bundle: Bundle, opener: Callable[[], Backend], items: Any, is_live: bool, **settings: Any
) -> list[Result]:
    """As :func:`run`, for items that no source of ours has looked at."""
    from lpcnet_edge.runtime.sources.base import Source
    from lpcnet_edge.runtime.sources.settings import SourceSettings

    class Given(Source):
        def _items(self) -> Iterator[Any]:
            yield from items

        def _read(self) -> Iterator[Any]:
            raise NotImplementedError

    return run(bundle, opener, Given("given", 1, SourceSettings(), None), is_live, **settings)


def test_live_verdicts_come_before_the_next_frame(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    """A source that waits for the verdict on its last frame would hang if the pipeline waited for more."""
    decided: list[Verdict] = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for number in range(5):
            yield frame_of(number)
            until_s = time.monotonic() + 60
            while len(decided) <= number:
                assert time.monotonic() < until_s
                time.sleep(0.001)

    for live in MODES:  # bulk lingers a little, then goes on with what there is
        decided.clear()
        with Session(bundle, [frames()], backend=opener, live=live) as session:
            for result in session:
                decided.append(result.verdict)
        assert len(decided) == 5


def test_a_source_that_breaks_is_told_after_its_frames(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    def frames() -> Iterator[NDArray[np.uint8]]:
        yield frame_of(0)
        yield frame_of(1)
        raise LpcnetError("the belt broke")

    for live in MODES:
        found = []
        with Session(bundle, [frames()], backend=opener, live=live) as session:
            with pytest.raises(LpcnetError, match="the belt broke"):
                found.extend(session)
            assert session.pipeline.totals.frames == 2


def test_a_deadline_that_has_passed_is_a_reject(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    def frames() -> Iterator[Frame]:
        for number, age_s in enumerate([0, 5000, 0]):
            taken_ns = time.monotonic_ns() - age_s * 10**9
            yield Frame(frame_of(number), str(number), taken_ns, str(number), "made", number)

    results = run_items(bundle, opener, frames(), True, live=LiveSettings(deadline_ms=60_000))
    assert [result.verdict.outcome for result in results] == ["pass", "reject", "pass"]
    assert results[1].verdict.reasons[0].startswith("late: taken 5")


def test_a_clock_that_jumps_changes_nothing(
    bundle: Bundle, opener: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, iter([0, 3600, -86400, 10**9] * 1000)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (real() + next(jumps))))
    ahead_ns = time.monotonic_ns() + 3600 * 10**9  # a camera whose clock is an hour ahead
    frames = [Frame(frame_of(n), str(n), ahead_ns, str(n), "made", n) for n in range(20)]
    results = run_items(bundle, opener, frames, True, live=LiveSettings(deadline_ms=60_000))
    assert all(result.verdict.outcome == "pass" for result in results)


def test_drop_oldest_rejects_what_it_drops_in_its_place(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    with Session(
        bundle,
        [[frame_of(n) for n in range(200)]],
        RunSettings(live=LiveSettings(when_full="drop-oldest", waiting=1)),
        backend=opener,
        live=True,
    ) as session:
        results = []
        for result in session:
            results.append(result)
            while not session._inboxes[0]._ended:  # it never waits for us
                time.sleep(0.001)
        dropped = session.counters()["frames"]["dropped"]
        assert session.pipeline.totals.refused["dropped"] == dropped
    assert [result.item.sequence for result in results] == list(range(200))
    said = [result for result in results if isinstance(result.item, BadFrame)]
    assert len(said) == dropped > 0
    assert all(result.verdict.reasons[0].startswith("dropped: 1 newer") for result in said)
    assert not isinstance(results[-1].item, BadFrame)


def test_counters_of_sources_of_one_name_are_added_up(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    sources = [[frame_of(n) for n in range(count)] for count in (2, 3)]
    with Session(bundle, sources, RunSettings(), backend=opener, live=True) as session:
        assert len(list(session)) == 5
        assert session.counters() == {"frames": {"frames": 5, "bad": 0, "dropped": 0}}


def test_cameras_take_turns_and_their_views_make_parts(bundle: Bundle, opener: Callable[[], Backend]) -> None:
    def camera(defect: int) -> list[Frame]:
        now = time.monotonic_ns()
        return [Frame(frame_of(n, defects=n == defect), f"part {n}", now, str(n), "", n) for n in range(6)]

    parts: list[PartVerdict] = []
    settings = RunSettings(views=("left", "right"), view_timeout_ms=60_000, live=LiveSettings(waiting=6))
    with Session(bundle, [camera(2), camera(-1)], settings, backend=opener, live=True, on_part=parts.append) as session:
        results = list(session)
    for view in settings.views:
        assert [r.item.sequence for r in results if r.item.source == view] == list(range(6))
    assert sorted(part.part_id for part in parts) == [f"part {n}" for n in range(6)]
    assert {part.part_id for part in parts if part.outcome == "reject"} == {"part 2"}
    assert all(set(part.views) == {"left", "right"} for part in parts)
    with pytest.raises(UsageError, match="2 views are named"):
        Session(bundle, [camera(0)], settings, backend=opener)
    with pytest.raises(UsageError, match="share the engines only live"):
        Session(bundle, [camera(0), camera(1)], backend=opener)


def test_a_bundle_without_a_gate_says_so(tmp_path: Path) -> None:
    plain = write_local(tmp_path / "plain", gate=GateSpec())
    with Session(plain, [[frame_of(0)]], backend="onnxruntime") as session:
        list(session)
        assert session.gate_in_words == "off in this bundle: stage 2 sees every tile"


def test_inspect_says_what_is_wrong(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"inspect: no setting is called 'gaet'.*did you mean 'gate'"):
        next(iter(lpcnet_edge.inspect(bundle.path, [frame_of(0)], gaet="off")))
    for source, told in (
        (frame_of(0), "is one image .*a list that holds it"),
        (None, "None is no source"),
        (7, "7 is no"),
    ):
        with pytest.raises(UsageError, match=told):
            next(iter(lpcnet_edge.inspect(bundle.path, source)))  # type: ignore[arg-type]
    from lpcnet_edge.bundle.sign import make_keys

    _, public = make_keys(tmp_path / "key")
    with pytest.raises(SignatureError):
        next(iter(lpcnet_edge.inspect(bundle.path, [frame_of(0)], trusted_key=public)))
