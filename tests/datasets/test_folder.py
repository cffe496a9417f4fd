"""The folder layout: index masks, class folders, parts, and every way it can be bad."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_files import SHAPE, blot, surface, write_folder, write_image

from lpcnet_edge.datasets import Folder
from lpcnet_edge.errors import BadConfig, BadData, BadInput, MaskMismatch, UnknownClass, UnreadableImage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "station-3")


@pytest.fixture
def classed(root: Path) -> Path:
    """The same images with one folder of binary masks for each class."""
    shutil.rmtree(root / "masks")
    write_image(root / "masks/dent/a1.png", blot(1, columns=slice(5, 9)))
    write_image(root / "masks/scratch/a1.png", blot(255, columns=slice(8, 20)))
    write_image(root / "masks/dent/b1.png", blot(0))
    return root


def test_reads_index_masks(root: Path) -> None:
    dataset = Folder(root)
    assert (dataset.name, dataset.channels) == ("station-3", 1)
    assert dataset.classes == ("background", "scratch", "dent")
    assert [(e.name, e.part, e.label) for e in dataset.entries] == [
        ("images/a1.png", "a1.png", 0),
        ("images/a2.png", "a2.png", 1),
        ("images/b1.png", "b1.png", 2),
    ]
    sample = dataset.read(2)
    assert np.array_equal(sample.image, surface(2))
    assert np.array_equal(sample.mask, blot(2))


def test_reads_class_folders_and_the_later_class_wins(classed: Path) -> None:
    dataset = Folder(classed)
    expected = blot(1, columns=slice(8, 20))
    expected[4:8, 5:9] = 2
    assert np.array_equal(dataset.read(0).mask, expected)
    assert [e.label for e in dataset.entries] == [1, 0, 0]  # the class that covers most; an empty mask; none
    assert not dataset.read(1).mask.any()


def test_class_folders_without_a_mask_are_images_without_a_defect(classed: Path) -> None:
    for mask in (classed / "masks").glob("*/*.png"):
        mask.unlink()
    dataset = Folder(classed)
    assert [e.label for e in dataset.entries] == [0, 0, 0]
    assert not dataset.read(0).mask.any()


def test_channels_and_name_come_from_the_settings(tmp_path: Path) -> None:
    root = write_folder(tmp_path, channels=3, name="brackets")
    assert Folder(root).name == "brackets"
    assert Folder(root).read(0).image.shape == (*SHAPE, 3)
    assert Folder(root, channels=1).read(0).image.shape == SHAPE


def test_parts_come_from_a_pattern(tmp_path: Path) -> None:
    dataset = Folder(write_folder(tmp_path, parts=r"^(?P<part>[a-z])(?P<view>\d)"))
    assert [e.part for e in dataset.entries] == ["a", "a", "b"]
    assert dataset.entries[1].strata == {"view": "2"}
    assert [e.part for e in Folder(write_folder(tmp_path, parts="^(.)")).entries] == ["a", "a", "b"]


def test_parts_come_from_a_table(root: Path) -> None:
    rows = ["image, part, fold,line", "b1.png,p2,2,", "a1.png,p1,1,left", "a2.png,p1,1,left"]
    (root / "parts.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    dataset = Folder(root)
    assert [e.part for e in dataset.entries] == ["p1", "p1", "p2"]
    assert dataset.entries[0].strata == {"fold": "1", "line": "left"}
    assert dataset.entries[2].strata == {"fold": "2"}


def test_digest_follows_masks_and_parts(root: Path, classed: Path) -> None:
    first = Folder(classed).digest()
    assert Folder(classed).digest() == first
    write_image(classed / "masks/scratch/b1.png", blot(0))
    second = Folder(classed).digest()
    (classed / "parts.csv").write_text("image,part\na1.png,x\na2.png,x\nb1.png,y\n")
    assert len({first, second, Folder(classed).digest()}) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [scratch, dent]", "begin with background"),
        ("names: [background]", "1 classes"),
        ("names: [background, dent, dent]", "2 of them different"),
        ("names: [background, ../dent]", "cannot be a folder's name"),
        ("names: [background, 7]", r"names\[1\]"),
        ("nmaes: [background, dent]", "did you mean 'names'"),
        ("names: [background, dent]\nchannels: 2", "channels"),
        ("names: [background, dent]\nparts: '['", "unterminated character set"),
        ("names: [background, dent]\nparts: 'a'", "has no group"),
        ("- background", "expected a mapping"),
        ("names: [background, dent", "line"),
        ("channels: 1", "missing key 'names'"),
    ],
)
def test_broken_settings_are_named(root: Path, text: str, says: str) -> None:
    (root / "classes.yaml").write_text(text)
    with pytest.raises(BadConfig, match=says) as caught:
        Folder(root)
    assert "classes.yaml" in caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,prt\na1.png,p\n", "line 1: no column part"),
        ("image,part,part\na1.png,p,q\n", "line 1: two columns are called part"),
        ("image,part,\na1.png,p,\n", "line 1: column 3 has no name"),
        ("image,part\na1.png,p\n", "2 images have no row, such as a2.png"),
        ("image,part\na1.png,p\na1.png,q\n", "line 3: a1.png is listed twice"),
        ("image,part\n../../x.png,p\n", "line 2: there is no image"),
        ("image,part\na1.png,\n", "line 2: column part is empty"),
        ('image,part\n"a1.png,p\n', "parts.csv line"),
    ],
)
def test_a_broken_table_is_named(root: Path, text: str, says: str) -> None:
    (root / "parts.csv").write_text(text)
    with pytest.raises(BadData, match=says):
        Folder(root)


def test_a_pattern_must_find_a_part_and_be_alone(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"finds no part in b1\.png"):
        Folder(write_folder(tmp_path, parts="^(?P<part>a)"))
    (tmp_path / "parts.csv").write_text("image,part\n")
    with pytest.raises(BadConfig, match="exists too"):
        Folder(tmp_path)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def disarrange(root: Path, how: str) -> None:
    deeds: dict[str, Callable[[], object]] = {
        "no images folder": lambda: shutil.rmtree(root / "images"),
        "no images": lambda: empty(root / "images"),
        "no masks": lambda: shutil.rmtree(root / "masks"),
        "an odd file": lambda: (root / "images/notes.txt").write_text("x"),
        "a subfolder": lambda: (root / "images/left").mkdir(),
        "a stray mask": lambda: write_image(root / "masks/a9.png", blot(1)),
        "a JPEG mask": lambda: write_image(root / "masks/a1.jpg", blot(1)),
        "two images of a name": lambda: write_image(root / "images/a1.jpg", blot(1)),
        "both kinds of masks": lambda: write_image(root / "masks/dent/a1.png", blot(1)),
    }
    deeds[how]()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no images folder", "is no folder"),
        ("no images", "is empty"),
        ("no masks", "holds no masks"),
        ("an odd file", "notes.txt is not an image"),
        ("a subfolder", "left is not an image"),
        ("a stray mask", "1 masks have no image, such as that of 'a9'"),
        ("a JPEG mask", "masks are PNG files"),
        ("two images of a name", "would share a mask"),
        ("both kinds of masks", "folders of classes"),
    ],
)
def test_a_wrong_layout_is_refused(root: Path, how: str, says: str) -> None:
    disarrange(root, how)
    with pytest.raises(BadData, match=says):
        Folder(root)


def test_a_folder_of_no_class_is_refused(classed: Path) -> None:
    (classed / "masks/dents").mkdir()
    with pytest.raises(UnknownClass, match="did you mean 'dent'"):
        Folder(classed)


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        (blot(9), UnknownClass, "up to 9"),
        (blot(1).astype(np.uint16) << 8, UnknownClass, "up to 256"),
        (np.zeros((21, 30), np.uint8), MaskMismatch, "30 x 21 px, the image 30 x 20"),
        (None, MaskMismatch, "has no mask"),
        (b"\x89PNG\r\n\x1a\n", UnreadableImage, r"a2\.png"),
    ],
)
def test_a_bad_mask_is_an_error_when_read(root: Path, mask: object, error: type[BadInput], says: str) -> None:
    path = root / "masks/a2.png"
    path.unlink()
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    elif isinstance(mask, np.ndarray):
        write_image(path, mask)
    dataset = Folder(root)
    assert dataset.entries[1].label == 0 or error is MaskMismatch
    with pytest.raises(error, match=says):
        dataset.read(1)
    assert dataset.read(2).mask.any()


def test_a_class_mask_of_another_size_is_an_error_when_read(classed: Path) -> None:
    write_image(classed / "masks/dent/a1.png", np.ones((5, 5), np.uint8))
    with pytest.raises(MaskMismatch, match=r"dent/a1\.png is 5 x 5 px"):
        Folder(classed).read(0)
