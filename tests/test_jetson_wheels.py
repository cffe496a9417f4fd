"""What scripts/jetson-wheels works out itself; that it asks the package index is in the slow tier."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("jetson_wheels", ROOT / "scripts" / "jetson_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def test_markers_are_those_of_the_jetson_not_of_this_machine(wheels: Any) -> None:
    old, new = wheels.JETSONS
    needs = [
        "numpy<2.3; python_version < '3.11'",
        "numpy>=2.3; python_version >= '3.11'",
        "tensorrt; platform_machine == 'x86_64'",
        "cython; extra == 'test'",
        "mako",
    ]
    assert [str(r) for r in wheels.applying(needs, old, set())] == ["numpy<2.3", "mako"]
    assert [str(r) for r in wheels.applying(needs, new, {"test"})] == ["numpy>=2.3", "cython", "mako"]


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        ("x-1.0-py3-none-any.whl", set(), None),
        ("x-1.0-cp310-cp310-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", set(), None),
        ("x-1.0-cp310-cp310-manylinux2014_x86_64.whl", set(), "a wheel for another machine"),
        ("x-1.0.tar.gz", set(), "not a wheel"),
        ("x-1.0.tar.gz", {"x"}, None),
        ("x-1.0-py3-none-any.whl", {"x"}, "not a source archive"),
    ],
)
def test_files_are_held_against_what_was_asked(wheels: Any, file: str, source: set[str], problem: str | None) -> None:
    one = {"metadata": {"name": "x", "version": "1.0"}, "download_info": {"url": f"https://index.invalid/{file}"}}
    assert wheels.row(one, wheels.JETSONS[0], "cuda12", source).problem == problem


@pytest.mark.slow
def test_what_the_index_lacks_is_a_problem(wheels: Any) -> None:
    for requirement in ("cuda-bindings==1.0", "pycuda==2026.1"):  # no such version; no wheel, only a source archive
        (row,) = wheels.resolve([requirement], wheels.JETSONS[0], "cuda12", set())
        assert requirement in row.problem


@pytest.mark.slow
def test_the_index_has_everything_for_both_jetsons() -> None:
    command = [sys.executable, ROOT / "scripts" / "jetson_wheels.py", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout)
    chosen = {(r["jetson"], r["package"]): r["file"] for r in rows}
    assert "cp310-manylinux" in chosen["JetPack 6", "cuda-bindings"]
    assert "12.9" in chosen["JetPack 6", "cuda-bindings"]
    assert "cp312-manylinux" in chosen["JetPack 7", "cuda-bindings"]
    assert chosen["JetPack 7", "pycuda"] == chosen["JetPack 6", "pycuda"] == "pycuda-2026.1.tar.gz"
