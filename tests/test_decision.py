from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.decision import ClassRule, Rules, decide, find_defects
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.types import Defect

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
