"""Bundles that someone damaged or forged: each is refused for its own reason, before anything in it is used."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from bundle_making import HERE, PLAN_FOLDER, edit_manifest, plant, tiny_files, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lpcnet_edge import errors
from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.bundle.sign import load_private_key, make_keys, sign_bundle
from lpcnet_edge.cli import main
from lpcnet_edge.errors import BadBundle

FILES = sorted(tiny_files())


def refuse(root: Path, kind: type[BadBundle], capsys: pytest.CaptureFixture[str], *key: str) -> str:
    """Check that the bundle is refused as this kind, and by the command with exit code 3; returns the message."""
    with pytest.raises(BadBundle) as caught:
        open_bundle(root, trusted_key=Path(key[0]) if key else None)
    assert type(caught.value) is kind, caught.value
    capsys.readouterr()
    assert main(["verify", str(root), *(["--key", *key] if key else [])]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: .+\nmend: .+\n", printed.err)
    assert printed.err.replace("\n", "").isprintable()
    return caught.value.message


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "ours")


def sign(root: Path, private: Path) -> None:
    sign_bundle(root, open_bundle(root).manifest_sha256, load_private_key(private))


def test_the_pristine_bundle_opens(root: Path) -> None:
    assert open_bundle(root).id.startswith("tiny-")


@pytest.mark.parametrize("name", FILES)
def test_truncated(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[: len(data) // 2])
    message = refuse(root, errors.WrongSize, capsys)
    assert f"'{name}' is truncated: {len(data) // 2} bytes, the manifest says {len(data)}" in message


@pytest.mark.parametrize("name", FILES)
def test_byte_flipped(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((root / name).read_bytes())
    data[len(data) // 2] ^= 1
    (root / name).write_bytes(data)
    assert f"'{name}' was changed" in refuse(root, errors.ChangedFile, capsys)


@pytest.mark.parametrize("name", FILES)
def test_missing(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / name).unlink()
    assert f"'{name}' is not there" in refuse(root, errors.MissingFile, capsys)


@pytest.mark.parametrize("name", FILES)
def test_swapped_with_another(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "confidence.onnx" if name == "localization.onnx" else "localization.onnx"
    held = (root / name).read_bytes()
    (root / name).write_bytes((root / other).read_bytes())
    (root / other).write_bytes(held)
    same_size = (root / name).stat().st_size == (root / other).stat().st_size
    refuse(root, errors.ChangedFile if same_size else errors.WrongSize, capsys)


def test_too_long(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (root / "accuracy.json").open("ab") as stream:
        stream.write(b" ")
    assert "too long" in refuse(root, errors.WrongSize, capsys)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "golden/../../outside", "golden/./x",
     "golden//x", "golden\\x", "x\0y", ".hidden",
     "", "golden/", "x y", "g\N{CYRILLIC SMALL LETTER O}lden", "-rf",
     "a/" * 9 + "b", "n" * 300, "Accuracy.json", "golden", "accuracy.json/x"],
)  # fmt: skip
def test_names_that_lead_out_or_deceive(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"sha256": "0" * 64, "size_bytes": 0}
    edit_manifest(root, lambda mapping: mapping["files"].update({name: record}))
    refuse(root, errors.UnsafeName, capsys)


def test_a_stage_outside_the_bundle(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(root, lambda mapping: mapping["localization"].update(file="../other/localization.onnx"))
    refuse(root, errors.UnsafeName, capsys)


@pytest.mark.parametrize("name", ["bundle.yaml", "signature", "SIGNATURE"])
def test_a_manifest_that_lists_itself(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(root, lambda mapping: mapping["files"].update({name: {"sha256": "0" * 64, "size_bytes": 0}}))
    refuse(root, errors.BadManifest, capsys)


@pytest.mark.parametrize("name", ["accuracy.json", "localization.onnx", "bundle.yaml", "signature", "golden", "plans"])
def test_symbolic_links(name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link is refused though what it leads to is right to the byte."""
    outside = tmp_path / "outside"
    if (root / name).exists():
        shutil.move(root / name, outside)
    else:
        outside.write_bytes(bytes(64))
    (root / name).symlink_to(outside)
    refuse(root, errors.UnsafeEntry, capsys)


def test_a_link_that_was_put_there_after_opening(root: Path, tmp_path: Path) -> None:
    bundle = open_bundle(root)
    shutil.move(root / "golden", tmp_path / "golden")
    (root / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(errors.UnsafeEntry):
        bundle.read("golden/tile-0.bin")


def test_special_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "accuracy.json").unlink()
    os.mkfifo(root / "accuracy.json")
    refuse(root, errors.UnsafeEntry, capsys)
    (root / "accuracy.json").unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(root)  # a socket's path may have 107 bytes only
        try:
            bound.bind("accuracy.json")
        finally:
            os.chdir(here)
        refuse(root, errors.UnsafeEntry, capsys)
    (root / "accuracy.json").unlink()
    (root / "accuracy.json").mkdir()
    refuse(root, errors.UnlistedFile, capsys)


@pytest.mark.parametrize("name", ["notes.txt", "golden/more.bin", ".hidden", "a\x1b[31mb", "plans/x/localization.plan"])
def test_extra_files(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"")
    refuse(root, errors.UnlistedFile, capsys)


def test_an_extra_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "empty").mkdir()
    refuse(root, errors.UnlistedFile, capsys)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [bomb(), "[" * 50_000, "a: " + "[" * 40 + "]" * 40, "x: 1\nx: 2\n", "x: !!python/object/apply:os.system [id]",
     "", "just text",
     "schema_version: 1", "schema_version: one", "schema_version: 0", "x" * 300_000, "\0", "a: '\udcff'",
     "a" * 1000 + ": 1\nschema_version: 1"],
)  # fmt: skip
def test_yaml_that_is_no_manifest(text: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "bundle.yaml").write_bytes(text.encode(errors="surrogateescape"))
    refuse(root, errors.BadManifest, capsys)


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "../x"), ("name", ""), ("classes", ["only"]), ("classes", ["b", "c", "c"]), ("classes", ["b", "\x1b[2J"]),
     ("channels", 2), ("tile_px", 33), ("tile_px", 0), ("precision", "int4"), ("precision", "fp16"),
     ("gate", {"mode": "threshold"}), ("gate", {"mode": "off", "threshold": 0.5}),
     ("gate", {"mode": "threshold", "threshold": 1.5, "alpha": 0.1, "parts": 20}),
     ("gate", {"mode": "threshold", "threshold": 0.5, "alpha": 0.01, "parts": 20}),
     ("gate", {"mode": "threshold", "threshold": 0.5, "alpha": 0.1, "parts": 20, "confidence": 0.95}),
     ("gate", {"mode": "threshold", "threshold": 0.5, "alpha": 0.1, "parts": 40, "confidence": 1.0}),
     ("gate", {"mode": "threshold", "threshold": 0.5, "alpha": 0.1, "parts": 40, "confidence": float("nan")}),
     ("gate", {"mode": "off", "confidence": 0.95}),
     ("gate", {"mode": "threshold", "threshold": float("nan"), "alpha": 0.1, "parts": 20}),
     ("rules", {"per_class": {"craack": {}}}), ("accuracy", {"mean_iou": float("inf")}),
     ("provenance", {"note": "\x1b]0;owned\x07"}), ("unknown\x1b[31m", 1),
     ("files", {"localization.onnx": {"sha256": "0" * 63, "size_bytes": 1}}),
     ("files", {"localization.onnx": {"sha256": "0" * 64, "size_bytes": -1}}),
     ("files", {"localization.onnx": {"sha256": "0" * 64, "size_bytes": 1 << 60}}), ("files", {})],
)  # fmt: skip
def test_manifest_values(key: str, value: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(root, lambda mapping: mapping.update({key: value}))
    refuse(root, errors.BadManifest, capsys)


def test_a_newer_schema(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(root, lambda mapping: mapping.update(schema_version=2, novelty=True))
    assert "schema_version 2 is newer than 1" in refuse(root, errors.NewerSchema, capsys)


def external() -> onnx.ModelProto:
    model = tiny_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return model


def external_in_a_branch() -> onnx.ModelProto:
    """The external tensor is a constant inside a branch inside a node."""
    model = tiny_model()
    constant = external().graph.initializer[0]
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=constant)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    return model


def sparse_external() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.sparse_initializer.add().values.CopyFrom(external().graph.initializer[0])
    return model


def location_without_the_flag() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    return model


def custom_operator() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.node[1].domain = "com.evil"
    return model


def custom_opset() -> onnx.ModelProto:
    model = tiny_model()
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    return model


def function() -> onnx.ModelProto:
    model = tiny_model()
    model.functions.add(name="Mul", domain="")
    return model


MODELS = [external, external_in_a_branch, sparse_external, location_without_the_flag, custom_operator, custom_opset,
          function]  # fmt: skip


@pytest.mark.parametrize("name", ["localization.onnx", "reference/localization.onnx", "golden/extra.onnx"])
@pytest.mark.parametrize("make", MODELS)
def test_models_that_reach_outside(
    make: Callable[[], onnx.ModelProto], name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(root, name, make().SerializeToString())
    refuse(root, errors.UnsafeModel, capsys)


@pytest.mark.parametrize("data", [b"", b"no model", bytes(1000), b"\x08\x0a", tiny_model().SerializeToString()[:-9]])
def test_models_that_are_none(data: bytes, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(root, "localization.onnx", data)
    refuse(root, errors.BadModel, capsys)


def test_a_model_with_other_inputs_than_stated(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    plant(root, "confidence.onnx", model.SerializeToString())
    message = refuse(root, errors.BadModel, capsys)
    assert "pixels float32 (N, 32, 32); the manifest says pixels uint8 (N, 32, 32)" in message


def rename_plans(root: Path, folder: str) -> None:
    """Give the folder of plans another name, on disk and in the manifest."""
    (root / PLAN_FOLDER).rename(root / folder)

    def change(mapping: dict[str, Any]) -> None:
        mapping["files"] = {name.replace(PLAN_FOLDER, folder): record for name, record in mapping["files"].items()}

    edit_manifest(root, change)


@pytest.mark.parametrize("folder", ["plans/tensorrt-rtx-1.7.2.0-sm89", "plans/tensorrt-rtx-1.7.1.116-sm120", "plans/x"])
def test_plans_in_the_folder_of_another_version_or_device(
    folder: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename_plans(root, folder)
    assert f"is for tensorrt-rtx 1.7.1.116 on sm89, which belongs in {PLAN_FOLDER}" in refuse(
        root, errors.BadPlan, capsys
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [("device: sm89", "device: sm120"), ("localization.plan", "../x.plan"), ("localization.plan", "absent.plan"),
     ("  localization:", "  third:"), ("runtime:", "&a runtime:"), ("sm89", "'\\e[31m'"), ("settings: {}", "set: {}"),
     ("settings: {}", "settings: {x: .nan}")],
)  # fmt: skip
def test_a_forged_plan_yaml(old: str, new: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / PLAN_FOLDER / "plan.yaml").read_text()
    assert old in text
    plant(root, f"{PLAN_FOLDER}/plan.yaml", text.replace(old, new, 1).encode())
    refuse(root, errors.BadPlan, capsys)


def test_plans_of_other_onnx_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(root, "localization.onnx", tiny_model(7).SerializeToString())
    assert "the localization plan was made from the ONNX file" in refuse(root, errors.BadPlan, capsys)


@pytest.mark.parametrize("name", ["extra.plan", "plans/extra.plan", f"{PLAN_FOLDER}/extra.plan", "plans/none/x.plan"])
def test_plans_that_no_plan_yaml_names(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(root, name, b"native code")
    refuse(root, errors.BadPlan, capsys)


@pytest.mark.parametrize(
    "here", [("tensorrt-rtx", "1.7.2.0", "sm89"), ("tensorrt-rtx", "1.7.1.116", "sm86"), ("tensorrt", *HERE[1:])]
)
def test_a_plan_for_another_machine_is_not_given_out(here: tuple[str, str, str], root: Path) -> None:
    bundle = open_bundle(root)
    assert bundle.plan("confidence", *HERE) == b"plan two"
    with pytest.raises(errors.PlanMismatch) as caught:
        bundle.plan("confidence", *here)
    assert "tensorrt-rtx 1.7.1.116 on sm89" in caught.value.message
    assert "{} {} on {}".format(*here) in caught.value.message
    assert caught.value.mend == f"lpcnet-edge build --from {root}"
    assert caught.value.exit_code == 3


def test_an_unsigned_bundle_where_a_key_is_demanded(
    root: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not signed" in refuse(root, errors.SignatureError, capsys, str(keys[1]))


def test_a_signature_by_another_key(
    root: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, _ = make_keys(tmp_path / "theirs")
    sign(root, theirs)
    open_bundle(root)
    assert "not by the trusted key" in refuse(root, errors.SignatureError, capsys, str(keys[1]))


def test_a_signature_of_another_bundle(root: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    sign(root, keys[0])
    open_bundle(root, trusted_key=keys[1])
    plant(root, "accuracy.json", b"{}")
    refuse(root, errors.SignatureError, capsys, str(keys[1]))


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65)])
def test_a_malformed_signature(data: bytes, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "signature").write_bytes(data)
    refuse(root, errors.SignatureError, capsys)


def test_the_signature_is_checked_before_the_yaml_is_parsed(
    root: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sign(root, keys[0])
    (root / "bundle.yaml").write_text(bomb())
    refuse(root, errors.SignatureError, capsys, str(keys[1]))


@pytest.fixture(scope="module")
def signed(pristine: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed bundle for all examples, each of which puts it right again; and the public key."""
    root = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("signed") / "tiny"))
    sign(root, keys[0])
    assert open_bundle(root, trusted_key=keys[1]).signed
    return root, keys[1]


@settings(max_examples=40)
@given(data=st.data())
def test_any_flipped_bit_of_a_signed_bundle_is_refused(data: st.DataObject, signed: tuple[Path, Path]) -> None:
    root, key = signed
    path = data.draw(st.sampled_from(sorted(p for p in root.rglob("*") if p.is_file())))
    held = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(held) - 1))
    forged = bytearray(held)
    forged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(forged)
    try:
        with pytest.raises((errors.ChangedFile, errors.SignatureError)):
            open_bundle(root, trusted_key=key)
    finally:
        path.write_bytes(held)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("x"), lambda p: p.mkdir()])
def test_no_bundle_at_all(make: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "x")
    refuse(tmp_path / "x", errors.NotABundle, capsys)


@pytest.mark.parametrize("kept", [0, 60, 0.5])
def test_a_truncated_manifest_is_to_be_copied_again(root: Path, kept: float) -> None:
    """And not to be corrected by hand, as settings are."""
    manifest = root / "bundle.yaml"
    raw = manifest.read_bytes()
    manifest.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept] + b'"')
    with pytest.raises(errors.BadManifest) as caught:
        open_bundle(root)
    assert caught.value.mend == "copy the bundle again, or build it again"


@pytest.mark.parametrize("verb", [["show"], ["show", "--json"], ["sign", "--key"]])
def test_every_verb_refuses(
    verb: list[str], root: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "localization.onnx").write_bytes(b"")
    argv = [*verb, str(keys[0])] if verb[-1] == "--key" else verb
    assert main([argv[0], str(root), *argv[1:]]) == 3
    assert "truncated" in capsys.readouterr().err
    assert not (root / "signature").exists()
