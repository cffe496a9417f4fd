"""What an inspection finds, and what a description says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import blot, surface, write_folder, write_image, write_magnetic_tile

from lpcnet_edge.datasets import (
    Finding,
    Folder,
    MagneticTile,
    describe,
    inspect,
    inspect_dataset,
    open_dataset,
)
from lpcnet_edge.types import Entry

NAMES = ("a1", "a2", "b1", "b2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two parts in two folds, two images each."""
    write_folder(tmp_path, NAMES)
    return table(tmp_path, "a,1 a,1 b,2 b,2")


def table(root: Path, rows: str) -> Path:
    lines = [f"{name}.png,{row}" for name, row in zip(NAMES, rows.split(), strict=True)]
    (root / "parts.csv").write_text("image,part,fold\n" + "\n".join(lines))
    return root


def found(root: Path) -> list[Finding]:
    return inspect_dataset(Folder(root))


def test_a_clean_dataset_has_no_findings(root: Path) -> None:
    assert found(root) == []


def test_bad_files_are_all_found_in_one_pass(root: Path) -> None:
    (root / "images/a1.png").write_bytes(b"")
    write_image(root / "masks/a2.png", np.zeros((5, 5), np.uint8))
    write_image(root / "masks/b1.png", blot(9))
    mask = root / "masks/b2.png"
    mask.write_bytes(mask.read_bytes()[:60])
    findings = found(root)
    assert [(f.kind, f.names) for f in findings] == [
        ("unreadable_image", ("images/a1.png",)),
        ("mask_mismatch", ("images/a2.png",)),
        ("unknown_class", ("images/b1.png",)),
        ("unreadable_image", ("images/b2.png",)),
    ]
    assert all(f.severity == "error" and f.message and f.mend for f in findings)
    assert json.dumps(describe(Folder(root)))


def test_duplicates_are_told_by_their_pixels(root: Path) -> None:
    write_image(root / "images/a2.png", surface(0))
    (finding,) = found(root)
    assert (finding.severity, finding.kind) == ("warning", "duplicate_image")
    assert finding.names == ("images/a1.png", "images/a2.png")
    (root / "images/b1.png").unlink()
    write_image(root / "images/b1.bmp", surface(0))  # another file, the same picture
    text = (root / "parts.csv").read_text()
    (root / "parts.csv").write_text(text.replace("b1.png", "b1.bmp"))
    (finding,) = found(root)
    assert (finding.severity, finding.kind) == ("error", "duplicate_across_splits")
    assert "3 images" in finding.message
    assert "fold 1, 2" in finding.message


def test_a_part_in_two_folds_is_an_error(root: Path) -> None:
    (finding,) = found(table(root, "a,1 a,2 b,2 b,2"))
    assert (finding.severity, finding.kind) == ("error", "part_across_splits")
    assert finding.names == ("images/a1.png", "images/a2.png")
    assert "part a stands in fold 1, 2" in finding.message


def test_a_part_of_which_one_image_has_no_fold_is_an_error(tmp_path: Path) -> None:
    """A cell left blank: the image trains when the fold of the rest of its part is left out."""
    write_folder(tmp_path)
    (tmp_path / "parts.csv").write_text("image,part,fold\na1.png,A,1\na2.png,A,\nb1.png,B,2\n")
    (found,) = inspect_dataset(open_dataset(tmp_path))
    assert (found.severity, found.kind) == ("error", "part_across_splits")
    assert found.message == "part A stands in fold (none), 1"


def test_the_split_can_be_another_stratum_or_none(root: Path) -> None:
    dataset = Folder(table(root, "a,1 a,2 b,2 b,2"))
    assert inspect_dataset(dataset, "session") == []
    assert describe(dataset, "session")["splits"] == {"by": "session", "images": {}}


def test_brighter_photographs_of_one_surface_look_alike(root: Path) -> None:
    large = surface(5, (120, 90))
    brighter = np.clip(large.astype(np.float32) * 0.8 + 40, 0, 255).astype(np.uint8)
    write_image(root / "images/a1.png", large)
    write_image(root / "images/b1.png", brighter)
    for name in ("a1", "b1"):
        write_image(root / f"masks/{name}.png", np.zeros(large.shape, np.uint8))
    (finding,) = found(root)
    assert (finding.severity, finding.kind) == ("warning", "look_alike_across_splits")
    assert finding.names == ("images/a1.png", "images/b1.png")
    assert "parts a, b look like one" in finding.message
    assert not found(table(root, "a,1 a,1 b,1 b,1"))


@pytest.mark.parametrize("block", [512, 3])
def test_only_those_alike_across_parts_and_folds_are_named(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_BLOCK", block)
    rows = [  # surface, part, fold, pixels; the last stands alone: its likes are of its own fold
        (0, "a", "1", "p"), (0, "b", "2", "q"), (0, "c", "2", "r"), (0, "d", "1", "s"),
        (1, "e", "1", "t"), (1, "f", "2", "t"), (1, "g", "1", "u"), (1, "g", "2", "v"),
        (2, "h", "1", "w"), (2, "i", "1", "x"),
    ]  # fmt: skip
    findings = inspect.compare([look(number, *row) for number, row in enumerate(rows)], "fold")
    alike = [finding.names for finding in findings if finding.kind == "look_alike_across_splits"]
    assert sorted(alike) == [("0", "1", "2", "3"), ("4", "5", "6", "7")]


def test_many_that_are_alike_are_joined_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product in one fixture: all pairs of thousands of images may look alike."""
    calls = 0
    join = inspect._join

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return join(*arguments)

    monkeypatch.setattr(inspect, "_join", counted)
    (finding,) = inspect.compare([look(n, 0, f"p{n}", str(n % 2), f"{n}") for n in range(40)], "fold")
    assert len(finding.names) == 40
    assert calls < 40


def look(number: int, surface: int, part: str, fold: str, pixels: str) -> inspect.Look:
    thumbnail = np.eye(3, 4096, dtype=np.float32)[surface]
    return inspect.Look(Entry(str(number), part, 0, {"fold": fold}), (64, 64), pixels, thumbnail, (1,))


def test_blank_images_are_not_look_alikes(root: Path) -> None:
    for level, name in enumerate(NAMES):
        write_image(root / f"images/{name}.png", np.full((20, 30), 100 + level, np.uint8))
    assert found(root) == []


def test_a_labelled_image_without_defect_pixels_is_a_warning(tmp_path: Path) -> None:
    write_magnetic_tile(tmp_path)
    write_image(tmp_path / "MT_Fray/Imgs/exp1_num_8000.png", blot(0))
    (finding,) = inspect_dataset(MagneticTile(tmp_path))
    assert (finding.severity, finding.kind) == ("warning", "empty_mask")
    assert "labelled fray" in finding.message


def test_a_description_counts_everything(tmp_path: Path) -> None:
    dataset = MagneticTile(write_magnetic_tile(tmp_path))
    facts = json.loads(json.dumps(describe(dataset)))
    assert (facts["name"], facts["images"], facts["parts"], facts["defective_parts"]) == ("magnetic-tile", 8, 6, 5)
    assert facts["classes"]["blowhole"] == {"images": 2, "pixels": 56}
    assert facts["classes"]["background"] == {"images": 2, "pixels": 8 * 600 - 6 * 28}
    assert facts["splits"]["images"]["2"] == {"blowhole": 2, "uneven": 1}
    assert facts["sizes_px"] == {"height": [20, 20], "width": [30, 30], "different": 1}
    assert facts["digest"] == dataset.digest()
    assert facts["findings"] == []
    (tmp_path / "MT_Free/Imgs/exp1_num_100.jpg").unlink()
    facts = describe(MagneticTile(tmp_path))
    assert facts["digest"] is None
    assert facts["images"] == 8
    assert [f["kind"] for f in facts["findings"]] == ["unreadable_image"]


def test_classes_of_a_split_are_in_their_order() -> None:
    facts = describe(open_dataset("carbon-fabric:count=12,seed=3,size=128"), "weave")
    assert {*facts["splits"]["images"]} == {"plain", "twill"}
    for counts in facts["splits"]["images"].values():
        assert [name for name in facts["classes"] if name in counts] == list(counts)
