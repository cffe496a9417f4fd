from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from check_doubles import STEP, TILE_PX, Mask, Reader, mask_with
from rich.console import Console

from lpcnet_edge.check.predict import predict_images
from lpcnet_edge.check.report import print_verdicts
from lpcnet_edge.decision import ClassRule, Rules
from lpcnet_edge.errors import BadConfig, BadInput, UsageError

CRACK = mask_with((1, 4, 8, 10, 3))
HOLES = mask_with((2, 4, 8, 10, 10), (2, 40, 40, 5, 5))
FREE = mask_with()


def save(path: Path, pixels: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain images, one of them no image at all."""
    for name, mask in (("a.png", CRACK), ("c.png", FREE), ("d.png", HOLES)):
        save(tmp_path / "in" / name, mask * np.uint8(STEP))
    (tmp_path / "in" / "b.jpg").write_bytes(b"not a picture")
    (tmp_path / "in" / "notes.txt").write_text("ignored")
    return tmp_path / "in"


def test_scale_is_about_the_image_not_the_tile(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.repeat(np.repeat(CRACK * np.uint8(STEP), 4, 0), 3, 1))
    (row,) = predict_images(Reader(), [tmp_path / "a.png"], Rules(mm_per_px=0.5))
    (defect,) = row.verdict.defects
    x, y, width, height = defect.box_px
    assert defect.frame_box_px == (3 * x, 4 * y, 3 * width, 4 * height)
    assert defect.area_mm2 == pytest.approx(30 * 12 * 0.25)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """The layout of a dataset; the known mask of ``one`` is twice the crack that its image shows."""
    root = tmp_path / "labelled"
    for name, shown, known in (("one", CRACK, mask_with((1, 4, 8, 20, 3))), ("two", FREE, FREE)):
        save(root / "images" / f"{name}.png", shown * np.uint8(STEP))
        save(root / "masks" / f"{name}.png", known)
    (root / "classes.yaml").write_text("names: [background, crack, hole]\n")
    return root


def test_every_file_gets_a_verdict_and_an_unreadable_one_is_a_reject(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    rows = predict_images(Reader(), [folder], batch=2, progress=lambda done, total: steps.append((done, total)))
    assert [(row.name, row.verdict.outcome) for row in rows] == [
        ("a.png", "reject"),
        ("b.jpg", "reject"),
        ("c.png", "pass"),
        ("d.png", "reject"),
    ]
    assert rows[0].verdict.reasons == ("crack of 30 px at confidence 0.78",)
    assert rows[0].score == pytest.approx(30 / TILE_PX**2)
    assert rows[1].error is not None
    assert rows[1].verdict.reasons[0].startswith("unreadable: ")
    assert "13 bytes" in rows[1].verdict.reasons[0]
    assert all(row.known is None for row in rows)
    assert steps == [(2, 4), (4, 4)]


def test_hidden_files_and_folders_are_no_images(folder: Path) -> None:
    """As for ``run``: macOS leaves ``._a.png`` beside ``a.png`` on a stick, which is no part to reject."""
    before = [row.name for row in predict_images(Reader(), [folder])]
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")
    (folder / "more.png").mkdir()
    assert [row.name for row in predict_images(Reader(), [folder])] == before


def test_rules_decide(folder: Path) -> None:
    rows = predict_images(Reader(), [folder / "a.png"], Rules(ClassRule(min_area_px=31)))
    assert [row.verdict.outcome for row in rows] == ["pass"]
    with pytest.raises(BadConfig, match="'dent'"):
        predict_images(Reader(), [folder], Rules(per_class={"dent": ClassRule()}))


def test_only_unreadable_files(folder: Path) -> None:
    segmenter = Reader()
    rows = predict_images(segmenter, [folder / "b.jpg"])
    assert [row.verdict.outcome for row in rows] == ["reject"]
    assert not segmenter.batches


def test_known_masks_are_compared(labelled: Path) -> None:
    one, two = predict_images(Reader(), [labelled])
    assert (one.name, one.known, one.defect_iou) == ("images/one.png", ("crack",), 50.0)
    assert (two.known, two.defect_iou) == ((), None)


def test_known_masks_of_another_size_and_of_other_classes(labelled: Path) -> None:
    big = mask_with((1, 0, 0, 64, 64), size=128)
    save(labelled / "images" / "one.png", big * np.uint8(STEP))
    save(labelled / "masks" / "one.png", big)
    (labelled / "classes.yaml").write_text("names: [background, dent]\n")
    one, _ = predict_images(Reader(), [labelled])
    assert (one.known, one.defect_iou) == (("dent",), 100.0)


def test_a_spoiled_mask_is_reported_in_its_row(labelled: Path) -> None:
    save(labelled / "masks" / "one.png", mask_with((9, 0, 0, 5, 5)))
    one, two = predict_images(Reader(), [labelled])
    assert one.error is not None
    assert "class index of up to 9" in one.error
    assert two.verdict.outcome == "pass"


def test_images_without_masks_are_found_below_images(labelled: Path) -> None:
    for mask in (labelled / "masks").iterdir():
        mask.unlink()
    (labelled / "masks").rmdir()
    rows = predict_images(Reader(channels=3), [labelled])
    assert [(row.name, row.known) for row in rows] == [("images/one.png", None), ("images/two.png", None)]


def test_several_paths_have_names_below_their_common_folder(folder: Path, labelled: Path) -> None:
    rows = predict_images(Reader(), [labelled, folder / "d.png"])
    assert [row.name for row in rows] == ["labelled/images/one.png", "labelled/images/two.png", "in/d.png"]


def test_overlays_and_lines_are_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = predict_images(Reader(), [folder], out_dir=out)
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert lines == [row.to_json() for row in rows]
    assert set(lines[0]) == {
        *("image", "part_id", "verdict", "reasons", "defects"),
        *("score", "known_classes", "defect_iou"),
    }
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["a.png.png", "c.png.png", "d.png.png"]
    picture = cv2.imread(str(out / "overlays" / "d.png.png"))
    assert picture is not None
    assert picture.shape == (TILE_PX, TILE_PX, 3)
    assert len(np.unique(picture[8:18, 4:14].reshape(-1, 3), axis=0)) > 1


def test_the_table_names_what_was_found(folder: Path, labelled: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    print_verdicts(predict_images(Reader(), [labelled, folder]), console)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "6 images: 2 pass, 4 reject" in text
    assert "hole (+1)" in text
    assert "50.0" in text
    assert "not a picture" not in text
    assert "b.jpg: 13 bytes" in "".join(line.rstrip() + " " for line in text.splitlines()).replace("  ", " ")
    print_verdicts(predict_images(Reader(), [folder]), console)
    assert "known mask" not in stream.getvalue()[len(text) :]


def test_paths_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        predict_images(Reader(), [tmp_path / "nowhere"])
    with pytest.raises(BadInput, match="holds no image"):
        predict_images(Reader(), [tmp_path])
    with pytest.raises(UsageError, match="batch of 0"):
        predict_images(Reader(), [tmp_path], batch=0)


def test_an_output_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"a\.png"):
        predict_images(Reader(), [folder], out_dir=folder / "a.png" / "out")
