from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from check_doubles import TILE_PX, ArrayDataset, Mask, Reader, mask_with

import lpcnet_edge
from lpcnet_edge.check.gallery import write_gallery
from lpcnet_edge.errors import BadInput, UsageError


def crop_left(classes: Mask) -> Mask:
    """Nothing is seen in the right half, and a false hole of 50 px in the lower left of every image."""
    spoiled = classes.copy()
    spoiled[:, TILE_PX // 2 :] = 0
    spoiled[-5:, :10] = 2
    return spoiled


@pytest.fixture
def dataset() -> ArrayDataset:
    masks = [
        mask_with((1, 0, 0, 10, 4)),  # all seen
        mask_with((1, 22, 0, 20, 4)),  # half seen
        mask_with((1, 40, 0, 20, 4), (2, 2, 20, 10, 10)),  # the crack is missed, the larger hole is seen
        mask_with(),
    ]
    return ArrayDataset(masks, ["a", "b", "<c>", "d"])


def test_the_worst_come_first(dataset: ArrayDataset, tmp_path: Path) -> None:
    index = write_gallery(Reader(crop_left), dataset, tmp_path / "g", worst=2, batch=3)
    page = index.read_text(encoding="utf-8")
    sections = dict(re.findall(r"<h2>(.*?)</h2>\n(.*?)(?=<h2>|</body>)", page, flags=re.DOTALL))
    assert list(sections) == ["lowest IoU: crack", "lowest IoU: hole", "missed defects", "false alarms"]
    captions = {kind: re.findall(r"<figcaption>(.*?)</figcaption>", body) for kind, body in sections.items()}
    assert captions["lowest IoU: crack"] == [
        "1. 2.png (part &lt;c&gt;): IoU 0.0, 80 px, otherwise mostly background; score 0.037",
        "2. 1.png (part b): IoU 50.0, 80 px, otherwise mostly background; score 0.022",
    ]
    assert captions["lowest IoU: hole"] == [
        "1. 2.png (part &lt;c&gt;): IoU 66.7, 100 px, otherwise mostly nothing else; score 0.037"
    ]
    assert captions["missed defects"] == [
        "1. 2.png (part &lt;c&gt;): crack of 80 px, 0 % of it predicted; score 0.037",
    ]
    assert captions["false alarms"] == ["1. 3.png (part d): 50 px, mostly hole; score 0.012"]
    pictures = re.findall(r'src="(.*?)"', page)
    assert len(pictures) == 5
    picture = cv2.imread(str(index.parent / pictures[0]))
    assert picture is not None
    assert picture.shape == (TILE_PX, 4 * TILE_PX + 3 * 4, 3)
    assert (picture[:, TILE_PX : TILE_PX + 4] == 255).all()


def test_a_name_that_is_no_utf8_costs_no_gallery(tmp_path: Path) -> None:
    dataset = ArrayDataset([mask_with((1, 22, 0, 20, 4))], ["caf\udce9"])
    page = write_gallery(Reader(crop_left), dataset, tmp_path / "g").read_text(encoding="utf-8")
    assert "part caf\\udce9" in page


def test_a_perfect_network_has_an_empty_gallery(dataset: ArrayDataset, tmp_path: Path) -> None:
    page = write_gallery(Reader(), dataset, tmp_path).read_text(encoding="utf-8")
    assert page.count("<p>None.</p>") == 4
    assert not list(tmp_path.glob("*.png"))


def test_colour_images(tmp_path: Path) -> None:
    dataset = ArrayDataset([mask_with((1, 22, 0, 20, 4))], ["a"], channels=3)
    index = write_gallery(Reader(crop_left, channels=3), dataset, tmp_path)
    picture = cv2.imread(str(index.parent / "00-01.png"))
    assert picture is not None
    panels = [picture[:, i * (TILE_PX + 4) :][:, :TILE_PX] for i in range(4)]
    assert not np.array_equal(panels[1], panels[2])


def test_the_folder_is_ignored_by_git(dataset: ArrayDataset, tmp_path: Path) -> None:
    write_gallery(Reader(), dataset, tmp_path / "g")
    assert (tmp_path / "g" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("file", [".gitignore", "images/a.png"])
def test_a_folder_of_something_else_is_left_alone(dataset: ArrayDataset, tmp_path: Path, file: str) -> None:
    """A repository, say, of which git would ignore everything from then on."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("*.log\n")
    segmenter = Reader()
    with pytest.raises(UsageError, match="files that are no gallery's"):
        write_gallery(segmenter, dataset, tmp_path)
    assert not segmenter.batches
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["*.log\n"]
    for _ in range(2):  # its own it replaces
        write_gallery(Reader(), dataset, tmp_path / "g")


@pytest.mark.parametrize("where", ["docs", "docs/pictures", "lpcnet_edge/x", "sub/../docs"])
def test_project_folders_are_refused(
    dataset: ArrayDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    segmenter = Reader()
    for out in (Path(where), Path(lpcnet_edge.__file__).parents[1] / where):
        with pytest.raises(UsageError, match="do not belong into the project"):
            write_gallery(segmenter, dataset, out)
    assert not segmenter.batches
    assert not list(tmp_path.iterdir())


def test_wrong_use_is_named(dataset: ArrayDataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 worst"):
        write_gallery(Reader(), dataset, tmp_path, worst=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file"):
        write_gallery(Reader(), dataset, tmp_path / "file")
