"""Bundles built once for all tests of a run, through the command line as a person would."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exported import write_fabric_weights

from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.cli import main

DATA = "carbon-fabric:count=96,seed=11,size=128"
RECIPE = "tiles: 16\ncandidates: 32\n"


@dataclass(frozen=True)
class Built:
    """What ``build --json`` printed, and the bundle that it left."""

    said: dict[str, Any]
    out: Path

    @property
    def bundle(self) -> Bundle:
        return open_bundle(self.out)


class Workshop:
    """A folder of one test run with weights, a recipe and the machine's cache in it."""

    def __init__(self, cache: Path) -> None:
        cache.mkdir(mode=0o700, exist_ok=True)
        self.cache = cache
        self.weights = write_fabric_weights(cache / "fabric.safetensors")
        self.recipe = cache / "recipe.yaml"
        self.recipe.write_text(RECIPE)

    def arguments(self, *more: str | Path) -> list[str]:
        """What every build is told."""
        data = [] if "--data" in more else ["--data", DATA]
        fixed = ["--weights", self.weights, *data, "--recipe", self.recipe]
        return ["build", *map(str, [*fixed, *more])]

    def build(self, out: Path, *more: str | Path) -> Built:
        """Build and return what was said; asserts that it went well."""
        code, text = self.run(*self.arguments("--out", out, "--json", *more))
        assert code == 0
        return Built(json.loads(text), out)

    def run(self, *argv: str) -> tuple[int, str]:
        """The exit code and the standard output of a command that uses this cache."""
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
            patch.setenv("LPCNET_EDGE_CACHE", str(self.cache))
            code = main(argv)
        return code, output.getvalue()

    def once(self, name: str, *more: str | Path) -> Built:
        """Build under a name, unless another test or worker did."""
        said = self.cache / f"{name}.json"
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not said.exists():
                built = self.build(self.cache / "bundles" / name, *more)
                said.write_text(json.dumps(built.said))
        return Built(json.loads(said.read_text()), self.cache / "bundles" / name)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    found = [Path(where) / name for where, _, names in os.walk(folder) for name in names]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def options(said: dict[str, Any], *keys: str) -> Sequence[Any]:
    """Values by dotted key."""
    values = []
    for key in keys:
        value: Any = said
        for part in key.split("."):
            value = value[part]
        values.append(value)
    return values
