from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.decision import (
    ClassRule,
    Rules,
    Zone,
    ask_review,
    counting_map,
    decide,
    find_defects,
    join_views,
)
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import Defect, Verdict
from lpcnet_edge.yamlfile import load_yaml

CLASSES = ("background", "crack", "hole")
class_maps = hnp.arrays(np.uint8, (12, 17), elements=st.sampled_from([0, 0, 0, 1, 2]))
confidence_maps = hnp.arrays(np.uint8, (12, 17), elements=st.integers(0, 255))


@pytest.fixture
def scratched() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A crack of 12 px at full confidence and two holes of 4 px at 51/255."""
    classes = np.zeros((20, 30), np.uint8)
    classes[5, 2:14] = 1
    classes[10:12, 3:5] = 2
    classes[15:17, 20:22] = 2
    confidence = np.full((20, 30), 51, np.uint8)
    confidence[5] = 255
    return classes, confidence


def test_defects_have_class_box_area_and_confidence(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    crack, first_hole, second_hole = find_defects(*scratched, CLASSES, mm_per_px=0.5)
    assert crack == Defect("crack", (2, 5, 12, 1), 12, 3.0, 1.0)
    assert first_hole == Defect("hole", (3, 10, 2, 2), 4, 1.0, pytest.approx(0.2))
    assert second_hole.box_px == (20, 15, 2, 2)
    assert find_defects(*scratched, CLASSES)[0].area_mm2 is None


def test_scale_and_place_are_the_frames(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    """A target in front of the camera gives mm a pixel of the frame; of the map they would be others."""
    rules = Rules(ClassRule(min_area_mm2=6.5), mm_per_px=0.5)
    shown = (100, 40, 30 * 3, 20 * 2)  # a region of the frame, three of its px for one along x, two along y
    crack, *others = decide(*scratched, CLASSES, replace(rules, default=ClassRule()), shown_px=shown).defects
    assert (crack.box_px, crack.area_px) == ((2, 5, 12, 1), 12)
    assert crack.area_mm2 == pytest.approx(12 * 3 * 2 * 0.25)
    assert crack.frame_box_px == (106, 50, 36, 2)
    assert others[0].to_json()["frame_box_px"] == [109, 60, 6, 4]
    assert decide(*scratched, CLASSES, rules, shown_px=shown).outcome == "reject"
    assert decide(*scratched, CLASSES, rules).outcome == "pass"
    for same in (None, (0, 0, 30, 20)):
        (crack, *_) = decide(*scratched, CLASSES, Rules(mm_per_px=0.5), shown_px=same).defects
        assert (crack.area_mm2, crack.frame_box_px) == (3.0, None)
        assert "frame_box_px" not in crack.to_json()


@pytest.mark.parametrize(
    "zone",
    [
        {"box_px": (160, 70, 6, 4)},
        {"polygon_px": ((160, 70), (165, 70), (165, 73), (160, 73))},
        {"box_px": (161, 71, 1, 1)},  # less than a px of the map is one
    ],
)
def test_zones_are_drawn_on_the_frame(
    scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]], zone: dict[str, Any]
) -> None:
    """Three of its px for one of the map along x, two along y; the map begins at x = 100, y = 40."""
    shown = (100, 40, 30 * 3, 20 * 2)
    rules = Rules(ClassRule(min_area_px=13), zones=(Zone("hole here", **zone, default=ClassRule()),))
    rules.check_frame(20, 30, shown)
    verdict = decide(*scratched, CLASSES, rules, shown_px=shown)
    assert [(defect.name, defect.box_px, defect.zones) for defect in verdict.defects] == [
        ("hole", (20, 15, 2, 2), ("hole here",))
    ]
    ignoring = Rules(zones=(Zone("hole here", **zone, ignore=True),))
    verdict = decide(*scratched, CLASSES, ignoring, shown_px=shown)
    left = counting_map(scratched[0], verdict, CLASSES, ignoring, shown_px=shown)
    assert left[15:17, 20:22].sum() == (0 if zone != {"box_px": (161, 71, 1, 1)} else 6)
    with pytest.raises(BadConfig, match="'hole here' lies outside the 90 x 40 px at x=0, y=0 that are inspected"):
        rules.check_frame(20, 30, (0, 0, 90, 40))


@given(class_maps, st.integers(1, 40), st.integers(1, 40))
def test_boxes_in_the_frame_hold_what_they_show(classes: NDArray[np.uint8], height: int, width: int) -> None:
    """However it was resized, and never beyond the frame."""
    shown = (7, 9, width, height)
    for defect in decide(classes, np.full_like(classes, 255), CLASSES, Rules(), shown_px=shown).defects:
        x, y, wide, high = defect.box_px
        left, top, across, down = defect.frame_box_px or (x, y, wide, high)
        assert 7 <= left < left + across <= 7 + width or defect.frame_box_px is None
        assert (left - 7) * 17 <= x * width
        assert (left - 7 + across) * 17 >= (x + wide) * width
        assert (top - 9) * 12 <= y * height
        assert (top - 9 + down) * 12 >= (y + high) * height


def test_by_default_any_defect_rejects(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    verdict = decide(*scratched, CLASSES, Rules(), part_id="p7")
    assert (verdict.part_id, verdict.outcome) == ("p7", "reject")
    assert verdict.reasons == (
        "crack of 12 px at confidence 1.00",
        "2 x hole, the largest 4 px at confidence 0.20",
    )
    assert len(verdict.defects) == 3


def test_a_clean_map_passes() -> None:
    clean = np.zeros((4, 4), np.uint8)
    verdict = decide(clean, clean, CLASSES, Rules())
    assert (verdict.outcome, verdict.reasons, verdict.defects) == ("pass", (), ())


@pytest.mark.parametrize(
    ("rules", "outcome", "counting"),
    [
        (Rules(ClassRule(min_area_px=12)), "reject", 1),
        (Rules(ClassRule(min_area_px=13)), "pass", 0),
        (Rules(ClassRule(min_confidence=0.2), {"crack": ClassRule(count=2)}), "reject", 3),
        (Rules(ClassRule(min_confidence=0.21), {"crack": ClassRule(count=2)}), "pass", 1),
        (Rules(per_class={"crack": ClassRule(count=2), "hole": ClassRule(count=3)}), "pass", 3),
        (Rules(per_class={"crack": ClassRule(count=2), "hole": ClassRule(count=2)}), "reject", 3),
    ],
)
def test_rules_say_what_counts(
    scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]], rules: Rules, outcome: str, counting: int
) -> None:
    verdict = decide(*scratched, CLASSES, rules)
    assert verdict.outcome == outcome
    assert len(verdict.defects) == counting


def test_reasons_are_in_mm2_where_the_scale_is_known(
    scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    verdict = decide(*scratched, CLASSES, Rules(mm_per_px=0.5))
    assert verdict.reasons[0] == "crack of 3 mm2 at confidence 1.00"


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(("level", "confidence"), [(255, 1.0), (204, 0.8), (51, 0.2)])
def test_a_defect_as_sure_as_a_rule_asks_counts(level: int, confidence: float, others: int) -> None:
    """Of 49 px it did not: OpenCV's mean multiplies by 1/49, which is rounded down."""
    for size in range(1, 200):
        classes = np.zeros((6, 203), np.uint8)
        classes[1, 1 : 1 + size] = 1
        classes[4, : 3 * others : 2] = 1
        found = find_defects(classes, np.full_like(classes, level), CLASSES)
        assert {defect.confidence for defect in found} == {confidence}, size
        rules = Rules(ClassRule(min_confidence=confidence, count=len(found)))
        assert decide(classes, np.full_like(classes, level), CLASSES, rules).outcome == "reject", size


def test_a_mean_confidence_is_rounded_once() -> None:
    """234.6 / 255 is not 0.92 in floating point, but 1173 / 1275 is."""
    classes, confidence = np.zeros((3, 9), np.uint8), np.full((3, 9), 234, np.uint8)
    classes[1, 2:7], confidence[1, 2:5], classes[1, 0] = 1, 235, 1
    assert find_defects(classes, confidence, CLASSES)[0].confidence == 0.92


@given(class_maps, confidence_maps)
def test_defects_partition_the_defect_pixels(classes: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> None:
    defects = find_defects(classes, confidence, CLASSES)
    assert [defect.area_px for defect in defects] == sorted((d.area_px for d in defects), reverse=True)
    for index, name in enumerate(CLASSES[1:], start=1):
        mine = [defect for defect in defects if defect.name == name]
        mask = classes == index
        assert len(mine) == cv2.connectedComponents(mask.astype(np.uint8))[0] - 1
        assert sum(defect.area_px for defect in mine) == np.count_nonzero(mask)
        weighted = sum(defect.area_px * defect.confidence for defect in mine)
        assert weighted == pytest.approx(confidence[mask].sum() / 255)
        for defect in mine:
            x, y, width, height = defect.box_px
            assert defect.area_px <= np.count_nonzero(mask[y : y + height, x : x + width])
    assert (decide(classes, confidence, CLASSES, Rules()).outcome == "pass") == (not classes.any())


@given(class_maps, confidence_maps, st.integers(1, 20), st.floats(0, 1), st.integers(1, 4))
def test_a_stricter_rule_never_rejects_less(
    classes: NDArray[np.uint8], confidence: NDArray[np.uint8], area: int, level: float, count: int
) -> None:
    loose = decide(classes, confidence, CLASSES, Rules(ClassRule(area, level, count)))
    strict = decide(classes, confidence, CLASSES, Rules())
    assert set(loose.defects) <= set(strict.defects)
    assert not (loose.outcome == "reject" and strict.outcome == "pass")


def test_a_verdict_has_a_json_form(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    line = decide(*scratched, CLASSES, Rules(ClassRule(min_area_px=12)), part_id="p7").to_json()
    assert line == {
        "part_id": "p7",
        "verdict": "reject",
        "reasons": ["crack of 12 px at confidence 1.00"],
        "defects": [
            {"class": "crack", "box_px": [2, 5, 12, 1], "area_px": 12, "area_mm2": None, "confidence": 1.0},
        ],
    }


def test_rules_are_settings() -> None:
    rules = Rules(ClassRule(min_area_px=8), {"crack": ClassRule(count=2)}, mm_per_px=0.1)
    assert from_mapping(Rules, to_mapping(rules), "rules.yaml") == rules
    with pytest.raises(BadConfig, match="min_confidence"):
        from_mapping(Rules, {"default": {"min_confidence": 55.0}}, "rules.yaml")
    with pytest.raises(BadConfig, match="mm_per_px"):
        from_mapping(Rules, {"mm_per_px": 0.0}, "rules.yaml")
    with pytest.raises(BadConfig, match=r"'crak'.*did you mean 'crack'"):
        Rules(per_class={"crak": ClassRule()}).check_classes(CLASSES)
    with pytest.raises(BadConfig, match="background"):
        Rules(per_class={"background": ClassRule()}).check_classes(CLASSES)


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_defects_far_apart_are_all_found(seed: int, blobs: int) -> None:
    """Against the components of the whole map: only parts of it are looked at."""
    random = np.random.default_rng(seed)
    classes, confidence = np.zeros((400, 300), np.uint8), random.integers(0, 256, (400, 300), dtype=np.uint8)
    for _ in range(blobs):
        y, x, height, width = random.integers((0, 0, 1, 1), (395, 295, 40, 40))
        area = classes[y : y + height, x : x + width]
        area[random.random(area.shape) < random.choice([0.2, 1.0])] = random.integers(1, 3)
    wanted = []
    for index, name in ((1, "crack"), (2, "hole")):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((classes == index).astype(np.uint8))
        for label in range(1, count):
            x, y, width, height, area = stats[label].tolist()
            wanted.append((name, (x, y, width, height), area, pytest.approx(confidence[labels == label].mean() / 255)))
    found = find_defects(classes, confidence, CLASSES)
    assert sorted(((d.name, d.box_px, d.area_px, d.confidence) for d in found), key=lambda row: row[:3]) == sorted(
        wanted, key=lambda row: row[:3]
    )
    order = [(-d.area_px, CLASSES.index(d.name), d.box_px[1], d.box_px[0]) for d in found]
    assert order == sorted(order)


def test_maps_are_only_read(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    for pixels in scratched:
        pixels.setflags(write=False)
    rules = Rules(
        zones=(Zone("z", (0, 0, 9, 9), ignore=True), Zone("y", (0, 0, 9, 9), default=ClassRule())), contours=True
    )
    assert decide(*scratched, CLASSES, rules).outcome == "reject"


@pytest.mark.parametrize(("least", "outcome"), [(3.0, "reject"), (3.01, "pass")])
def test_areas_in_mm2(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]], least: float, outcome: str) -> None:
    assert decide(*scratched, CLASSES, Rules(ClassRule(min_area_mm2=least), mm_per_px=0.5)).outcome == outcome


@pytest.mark.parametrize(
    ("rule", "outcome", "reasons"),
    [
        (ClassRule(review_below=0.2), "reject", ["crack of", "2 x hole"]),
        (ClassRule(review_below=0.3), "reject", ["crack of", "uncertain: 2 x hole"]),
        (ClassRule(min_area_px=4, count=2, review_below=0.3), "review", ["uncertain: 2 x hole, the largest 4 px"]),
        (ClassRule(min_confidence=0.25, count=2, review_below=0.3), "pass", []),
    ],
)
def test_uncertain_defects_ask_for_review(
    scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]], rule: ClassRule, outcome: str, reasons: list[str]
) -> None:
    verdict = decide(*scratched, CLASSES, Rules(rule))
    assert verdict.outcome == outcome
    assert len(verdict.reasons) == len(reasons)
    for found, wanted in zip(verdict.reasons, reasons, strict=True):
        assert found.startswith(wanted)


def test_certain_and_uncertain_defects_make_up_the_number_together() -> None:
    classes, confidence = np.zeros((9, 9), np.uint8), np.full((9, 9), 255, np.uint8)
    classes[1, 1] = classes[7, 7] = 1
    confidence[7, 7] = 51
    rules = Rules(ClassRule(count=2, review_below=0.5))
    assert decide(classes, confidence, CLASSES, rules).reasons == (
        "uncertain: 2 x crack, the largest 1 px at confidence 1.00",
    )
    confidence[7, 7] = 255
    assert decide(classes, confidence, CLASSES, rules).outcome == "reject"


STRICT, LAX, NEVER = ClassRule(), ClassRule(min_area_px=10), ClassRule(min_area_px=10**6)


@pytest.mark.parametrize(
    ("zones", "outcome", "counting"),
    [
        ((), "pass", 0),
        ((Zone("edge", (20, 15, 2, 2), default=STRICT),), "reject", 1),
        ((Zone("edge", (21, 16, 5, 5), default=STRICT),), "reject", 1),  # one pixel is enough
        ((Zone("edge", (22, 15, 5, 5), default=STRICT),), "pass", 0),
        ((Zone("edge", (20, 15, 2, 2), per_class={"crack": STRICT}),), "pass", 0),  # holes keep the general rule
        ((Zone("edge", (20, 15, 2, 2), default=STRICT), Zone("dirt", (21, 0, 9, 20), ignore=True)), "reject", 1),
        ((Zone("edge", (20, 15, 2, 2), default=STRICT), Zone("dirt", (20, 0, 9, 20), ignore=True)), "pass", 0),
        ((Zone("corner", polygon_px=((19, 14), (23, 14), (23, 18), (19, 18)), default=STRICT),), "reject", 1),
        ((Zone("corner", polygon_px=((0, 19), (19, 19), (0, 17)), default=STRICT),), "pass", 0),
    ],
)
def test_zones_have_rules_of_their_own(
    scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]], zones: tuple[Zone, ...], outcome: str, counting: int
) -> None:
    verdict = decide(*scratched, CLASSES, Rules(NEVER, zones=zones))
    assert (verdict.outcome, len(verdict.defects)) == (outcome, counting)
    for reason, defect in zip(verdict.reasons, verdict.defects, strict=True):
        assert reason.endswith(f"in zone '{zones[0].name}'")
        assert defect.zones == (zones[0].name,)


def test_a_lax_zone_excuses_only_what_lies_in_it(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    whole, half = Zone("lax", (2, 5, 12, 1), default=NEVER), Zone("lax", (2, 5, 11, 1), default=NEVER)
    for zone, found in ((whole, 0), (half, 1)):
        verdict = decide(*scratched, CLASSES, Rules(LAX, zones=(zone,)))
        assert len(verdict.reasons) == found
    assert verdict.defects[0].area_px == 12


def test_an_ignored_zone_cuts_a_defect(scratched: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    verdict = decide(*scratched, CLASSES, Rules(zones=(Zone("screw", (5, 0, 3, 20), ignore=True),)))
    assert [defect.box_px for defect in verdict.defects if defect.name == "crack"] == [(8, 5, 6, 1), (2, 5, 3, 1)]


@given(class_maps, confidence_maps, st.integers(0, 16), st.integers(0, 11), st.integers(1, 17), st.integers(1, 12))
def test_a_box_and_its_polygon_are_the_same_zone(
    classes: NDArray[np.uint8], confidence: NDArray[np.uint8], x: int, y: int, width: int, height: int
) -> None:
    right, bottom = x + width - 1, y + height - 1
    corners = ((x, y), (right, y), (right, bottom), (x, bottom))
    for rest in ({"ignore": True}, {"default": ClassRule(min_area_px=3)}):
        one, other = Zone("z", box_px=(x, y, width, height), **rest), Zone("z", polygon_px=corners, **rest)
        np.testing.assert_array_equal(*(zone.mask(2, 3, 9, 9, frame=(20, 24)) for zone in (one, other)))
        assert decide(classes, confidence, CLASSES, Rules(zones=(one,))) == decide(
            classes, confidence, CLASSES, Rules(zones=(other,))
        )


def test_the_outline_of_a_polygon_does_not_depend_on_where_the_defects_are() -> None:
    zone = Zone("z", polygon_px=((21, 187), (212, -27), (-33, 151), (50, 122)), ignore=True)
    whole = zone.mask(0, 0, 180, 200, frame=(180, 200))
    assert 0 < whole.sum() < whole.size
    for y, x, height, width in ((12, 135, 31, 20), (103, 123, 49, 3), (0, 0, 7, 9), (179, 199, 1, 1)):
        part = zone.mask(y, x, height, width, frame=(180, 200))
        np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])
    assert not Zone("z", polygon_px=((-9, -9), (-2, -9), (-2, -2)), ignore=True).mask(0, 0, 5, 5, frame=(5, 5)).any()
    assert Zone("z", polygon_px=((-1, -1), (9, -1), (9, 9), (-1, 9)), ignore=True).mask(2, 1, 3, 4, frame=(5, 5)).all()


@given(class_maps, confidence_maps)
def test_contours_outline_their_defects(classes: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> None:
    plain = decide(classes, confidence, CLASSES, Rules())
    outlined = decide(classes, confidence, CLASSES, Rules(contours=True))
    assert [d.box_px for d in plain.defects] == [d.box_px for d in outlined.defects]
    for defect in outlined.defects:
        assert defect.contour_px
        assert cv2.boundingRect(np.array(defect.contour_px, dtype=np.int32)) == defect.box_px
        assert all(CLASSES[classes[y, x]] == defect.name for x, y in defect.contour_px)


def test_ask_review() -> None:
    asked = ask_review(Verdict("p", "pass"), "tile 4 scored 0.31")
    assert (asked.outcome, asked.reasons) == ("review", ("tile 4 scored 0.31",))
    assert ask_review(asked, "b").reasons == ("tile 4 scored 0.31", "b")
    assert ask_review(Verdict("p", "reject", ("a",)), "b").outcome == "reject"


GOOD, BAD, ODD = Verdict("p", "pass"), Verdict("p", "reject", ("crack",)), Verdict("p", "review", ("odd",))


@pytest.mark.parametrize(
    ("expected", "views", "late", "outcome", "reasons"),
    [
        (["top", "side"], {"top": GOOD, "side": GOOD}, [], "pass", ()),
        (["top", "side"], {"top": GOOD, "side": BAD}, [], "reject", ("side: crack",)),
        (["top", "side"], {"top": ODD, "side": GOOD}, [], "review", ("top: odd",)),
        (["top", "side"], {"top": ODD, "side": BAD}, [], "reject", ("top: odd", "side: crack")),
        (["top", "side"], {"top": GOOD}, [], "reject", ("side: the view is missing",)),
        (["top", "side"], {}, [], "reject", ("top: the view is missing", "side: the view is missing")),
        (["top", "side"], {"top": GOOD, "side": GOOD}, ["side"], "reject", ("side: the view is late",)),
        (["top"], {"top": GOOD, "back": GOOD}, [], "reject", ("back: the view is not expected",)),
        ([], {}, [], "reject", ("no view is expected of this part, so nothing vouches for it",)),
    ],
)
def test_the_views_of_a_part_are_joined(
    expected: list[str], views: dict[str, Verdict], late: list[str], outcome: str, reasons: tuple[str, ...]
) -> None:
    part = join_views("p", expected, views, late=late)
    assert (part.part_id, part.outcome, part.reasons, part.views) == ("p", outcome, reasons, views)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default": {"min_area_mm2": 1.0}}, "mm_per_px is not given"),
        ({"zones": [{"name": "z", "box_px": [0, 0, 1, 1], "per_class": {"crack": {"min_area_mm2": 1}}}]}, "mm_per_px"),
        ({"default": {"min_area_mm2": -1.0}, "mm_per_px": 1}, "min_area_mm2 is -1"),
        ({"mm_per_px": 1e200}, "mm_per_px is 1e\\+200; it is above 0"),
        ({"default": {"review_below": 1.5}}, "review_below is 1.5"),
        ({"default": {"review_below": 0.4, "min_confidence": 0.5}}, "review_below, 0.4, is not above"),
        ({"zones": [{"name": "z", "ignore": True}]}, "one of box_px and polygon_px"),
        ({"zones": [{"name": "z", "box_px": [0, 0, 1, 1]}]}, "either rules or ignore"),
        ({"zones": [{"name": "z", "box_px": [0, 0, 1, 1], "ignore": True, "default": {}}]}, "either rules or ignore"),
        ({"zones": [{"name": "z", "box_px": [0, 0, 0, 1], "ignore": True}]}, "is empty"),
        ({"zones": [{"name": "z", "polygon_px": [[0, 0], [1, 1]], "ignore": True}]}, "2 corners"),
        ({"zones": [{"name": "z", "polygon_px": [[0, 0], [1 << 31, 0], [0, 9]], "ignore": True}]}, "a corner beyond"),
        ({"zones": [{"name": "z", "box_px": [0, 0, 1, 1], "ignore": True}] * 2}, "same name"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        from_mapping(Rules, settings, "rules.yaml")


def test_zones_are_settings_and_are_checked() -> None:
    zone = Zone("rim", polygon_px=((0, 0), (9, 0), (9, 9)), per_class={"crack": ClassRule(count=2)})
    rules = Rules(zones=(zone, Zone("screw", (3, 3, 4, 4), ignore=True)), mm_per_px=0.1, contours=True)
    assert from_mapping(Rules, to_mapping(rules), "rules.yaml") == rules
    rules.check_classes(CLASSES)
    rules.check_frame(4, 4)
    with pytest.raises(BadConfig, match="'screw' lies outside the 3 x 10 px at x=0, y=0"):
        rules.check_frame(10, 3)
    with pytest.raises(BadConfig, match="did you mean 'crack'"):
        Rules(zones=(Zone("z", (0, 0, 1, 1), per_class={"crck": ClassRule()}),)).check_classes(CLASSES)


def test_the_counting_map_holds_what_the_verdict_names_and_nothing_else() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[2:12, 2:12] = 1
    classes[5:7, 5:7] = 0  # a hole stays one
    classes[8, 8] = 2  # a speck of another class inside, too small
    classes[20:22, 20:22] = 1  # too small
    classes[30:36, 30:36] = 2
    classes[30:36, 2:8] = 2  # on the screw
    confidence = np.full_like(classes, 250)
    confidence[30:36, 30:36] = 50  # too unsure
    rules = Rules(
        default=ClassRule(min_area_px=9, min_confidence=0.5), zones=(Zone("screw", (0, 28, 10, 10), ignore=True),)
    )
    verdict = decide(classes, confidence, CLASSES, rules)
    expected = np.where(np.arange(40)[:, None] < 15, classes, 0)
    expected[8, 8] = 0
    assert np.array_equal(counting_map(classes, verdict, CLASSES, rules), expected)
    everything = decide(classes, confidence, CLASSES, Rules())
    assert np.array_equal(counting_map(classes, everything, CLASSES, Rules()), classes)


def test_the_documented_rules_are_rules(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs/verdicts.md").read_text(encoding="utf-8")
    example = text[text.index("    default:") : text.index("A *defect*")]
    (tmp_path / "rules.yaml").write_text(dedent(example), encoding="utf-8")
    rules = from_mapping(Rules, load_yaml(tmp_path / "rules.yaml"), "docs/verdicts.md")
    assert [zone.name for zone in rules.zones] == ["sealing face", "screw"]
    assert rules.of("crack").review_below == 0.6
