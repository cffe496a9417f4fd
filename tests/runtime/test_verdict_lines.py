from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcnet_edge.decision import Rules, Zone, decide, join_views
from lpcnet_edge.errors import BadArtifact
from lpcnet_edge.runtime.verdict_lines import from_json, schema, to_json
from lpcnet_edge.types import Defect, PartVerdict, Verdict

VALIDATOR = jsonschema.Draft202012Validator(schema())

sizes = st.integers(1, 9000)
places = st.integers(0, 9000)
defects = st.builds(
    Defect,
    name=st.text(min_size=1, max_size=8),
    box_px=st.tuples(places, places, sizes, sizes),
    area_px=sizes,
    area_mm2=st.none() | st.floats(1e-9, 1e9),
    confidence=st.floats(0, 1),
    zones=st.lists(st.text(), max_size=2).map(tuple),
    contour_px=st.none() | st.lists(st.tuples(places, places), min_size=1, max_size=4).map(tuple),
)
outcomes = st.sampled_from(["pass", "reject", "review"])
reasons = st.lists(st.text(min_size=1), max_size=3).map(tuple)
verdicts = st.builds(
    Verdict,
    part_id=st.text(),
    outcome=outcomes,
    reasons=reasons,
    defects=st.lists(defects, max_size=3).map(tuple),
    latency_ms=st.dictionaries(st.text(), st.floats(0, 1e6), max_size=3),
    backend=st.text(),
    bundle=st.text(),
)
parts = st.builds(
    PartVerdict,
    part_id=st.text(),
    outcome=outcomes,
    reasons=reasons,
    views=st.dictionaries(st.text(), verdicts, max_size=2),
)


def a_line() -> dict[str, Any]:
    """The line of a decided frame with everything in it."""
    classes = np.zeros((20, 30), np.uint8)
    classes[5, 2:14] = 1
    rules = Rules(mm_per_px=0.5, zones=(Zone("rim", (0, 0, 9, 9), default=Rules().default),), contours=True)
    verdict = decide(classes, classes + np.uint8(99), ("background", "crack"), rules, part_id="p7")
    timed = Verdict("p7", verdict.outcome, verdict.reasons, verdict.defects, {"total": 12.5}, "openvino", "mt-int8")
    line: dict[str, Any] = json.loads(json.dumps(to_json(timed)))
    assert from_json(line) == timed
    return line


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@given(verdicts | parts)
def test_lines_round_trip_and_fit_the_schema(verdict: Verdict | PartVerdict) -> None:
    line = json.loads(json.dumps(to_json(verdict), allow_nan=False))
    VALIDATOR.validate(line)
    assert from_json(line) == verdict


def test_a_frame_line_has_these_keys() -> None:
    line = a_line()
    VALIDATOR.validate(line)
    assert list(line) == ["part_id", "verdict", "reasons", "defects", "latency_ms", "backend", "bundle"]
    (defect,) = line["defects"]
    assert defect["contour_px"] == [[2, 5], [13, 5]]
    assert defect["zones"] == ["rim"]


def test_a_part_line_holds_its_frames() -> None:
    line = to_json(join_views("p7", ["top", "side"], {"top": Verdict("p7", "pass")}))
    VALIDATOR.validate(line)
    assert line["reasons"] == ["side: the view is missing"]
    assert line["views"]["top"]["verdict"] == "pass"


def test_other_keys_are_passed_over() -> None:
    line = {**a_line(), "image": "a.png", "score": 0.5}
    VALIDATOR.validate(line)
    assert from_json(line) == from_json(a_line())


@pytest.mark.parametrize("key", ["part_id", "verdict", "reasons", "defects", "latency_ms", "backend", "bundle"])
def test_a_missing_key_is_named(key: str) -> None:
    line = a_line()
    del line[key]
    assert not VALIDATOR.is_valid(line)
    with pytest.raises(BadArtifact, match=rf"verdicts.jsonl:3: no key '{key}'"):
        from_json(line, "verdicts.jsonl:3")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("part_id", 7),
        ("verdict", "ok"),
        ("reasons", "crack"),
        ("reasons", [3]),
        ("defects", {}),
        ("defects", [3]),
        ("defects", [{"class": "crack"}]),
        ("latency_ms", 3.5),
        ("latency_ms", {"total": "long"}),
        ("backend", None),
        ("views", []),
        ("views", {"top": 3}),
        ("views", {"top": {"views": {}}}),
    ],
)
def test_a_wrong_value_is_refused(key: str, value: object) -> None:
    line = {**a_line(), key: value}
    assert not VALIDATOR.is_valid(line)
    with pytest.raises(BadArtifact, match=r"verdict line: "):
        from_json(line)


@pytest.mark.parametrize("line", [None, 7, [], "views"])
def test_what_is_no_object_is_refused(line: Any) -> None:
    with pytest.raises(BadArtifact, match=r"v.jsonl:3: not a JSON object"):
        from_json(line, "v.jsonl:3")


@pytest.mark.parametrize(
    ("key", "value"),
    [("box_px", [1, 2, 3]), ("area_px", 1.5), ("confidence", "high"), ("colour", "red"), ("contour_px", [[1]])],
)
def test_a_wrong_defect_is_refused(key: str, value: object) -> None:
    line = a_line()
    line["defects"][0][key] = value
    assert not VALIDATOR.is_valid(line)
    with pytest.raises(BadArtifact, match=key):
        from_json(line)
