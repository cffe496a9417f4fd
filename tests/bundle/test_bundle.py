"""Writing and reading bundles, the manifest's values, and what the command prints."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundle_making import HERE, edit_manifest, stage, tiny_files, tiny_manifest, tiny_model, write_tiny

from lpcnet_edge.bundle import write
from lpcnet_edge.bundle.manifest import GateSpec, Manifest, TensorSpec
from lpcnet_edge.bundle.names import check_name, slug
from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.bundle.write import write_bundle
from lpcnet_edge.cli import main
from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.decision import ClassRule, Rules
from lpcnet_edge.errors import (
    BadBundle,
    BadConfig,
    BadManifest,
    BadModel,
    ChangedFile,
    MissingFile,
    NotABundle,
    UsageError,
)


def digest_of(root: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rules = Rules(per_class={"crack": ClassRule(min_area_px=4)}, mm_per_px=0.1)
    manifest = tiny_manifest(gate=GateSpec("threshold", 0.25, 0.1, 9), rules=rules)
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(3 << 20))
    bundle = write_bundle(tmp_path / "a" / "tiny", manifest, {**tiny_files(), "golden/big.bin": source})
    found = open_bundle(tmp_path / "a" / "tiny")
    assert found == bundle
    assert replace(found.manifest, files={}) == manifest
    assert set(found.manifest.files) == {*tiny_files(), "golden/big.bin"}
    assert found.id == f"tiny-{found.manifest_sha256[:12]}"
    assert found.read("golden/big.bin") == source.read_bytes()
    assert found.file("golden/big.bin").read_bytes() == source.read_bytes()
    assert found.json("calibration.json") == {"ranges": {"x": 1.5}}
    assert found.plan("localization", *HERE) == b"plan one"
    assert not found.signed
    modes = {path.stat().st_mode & 0o777 for path in found.path.rglob("*")} | {found.path.stat().st_mode & 0o777}
    assert modes == {0o644, 0o755}


def test_the_same_content_has_the_same_id(tmp_path: Path) -> None:
    files = tiny_files()
    first = write_bundle(tmp_path / "one", tiny_manifest(), files)
    second = write_bundle(tmp_path / "two", tiny_manifest(), dict(reversed(files.items())))
    third = write_bundle(tmp_path / "three", tiny_manifest(), {**files, "accuracy.json": b"{}"})
    assert first.id == second.id != third.id


def test_a_file_that_changes_after_opening_is_not_returned(root: Path) -> None:
    bundle = open_bundle(root)
    (root / "golden/tile-0.bin").write_bytes(bytes(256))
    with pytest.raises(ChangedFile):
        bundle.read("golden/tile-0.bin")


def test_a_file_that_is_not_listed_is_named_with_the_nearest(root: Path) -> None:
    bundle = open_bundle(root)
    for ask in (bundle.read, bundle.file, bundle.json):
        with pytest.raises(MissingFile, match=r"'acuracy.json'.*did you mean 'accuracy.json'"):
            ask("acuracy.json")
    with pytest.raises(BadBundle, match="is no JSON"):
        bundle.json("golden/tile-0.bin")


def test_a_bundle_may_be_reached_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(root)
    assert open_bundle(tmp_path / "current").read("accuracy.json")


def test_replacing_a_bundle_leaves_nothing_of_the_old_one(root: Path) -> None:
    files = {name: content for name, content in tiny_files().items() if not name.startswith("plans/")}
    bundle = write_bundle(root, tiny_manifest(), files)
    assert set(digest_of(root)) == {*files, "bundle.yaml"}
    assert bundle.plan_sets == ()
    assert [path.name for path in root.parent.iterdir()] == ["tiny"]


def test_a_damaged_bundle_or_one_of_another_schema_can_be_replaced(root: Path) -> None:
    (root / "localization.onnx").write_bytes(b"")
    (root / "signature").write_bytes(b"x")
    edit_manifest(root, lambda mapping: mapping.update(schema_version=9))
    assert write_tiny(root) == open_bundle(root)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert write_tiny(tmp_path / "x").path == tmp_path / "x"


@pytest.mark.parametrize("extra", ["notes.txt", "golden/notes.txt", "mine/x"])
def test_a_bundle_with_files_of_others_is_not_replaced(extra: str, root: Path) -> None:
    (root / extra).parent.mkdir(exist_ok=True)
    (root / extra).write_text("mine")
    before = digest_of(root)
    with pytest.raises(NotABundle, match="nothing was replaced"):
        write_tiny(root)
    assert digest_of(root) == before


def test_what_is_no_bundle_is_not_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(root)
    before = digest_of(tmp_path)
    for name in ("folder", "file", "link"):
        with pytest.raises(NotABundle):
            write_tiny(tmp_path / name)
    with pytest.raises(UsageError):
        write_tiny(tmp_path / "..")
    for place in (root / "gated", root / "a" / "b"):
        with pytest.raises(NotABundle, match="lies inside the bundle"):
            write_tiny(place)
    with pytest.raises(NotABundle, match="file is no folder"):
        write_tiny(tmp_path / "file" / "below")
    assert digest_of(tmp_path) == before
    open_bundle(root)


def test_a_mounted_volume_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
    with pytest.raises(NotABundle, match="is a mounted volume"):
        write.check_out(tmp_path / "volume")
    write_tiny(tmp_path / "volume" / "tiny")


def test_what_lies_inside_a_bundle_is_told_by_where_it_leads(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    write_tiny(Path("../beside"))
    assert open_bundle(tmp_path / "beside").id
    (tmp_path / "link").symlink_to(root / "golden")
    with pytest.raises(NotABundle, match="lies inside the bundle"):
        write_tiny(tmp_path / "link" / "new")
    open_bundle(root)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_failing_swap_leaves_the_old_bundle(exchange: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = digest_of(root), os.rename

    def fail(source: Any, target: Any) -> None:
        if str(source).endswith(".writing"):
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr(write, "_exchange", fail if exchange else lambda *_: False)
    monkeypatch.setattr(write, "_settle", lambda _: None)
    with pytest.raises(OSError, match="no space"):
        write_tiny(root)
    assert digest_of(root) == before
    assert [path.name for path in root.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("manifest", "files", "kind"),
    [
        ({}, {"../x": b""}, BadManifest),
        ({}, {"localization.onnx": None}, BadManifest),
        ({}, {"signature": b""}, BadManifest),
        ({}, {"localization.onnx": b"no model"}, BadModel),
        ({"provenance": {"list": "x" * 300_000}}, {}, BadManifest),
        (
            {"confidence": stage("confidence.onnx", tiny_model(), "fp32"), "tile_px": 64},
            {"absent": Path("no")},
            OSError,
        ),
    ],
)
def test_what_cannot_be_opened_is_not_written(
    manifest: dict[str, Any], files: dict[str, Any], kind: type[Exception], root: Path
) -> None:
    before = digest_of(root)
    wanted = {name: content for name, content in {**tiny_files(), **files}.items() if content is not None}
    with pytest.raises(kind) as caught:
        write_bundle(root, tiny_manifest(**manifest), wanted)
    assert ".writing" not in str(caught.value)
    assert digest_of(root) == before
    assert [path.name for path in root.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "-x"},
        {"name": "a b"},
        {"classes": ("background", "\x1b[31mcrack")},
        {"classes": ("background", "cr\u200back")},
        {"provenance": {"when": object()}},
        {"provenance": {1: "x"}},
        {"accuracy": {"mean_iou": float("nan")}},
        {"localization": stage("confidence.onnx", tiny_model())},
        {"rules": Rules(per_class={"scratch": ClassRule()})},
        {"schema_version": 2},
    ],
)
def test_manifests_that_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, BadConfig)):
        tiny_manifest(**changes)


@pytest.mark.parametrize("shape", [("N", 0), ("N", -1), ("a b",), ("",)])
def test_shapes_that_cannot_be(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        TensorSpec("x", "uint8", shape)


def test_an_unknown_dtype_is_named_with_the_nearest() -> None:
    with pytest.raises(BadConfig, match=r"'float23'.*did you mean 'float32'"):
        TensorSpec("x", "float23", (1,))


@pytest.mark.parametrize("parts", [1, 9, 99, 48])
def test_the_gate_can_promise_exactly_its_least_alpha(parts: int) -> None:
    least = 1 / (parts + 1)
    assert GateSpec("threshold", 0.5, least, parts).alpha == least
    with pytest.raises(ValueError, match="alpha"):
        GateSpec("threshold", 0.5, least * 0.99, parts)


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("parts", [1, 59, 299])
def test_the_gate_can_promise_exactly_its_least_alpha_with_a_confidence(parts: int, confidence: float) -> None:
    least = 1 - (1 - confidence) ** (1 / parts)
    assert GateSpec("threshold", 0.5, least, parts, confidence).confidence == confidence
    with pytest.raises(ValueError, match="alpha"):
        GateSpec("threshold", 0.5, least * 0.99, parts, confidence)


def test_a_gate_from_before_there_was_a_confidence_opens() -> None:
    mapping = {"mode": "threshold", "threshold": 0.25, "alpha": 0.1, "parts": 9}
    assert from_mapping(GateSpec, mapping, "there") == GateSpec("threshold", 0.25, 0.1, 9)
    assert GateSpec("threshold", 0.25, 0.1, 10**400, 0.95).parts == 10**400  # too large for a float


def test_the_manifest_survives_plain_data() -> None:
    manifest = tiny_manifest()
    mapping = json.loads(json.dumps(to_mapping(manifest)))
    assert from_mapping(Manifest, mapping, "there") == manifest
    assert next(iter(mapping)) == "schema_version"


def test_names_may_have_the_spaces_of_their_script(tmp_path: Path) -> None:
    manifest = tiny_manifest(classes=("background", "\u5927\u304d\u3044\u3000\u50b7"), provenance={"data": "a\u00a0b"})
    write_bundle(tmp_path / "tiny", manifest, tiny_files())
    found = open_bundle(tmp_path / "tiny").manifest
    assert (found.classes, found.provenance) == (manifest.classes, manifest.provenance)


def test_slugs_are_names() -> None:
    assert (
        slug("tensorrt-rtx", "1.7.1", "NVIDIA GeForce RTX 4070 Ti") == "tensorrt-rtx-1.7.1-NVIDIA_GeForce_RTX_4070_Ti"
    )
    for text in ("../..", "/", "", "é", ".", "-x"):
        check_name(slug(text, "1", "sm89"))


def test_show_for_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = GateSpec("threshold", 0.25, 0.1, 9)
    manifest = tiny_manifest(classes=("background", "[red]crack[/red]"), gate=gate)
    bundle = write_bundle(tmp_path / "tiny", manifest, tiny_files())
    assert main(["show", str(tmp_path / "tiny")]) == 0
    printed = capsys.readouterr().out
    for text in (bundle.id, "[red]crack[/red]", "alpha 0.1 on 9 parts", "tensorrt-rtx 1.7.1.116 on sm89",
                 "mean_iou: 81.25", "pixels uint8 (N, 32, 32)", "golden/tile-0.bin", "versions.onnx"):  # fmt: skip
        assert text in printed


def test_show_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(root), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    bundle = open_bundle(root)
    assert shown["id"] == bundle.id
    assert shown["gate"]["mode"] == "off"
    assert shown["files"]["accuracy.json"]["size_bytes"] == (root / "accuracy.json").stat().st_size
    assert shown["plans"][0]["device"] == "sm89"
    assert shown["plans"][0]["plans"]["localization"]["file"] == "localization.plan"
    assert shown["signed"] is False


def test_show_takes_a_bundle_or_a_network(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(root), "--preset", "edge"]) == 2
    assert "mend: " in capsys.readouterr().err


def test_verify_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(root), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"] == len(tiny_files())
    assert printed["models"] == ["confidence.onnx", "localization.onnx", "reference/localization.onnx"]
    assert printed["signed"] is False
    assert printed["key"] is None


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bundle(tmp_path / "tiny", tiny_manifest(), tiny_files())
    assert str(caught.value.filename).startswith(str(tmp_path))
