"""What the package says of itself, what a wheel of it holds, and that a bare station can install its core."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "lpcnet_edge")
SCRIPTS = ("scripts/demo", "scripts/test", "scripts/core-size", "scripts/jetson-wheels", ".ci/run")

# What a bare station does with nothing but the core: every module that needs no torch, the command, and an engine.
SMOKE = """
import importlib, pkgutil, sys
import lpcnet_edge
from lpcnet_edge.backends.quiet import silence_libraries
silence_libraries()
for module in pkgutil.walk_packages(lpcnet_edge.__path__, "lpcnet_edge."):
    name = module.name
    if ".network" not in name and not name.endswith(("__main__", "torch_cuda", "build.export")):
        importlib.import_module(name)
assert "torch" not in sys.modules
from lpcnet_edge.cli import main
assert main(["generate", "carbon-fabric", "--out", sys.argv[1], "--count", "2", "--size", "128"]) == 0
assert main(["data", sys.argv[1]]) == 0
assert main(["doctor"]) == 0
import numpy, onnx, onnxruntime, openvino
x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3]) for n in "xy")
graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
data = model.SerializeToString()
tile = numpy.float32([[1, -1, 2]])
session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
first = session.run(None, {"x": tile})[0]
core = openvino.Core()
second = core.compile_model(core.read_model(data), "CPU")(tile)[0]
assert first.tolist() == second.tolist() == [[1, 0, 2]]
print("smoke passed", sys.version_info[:2], numpy.__version__, onnxruntime.__version__)
"""


def requirements(python: str, extra: str = "") -> dict[str, Requirement]:
    """Requirements that hold for a Python version and an extra, by name."""
    environment = {"python_version": python, "extra": extra, "platform_machine": "x86_64"}
    found = [Requirement(line) for line in distribution("lpcnet-edge").requires or []]
    chosen = [r for r in found if r.marker is None or r.marker.evaluate(environment)]
    return {r.name.lower(): r for r in chosen if bool(extra) == ("extra" in str(r.marker or ""))}


def copy_sources(folder: Path) -> Path:
    """The files that a build needs, where it may leave others beside them."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_metadata() -> None:
    metadata = distribution("lpcnet-edge").metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    extras = {"train", "imagenet", "tensorrt", "tensorrt-rtx", "cuda12", "cuda13", "pycuda", "station", "dev"}
    assert set(metadata.get_all("Provides-Extra") or []) == extras
    scripts = [e for e in distribution("lpcnet-edge").entry_points if e.group == "console_scripts"]
    assert [(e.name, e.value) for e in scripts] == [("lpcnet-edge", "lpcnet_edge.cli:main")]


def test_the_core_needs_no_torch() -> None:
    core = requirements("3.11")
    assert set(core) == {
        "cryptography",
        "numpy",
        "onnx",
        "onnx-graphsurgeon",
        "onnxruntime",
        "opencv-python-headless",
        "openvino",
        "pyyaml",
        "rich",
        "safetensors",
    }


def test_python_3_10_takes_the_last_versions_made_for_it() -> None:
    old, new = requirements("3.10"), requirements("3.11")
    assert "2.2.6" in old["numpy"].specifier
    assert "2.4.0" not in old["numpy"].specifier
    assert "2.4.0" in new["numpy"].specifier
    assert "1.23.2" in old["onnxruntime"].specifier
    assert "1.32.0" not in old["onnxruntime"].specifier
    assert "1.32.0" in new["onnxruntime"].specifier


def test_scripts_install_a_torch_that_the_extra_accepts() -> None:
    pinned = re.search(r'^TORCH="torch==(.+)"$', (ROOT / "scripts/lib.sh").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert pinned.group(1) in requirements("3.11", "train")["torch"].specifier


def test_setup_is_one_call() -> None:
    lines = [line for line in (ROOT / "setup.py").read_text(encoding="utf-8").splitlines() if line]
    assert lines == ["from setuptools import setup", "setup()"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & stat.S_IXUSR
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)


def test_a_wheel_holds_what_the_package_needs(tmp_path: Path) -> None:
    source = copy_sources(tmp_path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path / "w",
    ]
    subprocess.run([*command, source], check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "w").iterdir()
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = [
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "**/*.py",
            "py.typed",
            "schemas/*.json",
            "recipes/*.yaml",
            "weights/*.yaml",
            "weights/*.safetensors",
        )
        for path in (ROOT / "lpcnet_edge").glob(pattern)
    ]
    assert "lpcnet_edge/py.typed" in wanted
    assert [name for name in wanted if name not in held] == []
    assert [name for name in held if not name.startswith("lpcnet_edge")] == []


def fake_clone(folder: Path) -> Path:
    """A tree with the scripts, and an environment that looks installed but records what it is asked."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_script(folder: Path, script: str, *argv: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": str(folder)}  # nothing of this machine's own settings
    command = ["/bin/bash", f"scripts/{script}", *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def write_tool(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of the shell tools that the scripts use, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("bash", "dirname", "sha256sum", "cut", "cat", "grep", "flock", "rm", "id", "mktemp"):
        (folder / name).symlink_to(str(shutil.which(name)))
    write_tool(folder, "dpkg-query", "exit 1")
    return folder


def test_without_python_the_mend_is_named(tools: Path, tmp_path: Path) -> None:
    done = run_script(fake_clone(tmp_path / "clone"), "demo", path=str(tools))
    assert done.returncode == 4
    assert "error: python3 is not installed\nmend: sudo apt-get install python3 python3-venv" in done.stderr


def test_without_the_venv_module_the_package_is_named(tools: Path, tmp_path: Path) -> None:
    write_tool(tools, "python3", '[[ "$2" == *ensurepip* ]] && exit 1; exit 0')
    (tools / "id").unlink()
    write_tool(tools, "id", "echo 1000")
    done = run_script(fake_clone(tmp_path / "clone"), "demo", path=str(tools))
    assert done.returncode == 4
    assert "error: missing Debian packages: python3-venv\nmend: sudo apt-get install python3-venv" in done.stderr


def test_packages_that_only_tests_need_are_named(tools: Path, tmp_path: Path) -> None:
    (tools / "id").unlink()
    write_tool(tools, "id", "echo 1000")
    done = run_script(fake_clone(tmp_path / "clone"), "test", path=str(tools))
    assert done.returncode == 4
    packages = "aravis-tools chromium gcc libc6-dev"
    assert f"error: missing Debian packages: {packages}\nmend: sudo apt-get install {packages}" in done.stderr


def test_an_old_python_is_refused(tools: Path, tmp_path: Path) -> None:
    write_tool(tools, "python3", '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; exit 1')
    done = run_script(fake_clone(tmp_path / "clone"), "demo", path=str(tools))
    assert done.returncode == 4
    assert "error: Python 3.9.2 is older than 3.10" in done.stderr


def test_a_second_start_installs_nothing_and_passes_arguments_on(tmp_path: Path) -> None:
    clone = fake_clone(tmp_path / "clone")
    log = tmp_path / "log"
    # `python3 -m venv` is stood in for by a script that makes the one program the scripts then use.
    write_tool(
        tmp_path / "bin",
        "python3",
        f'echo "$@" >>{log}\nif [ "$2" = venv ]; then mkdir -p .venv/bin\n'
        f"printf '%s\\n' '#!/bin/bash' 'echo \"$@\" >>{log}' >.venv/bin/python\nchmod +x .venv/bin/python; fi\nexit 0",
    )
    write_tool(tmp_path / "bin", "dpkg-query", "echo install ok installed")
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    assert run_script(clone, "test", "-k", "one", path=path).returncode == 0
    first = log.read_text(encoding="utf-8").splitlines()
    assert "-m venv --clear .venv" in first
    assert any("install" in line and "torch==" in line for line in first)
    assert any("--editable .[train,dev,tensorrt-rtx]" in line for line in first)
    assert first[-1] == "-m pytest -p xdist -n auto -k one"

    log.unlink()
    assert run_script(clone, "test", "--all", "tests/x.py", path=path).returncode == 0
    assert log.read_text(encoding="utf-8").splitlines() == [
        "-c import pip",
        "-m pytest -p xdist -n auto -m  tests/x.py",
    ]

    log.unlink()
    (clone / "pyproject.toml").write_text("changed", encoding="utf-8")
    assert run_script(clone, "test", path=path).returncode == 0
    second = log.read_text(encoding="utf-8")
    assert "--editable" in second, "other requirements are installed"
    assert "-m venv" not in second, "into the same environment"

    log.unlink()
    write_tool(clone / ".venv/bin", "python", "exit 1")  # as an upgrade of the system's Python leaves it
    assert run_script(clone, "test", path=path).returncode == 0
    assert "-m venv --clear .venv" in log.read_text(encoding="utf-8").splitlines()


def rebuild_clone(folder: Path) -> Path:
    """A clone with weights, an index folder and an environment whose Python does nothing."""
    clone = fake_clone(folder)
    (clone / "data/MT_Free").mkdir(parents=True)
    (clone / "lpcnet_edge/weights").mkdir(parents=True)
    (clone / "lpcnet_edge/weights/a.safetensors").write_bytes(b"first")
    write_tool(clone / ".venv/bin", "python", 'echo "$@"')
    want = (
        '{ cat pyproject.toml; printf "%s %s" "$TORCH" "$PWD"; } | sha256sum | cut -d " " -f 1 >.venv/.installed-train'
    )
    subprocess.run(["bash", "-c", f"source scripts/lib.sh; {want}"], cwd=clone, check=True)
    return clone


def test_rebuilding_names_a_missing_folder(tmp_path: Path) -> None:
    done = run_script(rebuild_clone(tmp_path), "rebuild-records", "--data", path="/usr/bin:/bin")
    assert done.returncode == 2
    assert "error: --data names no folder" in done.stderr


def test_rebuilding_scores_the_gate_anew_for_new_weights_and_the_study_for_new_records(tmp_path: Path) -> None:
    clone = rebuild_clone(tmp_path)
    record = clone / "benchmarks/records/gate-out-of-fold.json"

    def rebuild() -> str:
        done = run_script(clone, "rebuild-records", "--data", "data", "gate", "study", path="/usr/bin:/bin")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "study_tables.py" not in rebuild()  # the study has no records yet
    first = record.read_text()
    (clone / "benchmarks/records/study").mkdir()
    (clone / "benchmarks/records/study/one.json").write_text("{}")
    assert "study_tables.py" in rebuild()
    assert record.read_text() == first
    (clone / "lpcnet_edge/weights/a.safetensors").write_bytes(b"second")
    rebuild()
    places = [text.split("--out ")[1].split()[0] for text in (first, record.read_text())]
    assert places[0] != places[1]


def pythons_3_10() -> Iterator[str]:
    candidates = [shutil.which("python3.10"), *(Path.home() / ".pyenv/versions").glob("3.10*/bin/python")]
    for candidate in filter(None, candidates):
        told = subprocess.run(
            [candidate, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True
        )
        if told.stdout.strip() == "(3, 10)":
            yield str(candidate)


@pytest.mark.slow
def test_the_core_on_python_3_10(tmp_path: Path) -> None:
    python = next(pythons_3_10(), None)
    if python is None:
        pytest.skip("no Python 3.10 here")
    (tmp_path / "source").mkdir()
    source = copy_sources(tmp_path / "source")
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True, timeout=120)
    subprocess.run([venv / "bin/python", "-m", "pip", "install", "--quiet", source], check=True, timeout=600)
    done = subprocess.run(
        [venv / "bin/python", "-c", SMOKE, tmp_path / "frames"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "smoke passed (3, 10) 2.2" in done.stdout


@pytest.mark.slow
def test_the_core_stays_under_600_mb() -> None:
    done = subprocess.run([ROOT / "scripts/core-size", "600"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^core_mb \d+$", done.stdout, re.MULTILINE)
