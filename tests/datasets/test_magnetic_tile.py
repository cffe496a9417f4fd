"""The Magnetic Tile layouts: synthetic copies, and the real data where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dataset_files import MAGNETIC, blot, write_image, write_magnetic_tile

from lpcnet_edge.datasets import MagneticTile, inspect_dataset, with_fold, without_fold
from lpcnet_edge.datasets.grouping import pairwise_agreement
from lpcnet_edge.errors import BadData, BadInput, MaskMismatch, UnknownClass, UnreadableImage, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_magnetic_tile(tmp_path)


def edit(root: Path, old: str, new: str) -> None:
    path = root / "tiles.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_reads_what_the_table_lists(root: Path) -> None:
    dataset = MagneticTile(root)
    assert dataset.name == "magnetic-tile"
    assert dataset.classes == ("background", "blowhole", "break", "crack", "fray", "uneven")
    assert dataset.channels == 1
    assert dataset.grouping == "index"
    entry = dataset.entries[2]
    assert entry.name == "MT_Blowhole/Imgs/exp1_num_1900.jpg"
    assert (entry.part, entry.label) == ("1", 1)
    assert entry.strata == {"fold": "2", "exposure": "1", "class": "blowhole"}
    assert [e.label for e in dataset.entries] == [0, 0, 1, 1, 2, 3, 4, 5]


def test_mask_pixels_above_127_have_the_class_of_the_folder(root: Path) -> None:
    mask = blot(128)
    mask[0, 0] = 127
    write_image(root / "MT_Crack/Imgs/exp1_num_6000.png", mask)
    sample = MagneticTile(root).read(5)
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    assert np.array_equal(sample.mask, blot(3))
    assert not MagneticTile(root).read(0).mask.any()


def test_the_original_layout_with_other_suffixes_and_hidden_files(tmp_path: Path) -> None:
    """No image is passed over for the case of its suffix; what macOS puts beside a file is none."""
    write_magnetic_tile(tmp_path, table=False)
    images = tmp_path / "MT_Free" / "Imgs"
    (images / "exp2_num_120.jpg").rename(images / "exp2_num_120.JPG")
    (images / "._exp1_num_100.jpg").write_bytes(b"\0\5\x16\7")
    names = [entry.name for entry in MagneticTile(tmp_path).entries]
    assert len(names) == len(MAGNETIC)
    assert "MT_Free/Imgs/exp2_num_120.JPG" in names


def test_the_original_layout_gets_tiles_and_folds_from_the_numbers(tmp_path: Path) -> None:
    dataset = MagneticTile(write_magnetic_tile(tmp_path, table=False))
    assert dataset.grouping == "numbers"
    part = {entry.name: entry.part for entry in dataset.entries}
    ours = [part[f"{folder}/Imgs/exp{e}_num_{n}.jpg"] for folder, e, n, *_ in MAGNETIC]
    assert pairwise_agreement(ours, [tile for *_, tile, _ in MAGNETIC]) == (1.0, 1.0)
    assert all(entry.strata["fold"] in "1234" for entry in dataset.entries)
    assert not [f for f in inspect_dataset(dataset) if f.kind == "part_across_splits"]


def test_the_numbers_can_be_asked_for_beside_a_table(root: Path) -> None:
    dataset = MagneticTile(root, grouping="numbers")
    assert dataset.grouping == "numbers"
    assert dataset.entries[0].part == "001"  # tile 000 is the one of the lowest number


def test_a_mixed_tile_keeps_one_part(tmp_path: Path) -> None:
    write_magnetic_tile(tmp_path, table=False)
    for suffix in (".jpg", ".png"):
        write_image(tmp_path / f"MT_Crack/Imgs/exp3_num_1950{suffix}", blot(255))
    entries = MagneticTile(tmp_path).entries
    assert len({e.part for e in entries if "_num_19" in e.name}) == 1
    assert {e.strata["class"] for e in entries if "_num_19" in e.name} == {"blowhole", "crack"}


def test_empty_masks_are_kept_or_dropped(root: Path) -> None:
    write_image(root / "MT_Uneven/Imgs/exp1_num_9900.png", blot(127))
    kept = MagneticTile(root)
    assert kept.entries[7].label == 5
    assert not kept.read(7).mask.any()
    assert [f.kind for f in inspect_dataset(kept)] == ["empty_mask"]
    dropped = MagneticTile(root, empty_masks="drop")
    assert [e.name for e in dropped.entries] == [e.name for e in kept.entries[:7]]


@pytest.mark.parametrize("options", [{"empty_masks": "maybe"}, {"grouping": "luck"}])
def test_unknown_options_are_refused(root: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"maybe|luck"):
        MagneticTile(root, **options)  # type: ignore[arg-type]


def test_digest_follows_content_order_and_labels(root: Path) -> None:
    dataset = MagneticTile(root)
    digest = dataset.digest()
    assert digest == dataset.digest() == MagneticTile(root).digest()
    assert dataset.select(range(8)).digest() == digest
    assert dataset.select([1, 0]).digest() != dataset.select([0, 1]).digest()
    write_image(root / "MT_Break/Imgs/exp1_num_4000.png", blot(255, columns=slice(5, 13)))
    assert dataset.digest() == digest  # remembered while the object lives
    assert MagneticTile(root).digest() != digest


def test_selecting_keeps_the_order_given(root: Path) -> None:
    dataset = MagneticTile(root)
    chosen = dataset.select([5, 2])
    assert [e.label for e in chosen.entries] == [3, 1]
    assert chosen.read(0).entry == dataset.entries[5]
    assert len(dataset) == 8


@pytest.mark.parametrize(
    ("old", "new", "error", "says"),
    [
        ("class,tile", "kind,tile", BadData, "line 1: no column class"),
        (",blowhole,", ",blow-hole,", UnknownClass, "line 4, column class"),
        (",crack,3,", ",crack,,", BadData, "line 7: column tile is empty"),
        ("MT_Break/Imgs/exp1_num_4000.jpg", "../../etc/x.jpg", BadData, "line 6, column image"),
        ("MT_Break/Imgs/exp1_num_4000.png", "/etc/passwd", BadData, "line 6, column mask"),
        ("MT_Break/Imgs/exp1_num_4000.png", "C:\\x.png", BadData, "line 6, column mask"),
        ("MT_Break/Imgs/exp1_num_4000.png", "..\\x.png", BadData, "line 6, column mask"),
        ("MT_Free/Imgs/exp2_num_120.jpg", "MT_Free/Imgs/exp1_num_100.jpg", BadData, "line 2 already"),
        (",uneven,5,1,2", ",uneven,5,1", BadData, "line 9: the number of cells"),
        (",uneven,5,1,2", ",uneven,5,1,2,3", BadData, "line 9: the number of cells"),
        (",uneven,5,1,2", ',"uneven"x,5,1,2', BadData, "line 9"),
    ],
)
def test_a_broken_table_is_named_by_line(root: Path, old: str, new: str, error: type[BadInput], says: str) -> None:
    edit(root, old, new)
    with pytest.raises(error, match=says) as caught:
        MagneticTile(root)
    assert "tiles.csv" in caught.value.message
    assert caught.value.mend


def test_a_table_that_is_not_utf8_is_refused(root: Path) -> None:
    path = root / "tiles.csv"
    path.write_bytes(path.read_bytes().replace(b"blowhole", b"bl\xf6whole"))
    with pytest.raises(BadData, match="is not UTF-8"):
        MagneticTile(root)


@pytest.mark.parametrize("text", ["", "image,mask,class,tile,exposure,fold\n"])
def test_an_empty_table_is_refused(root: Path, text: str) -> None:
    (root / "tiles.csv").write_text(text)
    with pytest.raises(BadData):
        MagneticTile(root)


def test_an_incomplete_original_copy_is_refused(tmp_path: Path) -> None:
    write_magnetic_tile(tmp_path, table=False)
    (tmp_path / "MT_Fray/Imgs/exp1_num_8000.jpg").unlink()
    with pytest.raises(BadData, match="MT_Fray"):
        MagneticTile(tmp_path)
    write_image(tmp_path / "MT_Fray/Imgs/frayed.jpg", blot(9))
    with pytest.raises(BadData, match="frayed"):
        MagneticTile(tmp_path)


def test_bad_files_are_named_when_read(root: Path) -> None:
    dataset = MagneticTile(root)
    image = root / "MT_Free/Imgs/exp1_num_100.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(UnreadableImage, match="exp1_num_100"):
        dataset.read(0)
    mask = root / "MT_Free/Imgs/exp2_num_120.png"
    mask.write_bytes(mask.read_bytes()[:-30])
    with pytest.raises(UnreadableImage, match=r"exp2_num_120\.png"):
        dataset.read(1)
    write_image(root / "MT_Blowhole/Imgs/exp1_num_1900.png", np.zeros((20, 31), np.uint8))
    with pytest.raises(MaskMismatch, match="31 x 20 px, the image 30 x 20"):
        dataset.read(2)
    (root / "MT_Blowhole/Imgs/exp2_num_1925.png").unlink()
    with pytest.raises(UnreadableImage, match=r"exp2_num_1925\.png"):
        dataset.read(3)
    with pytest.raises(UnreadableImage):
        dataset.digest()


@pytest.fixture(scope="module")
def real() -> Path:
    default = Path(__file__).parents[3] / "shared" / "data" / "magnetic-tile"
    root = Path(os.environ.get("LPCNET_MAGNETIC_TILE", default))
    if not (root / "tiles.csv").is_file():
        pytest.skip("no Magnetic Tile data: set LPCNET_MAGNETIC_TILE to its folder")
    return root


def test_real_grouping_by_numbers_agrees_with_the_table(real: Path) -> None:
    table, numbers = MagneticTile(real), MagneticTile(real, grouping="numbers")
    part = {entry.name: entry.part for entry in numbers.entries}
    ours = [part[entry.name] for entry in table.entries]
    precision, recall = pairwise_agreement(ours, [entry.part for entry in table.entries])
    assert recall == 1.0  # what the table holds together is never torn apart
    assert precision > 0.95  # what is joined beyond it are tiles that the table splits


def test_real_data_has_the_counts_of_the_docs(real: Path) -> None:
    dataset = MagneticTile(real)
    assert len(dataset) == 1076
    assert len({entry.part for entry in dataset.entries}) == 179
    assert len(MagneticTile(real, empty_masks="drop")) == 1074
    test, train = with_fold(dataset, {"1"}), without_fold(dataset, {"1"})
    assert len(test.entries) + len(train.entries) == 1076
    assert not {e.part for e in test.entries} & {e.part for e in train.entries}
    sample = dataset.read(0)
    assert sample.image.shape == sample.mask.shape
