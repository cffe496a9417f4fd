"""A real INT8 bundle beside its float network, whole and spoiled, through the command line."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import jsonschema
import numpy as np
import onnx
import pytest
from spoiled import (
    STAGES,
    edited,
    raised_gate,
    rewritten,
    scaled,
    swapped_channels,
    wrong_range,
    wrong_scale,
    wrong_weights,
)

from lpcnet_edge.build.calibration_file import calibration_json, read_calibration
from lpcnet_edge.build.quantise import CLASSIFIER, quantise
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.causes import find_causes
from lpcnet_edge.check.layers import layer_table
from lpcnet_edge.check.opening import REFERENCE_FILES, open_reference
from lpcnet_edge.cli import main
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.decision import ClassRule, Rules

DATA = "carbon-fabric:count=20,seed=77,size=128"
LIMITS = ("--max-drop", "3", "--max-new-escapes", "0")
SCHEMA = json.loads(files("lpcnet_edge").joinpath("schemas", "check.schema.json").read_text("utf-8"))


class Grey:
    """Stands where a segmenter would that has no channels to swap."""

    channels = 1


Said = tuple[int, dict[str, Any], str]
Check = Callable[..., Said]


def run_check(bundle: Bundle, *more: str) -> Said:
    """``check BUNDLE --json`` on generated fabric: exit code, object, standard error."""
    backend = () if "--backend" in more else ("--backend", "onnxruntime")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["check", str(bundle.path), "--data", DATA, "--json", *backend, *more])
    return code, json.loads(out.getvalue()), err.getvalue()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def check() -> Check:
    return run_check


@pytest.fixture(scope="module")
def sound(good: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What is said of the bundle as it was built, with limits and layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPCNET_EDGE_CACHE", str(tmp_path_factory.mktemp("cache") / "cache"))
        return run_check(good, *LIMITS, "--layers")


def broken(said: Said) -> dict[str, dict[str, Any]]:
    """The broken limits by name, after what must hold of every check that fails."""
    code, report, err = said
    assert code == 1
    rows = {row["limit"]: row for row in report["limits_broken"]}
    assert err.count("error: ") == err.count("mend: ") == len(rows) > 0
    for row in rows.values():
        assert row["message"] in err
        assert row["try"] in err
    return rows


def test_a_sound_bundle_holds(sound: Said) -> None:
    code, report, err = sound
    assert (code, err) == (0, "")
    assert report["limits_broken"] == report["causes"] == []
    assert report["limits"] == {"max_drop": 3.0, "max_new_escapes": 0, "sound": True}
    assert report["agreement"]["pixels"] > 99.5
    assert report["agreement"]["mask_iou"] > 80
    assert report["reference"]["mean_iou"] > 50
    assert abs(report["agreement"]["mean_iou_drop"]) < 3
    assert report["bundle"]["reference"].startswith("the bundle's float ONNX pair in ")
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


def test_both_sides_have_the_same_keys(sound: Said) -> None:
    report = sound[1]

    def keys(value: Any) -> Any:
        return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    assert keys(report["reference"]) == keys(report["candidate"])
    assert report["candidate"]["per_light"].keys() == {"dome", "raking", "ring"}
    ece = report["candidate"]["confidence"]["defect_pixels"]
    assert sum(row["pixels"] for row in ece["curve"]) == ece["pixels"] > 0
    assert ece["ece"] == pytest.approx(
        sum(row["pixels"] * abs(row["accuracy"] - row["confidence"]) for row in ece["curve"] if row["pixels"])
        / ece["pixels"],
        abs=0.01,
    )


@pytest.mark.parametrize(
    ("spoil", "sentence", "advice"),
    [
        (lambda b, out: wrong_range(b, out, 0.1), "ranges are too narrow for these images", "calibrate with images"),
        (lambda b, out: wrong_range(b, out, 20), "ranges are too wide for these images", "without outliers"),
        (swapped_channels, "the channels are swapped: given RGB instead of BGR", "in the order of training (BGR)"),
        (wrong_weights, "weights stage2.encoder.level8.down.conv.weight of the confidence stage are 4 times", "again"),
        (lambda b, out: raised_gate(b, out, 0.99), "the gate at 0.99 clears", "the largest threshold that misses none"),
    ],
    ids=["narrow", "wide", "swapped", "weights", "gate"],
)
def test_what_is_spoiled_is_caught_with_its_own_sentence(
    good: Bundle,
    check: Check,
    tmp_path: Path,
    spoil: Callable[[Bundle, Path], Bundle],
    sentence: str,
    advice: str,
) -> None:
    said = check(spoil(good, tmp_path / "spoiled"), *LIMITS)
    rows = broken(said)
    assert rows.keys() & {"max_drop", "max_new_escapes"}
    for row in rows.values():
        if row["limit"] != "sound":
            assert [cause for cause in row["causes"] if sentence in cause] == row["causes"]
            assert advice in row["try"]
    assert len(said[1]["causes"]) == 1, said[1]["causes"]
    jsonschema.Draft202012Validator(SCHEMA).validate(said[1])


def test_images_that_the_weights_were_trained_on_are_told(good: Bundle, check: Check, tmp_path: Path) -> None:
    trained = {"data": "carbon-fabric", "digest": open_dataset(DATA).digest(), "folds": []}
    weights = {**good.manifest.provenance["weights"], "trained_on": trained}
    seen = rewritten(good, tmp_path / "seen", provenance={**good.manifest.provenance, "weights": weights})
    for bundle, told in ((seen, True), (good, False)):
        code, _, err = check(bundle)
        assert code == 0
        assert ("trained on just these images of carbon-fabric" in err) == told


def test_a_changed_scale_breaks_the_check_whatever_it_costs(good: Bundle, check: Check, tmp_path: Path) -> None:
    tensor = "stage2/encoder/context/relu_2"
    rows = broken(check(wrong_scale(good, tmp_path / "scale", tensor), *LIMITS))
    assert f"the scale of {tensor} in confidence.onnx is 4 times that of calibration.json" in rows["sound"]["message"]


def test_a_changed_scale_is_seen_without_the_float_pair(good: Bundle, tmp_path: Path) -> None:
    """Float may be in torch; the calibration is in the bundle all the same."""
    bare = rewritten(
        wrong_scale(good, tmp_path / "scale", "stage2/decoder/entry/relu"), tmp_path / "bare", without=("reference/",)
    )
    causes = find_causes(bare, cast(Any, Grey), cast(Any, Grey), [], {"missed": 0})
    assert {cause.kind for cause in causes} == {"scale"}
    whole = rewritten(good, tmp_path / "whole", without=("reference/",))
    assert find_causes(whole, cast(Any, Grey), cast(Any, Grey), [], {"missed": 0}) == []


def test_an_edited_calibration_is_told(good: Bundle, check: Check, tmp_path: Path) -> None:
    content = good.read("calibration.json").replace(b'"count": ', b'"count": 1', 1)
    rows = broken(check(rewritten(good, tmp_path / "edited", {"calibration.json": content}), *LIMITS))
    assert "its digest does not fit its content" in rows["sound"]["message"]


def test_the_gate_is_measured_and_judged_by_its_alpha(good: Bundle, check: Check, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("max_gate_misses: alpha\n")
    spoiled = raised_gate(good, tmp_path / "gate", 0.999)
    code, report, _ = check(spoiled, "--limits", str(limits))
    gate = report["bundle_gate"]
    assert code == 1
    assert gate["missed"] == len(gate["missed_parts"]) == sum(row["missed"] for row in gate["per_class"].values()) > 1
    assert sum(row["cleared"] for row in gate["per_light"].values()) == gate["missed"]  # one image a part
    assert gate["holds"] is False
    assert gate["low"] > 5
    assert set(gate["missed_parts"]) & set(report["escapes"]["new"])
    assert [row["limit"] for row in report["limits_broken"]] == ["max_gate_misses"]
    lower = raised_gate(good, tmp_path / "lower", gate["largest_without_a_miss"])
    code, report, _ = check(lower, "--limits", str(limits))
    assert (code, report["bundle_gate"]["missed"]) == (0, 0)
    assert report["escapes"]["new"] == []


def test_every_limit_can_break(good: Bundle, check: Check, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text(
        "min_mask_iou: 99.99\nmax_ece: 0.001\nmax_defects_lost_share: 0\nmax_new_overkill: 0\nmax_gate_misses: 0\n"
        "per_class: {gap: {min_iou: 99.9, max_drop: 0}}\n"
    )
    junit = tmp_path / "junit.xml"
    said = check(good, "--limits", str(limits), "--junit", str(junit))
    rows = broken(said)
    assert {"min_mask_iou", "max_ece", "per_class.gap.min_iou"} <= rows.keys()
    assert "more calibration tiles of class gap" in rows["per_class.gap.min_iou"]["try"]
    assert "restore the most sensitive layers to float (--layers says which)" in rows["min_mask_iou"]["try"]
    assert "build with --fp16" in rows["min_mask_iou"]["try"]
    for row in rows.values():
        assert row["limit"].split(".")[-1] in row["message"]
    suite = ElementTree.parse(junit).getroot()[0]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == list(said[1]["limits"])
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failed == rows.keys()
    assert int(suite.get("failures", "-1")) == len(failed)


def test_a_limit_that_the_images_say_nothing_about_is_not_mended_by_calibration(
    good: Bundle, check: Check, tmp_path: Path
) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("per_class: {gap: {min_iou: 1}}\n")
    row = broken(check(good, "--limits", str(limits), "--data", "carbon-fabric:count=2,seed=7200001"))
    assert "nothing to measure it by" in row["per_class.gap.min_iou"]["message"]
    assert row["per_class.gap.min_iou"]["try"].startswith("check on images that have")


def test_a_share_of_no_defects_is_undefined_and_breaks_its_limit(good: Bundle, check: Check, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("max_defects_lost_share: 0.5\n")
    free = tmp_path / "free"
    assert main(["generate", "carbon-fabric", "--count", "2", "--size", "128", "--defect-share", "0",
                 "--out", str(free)]) == 0  # fmt: skip
    code, report, _ = check(good, "--data", str(free), "--limits", str(limits))
    assert code == 1
    assert report["agreement"]["defects_caught_by_reference"] == 0
    (row,) = report["limits_broken"]
    assert row["limit"] == "max_defects_lost_share"
    assert row["value"] is None
    assert "nothing to measure it by" in row["message"]
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


def test_a_sound_bundle_is_not_called_swapped_where_only_rounding_differs(good: Bundle, tmp_path: Path) -> None:
    """On two free frames its scores, all but zero, happen to be nearer with the channels turned."""
    free = tmp_path / "free"
    assert main(["generate", "carbon-fabric", "--count", "2", "--size", "128", "--defect-share", "0",
                 "--out", str(free)]) == 0  # fmt: skip
    assert run_check(good, "--data", str(free), "--max-drop", "3")[1]["causes"] == []
    swapped = swapped_channels(good, tmp_path / "swapped")
    rows = broken(run_check(swapped, "--max-drop", "100"))
    assert "the channels are swapped" in rows["sound"]["message"]


def test_soundness_can_be_asked_for_alone(good: Bundle, check: Check, tmp_path: Path) -> None:
    content = good.read("calibration.json").replace(b'"count": ', b'"count": 1', 1)
    edited_calibration = rewritten(good, tmp_path / "edited", {"calibration.json": content})
    limits = tmp_path / "limits.yaml"
    for text, asked in (("sound: true\n", {"sound": True}), ("sound: false\n", {})):
        limits.write_text(text)
        code, report, _ = check(edited_calibration, "--limits", str(limits), "--data", "carbon-fabric:count=2,seed=1")
        assert report["limits"] == asked
        assert code == bool(asked)


def test_what_was_measured_is_printed_before_it_is_written(
    good: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "r.html")

    monkeypatch.setattr("lpcnet_edge.files.write_atomically", full)
    command = ["check", str(good.path), "--data", "carbon-fabric:count=2,seed=1", "--backend", "onnxruntime"]
    assert main([*command, "--junit", str(tmp_path / "r.xml")]) == 3
    said = capsys.readouterr()
    assert "mIoU" in said.out
    assert "No space left" in said.err


def test_what_does_not_fit_is_told_before_engines_are_opened(
    good: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lpcnet_edge.check.bundle_check.open_reference", lambda bundle: pytest.fail("opened"))
    other = rewritten(good, tmp_path / "other", tile_px=256)
    rules = tmp_path / "rules.yaml"
    rules.write_text("per_class: {gapp: {min_area_px: 5}}\n")
    grey = tmp_path / "grey"
    assert main(["generate", "carbon-fabric", "--count", "1", "--size", "128", "--out", str(grey)]) == 0
    for more, code, message, mend in (
        (["--against", str(other.path)], 2, "has tiles of 256 px", "check each by itself"),
        (["--data", str(grey), "--channels", "1"], 2, f"the bundle {good.path} takes colour", "--channels 3"),
        (["--batch", "0"], 2, "a batch of 0 images", "1 or more"),
        (["--rules", str(rules)], 3, "'gapp'", "did you mean 'gap'?"),
    ):
        capsys.readouterr()
        assert main(["check", str(good.path), "--data", DATA, *more]) == code
        problem, cure = capsys.readouterr().err.splitlines()
        assert message in problem
        assert mend in cure


def test_layers_come_worst_first(sound: Said) -> None:
    layers = sound[1]["layers"]
    sqnr = [row["output_sqnr_db"] for row in layers]
    assert sqnr == sorted(sqnr)
    assert len(sqnr) > 20
    assert {row["stage"] for row in layers} == {"localization", "confidence"}
    assert all(row["input_sqnr_db"] > 15 and row["saturated"] < 0.01 for row in layers)


def test_layers_are_those_of_the_bundles_own_files(good: Bundle, tmp_path: Path) -> None:
    """Built by earlier rules, which left in float what today's would quantise, and calibrated for those alone."""
    model = onnx.load_model_from_string(good.read(REFERENCE_FILES[1]))
    calibration = read_calibration(good.file("calibration.json"))
    ranges = {name: tensor.range for name, tensor in calibration.tensors.items()}
    unread = "stage2/decoder/up2/conv/relu"
    fewer = replace(calibration, tensors={k: v for k, v in calibration.tensors.items() if k != unread})
    earlier = {
        STAGES[1]: quantise(model, ranges, [CLASSIFIER]).SerializeToString(),
        "calibration.json": calibration_json(fewer).encode(),
    }
    layers = layer_table(rewritten(good, tmp_path / "earlier", earlier), [np.zeros((128, 128, 3), np.uint8)], None)
    names = {row.layer for row in layers}
    assert CLASSIFIER not in names
    assert {"stage2/decoder/up2/conv", "stage1/stem/conv"} <= names


def test_another_bundle_beside_it(good: Bundle, check: Check, tmp_path: Path) -> None:
    other = wrong_weights(good, tmp_path / "other")
    code, report, _ = check(good, "--against", str(other.path))
    against = report["against"]
    assert code == 0
    assert against["figures"].keys() == report["candidate"].keys()
    assert against["figures"]["mean_iou"] < report["candidate"]["mean_iou"] - 1
    assert against["agreement"]["pixels"] < 100
    assert set(against["escapes"]) <= {flip["part"] for flip in against["agreement"]["flips"]}
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


def test_another_bundle_is_decided_on_by_its_own_rules(good: Bundle, check: Check, tmp_path: Path) -> None:
    """The two may differ in nothing else: ``calibrate rules`` makes such a bundle."""
    lax = rewritten(good, tmp_path / "lax", rules=Rules(default=ClassRule(min_area_px=128 * 128)))
    against = check(good, "--against", str(lax.path))[1]["against"]
    assert against["agreement"]["pixels"] == 100
    assert against["figures"]["escapes"]["parts"]["rate"] == 100
    assert against["agreement"]["flips"]
    assert not any(flip["reference_rejects"] for flip in against["agreement"]["flips"])
    (tmp_path / "rules.yaml").write_text("default: {min_area_px: 1}\n")
    asked = check(good, "--against", str(lax.path), "--rules", str(tmp_path / "rules.yaml"))[1]["against"]
    assert asked["agreement"]["flips"] == []


def test_a_worse_layer_is_seen_by_layers(good: Bundle, check: Check, tmp_path: Path) -> None:
    """A scale of a sixteenth of what it should be saturates its tensor, and a layer that reads it comes to the top."""
    tensor = "stage2/decoder/entry/relu"
    narrow = rewritten(good, tmp_path / "n", {STAGES[1]: edited(good, STAGES[1], scaled(1 / 16, f"{tensor}.scale"))})
    _, report, _ = check(narrow, "--layers")
    readers = [row for row in report["layers"] if row["tensor"] == tensor]
    assert readers
    assert report["layers"][0]["tensor"] == tensor
    assert readers[0]["saturated"] > 0.01
    assert readers[0]["input_sqnr_db"] < 15


def test_canonical_and_other_backends_agree(good: Bundle, check: Check, sound: Said) -> None:
    reports = {
        "onnxruntime": sound[1],
        **{name: check(good, "--backend", name)[1] for name in ("canonical", "openvino")},
    }
    assert "its own files, unoptimised" in reports["canonical"]["bundle"]["candidate"]
    assert "openvino 20" in reports["openvino"]["bundle"]["candidate"]
    for report in reports.values():
        assert report["candidate"]["mean_iou"] == pytest.approx(reports["canonical"]["candidate"]["mean_iou"], abs=1.0)


def test_the_reference_is_torch_where_the_weights_are_shipped(good: Bundle, tmp_path: Path) -> None:
    from hashlib import sha256

    from lpcnet_edge.network.weights import weights_path

    digest = sha256(weights_path("carbon-fabric").read_bytes()).hexdigest()
    for found, expected in ((digest, "in torch"), ("0" * 64, "float ONNX pair")):
        weights = {"name": "carbon-fabric", "sha256": found}
        with open_reference(rewritten(good, tmp_path / found[:8], provenance={"weights": weights})) as opened:
            assert expected in opened.about


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights", "carbon-fabric"], "a bundle and --weights are given"),
        (["--backend", "null"], "no backend that can be checked is called 'null'"),
        (["--backend", "openvin"], "did you mean 'openvino'?"),
        (["--max-drop", "-1"], "max_drop is -1.0; points lie between 0 and 100"),
        (["--html", "/nowhere/at/all/report.html"], "there is no folder"),
        (["--html", "docs/report.html"], "pictures of the data do not belong into the project"),
    ],
)
def test_wrong_use(good: Bundle, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert main(["check", str(good.path), "--data", DATA, *more]) == 2
    assert message in capsys.readouterr().err


def test_neither_bundle_nor_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", DATA]) == 2
    assert "neither a bundle nor --weights" in capsys.readouterr().err
    assert main(["check", "--weights", "carbon-fabric", "--data", DATA, "--max-drop", "1"]) == 2
    assert "--max-drop is for bundles" in capsys.readouterr().err


def test_nothing_to_compare_with(good: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bare = rewritten(good, tmp_path / "bare", without=("reference/",))
    assert main(["check", str(bare.path), "--data", DATA]) == 2
    assert "it has no reference/ pair" in capsys.readouterr().err


def test_unknown_limits(good: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    for text, message in (
        ("max_dropp: 1\n", "did you mean 'max_drop'?"),
        ("per_class: {gapp: {min_iou: 5}}\n", "did you mean 'gap'?"),
        ("max_defects_lost_share: 3\n", "it lies between 0 and 1"),
    ):
        limits.write_text(text)
        assert main(["check", str(good.path), "--data", DATA, "--limits", str(limits)]) == 3
        assert message in capsys.readouterr().err


def test_the_text_says_what_the_json_says(good: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spoiled = raised_gate(good, tmp_path / "gate", 0.999)
    command = ["check", str(spoiled.path), "--data", DATA, "--backend", "onnxruntime", "--max-new-escapes", "0"]
    assert main(command) == 1
    out = " ".join(capsys.readouterr().out.split())
    for text in ("reject -> pass", "broken: ", "found: the gate at 0.999 clears", "escapes, parts", "mIoU, light ring"):
        assert text in out
