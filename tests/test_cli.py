"""The command line as its users meet it: help, endings, JSON, and what importing it costs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from lpcnet_edge.cli import console, doctor, judge, main
from lpcnet_edge.cli.command import make_parser
from lpcnet_edge.errors import BadData, CheckFailed, MissingDevice, MissingLibrary, UsageError

ROOT = Path(__file__).parents[1]
VERBS = (
    "train",
    "show",
    "build",
    "check",
    "predict",
    "gallery",
    "run",
    "tune",
    "bench",
    "data",
    "generate",
    "calibrate",
    "sign",
    "verify",
    "keygen",
    "selftest",
    "doctor",
)
HEAVY = ("numpy", "cv2", "torch", "yaml", "rich", "onnx", "openvino", "onnxruntime", "importlib.metadata")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a snippet in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def run_without(module: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the command where a module cannot be imported."""
    return run_python(
        f"import sys; sys.modules[{module!r}] = None; from lpcnet_edge.cli import main; sys.exit(main({list(argv)!r}))"
    )


@pytest.fixture
def frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Four generated frames, as the generate verb writes them."""
    out = tmp_path / "frames"
    assert main(["generate", "carbon-fabric", "--out", str(out), "--count", "4", "--size", "128"]) == 0
    capsys.readouterr()
    return out


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An untrained network for the fabric's classes."""
    from lpcnet_edge.datasets.fabric_plan import CLASSES
    from lpcnet_edge.network.config import preset
    from lpcnet_edge.network.model import LpcNet
    from lpcnet_edge.network.weights import save_weights

    config = preset("edge", CLASSES, 3)
    path = tmp_path / "untrained.safetensors"
    save_weights(path, config, LpcNet(config).state_dict(), 128)
    return path


def test_importing_the_command_loads_nothing_heavy() -> None:
    done = run_python(
        "import sys; from lpcnet_edge.cli.command import make_parser; make_parser().format_help();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_help_has_one_line_for_each_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = make_parser().format_help()
    listed = re.findall(r"^    (\w+)  +\S.*$", text, re.MULTILINE)
    assert tuple(listed) == VERBS
    body = text.partition("  VERB\n")[2].partition("\n\n")[0]
    assert len(body.splitlines()) == len(VERBS), "a verb's line is wrapped"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main([verb, "--help"])
    assert ending.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["--version"])
    assert ending.value.code == 0
    assert capsys.readouterr().out == f"lpcnet-edge {version('lpcnet-edge')}\n"


@pytest.mark.parametrize("document", ["README.md", "docs/json.md"])
def test_documents_name_every_verb(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"`{verb}`" not in text] == []


def test_readme_documents_every_exit_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {0, 1, 2, 3, 4, 70, 130, 141}


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 2),
        (["chek"], 2),
        (["check"], 2),
        (["check", "--weights", "x", "--data", "y", "--batch", "many"], 2),
        (["show", "--preset", "edg"], 2),
        (["show", "--tile", "100"], 2),
        (["show", "--tile", "0"], 2),
        (["show", "--classes", "1"], 2),
        (["show", "--classes", "256"], 2),
        (["generate", "carbon-fabric", "--out", "x", "--count", "0"], 2),
        (["generate", "carbon-fabric", "--out", "x", "--defect-share", "nan"], 2),
        (["train", "--data", "carbon-fabric:count=1", "--out", "x", "--steps", "0"], 2),
        (["train", "--data", "carbon-fabric:count=1", "--out", "x", "--seed", "-1"], 2),
        (["build", "--fp16", "--qat", "--weights", "carbon-fabric", "--out", "x"], 2),
        (["build", "--fp32", "--method", "mse", "--weights", "carbon-fabric", "--out", "x"], 2),
        (["show", "--weights", "carbon-fabric", "--classes", "3"], 2),
        (["show", "--weights", "carbon-fabric", "--channels", "1"], 2),
        (["show", "no-such-bundle", "--tile", "128"], 2),
        (["generate", "carbon-fabric", "--out", "x", "--size", "big"], 2),
        (["generate", "carbon-fabric", "--out", ".", "--count", "1"], 2),
        (["data", "no-such-folder"], 3),
        (["predict", "--weights", "magnetic-tile", "no-such-image.png"], 3),
        (["gallery", "--weights", "magnetic-tile", "--data", "no-such-folder", "--out", "x"], 3),
        (["show", "no-such-bundle"], 3),
        (["show", "--weights", "no-such.safetensors"], 3),
        (["check", "no-such-bundle", "--data", "carbon-fabric:count=1"], 3),
        (["run", "no-such-bundle", "."], 3),
        (["tune", "no-such-bundle"], 3),
        (["bench", "no-such-bundle"], 3),
        (["bench", "--compare", "no-such.json", "no-such.json"], 3),
        (["selftest", "no-such-bundle"], 3),
        (["verify", "no-such-bundle"], 3),
        (["calibrate", "lint", "no-such-folder"], 3),
        (["calibrate", "set", "--data", "no-such-folder", "--out", "x"], 3),
        (["build", "--from", "no-such-bundle"], 3),
        (["check", "--weights", "no-such-weights", "--data", "carbon-fabric:count=1"], 3),
        (["predict", "--weights", "x", "--rules", "no-such.yaml", "y"], 3),
        (["train", "--data", "carbon-fabric:count=1", "--recipe", "no-such.yaml", "--out", "x"], 3),
    ],
)
def test_wrong_use_and_bad_input(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .+\nmend: .+\n", captured.err)


@pytest.mark.parametrize("verb", ["train", "check", "show", "predict"])
def test_missing_torch(verb: str) -> None:
    weights = ["--weights", "carbon-fabric"]
    argv = {
        "train": ["train", "--data", "carbon-fabric:count=1", "--recipe", "carbon-fabric", "--out", "x"],
        "check": ["check", *weights, "--data", "carbon-fabric:count=1"],
        "show": ["show"],
        "predict": ["predict", *weights, "."],
    }[verb]
    done = run_without("torch", argv)
    assert done.returncode == 4
    assert done.stdout == ""
    assert "torch" in done.stderr
    assert "mend: pip install -e '.[train]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (CheckFailed("it fell", mend="look"), 1, "error: it fell\nmend: look\n"),
        (UsageError("no"), 2, "error: no\n"),
        (BadData("bad", mend="mend it"), 3, "error: bad\nmend: mend it\n"),
        (BadData("a\nb.png is bad", mend="mend it"), 3, "error: a b.png is bad\nmend: mend it\n"),
        (
            MemoryError("Unable to allocate 30 TiB"),
            1,
            "error: there is not enough memory: Unable to allocate 30 TiB\nmend",
        ),
        (MissingLibrary("gone"), 4, "error: gone\n"),
        (MissingDevice("gone"), 4, "error: gone\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.png"),
            3,
            "error: a.png: No such file or directory\nmend",
        ),
        (OSError(28, "No space left on device"), 3, "error: reading or writing: No space left on device\nmend"),
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), 4, "error: a library is missing"),
        (ModuleNotFoundError("No module named 'lpcnet_edge.x'", name="lpcnet_edge.x"), 70, "error: internal error"),
        (
            ZeroDivisionError("division\nby zero"),
            70,
            "error: internal error: ZeroDivisionError: division by zero\nmend",
        ),
    ],
)
def test_endings(
    error: BaseException,
    code: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(doctor, "run_doctor", fail)
    monkeypatch.delenv("LPCNET_DEBUG", raising=False)
    assert main(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(printed)
    assert "Traceback" not in captured.err
    if code not in (130,):
        monkeypatch.setenv("LPCNET_DEBUG", "1")
        assert main(["doctor"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "lpcnet_edge.cli", "doctor", "--json"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(stream: str) -> None:
    """`>&-` and `2>&-`: Python then has no such stream, and an error must not end up in the other."""
    number = {"stdout": 1, "stderr": 2}[stream]
    command = f'"{sys.executable}" -m lpcnet_edge.cli show nosuch {number}>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: there is no bundle") is (stream == "stdout")


@pytest.mark.parametrize(("read", "written"), [("--limits", "--junit"), ("--rules", "--html"), ("--data", "--junit")])
def test_what_is_read_is_not_written(
    read: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("max_drop: 3\n")
    monkeypatch.setattr("lpcnet_edge.bundle.read.open_bundle", lambda *_, **__: None)
    data = [] if read == "--data" else ["--data", "carbon-fabric:count=2"]
    limits = [] if read == "--limits" else ["--max-drop", "3"]
    assert main(["check", "B", *data, *limits, read, str(file), written, str(tmp_path / "." / "file.yaml")]) == 2
    assert "is read, and would be replaced" in capsys.readouterr().err
    assert file.read_text() == "max_drop: 3\n"


@pytest.mark.parametrize("verb", [["set"], ["rules", "B"]])
@pytest.mark.parametrize(
    ("data", "out"),
    [
        ("d/annotations/instances_default.json", "d/annotations/instances_default.json"),
        ("d", "d/annotations/instances_default.json"),
        ("d/annotations/instances_default.json", "d/annotations/parts.csv"),
        ("d", "d/parts.csv"),
        ("d", "d/classes.yaml"),
    ],
)
def test_labels_are_not_replaced(
    verb: list[str],
    data: str,
    out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / out
    file.parent.mkdir(parents=True)
    file.write_text("labels")
    (tmp_path / "d" / "annotations").mkdir(exist_ok=True)
    (tmp_path / "d" / "annotations" / "instances_default.json").write_text("labels")
    assert main(["calibrate", *verb, "--data", data, "--out", out]) == 2
    assert f"{out} is read, and would be replaced" in capsys.readouterr().err
    assert file.read_text() == "labels"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_name_that_standard_output_cannot_hold_is_told(encoding: str, tmp_path: Path) -> None:
    """A folder named in Latin-1 by another machine, or in Chinese where the terminal is in Latin-1."""
    for name, shown in ((os.fsdecode(b"caf\xe9"), "caf\\xe9"), ("\u5de5", "\u5de5")):
        for json_too in ([], ["--json"]):
            out = tmp_path / f"{name}{encoding}{len(json_too)}"
            printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            argv = ["generate", "carbon-fabric", "--count", "1", "--size", "128", "--out", str(out), *json_too]
            with contextlib.redirect_stdout(printed):
                assert main(argv) == 0
            said = printed.buffer.getvalue()  # type: ignore[attr-defined]
            if json_too:
                assert json.loads(said.decode("utf-8"))["out"] == f"{tmp_path / shown}{encoding}1"
            else:
                assert encoding.encode() in said


def test_a_table_whose_reader_leaves_is_no_error() -> None:
    code = "from lpcnet_edge.cli.console import text_console; text_console().print('x')"
    code = f"import sys; from lpcnet_edge.cli import command\ndef show(args):\n    {code}\n    return 0\n" + (
        "from lpcnet_edge.cli import doctor; doctor.run_doctor = show; sys.exit(command.main(['doctor']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("argv", "message", "mend"),
    [
        (
            ["run", "b", "s", "--deadlin-ms", "5"],
            "unrecognized arguments: --deadlin-ms 5",
            "did you mean --deadline-ms?",
        ),
        (["run", "b", "s", "--deadline-ms", "nan"], "nan is no finite number", "lpcnet-edge run --help"),
        (["run", "b", "s", "--backend", "null"], "computes nothing: every frame would pass", "bench alone"),
        (["run", "b", "s", "--parts", "p"], "--parts is for views", "--config"),
        (["tune", "b", "--seconds", "inf"], "inf is no finite number", "lpcnet-edge tune --help"),
        (["bench", "b", "--sustained", "nan"], "nan is no finite number", "lpcnet-edge bench --help"),
        (["bench", "b", "--html", "."], ". is a folder", "name a file in it"),
        (["bench", "b", "--record", "no/such"], "there is no folder no", "mkdir -p no"),
        (["bench", "--compare", "a", "b", "--record", "c"], "--compare measures nothing", "leave --record out"),
        (["bench", "--compare", "a", "b", "--max-slowdown", "-1"], "--max-slowdown -1", "0 or more"),
        (["bench", "--compare", "a", "b", "--quick"], "--compare measures nothing", "leave --quick out"),
        (["bench", "--compare", "a", "b", "--gate", "off"], "--compare measures nothing", "leave --gate out"),
        (["bench", "b", "--record", "r.json", "--html", "./r.json"], "given for two outputs", "name two files"),
        (["calibrate", "set", "--data", "d", "--out", "."], ". is a folder", "name a file in it"),
        (["data", "carbon-fabric:count=2,count=3"], "'count' is given twice", "keep one of the two"),
        (["data", "carbon-fabric:cout=2"], "unknown option 'cout'", "did you mean 'count'?"),
        (
            ["gallery", "--weights", "w", "--data", "carbon-fabric:count=2", "--fold", "1", "--out", "o"],
            "carbon-fabric is not grouped by 'fold'",
            "leave the folds out",
        ),
        (["check", "b", "--data", "d", "--max-drop", "nan"], "nan is no finite number", "lpcnet-edge check --help"),
        (["data", "carbon-fabric:count=2,size=128", "--splits", "wave"], "stratum 'wave'", "did you mean 'weave'?"),
        (["keygen", "--out", ""], "names no file", "--out keys/line4"),
        (["calibrate", "gate", "b", "--data", "d", "--out", "o", "--alpha", "2"], "--alpha 2", "such as 0.05"),
        (["calibrate", "gate", "b", "--data", "d", "--out", "o", "--confidence", "95"], "--confidence 95", "as 0.95"),
        (["calibrate", "gate", "b", "--data", "d", "--out", "o", "--backend", "null"], "computes nothing", "leave"),
    ],
)
def test_wrong_use_is_told_before_any_work(
    argv: list[str], message: str, mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[0]
    assert mend in said[1]


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "B", "s", "--jsonl"],
        ["run", "B", "s", "--overlays"],
        ["bench", "B", "--record"],
        ["calibrate", "set", "--data", "carbon-fabric:count=2,size=128", "--out"],
        ["predict", "--weights", "w", "image.png", "--out"],
        ["gallery", "--weights", "w", "--data", "carbon-fabric:count=2,size=128", "--out"],
        ["generate", "carbon-fabric", "--count", "1", "--size", "128", "--out"],
        ["train", "--data", "carbon-fabric:count=2,size=128", "--out"],
        ["keygen", "--out"],
    ],
)
def test_nothing_is_written_into_a_bundle(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle.yaml").write_text("")
    assert main([*argv, str(tmp_path / "here")]) == 2
    assert "lies inside the bundle" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.yaml"]


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "b", "s", "--json", "--jsonl", "/dev/stdout"],
        ["calibrate", "set", "--data", "carbon-fabric:count=2,size=128", "--out", "/dev/stdout"],
        ["bench", "b", "--record", "/dev/stdout"],
    ],
)
def test_no_output_stands_in_what_a_verb_prints(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "lpcnet_edge", *argv], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/stdout is standard output" in done.stderr


def test_check_data_of_other_channels_are_no_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = tmp_path / "grey"
    assert main(["generate", "carbon-fabric", "--count", "2", "--size", "128", "--out", str(grey)]) == 0
    text = (grey / "classes.yaml").read_text("utf-8")
    assert "channels: 3" in text
    (grey / "classes.yaml").write_text(text.replace("channels: 3", "channels: 1"), "utf-8")
    assert main(["calibrate", "lint", "carbon-fabric:count=2,size=128", "--check-data", str(grey)]) == 2
    assert "with 1: no network takes both" in capsys.readouterr().err


def test_no_folder_of_results_is_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle.yaml").write_text("")
    assert main(["predict", "--weights", "w", "image.png", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} is the bundle" in capsys.readouterr().err


def run_json(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """Run a verb with --json; standard output is exactly one object."""
    assert main([*argv, "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_generate_data_and_doctor_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "frames"
    made = run_json(["generate", "carbon-fabric", "--out", str(out), "--count", "3", "--size", "128x160"], capsys)
    assert (made["out"], made["images"], len(made["digest"])) == (str(out), 3, 64)
    found = run_json(["data", str(out)], capsys)
    assert (found["images"], found["sizes_px"]["height"], found["findings"]) == (3, [128, 128], [])
    assert set(run_json(["doctor"], capsys)) >= {"cpu", "instruction_sets", "libraries", "cuda", "engines", "mends"}


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run_json(["show"], capsys)
    assert shown["total"]["flops"] == shown["stage1"]["flops"] + shown["stage2"]["flops"]
    assert shown["total"]["parameters"] == sum(block["parameters"] for block in shown["blocks"])


def test_data_with_errors_ends_with_3(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((frames / "images").iterdir()).write_bytes(b"not an image")
    found = run_json(["data", str(frames)], capsys, code=3)
    assert found["findings"][0]["severity"] == "error"
    assert main(["data", str(frames)]) == 3
    assert "error: images/" in capsys.readouterr().out


def test_check_and_predict(frames: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = run_json(["check", "--weights", str(weights), "--data", str(frames)], capsys)
    assert 0 <= checked["candidate"]["mean_iou"] <= 100
    assert {"mean_pixel_accuracy", "per_class"} <= set(checked["candidate"])

    next((frames / "images").iterdir()).write_bytes(b"")
    predict = ["predict", "--weights", str(weights), str(frames), "--out", str(tmp_path / "results")]
    assert main(predict) == 3, "an unreadable image is a reject and bad input"
    assert "4 images: " in capsys.readouterr().out
    predicted = run_json(predict, capsys, code=3)
    assert sum(predicted["counts"].values()) == len(predicted["images"]) == 4
    assert (tmp_path / "results" / "verdicts.jsonl").exists()


def test_check_tells_of_images_that_the_weights_were_trained_on(
    frames: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures on them are better than on any new part, and look like any others."""
    from lpcnet_edge.datasets import open_dataset

    data = open_dataset(frames)
    card = weights.with_suffix(".yaml")
    for digest, told in ((data.digest(), True), ("another", False)):
        card.write_text(f"data: {{name: {data.name}, digest: '{digest}', folds: []}}\n")
        assert main(["check", "--weights", str(weights), "--data", str(frames), "--json"]) == 0
        said = capsys.readouterr().err
        assert ("warning: " in said) == (f"trained on just these images of {data.name}" in said) == told


def test_train_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    sampling = "sampling: {batch: 2, crop_px: 32, drawn: {gap: pit, crak: crack}, paste_in_place: [fray]}"
    recipe.write_text(f"tile_px: 128\nsteps: 9\nwarmup_steps: 1\n{sampling}\n", encoding="utf-8")
    out = tmp_path / "run"
    argv = ["train", "--data", "carbon-fabric:count=40", "--recipe", str(recipe), "--out", str(out), "--steps", "2"]
    assert main([*argv, "--json"]) == 0
    told = capsys.readouterr()
    assert "warning: carbon-fabric has no class crak, fray, which the recipe draws or pastes\n" in told.err
    assert "warmup_steps" not in told.err
    summary = json.loads(told.out)
    assert (summary["steps"], Path(summary["weights"]).exists()) == (2, True)
    assert main(argv) == 2, "a second run in the same folder asks for --resume"
    assert "--resume" in capsys.readouterr().err
    assert main([*argv[:-1], "1"]) == 2
    told = capsys.readouterr()
    assert "warning: the learning rate rises over warmup_steps 1, which 1 steps end in\n" in told.err


def test_json_has_no_numbers_that_json_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": ("x", None)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": ["x", None]}


def test_training_without_a_terminal_tells_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with console.TrainingDisplay() as display:
        display.reading(1, 2)
        for step, loss in enumerate([0.7, 0.7, 0.6, 0.6, 0.5], 21):  # figures of step 20, then taken at every second
            display.step(step, 25, {"loss": loss})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "step 23 of 25  loss 0.6\nstep 25 of 25  loss 0.5\n"


def test_tables_are_not_cut_short_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    wide = console.text_console()
    assert wide.width == console.PIPE_WIDTH
    wide.print("x" * 130)
    assert capsys.readouterr().out == "x" * 130 + "\n"


def test_verbs_take_their_functions_late(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Callable[..., int]] = []
    monkeypatch.setattr(judge, "run_check", lambda args: called.append(args.run) or 0)
    assert main(["check", "--weights", "a", "--data", "b"]) == 0
    assert called
