"""The whole way through the command line: weights and data to a bundle, and what it says and keeps."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from built import DATA, Built, Workshop, files_of, options

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.build.build import _linted
from lpcnet_edge.build.calibration_set import CalibrationRecipe, open_calibration_set, pick_calibration_set
from lpcnet_edge.build.golden import GOLDEN_FILE, GOLDEN_TILES
from lpcnet_edge.build.quantise import LEVELS, place
from lpcnet_edge.build.ranges import METHODS
from lpcnet_edge.build.report import as_json, lasting
from lpcnet_edge.build.settings import BuildResult, BuildSettings
from lpcnet_edge.build.splits import split
from lpcnet_edge.bundle.manifest import Precision, check_plain
from lpcnet_edge.bundle.names import printable
from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.cli import main
from lpcnet_edge.cli.build import _METHODS, _print
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import BadData
from lpcnet_edge.network.weights import load_network, save_weights

STAGES = ("localization", "confidence")


@pytest.fixture(scope="session")
def int8(workshop: Workshop) -> Built:
    """The first INT8 build of the run; ``--max-drop`` is wide, since few images check it."""
    return workshop.once("int8", "--int8", "--max-drop", "5")


def test_it_says_what_others_script_against(int8: Built) -> None:
    names = ("seconds", "peak_rss_mb", "reference.mean_iou", "candidate.mean_iou", "restored_layers")
    seconds, rss, reference, candidate, restored = options(int8.said, *names)
    assert seconds > 0
    assert rss > 100
    assert 50 < reference <= 100
    assert reference - candidate <= 5
    assert isinstance(restored, list)
    assert int8.said["precision"] == "int8"
    assert int8.said["id"] == int8.bundle.id
    assert int8.said["agreement"]["mask_iou"] > 85
    assert int8.said["seconds"] >= sum(int8.said["phases"].values()) - 0.1
    assert any("calibrated" in note for note in int8.said["notes"])


def test_the_bundle_has_what_a_station_needs(int8: Built, workshop: Workshop) -> None:
    bundle = int8.bundle
    manifest = bundle.manifest
    assert set(manifest.files) == {
        *(f"{stage}.onnx" for stage in STAGES),
        *(f"reference/{stage}.onnx" for stage in STAGES),
        "calibration.json",
        "calibration-set.json",
        "accuracy.json",
        "restore.png",
        GOLDEN_FILE,
    }
    assert (manifest.precision, manifest.channels, manifest.tile_px) == ("int8", 3, 128)
    assert manifest.gate.mode == "off"
    assert [s.name for s in manifest.confidence.inputs] == ["pixels", "embedding", "picked"]
    provenance: Any = manifest.provenance
    assert provenance["weights"]["sha256"] == hashlib.sha256(workshop.weights.read_bytes()).hexdigest()
    assert provenance["calibration"]["digest"] == bundle.json("calibration-set.json")["digest"]
    assert manifest.accuracy["mean_iou"] == int8.said["candidate"]["mean_iou"]
    restored = set(int8.said["restored_layers"])
    assert {*manifest.localization.float_layers, *manifest.confidence.float_layers} == restored
    assert bundle.read("restore.png").startswith(b"\x89PNG")


def test_its_accuracy_says_how_it_was_measured(int8: Built) -> None:
    accuracy = int8.bundle.json("accuracy.json")
    assert accuracy["parity"]["class_agreement"] >= 0.9999
    assert accuracy["parity"]["heatmap_error"] <= 1e-4
    assert set(accuracy["methods"]) == set(METHODS)
    scores = {name: (row["mask_iou"], row["pixels"]) for name, row in accuracy["methods"].items()}
    assert scores[accuracy["method"]] == max(scores.values())
    assert accuracy["check"]["candidate"]["mean_iou"] == int8.said["candidate"]["mean_iou"]
    assert accuracy["restore"][-1]["restored"] == int8.said["restored_layers"]
    assert accuracy["restore"][-1]["broken"] == []


def test_the_scales_in_the_files_are_those_of_calibration_json(int8: Built) -> None:
    ranges = int8.bundle.json("calibration.json")["tensors"]
    used = 0
    for stage in STAGES:
        graph = from_model(onnx.load_model_from_string(int8.bundle.read(f"{stage}.onnx")))
        for node in graph.nodes:
            name = node.inputs[0].name if node.op == "QuantizeLinear" else ""
            if node.op == "QuantizeLinear" and name != "preprocess/normalise":
                tensor = ranges[name]
                assert node.inputs[1].values == np.float32(tensor["ranges"][tensor["method"]] / LEVELS)
                used += 1
    assert used > 30


def test_the_reference_is_the_float_pair(int8: Built) -> None:
    for stage in STAGES:
        model = onnx.load_model_from_string(int8.bundle.read(f"reference/{stage}.onnx"))
        assert not [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        quantised = {n.name for n in onnx.load_model_from_string(int8.bundle.read(f"{stage}.onnx")).graph.node}
        assert set(place(from_model(model)).convs) <= quantised


def test_golden_is_what_the_canonical_files_give(int8: Built) -> None:
    golden = np.load(io.BytesIO(int8.bundle.read(GOLDEN_FILE)))
    assert len(golden["tiles"]) == GOLDEN_TILES
    first, second = (
        OnnxRuntimeEngine(int8.bundle.read(f"{stage}.onnx"), threads=1, optimise=False) for stage in STAGES
    )
    found = first.run({"pixels": golden["tiles"]})
    picked = np.arange(GOLDEN_TILES, dtype=np.int32)
    found |= second.run({"pixels": golden["tiles"], "embedding": found["embedding"], "picked": picked})
    for name in ("heatmap", "score", "classes", "confidence"):
        np.testing.assert_array_equal(golden[name], found[name], err_msg=name)
    assert golden["classes"].any(), "no golden tile shows a defect"


def test_calibration_and_check_share_no_part(int8: Built, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(int8.bundle.read("calibration-set.json"))
    calibrated = {part for _, part, *_ in json.loads(path.read_text())["images"]}
    checked = int8.bundle.json("accuracy.json")["check"]["dataset"]
    assert len(calibrated) == 16
    assert checked["images"] + len(calibrated) <= 96
    kept = open_calibration_set(path, open_dataset(DATA))
    assert kept.digest == int8.bundle.json("calibration.json")["key"]["calibration_set"]
    shown = {e.part for e in split(open_dataset(DATA), "carbon-fabric", None, lambda *_: None).check.entries}
    assert len(shown) == checked["images"]
    assert not shown & calibrated


def test_the_second_build_reuses_what_the_first_measured(int8: Built, workshop: Workshop, tmp_path: Path) -> None:
    again = workshop.build(tmp_path / int8.out.name, "--int8", "--max-drop", "5")
    assert {"export reused", "calibration reused"} <= set(again.said["notes"])
    assert not {"observing activations", "comparing methods"} & set(again.said["phases"])
    assert files_of(again.out) == files_of(int8.out), "the same build makes the same bytes"
    assert again.said["id"] == int8.said["id"]


def test_what_would_fail_at_the_end_fails_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A place, a key, rules or channels that cannot be, before anything is exported."""
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "rules.yaml").write_text("per_class: {wrinkel: {count: 2}}")
    frames = tmp_path / "frames"
    assert main(["generate", "carbon-fabric", "--out", str(frames), "--count", "8", "--size", "128"]) == 0
    data = ["--data", str(frames)]
    others = tmp_path / "others"
    shutil.copytree(frames, others)
    classes = others / "classes.yaml"
    classes.write_text(classes.read_text().replace("wrinkle", "scratch"))
    for more, said in (
        (["--data", str(others), "--qat"], "to fine-tune on has the classes"),
        ([*data, "--out", str(tmp_path / "file")], "exists and is no folder"),
        ([*data, "--key", str(tmp_path / "file")], "is no key in PEM form"),
        ([*data, "--rules", str(tmp_path / "rules.yaml")], "did you mean 'wrinkle'?"),
        ([*data, "--channels", "1"], "has 1 channel(s), the network carbon-fabric takes 3"),
    ):
        assert main(["build", "--weights", "carbon-fabric", "--out", str(tmp_path / "out"), *more]) == 3
        assert said in capsys.readouterr().err
    network = load_network("carbon-fabric").network
    odd = replace(network.config, classes=("background", "zero\u200bwidth", *network.config.classes[2:]))
    save_weights(tmp_path / "odd.safetensors", odd, network.state_dict(), 128)
    assert main(["build", "--weights", str(tmp_path / "odd.safetensors"), *data, "--out", str(tmp_path / "out")]) == 3
    assert r"the class name 'zero\u200bwidth' is empty" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "exports").exists()


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_float_build_asks_for_no_more_images_than_there_are(precision: Precision) -> None:
    """Nothing is calibrated: neither counts nor the least number of images that ranges need."""
    recipe = CalibrationRecipe(tiles=64, counts={"class": {"wrinkle": 20}})
    settings = BuildSettings(precision=precision, recipe=recipe)
    data = open_dataset("carbon-fabric:count=10,seed=3,size=128")
    chosen = pick_calibration_set(data, settings.recipe_for(len(data.entries)), 128)
    assert len(_linted(chosen, calibrating=False)) == 10
    with pytest.raises(BadData, match="10 images: under 16 the ranges are left to chance"):
        _linted(chosen, calibrating=True)
    assert settings.recipe_for(64) == recipe


def test_how_long_a_fine_tune_took_is_not_kept() -> None:
    """It differs from one build to the next, and the same build is to make the same bytes."""
    report = {"qat": {"used": True, "steps": 3, "seconds": 1.5}, "method": "mse"}
    assert lasting(report) == {"qat": {"used": True, "steps": 3}, "method": "mse"}
    assert lasting({"method": "mse"}) == {"method": "mse"}
    assert report["qat"] == {"used": True, "steps": 3, "seconds": 1.5}


def test_names_of_folders_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are markup to the library that prints the tables."""
    place = Path("/data/[red]/[/old]/mt")
    side = {"mean_iou": 1.0, "mean_pixel_accuracy": 1.0, "defect_iou": 1.0}
    agreement = {"mask_iou": 1.0, "pixels": 1.0, "defects_lost": 0, "defects_caught_by_reference": 1}
    check = {"reference": side, "candidate": side, "agreement": agreement, "escapes": {"new": []}}
    bundle = SimpleNamespace(manifest=SimpleNamespace(precision="fp32"), path=place, id="mt-0")
    notes = (f"calibrated, since nothing is kept in {place}/x yet",)
    result: Any = BuildResult(cast(Any, bundle), {"check": check}, 1.0, 1.0, {}, (), notes)
    _print(result, cast(Any, SimpleNamespace(note=f"check on {place}")))
    assert capsys.readouterr().out.count(str(place)) == 3


def test_names_of_folders_stand_in_a_manifest_as_they_can_be_printed() -> None:
    about = {"data": "\u691c\u67fb\u3000A", "trained_on": {"folds": ["1", "\udce9\x1b"]}, "tiles": 3, "weights": None}
    expected = {**about, "trained_on": {"folds": ["1", r"\udce9\x1b"]}}
    assert printable(about) == expected
    check_plain(expected, "provenance")
    assert json.loads(as_json({"parts": ["\udce9"]})) == {"parts": [r"\xe9"]}


@pytest.mark.parametrize("name", ["my bundle", "Prüfung", "-x", "x" * 65])
def test_a_folder_that_no_bundle_may_be_called_as_is_refused_at_the_beginning(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    assert main(["build", "--weights", "carbon-fabric", "--out", str(tmp_path / name)]) == 2
    assert "is no name of a bundle" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "exports").exists()


def test_float_builds_have_no_int8_in_them(workshop: Workshop, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"  # than there are: nothing is calibrated with them
    more.write_text("tiles: 500\ncandidates: 500\n")
    fp32 = workshop.build(tmp_path / "fp32", "--fp32", "--backend", "onnxruntime", "--recipe", more)
    fp16 = workshop.build(tmp_path / "fp16", "--fp16", "--max-drop", "5")
    for found, precision in ((fp32, "fp32"), (fp16, "fp16")):
        bundle = found.bundle
        assert bundle.manifest.precision == found.said["precision"] == precision
        assert "calibration.json" not in bundle.manifest.files
        for stage in STAGES:
            assert b"QuantizeLinear" not in bundle.read(f"{stage}.onnx")
            assert bundle.read(f"{stage}.onnx") == bundle.read(f"reference/{stage}.onnx")
        assert found.said["restored_layers"] == []
        assert found.said["method"] is None
    assert fp32.said["agreement"]["mask_iou"] == 100
    assert fp16.said["agreement"]["mask_iou"] > 99
    assert any("rounded to float16" in note for note in fp16.said["notes"])


def spoil(path: Path, weights: Path, *, everywhere: bool) -> Path:
    """The same function with a channel made 3000 times larger, and its readers' weights that much smaller.

    Float computes what it did; INT8 has no levels left for the tensor's other channels, at stage 2's stem, or nearly
    everywhere.
    """
    network = load_network(weights).network
    state = {name: value.clone() for name, value in network.state_dict().items()}
    encoder, decoder = "confidence.encoder", "confidence.decoder"
    tensors = [([f"{encoder}.stem.norm"], [f"{encoder}.level4.down.conv", f"{decoder}.up2.lateral.conv"])]
    if everywhere:
        for stride, blocks in ((4, 2), (8, 2)):
            level = f"{encoder}.level{stride}"
            each = [f"{level}.block{number + 1}" for number in range(blocks)]
            tensors += [([f"{block}.conv1.norm"], [f"{block}.conv2.conv"]) for block in each]
            makers = [f"{level}.down.norm", *(f"{block}.conv2.norm" for block in each)]
            beyond = [f"{encoder}.level{2 * stride}.down.conv", f"{decoder}.up{stride}.lateral.conv"]
            tensors.append((makers, [*(f"{block}.conv1.conv" for block in each), *beyond]))
        coarser = {2: "up4.conv", 4: "up8.conv", 8: "up16.conv", 16: "entry"}
        for stride, coarse in coarser.items():
            up = f"{decoder}.up{stride}"
            tensors.append(([f"{up}.lateral.norm", f"{decoder}.{coarse}.norm"], [f"{up}.conv.conv"]))
    for makers, readers in tensors:
        for maker in makers:
            state[f"{maker}.weight"][0] *= 3000
            state[f"{maker}.bias"][0] *= 3000
        for reader in readers:
            state[f"{reader}.weight"][:, 0] /= 3000
    save_weights(path, network.config, state, 128)
    return path


@pytest.mark.slow
def test_a_layer_whose_range_is_spoiled_returns_to_float(workshop: Workshop, tmp_path: Path) -> None:
    """The two readers of the spoiled tensor are what must return, and the first to."""
    weights, out = spoil(tmp_path / "spoiled.safetensors", workshop.weights, everywhere=False), tmp_path / "spoiled"
    built = workshop.build(out, "--int8", "--weights", weights, "--method", "minmax", "--max-drop", "2")
    readers = {"stage2/encoder/level4/down", "stage2/decoder/up2/lateral"}
    assert set(built.said["restored_layers"][:2]) == readers
    assert set(built.bundle.manifest.confidence.float_layers) >= readers
    curve = built.bundle.json("accuracy.json")["restore"]
    assert curve[0]["broken"]
    assert not curve[-1]["broken"]
    assert curve[-1]["mean_iou"] > curve[0]["mean_iou"]
    graph = from_model(onnx.load_model_from_string(built.bundle.read("confidence.onnx")))
    floats = {n.name for n in graph.nodes if n.op == "Conv" and hasattr(n.inputs[1], "values")}
    assert readers <= floats


@pytest.mark.slow
def test_what_int8_cannot_do_fails_and_says_what_to_do(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = spoil(tmp_path / "spoiled.safetensors", workshop.weights, everywhere=True), tmp_path / "out"
    more = ["--weights", weights, "--method", "minmax", "--max-drop", "0"]
    code, text = workshop.run(*workshop.arguments("--out", out, "--int8", *more))
    error = capsys.readouterr().err
    assert code == 1
    assert text == ""
    assert "INT8 does not decide as float did" in error
    assert "mend: build with --qat" in error
    assert not out.exists()


KILLER = """
import os, signal, sys
count = 0
def hook(event, args):
    global count
    if event == "open" and isinstance(args[0], str) and ".writing" in args[0]:
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from lpcnet_edge.cli import main
main(sys.argv[1:])
"""


def test_a_build_killed_while_it_writes_leaves_the_old_bundle(int8: Built, workshop: Workshop, tmp_path: Path) -> None:
    out = Path(shutil.copytree(int8.out, tmp_path / int8.out.name))
    argv = workshop.arguments("--fp32", "--out", out)
    environment = {**os.environ, "LPCNET_EDGE_CACHE": str(workshop.cache)}
    done = subprocess.run([sys.executable, "-c", KILLER, *argv], env=environment, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".writing")], "it was not yet writing"
    assert files_of(out) == files_of(int8.out)
    assert open_bundle(out).id == int8.said["id"]


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_plans_from_a_bundle_go_into_the_machines_cache(
    int8: Built, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(int8.out)
    argv = ["build", "--from", str(int8.out), "--backend", "tensorrt-rtx", "--sm", "8.9", "--json"]
    code, text = workshop.run(*argv)
    assert code == 0
    made = json.loads(text)
    assert made["bundle"] == int8.said["id"]
    files = [Path(name) for name in made["files"]]
    assert sorted(path.suffix for path in files) == [".plan", ".plan", ".yaml"]
    for path in files:
        assert path.is_relative_to(workshop.cache / int8.said["id"])
        assert path.stat().st_size > 100
        assert path.stat().st_mode & 0o077 == 0
    assert files_of(int8.out) == before, "a bundle is never changed"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_plans_built_with_the_bundle_are_in_it(workshop: Workshop, tmp_path: Path) -> None:
    found = workshop.build(tmp_path / "out", "--int8", "--max-drop", "5", "--backend", "tensorrt-rtx", "--sm", "8.9")
    plans = sorted(path.name for path in found.out.glob("plans/*/*.plan"))
    assert plans == ["confidence.plan", "localization.plan"]
    assert found.bundle.plan_sets[0].device == "sm89"


def test_the_methods_offered_are_those_there_are() -> None:
    assert [*_METHODS] == ["auto", *METHODS]


WRONG = [
    (["--int8"], 2, "--weights and --out are missing"),
    (["--int8", "--weights", "carbon-fabric"], 2, "--weights and --out are missing"),
    (["--int8", "--fp16", "--weights", "carbon-fabric", "--out", "x"], 2, "not allowed with argument"),
    (["--weights", "carbon-fabric", "--out", "x", "--method", "best"], 2, "invalid choice: 'best'"),
    (["--weights", "carbon-fabric", "--out", "x", "--backend", "cuda"], 2, "invalid choice: 'cuda'"),
    (["--weights", "carbon-fabric", "--out", "x", "--max-drop", "-1"], 2, "--max-drop is -1"),
    (["--weights", "carbon-fabric", "--out", "x", "--max-drop", "nan"], 2, "--max-drop is nan"),
    (["--weights", "carbon-fabric", "--out", "x", "--sm", "8.9"], 2, "--sm is for plans"),
    (["--weights", "carbon-fabric", "--out", "x", "--check-fold", "1"], 2, "--check-fold is given and --data is not"),
    (["--weights", "carbon-fabric", "--out", "x", "--check-data", DATA], 2, "--check-data is given and --data"),
    (["--weights", "carbon-fabric", "--out", "x", "--grouping", "numbers"], 2, "--grouping is given and --data is not"),
    (["--weights", "magnetic-tile", "--out", "x"], 2, "--data is missing"),
    (["--weights", "carbon-fabric", "--out", "x", "--data", DATA, "--check-fold", "1"], 2, "has no folds"),
    (
        ["--weights", "carbon-fabric", "--out", "x", "--data", DATA, "--check-data", DATA, "--check-fold", "1"],
        2,
        "are both given",
    ),
    (["--weights", "no-such", "--out", "x", "--data", "carbon-fabric:count=8,size=128"], 3, "neither shipped weights"),
    (["--weights", "carbon-fabric", "--out", "x", "--recipe", "none.yaml"], 3, "none.yaml"),
    (["--from", "nowhere"], 3, "there is no bundle at nowhere"),
    (["--from", "nowhere", "--weights", "carbon-fabric"], 2, "--from takes everything from the bundle, --weights"),
    (["--from", "nowhere", "--check-data", DATA], 2, "--check-data is given"),
    (["--weights", "carbon-fabric", "--out", "x", "--fp32", "--max-drop", "1"], 2, "FP32 loses nothing"),
    (["--from", "nowhere", "--max-drop", "0.5"], 2, "--max-drop is given"),
    (["--from", "x", "--method", "auto", "--channels", "1"], 2, "--channels, --method are given"),
    (["--from", "x", "--images-root", ".", "--parts", "(.)"], 2, "--images-root, --parts are given"),
    (["--from", "x", "--empty-masks", "keep", "--grouping", "index"], 2, "--empty-masks, --grouping are given"),
]


@pytest.mark.parametrize(("argv", "code", "message"), WRONG)
def test_wrong_use_is_told(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
        assert main(["build", *argv]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert "mend: " in output.err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_cpu_backend_needs_no_plans(
    backend: str, int8: Built, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workshop.run("build", "--from", str(int8.out), "--backend", backend)[0] == 2
    assert f"{backend} needs no plans" in capsys.readouterr().err


def test_a_bundle_of_another_precision_is_not_made_over(
    int8: Built, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workshop.run("build", "--from", str(int8.out), "--fp16")[0] == 2
    assert "is int8, --fp16 is given" in capsys.readouterr().err


def test_a_missing_library_is_told_before_the_work(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    code, _ = workshop.run(*workshop.arguments("--int8", "--backend", "tensorrt", "--out", tmp_path / "x"))
    assert code == 4
    assert "tensorrt" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
