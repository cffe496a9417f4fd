"""What `calibrate lint` finds, on sets that have exactly that wrong with them, and nothing on good ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from calibration_data import fabric, frames, surface, write_frames, write_tiles
from dataset_files import write_image
from numpy.typing import NDArray

from lpcnet_edge.build.lint import Finding, lint_looks, lint_tiles
from lpcnet_edge.build.lint_sources import Looked, lint_set, look_at_dataset, look_at_folder, without_look_alikes
from lpcnet_edge.build.looks import Look, look_at, reference_of
from lpcnet_edge.cli import main
from lpcnet_edge.datasets import open_dataset, with_fold, without_fold

GREY = [surface(seed) for seed in range(70)]


@pytest.fixture(scope="module")
def colour() -> list[NDArray[np.uint8]]:
    return frames(fabric(70))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


def kinds(findings: Sequence[Finding]) -> dict[str, str]:
    assert all(finding.message and finding.mend for finding in findings)
    return {finding.kind: finding.severity for finding in findings}


def looks(images: Sequence[NDArray[Any]], prefix: str = "") -> list[Look]:
    return [look_at(image, f"{prefix}{index}") for index, image in enumerate(images)]


def test_good_sets_have_no_findings(colour: list[NDArray[np.uint8]]) -> None:
    assert lint_tiles(GREY) == []
    assert lint_tiles(GREY, reference_of([surface(s) for s in range(100, 130)], "the live frames")) == []
    assert lint_tiles(colour, reference_of(frames(fabric(40, seed=6)), "the live frames")) == []


def test_too_few() -> None:
    assert kinds(lint_tiles(GREY[:15])) == {"too_few": "refuse"}
    assert kinds(lint_tiles(GREY[:63])) == {"too_few": "warn"}
    assert kinds(lint_tiles([])) == {"too_few": "refuse"}


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_numbers_in_0_to_1_are_refused(kind: type[np.floating[Any]]) -> None:
    (found,) = lint_tiles([(image / 255).astype(kind) for image in GREY])  # type: ignore[misc]
    assert (found.kind, found.severity, len(found.names)) == ("float_images", "refuse", 70)
    assert "70 of 70 images hold floating-point numbers up to 0.9" in found.message


def test_bytes_in_0_to_1_are_refused() -> None:
    rounded = [np.rint(image / 255).astype(np.uint8) for image in GREY]
    assert kinds(lint_tiles(rounded))["unit_range"] == "refuse"
    assert kinds(lint_tiles([*GREY, rounded[0]])) == {"unit_range": "warn"}


def test_constant_images() -> None:
    black, white = np.zeros((48, 40), np.uint8), np.full((48, 40), 255, np.uint8)
    assert kinds(lint_tiles([*GREY, black, white])) == {"constant": "warn"}
    found = kinds(lint_tiles([*GREY[:40], *[np.full((48, 40), v, np.uint8) for v in range(30)]]))
    assert found["constant"] == "refuse"


def test_channels_first_and_sixteen_bits(colour: list[NDArray[np.uint8]]) -> None:
    planes = [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in colour]
    reference = reference_of(colour, "the live frames")
    assert kinds(lint_tiles(planes, reference)) == {"channels_first": "refuse"}
    deep = [image.astype(np.uint16) * 257 for image in GREY]
    assert kinds(lint_tiles(deep, reference_of(GREY, "the live frames"))) == {"sixteen_bit": "warn"}  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [16, 70])
def test_swapped_colour_is_refused(colour: list[NDArray[np.uint8]], count: int) -> None:
    reference = reference_of(frames(fabric(20, seed=9)), "the live frames")
    found = [f for f in lint_tiles([image[..., ::-1] for image in colour[:count]], reference) if f.kind != "too_few"]
    assert kinds(found) == {"swapped_colour": "refuse"}
    assert "red and blue are swapped" in found[0].message


def test_another_cast_of_the_light_is_not_swapped_colour(colour: list[NDArray[np.uint8]]) -> None:
    for gains in ([0.7, 1, 1.3], [1.1, 1, 0.95]):
        cast = [np.clip(image * np.float64(gains), 0, 255).astype(np.uint8) for image in colour]
        assert "swapped_colour" not in kinds(lint_tiles(cast, reference_of(colour, "the live frames")))


def test_a_neutral_product_has_no_order_of_channels_to_find() -> None:
    rng = np.random.default_rng(0)
    neutral = [np.clip(surface(s)[..., None] + rng.integers(-3, 4, (48, 40, 3)), 0, 255) for s in range(70)]
    images = [image.astype(np.uint8) for image in neutral]
    assert lint_tiles([image[..., ::-1] for image in images], reference_of(images, "the live frames")) == []


def test_grey_where_colour_is_expected(colour: list[NDArray[np.uint8]]) -> None:
    reference = reference_of(colour, "the live frames")
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in colour]
    assert kinds(lint_tiles(grey, reference))["grey_for_colour"] == "refuse"
    assert kinds(lint_tiles([np.stack([g] * 3, -1) for g in grey], reference))["grey_for_colour"] == "refuse"
    mixed = kinds(lint_tiles([*colour[3:], *(np.stack([g] * 3, -1) for g in grey[:3])], reference))
    assert mixed == {"mixed_colour": "warn"}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda image: np.clip(image.astype(int) + 90, 0, 255).astype(np.uint8), "brightness_far"),
        (lambda image: (120 + (image.astype(float) - 120) / 4).astype(np.uint8), "contrast_far"),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 2), "sharpness_far"),
    ],
)
def test_far_from_the_live_frames(change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], kind: str) -> None:
    found = kinds(lint_tiles([change(image) for image in GREY], reference_of(GREY, "the live frames")))
    assert found[kind] == "warn"
    assert "refuse" not in found.values()


def test_copies_in_the_set() -> None:
    found = lint_tiles([*GREY, GREY[3], GREY[3], GREY[9]])
    assert kinds(found) == {"duplicate": "warn"}
    assert found[0].message.startswith("3 images have the pixels of another, such as tile 3 and tile 70")
    brighter = np.clip(GREY[5].astype(float) * 1.2 + 5, 0, 255).astype(np.uint8)
    assert kinds(lint_tiles([*GREY, brighter])) == {"look_alike": "warn"}


def test_few_parts_and_missing_classes() -> None:
    images = [look_at(image, str(i), part=str(i % 6), label=i % 2) for i, image in enumerate(GREY)]
    found = lint_looks(images, classes=("background", "crack", "dent"))
    assert kinds(found) == {"few_parts": "warn", "missing_class": "warn"}
    assert any(finding.message == "the set has none of: dent" for finding in found)
    defective = [look_at(image, str(i), label=1) for i, image in enumerate(GREY)]
    (missing,) = lint_looks(defective, classes=("background", "crack"))
    assert "images without a defect" in missing.message


def test_leaks_from_the_check_data() -> None:
    ours, others = looks(GREY[:64]), looks([surface(s) for s in range(200, 220)], "check ")
    assert lint_looks(ours, check=others) == []
    assert kinds(lint_looks(ours, check=[*others, look_at(GREY[7], "copy")])) == {"leak_same_pixels": "refuse"}
    part = look_at(surface(300), "another view", part="7")
    assert kinds(lint_looks(ours, check=[*others, part])) == {"leak_same_part": "refuse"}
    assert kinds(lint_looks(ours, check=[*others, part], same_parts=False)) == {"leak_same_part": "warn"}
    again = cv2.imdecode(cv2.imencode(".jpg", cv2.resize(GREY[7], (60, 72)))[1], cv2.IMREAD_GRAYSCALE)
    found = lint_looks(ours, check=[*others, look_at(np.asarray(again, np.uint8), "copy")])
    assert kinds(found) == {"leak_look_alike": "refuse"}
    assert found[0].names == ("7",)


def test_a_product_that_repeats_itself_does_not_leak_by_looks() -> None:
    board = surface(1).astype(int)
    rng = np.random.default_rng(0)
    boards = [np.clip(board + rng.integers(-4, 5, board.shape), 0, 255).astype(np.uint8) for _ in range(90)]
    found = lint_looks(looks(boards[:64]), check=looks(boards[64:], "check "))
    assert kinds(found) == {"leak_look_alike": "warn"}
    assert "it may be the product that repeats" in found[0].message


def test_look_alikes_of_the_check_data_are_left_out(tiles: Path) -> None:
    data = open_dataset(tiles)
    ours, check = without_fold(data, "1"), with_fold(data, "1")
    assert without_look_alikes(ours, check) == (ours, ())
    # The same tile photographed again, under another number and so as another part.
    shown = check.read(0)
    leaking = ours.entries[0].part
    image = tiles / ours.entries[0].name
    before = image.read_bytes()
    try:
        write_image(image, np.clip(shown.image.astype(float) * 1.1, 0, 255).astype(np.uint8))
        kept, parts = without_look_alikes(ours, check)
    finally:
        image.write_bytes(before)
    assert parts == (leaking,)
    assert len(kept.entries) == len(ours.entries) - 3


def test_live_frames_come_first_as_reference(tiles: Path) -> None:
    ours = look_at_dataset(open_dataset(tiles))
    check = Looked(tuple(looks([surface(s) for s in range(300, 320)], "check ")), ())
    assert lint_set(ours).against is None
    assert lint_set(ours, check).against == "the check data"
    assert lint_set(ours, check, ours).against == "the live frames"


def lint(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["calibrate", "lint", *argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_pattern_of_parts_serves_the_check_data_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two COCO files of one line: a part that both show is one part."""
    for seed, name in enumerate(("train", "val")):
        images = [
            {"id": i, "file_name": f"{name}/p{i:02d}_{seed}.png", "width": 40, "height": 48} for i in range(1, 21)
        ]
        for i in range(1, 21):
            write_image(tmp_path / f"{name}/p{i:02d}_{seed}.png", surface(9000 + 100 * seed + i))
        square = {"category_id": 1, "segmentation": [[4, 4, 9, 4, 9, 9, 4, 9]]}
        content = {
            "images": images,
            "annotations": [{"id": i, "image_id": i, **square} for i in range(1, 11)],
            "categories": [{"id": 1, "name": "scratch"}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    argv = [str(tmp_path / "train.json"), "--check-data", str(tmp_path / "val.json")]
    assert "leak_same_part" not in {finding["kind"] for finding in lint(argv, capsys)[1]["findings"]}
    argv += ["--parts", "/(?P<part>p[0-9]+)_"]
    (leak,) = [found for found in lint(argv, capsys)[1]["findings"] if found["kind"] == "leak_same_part"]
    assert len(leak["names"]) == 20
    (tmp_path / "folder").mkdir()
    loose = tmp_path / "folder" / "val.json"  # whose own table says which part each image shows
    (tmp_path / "val.json").rename(loose)
    (tmp_path / "val").rename(tmp_path / "folder" / "val")
    rows = [f"val/p{i:02d}_1.png,own{i}" for i in range(1, 21)]
    (tmp_path / "folder" / "parts.csv").write_text("\n".join(["image,part", *rows]) + "\n")
    argv[2] = str(loose)
    assert "leak_same_part" not in {finding["kind"] for finding in lint(argv, capsys)[1]["findings"]}


def test_the_verb_on_a_dataset(tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = lint([str(tiles), "--fold", "1"], capsys)
    assert (code, said["refused"], said["against"]) == (0, False, "the check data")
    assert (said["images"], said["classes"]["crack"]) == (102, 9)
    # Without a fold kept out the whole of the data is the set, and checking on a part of it leaks.
    code, said = lint([str(tiles), "--check-data", str(tiles)], capsys)
    assert (code, said["refused"]) == (3, True)
    assert "leak_same_pixels" in [finding["kind"] for finding in said["findings"]]
    assert main(["calibrate", "lint", str(tiles)]) == 0
    assert "usable" in capsys.readouterr().out


def test_the_verb_on_a_manifest(tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "set.json"
    recipe.write_text("tiles: 70\nstrata: [class, exposure]\n", encoding="utf-8")
    options = ["--data", str(tiles), "--recipe", str(recipe), "--out", str(out)]
    assert main(["calibrate", "set", *options, "--exclude-fold", "2"]) == 0
    capsys.readouterr()
    code, said = lint([str(out), "--data", str(tiles), "--fold", "2"], capsys)
    assert (code, said["images"], said["findings"]) == (0, 70, [])
    code, said = lint([str(out), "--data", str(tiles), "--fold", "1"], capsys)
    assert (code, {f["kind"] for f in said["findings"]}) == (3, {"leak_same_pixels"})
    assert main(["calibrate", "lint", str(out)]) == 2
    assert "--data" in capsys.readouterr().err
    code, said = lint([str(tiles), "--recipe", str(recipe), "--fold", "3"], capsys)
    assert (code, said["images"]) == (0, 70)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".npy", "float_images"), (".tiff", "float_images"), (".png", "swapped_colour")]
)
def test_the_verb_on_a_folder(
    suffix: str,
    kind: str,
    colour: list[NDArray[np.uint8]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    live = write_frames(tmp_path / "live", frames(fabric(12, seed=9)))
    images: list[NDArray[Any]] = (
        [image[..., ::-1] for image in colour] if suffix == ".png" else [(i / 255).astype(np.float32) for i in colour]
    )
    bad = write_frames(tmp_path / "bad", images, suffix)
    code, said = lint([str(bad), "--live", str(live)], capsys)
    assert (code, [f["kind"] for f in said["findings"]]) == (3, [kind])
    good = write_frames(tmp_path / "good", colour)
    assert lint([str(good), "--live", str(live)], capsys)[0] == 0


@pytest.mark.parametrize("option", [("--parts", "(a)"), ("--images-root", "."), ("--grouping", "index")])
def test_a_folder_of_images_takes_no_option_of_a_dataset(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_frames(tmp_path / "loose", GREY[:20])
    assert main(["calibrate", "lint", str(folder), *option]) == 2
    assert f"{option[0]} is of a dataset" in capsys.readouterr().err


def test_a_dataset_of_float_images_is_refused_with_that_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(GREY[:20]):
        write_image(tmp_path / "images" / f"{index}.tiff", (image / 255).astype(np.float32))
        write_image(tmp_path / "masks" / f"{index}.png", np.full(image.shape, index % 2, np.uint8))
    (tmp_path / "classes.yaml").write_text("names: [background, dent]\n", encoding="utf-8")
    code, said = lint([str(tmp_path)], capsys)
    assert code == 3
    assert said["findings"][0]["kind"] == "float_images"
    assert "20 of 20" in said["findings"][0]["message"]


def test_files_that_are_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_frames(tmp_path / "set", GREY)
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    np.save(folder / "odd.npy", np.zeros((2, 3, 4, 5), np.uint8))
    (folder / "pickle.npy").write_bytes(b"\x80\x04N.")
    with (folder / "several.npy").open("wb") as stream:
        np.savez(stream, one=np.zeros((4, 4), np.uint8))
    (folder / "zip.npy").write_bytes(b"PK\x03\x04no more")
    found = look_at_folder(folder)
    wrong = ["broken.png", "odd.npy", "pickle.npy", "several.npy", "zip.npy"]
    assert [finding.names for finding in found.unreadable] == [(name,) for name in wrong]
    code, said = lint([str(folder)], capsys)
    assert (code, {f["kind"] for f in said["findings"]}) == (3, {"unreadable"})
    good = write_frames(tmp_path / "good", GREY)
    code, said = lint([str(good), "--live", str(folder)], capsys)
    assert (code, {f["severity"] for f in said["findings"]}) == (0, {"warn"})
    assert main(["calibrate", "lint", str(folder), "--live", str(tmp_path / "none")]) == 3
    assert main(["calibrate", "lint", str(folder), "--fold", "1"]) == 2
    assert main(["calibrate", "lint", str(tmp_path / "nothing")]) == 3
