"""Resolve this package's requirements for the Jetsons, on any machine (see scripts/jetson-wheels).

pip evaluates the markers of what it resolves for the Python that runs it, not for the one it is asked about
(``--python-version``). So pip is asked with --no-deps, the requirements of what it chose are read from its report and
evaluated for the Jetson here, and it is asked again with those added, until nothing is new.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
ROUNDS = 8
NEWEST_FIRST = range(39, 16, -1)


@dataclass(frozen=True)
class Jetson:
    """A JetPack's Python, the second number of its glibc's version, and the extra for its CUDA."""

    name: str
    python: str
    glibc: int
    cuda_extra: str


JETSONS = (Jetson("JetPack 6", "3.10", 35, "cuda12"), Jetson("JetPack 7", "3.12", 39, "cuda13"))


@dataclass(frozen=True)
class Row:
    """One package chosen for one Jetson, or the reason why none could be."""

    jetson: str
    extra: str
    package: str
    version: str
    file: str
    problem: str | None


def environment(jetson: Jetson, extra: str = "") -> dict[str, str]:
    """The values of markers on that Jetson (PEP 508)."""
    return {
        "python_version": jetson.python,
        "python_full_version": f"{jetson.python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "aarch64",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": extra,
    }


def applying(requirements: list[str], jetson: Jetson, extras: set[str]) -> list[Requirement]:
    """Those whose markers hold there, without their markers."""
    found = []
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment(jetson, extra)) for extra in extras or {""}):
            requirement.marker = None
            found.append(requirement)
    return found


def ask_pip(requirements: list[str], jetson: Jetson, source: set[str]) -> list[dict[str, Any]]:
    """pip's choice for these requirements alone; packages in ``source`` as source, the others as wheels."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in NEWEST_FIRST if minor <= jetson.glibc]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--dry-run", "--ignore-installed", "--no-deps", "--report", str(report), "--target", folder]
        command += ["--python-version", jetson.python, "--implementation", "cp"]
        for platform in [*platforms, "manylinux2014_aarch64", "linux_aarch64"]:
            command += ["--platform", platform]
        command += ["--only-binary", ":all:"]
        for package in sorted(source):
            command += ["--no-binary", package]
        done = subprocess.run([*command, *requirements], capture_output=True, text=True)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError(errors[0].removeprefix("ERROR: ") if errors else f"pip ended with {done.returncode}")
        return list(json.loads(report.read_text("utf-8"))["install"])


def resolve(requirements: list[str], jetson: Jetson, extra: str, source: set[str]) -> list[Row]:
    """Every package that the requirements lead to, or one row with the problem."""
    wanted: dict[str, None] = dict.fromkeys(requirements)
    extras: dict[str, set[str]] = {}
    for _ in range(ROUNDS):
        try:
            chosen = ask_pip(list(wanted), jetson, source)
        except RuntimeError as exc:
            return [Row(jetson.name, extra, "", "", "", str(exc))]
        for requirement in map(Requirement, wanted):
            extras.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
        before = len(wanted)
        for one in chosen:
            name = canonicalize_name(one["metadata"]["name"])
            needs = applying(one["metadata"].get("requires_dist") or [], jetson, extras.get(name, set()))
            wanted |= dict.fromkeys(map(str, needs))
        if len(wanted) == before:
            return sorted((row(one, jetson, extra, source) for one in chosen), key=lambda r: r.package)
    return [Row(jetson.name, extra, "", "", "", f"the requirements still grow after {ROUNDS} rounds")]


def row(one: dict[str, Any], jetson: Jetson, extra: str, source: set[str]) -> Row:
    """What was chosen, held against what was asked: a wheel for aarch64 (or for any machine), or a source archive."""
    name, version = one["metadata"]["name"], one["metadata"]["version"]
    file = one["download_info"]["url"].rpartition("/")[2]
    problem = None
    if canonicalize_name(name) in source:
        problem = None if file.endswith((".tar.gz", ".zip")) else "not a source archive"
    elif not file.endswith(".whl"):
        problem = "not a wheel"
    elif not any(t.platform == "any" or t.platform.endswith("aarch64") for t in parse_wheel_filename(file)[3]):
        problem = "a wheel for another machine"
    return Row(jetson.name, extra, name, version, file, problem)


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask the package index for what the Jetsons need.")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    chosen = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    rows: list[Row] = []
    for jetson in JETSONS:
        core = applying(project["dependencies"], jetson, set())
        cuda = applying(extras[jetson.cuda_extra], jetson, set())
        rows += resolve([str(r) for r in [*core, *cuda]], jetson, jetson.cuda_extra, set())
        rows += resolve([str(r) for r in applying(extras["pycuda"], jetson, set())], jetson, "pycuda", {"pycuda"})
    if chosen.json:
        print(json.dumps([asdict(r) for r in rows], indent=2))
    else:
        for r in rows:
            print(f"{r.jetson}  [{r.extra}]".ljust(22), f"{r.package} {r.version}".ljust(34), r.problem or r.file)
    broken = [r for r in rows if r.problem]
    print(f"{len(rows) - len(broken)} resolved, {len(broken)} not", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
