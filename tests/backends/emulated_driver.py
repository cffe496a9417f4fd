"""Builds the emulated CUDA driver, and runs ``cuda/emulated/child.py`` in a process that loads it as the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SOURCE = HERE / "cuda" / "emulated" / "libcuda.c"
CHILD = HERE / "cuda" / "emulated" / "child.py"


def build(folder: Path) -> Path:
    """Compile ``libcuda.so.1`` into a folder; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the emulated CUDA driver with: apt-get install gcc libc6-dev")
    library = folder / "libcuda.so.1"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-std=gnu11", f"-Wl,-soname,{library.name}")
    subprocess.run([compiler, *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return folder


def run_child(driver: Path | None, *arguments: str, **environment: str) -> Any:
    """What the child says, from JSON; without a driver it gets whatever the machine has."""
    settings = {**os.environ, **environment, "PYTHONPATH": _path(str(HERE), str(HERE.parents[1]), "PYTHONPATH")}
    if driver is not None:
        settings["LD_LIBRARY_PATH"] = _path(str(driver), "LD_LIBRARY_PATH")
        if "pycuda" in arguments:  # a PyCUDA that was linked to an empty stub of the driver does not ask for it
            settings["LD_PRELOAD"] = str(driver / "libcuda.so.1")
    command = [sys.executable, "-W", "error", str(CHILD), *arguments]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def _path(*parts: str) -> str:
    """Folders, and what the variable named last holds already."""
    return os.pathsep.join(filter(None, [*parts[:-1], os.environ.get(parts[-1], "")]))
