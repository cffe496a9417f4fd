"""COCO files: what they draw, and every way one can be bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import SHAPE, blot, coco_content, surface, write_coco, write_image

from lpcnet_edge.datasets import Coco, open_dataset
from lpcnet_edge.errors import BadData, MaskMismatch, UnknownClass, UnreadableImage, UsageError

SQUARE = [2, 4, 5, 4, 5, 7, 2, 7]


def annotation(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 7, "segmentation": [SQUARE], **changes}


def runs(counts: object, size: object = None) -> dict[str, object]:
    return {"size": [*SHAPE] if size is None else size, "counts": counts}


def test_reads_polygons(tmp_path: Path) -> None:
    dataset = Coco(write_coco(tmp_path))
    assert dataset.name == "labels"
    assert dataset.classes == ("background", "scratch", "dent")  # in the order of their ids, 3 and 7
    assert [(e.name, e.part, e.label) for e in dataset.entries] == [("p1.png", "p1.png", 2), ("p2.png", "p2.png", 0)]
    sample = dataset.read(0)
    assert np.array_equal(sample.image, surface(1))
    assert np.array_equal(sample.mask, blot(2, slice(4, 7), slice(2, 5)))
    assert not dataset.read(1).mask.any()


def test_reads_both_kinds_of_run_lengths(tmp_path: Path) -> None:
    mask = blot(1)
    mask[10, 3] = 1
    plain = [70, 1, 33, 4, 16, 4, 16, 4, 16, 4, 16, 4, 16, 4, 16, 4, 372]
    for counts in (plain, "V21Q13_O00000000000T;"):
        content = coco_content(annotations=[annotation(category_id=3, segmentation=runs(counts), iscrowd=1)])
        dataset = Coco(write_coco(tmp_path, content))
        assert np.array_equal(dataset.read(0).mask, mask)
        assert dataset.entries[0].label == 1


def test_the_later_annotation_wins_and_the_larger_area_labels(tmp_path: Path) -> None:
    over = annotation(2, category_id=3, segmentation=[[4, 4, 10, 4, 10, 7, 4, 7]])
    dataset = Coco(write_coco(tmp_path, coco_content(annotations=[annotation(), over])))
    expected = blot(2, slice(4, 7), slice(2, 4)) + blot(1, slice(4, 7), slice(4, 10))
    assert np.array_equal(dataset.read(0).mask, expected)
    assert dataset.entries[0].label == 1


def test_a_polygon_without_area_labels_as_it_marks(tmp_path: Path) -> None:
    """Drawn along a crack and back: its pixels are in the mask, so the image must not count as free."""
    content = coco_content(annotations=[annotation(segmentation=[[2, 4, 12, 14, 2, 4]])])
    dataset = Coco(write_coco(tmp_path, content))
    assert dataset.read(0).mask.max() == 2
    assert dataset.entries[0].label == 2


def test_a_background_category_is_index_0(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "dent"}]
    hole = annotation(2, category_id=0, segmentation=[[3, 5, 4, 5, 4, 6, 3, 6]])
    content = coco_content(categories=categories, annotations=[annotation(category_id=1), hole])
    dataset = Coco(write_coco(tmp_path, content))
    assert dataset.classes == ("background", "dent")
    assert dataset.read(0).mask.sum() == 8
    assert dataset.read(0).mask[5, 3] == 0


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("annotations/instances_default.json", "images/p1.png"),  # CVAT
        ("result.json", "images/p1.png"),  # Label Studio
        ("annotations.json", "JPEGImages/p1.png"),  # labelme
    ],
)
def test_the_images_are_found_where_the_tools_put_them(tmp_path: Path, file: str, image: str) -> None:
    write_image(tmp_path / image, surface(1))
    name = Path(image).name if file.startswith("annotations/") else image
    content = coco_content(images=[{**coco_content()["images"][0], "file_name": name.replace("/", "\\")}])
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    assert np.array_equal(Coco(path).read(0).image, surface(1))
    assert Coco(path, path.parent if "/" in name else tmp_path / "images").entries[0].label == 2


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("annotations/instances_Train.json", "images/Train/p1.png"),  # CVAT with subsets
        ("annotations/instances_val2017.json", "val2017/p1.png"),  # COCO's own
        ("labels.json", "data/p1.png"),  # FiftyOne
    ],
)
def test_the_images_of_a_subset_are_found(tmp_path: Path, file: str, image: str) -> None:
    write_image(tmp_path / image, surface(1))
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco_content(images=[{**coco_content()["images"][0], "file_name": "p1.png"}])))
    assert np.array_equal(Coco(path).read(0).image, surface(1))
    if path.parent.name == "annotations":
        assert open_dataset(tmp_path).classes == Coco(path).classes
        (path.parent / "instances_other.json").write_text("{}")
        with pytest.raises(UsageError, match=r"2 COCO files") as refused:
            open_dataset(tmp_path)
        assert "instances_" in (refused.value.mend or "")


def test_images_that_are_nowhere_are_an_error_that_lists_where(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    (tmp_path / "p1.png").unlink()
    with pytest.raises(BadData, match=r"p1\.png is in none of"):
        Coco(path)
    with pytest.raises(UnreadableImage, match=r"p1\.png"):
        Coco(path, tmp_path).read(0)


def test_parts_come_from_a_pattern_or_a_table(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    dataset = Coco(path, parts=r"(?P<part>p)(?P<view>\d)")
    assert [(e.part, e.strata) for e in dataset.entries] == [("p", {"view": "1"}), ("p", {"view": "2"})]
    (tmp_path / "parts.csv").write_text("image,part,fold\np2.png,b,2\np1.png,a,1\n")
    assert [(e.part, e.strata) for e in Coco(path).entries] == [("a", {"fold": "1"}), ("b", {"fold": "2"})]


def test_colour_is_read_on_request(tmp_path: Path) -> None:
    assert Coco(write_coco(tmp_path), channels=3).read(0).image.shape == (*SHAPE, 3)


def test_digest_follows_the_annotations(tmp_path: Path) -> None:
    first = Coco(write_coco(tmp_path)).digest()
    assert Coco(write_coco(tmp_path)).digest() == first
    moved = coco_content(annotations=[annotation(segmentation=[[v + 1 for v in SQUARE]])])
    assert Coco(write_coco(tmp_path, moved)).digest() != first


def test_a_size_that_is_not_the_image_s_is_an_error_when_read(tmp_path: Path) -> None:
    images = [{**image, "width": 31} for image in coco_content()["images"]]
    dataset = Coco(write_coco(tmp_path, coco_content(images=images)))
    with pytest.raises(MaskMismatch, match=r"p1\.png is 31 x 20 px, the image 30 x 20"):
        dataset.read(0)


IMAGE = coco_content()["images"][0]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"images": None}, BadData, "no list 'images'"),
        ({"images": []}, BadData, "lists no images"),
        ({"images": [7]}, BadData, r"images\[0\] has no id"),
        ({"images": [IMAGE, IMAGE]}, BadData, r"images\[1\] has the id 1 of another"),
        ({"images": [IMAGE, {**IMAGE, "id": 2}]}, BadData, r"image 2 is p1\.png again"),
        ({"images": [{**IMAGE, "file_name": None}]}, BadData, "image 1 has no file_name"),
        ({"images": [{**IMAGE, "file_name": "../../p1.png"}]}, BadData, "does not stay below"),
        ({"images": [{**IMAGE, "file_name": "/etc/passwd"}]}, BadData, "does not stay below"),
        ({"images": [{**IMAGE, "file_name": "p1\0.png"}]}, BadData, "does not stay below"),
        ({"images": [{**IMAGE, "height": 1e9}]}, BadData, "height 1000000000"),
        ({"images": [{**IMAGE, "width": 10**9}]}, BadData, "width 1000000000"),
        ({"categories": []}, BadData, "0 categories"),
        ({"categories": [{"id": 7, "name": 7}]}, BadData, "category 7 is named 7"),
        ({"categories": [{"id": 7, "name": "x"}, {"id": 8, "name": "x"}]}, BadData, "category 8 is named 'x'"),
        ({"annotations": [annotation(image_id=9)]}, BadData, "annotation 1: there is no image 9"),
        ({"annotations": [annotation(image_id=True)]}, BadData, "annotation 1: there is no image True"),
        ({"annotations": [annotation(category_id=True)]}, UnknownClass, "annotation 1: there is no category True"),
        ({"annotations": [annotation(image_id=[1])]}, BadData, r"annotation 1: there is no image \[1\]"),
        ({"annotations": [annotation(category_id=9)]}, UnknownClass, "annotation 1: there is no category 9"),
        ({"annotations": [annotation(segmentation=[])]}, BadData, "annotation 1: it has no segmentation"),
        ({"annotations": [annotation(segmentation=[[1, 2, 3]])]}, BadData, "annotation 1: a polygon"),
        ({"annotations": [annotation(segmentation=runs([600], [30, 20]))]}, BadData, "run lengths are for"),
        ({"annotations": [annotation(segmentation=runs([601]))]}, BadData, "add up to 601"),
        ({"annotations": [annotation(segmentation=runs("V2"))]}, BadData, "annotation 1: the run lengths add up"),
        ({"annotations": [annotation(segmentation=runs(None))]}, BadData, "neither a list nor a text"),
    ],
)
def test_a_broken_file_names_the_item(
    tmp_path: Path, changes: dict[str, object], error: type[BadData], says: str
) -> None:
    path = write_coco(tmp_path, coco_content(**changes))
    with pytest.raises(error, match=says) as caught:
        Coco(path)
    assert "labels.json" in caught.value.message
    assert caught.value.mend


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[]", "found a list"),
        (b'{"images": [,]}', "line 1 column 13"),
        (b"", "line 1 column 1"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"9" * 5000, r"not readable as JSON|found a int"),
    ],
)
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(raw)
    with pytest.raises(BadData, match=says):
        Coco(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="No such file"):
        Coco(tmp_path / "absent.json")
