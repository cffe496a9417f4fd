"""scripts/gpu on a machine that is made up: each step runs whatever the one before it did, and the table comes last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu"
# A Python whose tests fail, whose benchmark needs the package on its path, and that trains at once.
PYTHON = f"""#!/bin/bash
case "$*" in
-c*) exit "${{NO_GPU:-0}}" ;;
*--collect-only*tensorrt*) echo "E   ModuleNotFoundError: No module named 'onnx'" ;;
*--collect-only*isolated*) echo "E   ModuleNotFoundError: No module named 'lpcnet_edge.gone'"; exit 2 ;;
*--collect-only*) ;;
-m\\ pytest*) echo "ran $*"; exit 1 ;;
benchmarks/gpu.py*) cd / && exec {sys.executable} -c "import lpcnet_edge" ;;
-m\\ lpcnet_edge.cli\\ train*)
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"; touch "$2"/{{weights.safetensors,card.yaml}} ;;
-m\\ lpcnet_edge.cli\\ check*)
    echo '{{"candidate": {{"mean_iou": 81, "mean_pixel_accuracy": 90, "defect_iou": 70}},'
    echo '"gate": {{"parts": {{"cleared": 58.7}}}}}}'
    ;;
-\\ *) exec {sys.executable} "$@" ;;
*) exit 9 ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Its environment."""
    for name, text in (("python", PYTHON), ("nvidia-smi", "#!/bin/sh\necho NVIDIA H200, 580.159.04, 143771 MiB\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    settings = {name: str(tmp_path / name.lower()) for name in ("OUT", "WORK", "DATA", "PYTHON")}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | settings | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FOLDS": "1"}


def run(machine: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *arguments], env=machine, capture_output=True, text=True, timeout=60)


def test_a_step_that_fails_keeps_no_other_from_running(machine: dict[str, str]) -> None:
    done = run(machine)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[-3:]] == [["tests", "failed"], ["bench", "done"], ["train", "done"]]
    assert "left out: tests/backends/test_tensorrt_gpu.py: No module named 'onnx'" in lines
    (ran,) = (line for line in lines if line.startswith("ran "))
    assert "test_device_gpu.py" in ran
    assert "test_isolated_gpu.py" in ran  # what our own package lacks is a fault of ours, and fails there
    assert "test_tensorrt_gpu.py" not in ran
    assert any(line.startswith("left out: Magnetic Tile") for line in lines)
    assert any(line.split() == ["carbon-fabric", "81.0", "90.0", "70.0", "58.7"] for line in lines)
    made = sorted(path.name for path in Path(machine["OUT"]).iterdir())
    assert made == ["gpu.txt", "logs.tar.gz", "networks.tar.gz", "steps.txt", "table.txt", "tests.txt"]


def test_weights_of_an_earlier_call_do_not_pass_for_this_ones(machine: dict[str, str], tmp_path: Path) -> None:
    """A run that is refused, for other steps say, leaves them as they were."""
    assert run(machine, "train").returncode == 0
    (tmp_path / "work/magnetic-tile-4.json").write_text("of another call")
    python = tmp_path / "python"
    python.write_text(
        PYTHON.replace("    mkdir -p", "    echo 'mend: resume with the recipe it began with'; exit 3; mkdir -p")
    )
    done = run(machine, "train")
    assert done.returncode == 1
    assert "carbon-fabric: not trained: mend: resume with the recipe it began with" in done.stdout
    assert (tmp_path / "out/table.txt").read_text().count("\n") == 1, "the table has its head alone"


def test_a_machine_whose_torch_sees_no_gpu_is_refused(machine: dict[str, str]) -> None:
    """Else every test would skip, and all would be well."""
    done = run(machine | {"NO_GPU": "1"}, "tests")
    assert done.returncode == 4
    assert "no torch that sees the GPU" in done.stderr


def test_a_step_that_there_is_not(machine: dict[str, str]) -> None:
    assert run(machine, "test").returncode == 2
