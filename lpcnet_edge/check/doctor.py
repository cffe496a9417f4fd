"""``lpcnet-edge doctor``: what this machine can run, and the mend for each thing missing.

Libraries are looked up by their installed metadata and not imported, so the answer takes a moment and loads nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lpcnet_edge import machine
from lpcnet_edge.backends.cuda_driver import Cuda, cuda_driver
from lpcnet_edge.backends.tensorrt_versions import BRANCHES
from lpcnet_edge.errors import MissingLibrary


@dataclass(frozen=True)
class Library:
    """A library that this toolkit can use: where to look for it, what for, and how to get it."""

    name: str
    distributions: tuple[str, ...]
    module: str
    purpose: str
    mend: str


_HERE = "(in the repository)"
_JETPACK_MEND = "sudo apt-get install nvidia-jetpack, and an environment with --system-site-packages"
LIBRARIES = (
    Library("openvino", ("openvino",), "openvino", "engines on a CPU", "pip install openvino"),
    Library("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "onnxruntime", "engines on a CPU, reference runs",
            "pip install onnxruntime"),
    Library("torch", ("torch",), "torch", "training, the float network", f"pip install -e '.[train]' {_HERE}"),
    Library("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt", "engines on an NVIDIA GPU",
            f"pip install -e '.[tensorrt]' {_HERE}"),
    Library("tensorrt_rtx", ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "tensorrt_rtx",
            "engines on a GeForce or RTX card", f"pip install -e '.[tensorrt-rtx]' {_HERE}"),
    Library("cuda_bindings", ("cuda-bindings",), "cuda.bindings", "CUDA from Python", "pip install cuda-bindings"),
    Library("pycuda", ("pycuda",), "pycuda", "CUDA from Python, where cuda-bindings does not serve",
            "pip install pycuda (builds from source, needs the CUDA toolkit)"),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``value`` None means missing; a mend may also stand beside a value to improve."""

    topic: str
    name: str
    value: str | None
    mend: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Report:
    """What doctor found. Sizes in MB (2^20 bytes), CPUs in cores; None where there is nothing or no limit.

    ``made_for_cuda`` has the major version of CUDA that a library was made for, of those whose package's name says it.
    """

    os: str
    architecture: str
    python: str
    cpu: str
    instruction_sets: tuple[str, ...]
    cpus: int
    cpus_allowed: int | None
    cgroup_cpus: float | None
    memory_mb: int | None
    cgroup_memory_mb: int | None
    governor: str | None
    jetson: machine.Jetson | None
    cuda: Cuda
    libraries: dict[str, str | None]
    made_for_cuda: dict[str, int]

    @property
    def engines(self) -> tuple[str, ...]:
        """Libraries that could run an engine here: on the CPU if installed, on a GPU if that is there as well."""
        here = {device.compute_capability for device in self.cuda.devices}
        # Of a module's versions: the cards that it serves, or none where it serves every one.
        served: dict[str, set[str]] = {
            branch.module: here & set(branch.compute_capabilities or here) for branch in BRANCHES
        }
        return tuple(
            name
            for name in ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx")
            if self.libraries[name] and (name not in served or served[name])
        )

    def findings(self) -> list[Finding]:
        """The report line by line, each missing thing with its mend."""
        return [*self._machine_findings(), *self._gpu_findings(), *self._library_findings()]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        mends = {finding.name: finding.mend for finding in self.findings() if finding.mend}
        return {**asdict(self), "engines": self.engines, "mends": mends}

    def _machine_findings(self) -> list[Finding]:
        limits = [f"{self.cpus_allowed} allowed" if self.cpus_allowed not in (None, self.cpus) else ""]
        limits.append(f"{self.cgroup_cpus:g} by control group" if self.cgroup_cpus else "")
        cpus = ", ".join([str(self.cpus), *filter(None, limits)])
        memory = f"{self.memory_mb} MB" if self.memory_mb else None
        if self.cgroup_memory_mb:
            memory = f"{memory or 'unknown'}, {self.cgroup_memory_mb} MB by control group"
        slow = self.governor in ("powersave", "ondemand", "conservative", "schedutil")
        governor_mend = "sudo cpupower frequency-set -g performance (steadier latencies)" if slow else None
        found = [
            Finding("machine", "os", self.os),
            Finding("machine", "python", f"{self.python}, {self.architecture}"),
            Finding("machine", "cpu", self.cpu),
            Finding("machine", "instruction_sets", " ".join(self.instruction_sets) or None),
            Finding("machine", "cpus", cpus),
            Finding("machine", "memory", memory),
            Finding("machine", "governor", self.governor or "fixed by the machine", governor_mend),
        ]
        if self.jetson:
            mode_mend = None
            if not (self.jetson.power_mode or "").startswith("MAXN"):
                mode_mend = (
                    "sudo nvpmodel -m NUMBER && sudo jetson_clocks (grep POWER_MODEL /etc/nvpmodel.conf shows the "
                    "number of MAXN, or of the largest mode)"
                )
            found += [
                Finding("machine", "jetson", self.jetson.model or "unknown model"),
                Finding("machine", "jetson_linux", self.jetson.l4t),
                Finding("machine", "jetpack", self.jetson.jetpack, None if self.jetson.jetpack else _JETPACK_MEND),
                Finding("machine", "power_mode", self.jetson.power_mode, mode_mend),
            ]
        return found

    def _gpu_findings(self) -> list[Finding]:
        cuda = self.cuda
        mend = "with an NVIDIA card: sudo apt-get install nvidia-driver (Debian non-free), then reboot"
        if self.jetson:
            mend = _JETPACK_MEND
        found = [
            Finding("gpu", "nvidia_driver", cuda.driver_version, None if cuda.driver_version else mend),
            Finding("gpu", "cuda_driver", cuda.cuda_version, mend if cuda.error else None, cuda.error),
        ]
        found += [
            Finding("gpu", f"gpu_{i}", f"{d.name}, SM {d.compute_capability}") for i, d in enumerate(cuda.devices)
        ]
        return found

    def _library_findings(self) -> list[Finding]:
        found = []
        drivers = int(self.cuda.cuda_version.partition(".")[0]) if self.cuda.cuda_version else None
        for library in LIBRARIES:
            name, version = library.name, self.libraries[library.name]
            mend = _JETPACK_MEND if self.jetson and name == "tensorrt" else library.mend
            made_for = self.made_for_cuda.get(name)
            if name == "cuda_bindings" and drivers:
                mend = f"pip install 'cuda-bindings=={drivers}.*' (the driver's CUDA is {self.cuda.cuda_version})"
                made_for = int(version.partition(".")[0]) if version else None
            too_new = bool(drivers and made_for and made_for > drivers)
            problem = None
            if too_new and name != "cuda_bindings":
                problem = f"made for CUDA {made_for}, and the driver's is {self.cuda.cuda_version}"
                package = f"{library.distributions[0]}-cu{drivers}"
                mend = (
                    f"a newer driver, or in a new environment pip install -e . {package} 'cuda-bindings=={drivers}.*'"
                )
            found.append(Finding(library.purpose, name, version, mend if too_new or not version else None, problem))
        return found


def examine(
    root: Path = machine.ROOT,
    run: Callable[[Sequence[str]], str | None] = machine.run_command,
    version_of: Callable[[Library], str | None] | None = None,
    load: Callable[[str], Any] = ctypes.CDLL,
    cuda_of: Callable[[Library], int | None] | None = None,
) -> Report:
    """Look at the machine: its files below ``root``, its commands, installed packages and shared libraries."""
    find_version, find_cuda = version_of or installed_version, cuda_of or installed_cuda
    is_jetson = machine.jetson(root) is not None
    jetpack_query = ("dpkg-query", "-W", "-f", "${Version}", "nvidia-jetpack")
    jetpack_package, nvpmodel = (run(jetpack_query), run(("nvpmodel", "-q"))) if is_jetson else (None, None)
    return Report(
        os=machine.os_name(root),
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=machine.cpu_model(root),
        instruction_sets=machine.instruction_sets(root),
        cpus=machine.cpu_count(root),
        cpus_allowed=machine.affinity_count(root),
        cgroup_cpus=machine.cgroup_cpus(root),
        memory_mb=machine.memory_mb(root),
        cgroup_memory_mb=machine.cgroup_memory_mb(root),
        governor=machine.governor(root),
        jetson=machine.jetson(root, jetpack_package, nvpmodel),
        cuda=cuda_driver(machine.nvidia_driver(root), load),
        libraries={library.name: find_version(library) for library in LIBRARIES},
        made_for_cuda={library.name: major for library in LIBRARIES if (major := find_cuda(library))},
    )


def require_an_engine(report: Report) -> None:
    """Raise ``MissingLibrary`` unless some engine could run on this machine."""
    if not report.engines:
        raise MissingLibrary("nothing that could run an engine is here", mend="pip install openvino onnxruntime")


def installed_version(library: Library) -> str | None:
    """Version of an installed library, or None; its module must be there too, and is not imported."""
    try:
        if importlib.util.find_spec(library.module.partition(".")[0]) is None:
            return None
    except (ImportError, ValueError):
        return None
    for distribution in library.distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def installed_cuda(library: Library) -> int | None:
    """Major version of CUDA in the names of a library's installed packages; of several the lowest, which will do."""
    found = []
    for distribution in library.distributions:
        named = re.search(r"-cu(\d+)$", distribution)
        if named:
            with suppress(metadata.PackageNotFoundError):
                metadata.version(distribution)
                found.append(int(named[1]))
    return min(found, default=None)
