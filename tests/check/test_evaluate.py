from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from check_doubles import CLASSES, TILE_PX, ArrayDataset, Mask, Reader, mask_with
from rich.console import Console

from lpcnet_edge.check.evaluate import evaluate
from lpcnet_edge.check.evaluation import Evaluation
from lpcnet_edge.check.report import print_evaluation
from lpcnet_edge.decision import ClassRule, Rules
from lpcnet_edge.errors import BadArtifact, BadConfig, BadData, UsageError

TILE_AREA = TILE_PX**2


@pytest.fixture
def dataset() -> ArrayDataset:
    """Two defective parts of two images each, of which one is free, and three free parts."""
    return ArrayDataset(
        masks=[
            mask_with((1, 0, 0, 20, 5)),  # 100 px of crack
            mask_with(),
            mask_with((2, 10, 10, 10, 10), (1, 40, 40, 5, 4)),  # 100 px of hole, 20 px of crack
            mask_with((2, 10, 10, 10, 10)),
            mask_with(),
            mask_with(),
            mask_with(),
        ],
        parts=["a", "a", "b", "b", "c", "d", "e"],
        strata=[{"fold": "1", "class": "x", "exposure": str(i % 2)} for i in range(7)],
    )


def no_cracks(classes: Mask) -> Mask:
    return np.where(classes == 1, 0, classes).astype(np.uint8)


def cracks_for_holes(classes: Mask) -> Mask:
    return np.minimum(classes, 1)


def false_spot(classes: Mask) -> Mask:
    """A false crack of 36 px in the corner of every image."""
    spoiled = classes.copy()
    spoiled[-6:, -6:] = 1
    return spoiled


def text_of(evaluation: Evaluation) -> str:
    stream = io.StringIO()
    print_evaluation(evaluation, Console(file=stream, width=100))
    return stream.getvalue()


def test_a_perfect_oracle_gets_100(dataset: ArrayDataset) -> None:
    report = evaluate(Reader(), dataset, batch=3).to_json()
    candidate = report["candidate"]
    figures = ("mean_iou", "mean_iou_without_background", "mean_pixel_accuracy", "defect_iou")
    assert [candidate[key] for key in figures] == [100.0] * 4
    assert all(row["iou"] == row["pixel_accuracy"] == 100.0 for row in candidate["per_class"].values())
    assert report["defects"]["recall"] == report["defects"]["recall_as_class"] == 100.0
    assert report["defects"]["smallest_caught_px"] == 20
    assert report["defects"]["largest_missed_px"] is None
    assert report["defects"]["false_alarms"] == 0
    assert report["escapes"]["parts"] == {"count": 0, "total": 2, "rate": 0.0, "low": 0.0, "high": 65.762}
    assert report["overkill"]["parts"]["total"] == 3
    assert report["escapes"]["images"]["total"] == 3
    assert report["overkill"]["images"]["total"] == 4


def test_missed_cracks_cost_what_they_weigh(dataset: ArrayDataset) -> None:
    report = evaluate(Reader(no_cracks), dataset).to_json()
    background = 7 * TILE_AREA - 320
    classes = report["candidate"]["per_class"]
    assert classes["background"]["iou"] == pytest.approx(100 * background / (background + 120), abs=1e-3)
    assert classes["crack"] == {
        "iou": 0.0,
        "pixel_accuracy": 0.0,
        "pixels": 120,
        "predicted_pixels": 0,
        "images": 2,
        "mean_area": pytest.approx(100 * 60 / TILE_AREA, abs=1e-3),
        "defects": {
            "count": 2,
            "caught": 0,
            "recall": 0.0,
            "low": 0.0,
            "high": 65.762,
            "caught_as_class": 0,
            "recall_as_class": 0.0,
        },
    }
    assert report["candidate"]["mean_pixel_accuracy"] == pytest.approx(200 / 3, abs=1e-3)
    assert report["candidate"]["defect_iou"] == 62.5
    assert report["candidate"]["defect_precision"] == 100.0
    assert report["defects"]["caught"] == 2
    assert report["defects"]["largest_missed_px"] == 100
    assert report["escapes"]["escaped_parts"] == ["a"]
    assert report["escapes"]["parts"]["rate"] == 50.0
    assert report["escapes"]["images"]["count"] == 1
    assert report["overkill"]["parts"]["count"] == 0


def test_a_defect_of_the_wrong_class_is_caught_all_the_same(dataset: ArrayDataset) -> None:
    report = evaluate(Reader(cracks_for_holes), dataset).to_json()
    assert report["candidate"]["defect_iou"] == 100.0
    assert report["candidate"]["per_class"]["hole"]["iou"] == 0.0
    assert report["candidate"]["per_class"]["crack"]["iou"] == 37.5
    assert (report["defects"]["caught"], report["defects"]["caught_as_class"]) == (4, 2)
    assert report["escapes"]["parts"]["count"] == 0


def test_a_defect_that_no_rule_counts_is_not_caught(dataset: ArrayDataset) -> None:
    largest = 10**6
    report = evaluate(Reader(cracks_for_holes), dataset, rules=Rules(ClassRule(min_area_px=largest))).to_json()
    assert report["defects"]["caught"] == 0
    assert report["candidate"]["defect_iou"] == 100.0, "pixels are measured as they were predicted"


def test_false_spots_are_overkill_unless_the_rules_forgive_them(dataset: ArrayDataset) -> None:
    spoiled = evaluate(Reader(false_spot), dataset).to_json()
    assert spoiled["overkill"]["parts"]["count"] == 3
    assert spoiled["overkill"]["rejected_good_parts"] == ["c", "d", "e"]
    assert spoiled["defects"]["false_alarms"] == 7
    forgiving = evaluate(Reader(false_spot), dataset, rules=Rules(ClassRule(min_area_px=37))).to_json()
    assert forgiving["overkill"]["parts"]["count"] == forgiving["escapes"]["parts"]["count"] == 0
    assert forgiving["rules"]["default"]["min_area_px"] == 37


def test_strata_are_reported_apart(dataset: ArrayDataset) -> None:
    report = evaluate(Reader(no_cracks), dataset).to_json()["candidate"]
    assert list(report["per_exposure"]) == ["0", "1"]
    assert report["per_exposure"]["1"]["mean_iou"] == 100.0
    assert report["per_exposure"]["1"]["defect_iou"] == 100.0
    assert report["per_exposure"]["0"]["defect_iou"] == pytest.approx(100 * 100 / 220, abs=1e-3)
    assert not {"per_fold", "per_image_class"} & set(report)
    asked = evaluate(Reader(), dataset, strata=["fold", "class"]).to_json()["candidate"]
    assert list(asked["per_fold"]) == ["1"]
    assert list(asked["per_image_class"]) == ["x"]
    assert "per_exposure" not in asked


def test_the_gate_names_what_holds_it_back(dataset: ArrayDataset) -> None:
    scores = [0.6, 0.1, 0.3, 0.5, 0.2, 0.55, 0.05]
    gate = evaluate(Reader(scores=scores), dataset, batch=4).to_json()["gate"]
    assert gate["free_images"] == 4
    assert gate["parts"] == {"threshold": 0.5, "cleared": 75.0, "defective": 2}
    assert gate["images"] == {"threshold": pytest.approx(0.3), "cleared": 75.0, "defective": 3}
    assert gate["held_back_by"] == {"part": "b", "image": "3.png", "class": "hole", "score": 0.5}
    assert gate["lowest_score_by_class"] == {"hole": 0.5, "crack": pytest.approx(0.6)}
    assert [step["cleared"] for step in gate["curve"]] == [75.0, 100.0]


def test_images_of_any_size_are_resized_and_keep_their_label() -> None:
    large = mask_with((1, 0, 0, 64, 128), size=256)
    speck = mask_with((2, 101, 101, 1, 1), size=256)  # nearest neighbour loses it; the part stays defective
    dataset = ArrayDataset([large, speck], ["a", "b"])
    report = evaluate(Reader(), dataset).to_json()
    assert report["candidate"]["per_class"]["crack"]["pixels"] == 16 * 32
    assert report["candidate"]["mean_iou"] == 100.0
    assert report["escapes"]["parts"]["total"] == 2
    assert report["escapes"]["escaped_parts"] == ["b"]
    assert report["gate"]["held_back_by"]["class"] == "hole"


def test_colour_images_and_batches() -> None:
    dataset = ArrayDataset([mask_with((1, 0, 0, 9, 9))] * 5, list("abcde"), channels=3)
    reader = Reader(channels=3)
    steps: list[tuple[int, int]] = []
    evaluation = evaluate(reader, dataset, batch=2, progress=lambda done, total: steps.append((done, total)))
    assert evaluation.to_json()["candidate"]["mean_iou"] == 100.0
    assert reader.batches == [2, 2, 1]
    assert steps == [(2, 5), (4, 5), (5, 5)]


def test_the_report_is_one_json_object(dataset: ArrayDataset) -> None:
    report = evaluate(Reader(), dataset.select([1, 4])).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["dataset"] == {
        "name": "arrays",
        "digest": dataset.select([1, 4]).digest(),
        "images": 2,
        "free_images": 2,
        "parts": 2,
        "fold": "1",
        "tile_px": TILE_PX,
    }
    assert report["candidate"]["mean_iou"] == 100.0
    assert report["candidate"]["defect_iou"] is None
    assert report["candidate"]["per_class"]["hole"]["iou"] is None
    assert report["candidate"]["confusion"] == [[2 * TILE_AREA, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert report["escapes"]["parts"] == {"count": 0, "total": 0, "rate": None, "low": 0.0, "high": 100.0}
    assert report["gate"]["held_back_by"] is None


@pytest.mark.parametrize("spoil", [no_cracks, false_spot])
def test_the_tables_fit_100_columns(dataset: ArrayDataset, spoil: Callable[[Mask], Mask]) -> None:
    long = replace(dataset, classes=("background", "foreign_thread_seam", "broken [tow]"))
    evaluation = evaluate(Reader(spoil, classes=long.classes), long)
    text = text_of(evaluation)
    assert max(map(len, text.splitlines())) <= 100
    assert "broken [tow]" in text
    assert "…" not in text
    for heading in ("mIoU", "exposure", "escapes", "overkill", "defects of px", "held back by"):
        assert heading in text


def test_tables_without_defects(dataset: ArrayDataset) -> None:
    assert "no defective part" in text_of(evaluate(Reader(), dataset.select([4])))


@pytest.mark.parametrize(
    ("segmenter", "message"),
    [
        (Reader(channels=3), r"takes colour \(3 channels\) images, arrays has grey"),
        (Reader(classes=(*CLASSES, "dent")), r"background, crack, hole, dent; arrays has background, crack, hole"),
        (Reader(classes=("background", "hole", "crack")), "in this order"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(dataset: ArrayDataset, segmenter: Reader, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(segmenter, dataset)
    assert not segmenter.batches


def test_what_cannot_be_evaluated_is_refused(dataset: ArrayDataset) -> None:
    with pytest.raises(BadData, match="no images"):
        evaluate(Reader(), dataset.select([]))
    with pytest.raises(UsageError, match="batch of 0"):
        evaluate(Reader(), dataset, batch=0)
    with pytest.raises(UsageError, match=r"'exposur'.*did you mean 'exposure'"):
        evaluate(Reader(), dataset, strata=["exposur"])
    with pytest.raises(BadConfig, match="'dent'"):
        evaluate(Reader(), dataset, rules=Rules(per_class={"dent": ClassRule()}))


def broken_class(classes: Mask) -> Mask:
    return classes + np.uint8(9)


@pytest.mark.parametrize(
    ("segmenter", "message"),
    [
        (Reader(scores=[0.1, float("nan"), *[0.2] * 5]), r"score of 1\.png is not a number"),
        (Reader(broken_class), r"says class 11 of 2\.png, its classes end at 2"),
    ],
)
def test_a_broken_network_is_named(dataset: ArrayDataset, segmenter: Any, message: str) -> None:
    with pytest.raises(BadArtifact, match=message):
        evaluate(segmenter, dataset)
