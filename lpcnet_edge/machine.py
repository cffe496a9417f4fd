"""What this machine is, read from its files: each probe is a function of a root folder, so that tests can feed another.

Nothing here is imported from a library under examination, and a file that is absent or odd gives None, never an error.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path("/")

# Flag of /proc/cpuinfo -> name, in the order shown. x86 first, then aarch64.
INSTRUCTION_SETS: dict[str, str] = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "dotprod",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}

# (implementer, part) of an ARM core, of those found in the machines this toolkit is for.
_ARM_CORES = {
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
}

# NVIDIA's releases of Jetson Linux (L4T) and the JetPack that each belongs to.
_JETPACK_OF_L4T = {
    "35.5": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2": "7.0",
}


@dataclass(frozen=True)
class Jetson:
    """A Jetson module: its model, Jetson Linux release, JetPack (None where it cannot be told) and power mode."""

    model: str | None
    l4t: str | None
    jetpack: str | None
    power_mode: str | None


def read_text(root: Path, path: str) -> str | None:
    """Contents of a small file below ``root``, stripped of NULs and outer space, or None."""
    try:
        return (root / path).read_text(encoding="utf-8", errors="replace").replace("\0", "").strip()
    except OSError:
        return None


def run_command(command: Sequence[str]) -> str | None:
    """Standard output of a command that ends well within five seconds, or None."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def os_name(root: Path = ROOT) -> str:
    """Distribution and kernel, as in ``Debian GNU/Linux 12 (bookworm), Linux 6.1.0``."""
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', read_text(root, "etc/os-release") or "", re.MULTILINE)
    kernel = read_text(root, "proc/sys/kernel/osrelease")
    known = [pretty.group(1) if pretty else None, f"Linux {kernel}" if kernel else None]
    return ", ".join(part for part in known if part) or "unknown"


def cpu_model(root: Path = ROOT) -> str:
    """The CPU's marketing name; on ARM, where there is none, the names of its cores."""
    cpuinfo = read_text(root, "proc/cpuinfo") or ""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if name:
        return " ".join(name.group(1).split())
    implementers = re.findall(r"^CPU implementer\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    cores = dict.fromkeys(zip(implementers, parts, strict=False))
    return " + ".join(_ARM_CORES.get(core, f"ARM {core[0]}/{core[1]}") for core in cores) or "unknown"


def instruction_sets(root: Path = ROOT) -> tuple[str, ...]:
    """Those instruction sets that every core has and that matter for inference, by their usual names."""
    cpuinfo = read_text(root, "proc/cpuinfo") or ""
    per_core = [set(line.split()) for line in re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)]
    common = set.intersection(*per_core) if per_core else set()
    return tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in common)


def package_version(name: str) -> str:
    """Of an installed distribution; ``unknown`` where there is none of that name, as of a build by another."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


@cache
def multiplies_bfloat16(root: Path = ROOT) -> bool:
    """Whether this x86 processor multiplies in bfloat16; others would only act as if, slower than in float32."""
    return not {"AVX512-BF16", "AMX-BF16"}.isdisjoint(instruction_sets(root))


def cpu_count(root: Path = ROOT) -> int:
    """Cores that the kernel lists (with hyper-threading: threads)."""
    return len(re.findall(r"^processor\s*:", read_text(root, "proc/cpuinfo") or "", re.MULTILINE))


def affinity_count(root: Path = ROOT) -> int | None:
    """Cores that this process may use."""
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", read_text(root, "proc/self/status") or "", re.MULTILINE)
    if not allowed:
        return None
    spans = [span.partition("-") for span in allowed.group(1).split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """Cores' worth of time that control groups leave to this process, or None where they set no limit."""
    limits = []
    for folder in _cgroup_folders(root, "cpu"):
        quota, _, period = (read_text(root, f"{folder}/cpu.max") or "").partition(" ")  # version 2
        if not quota:
            quota = read_text(root, f"{folder}/cpu.cfs_quota_us") or "max"  # version 1
            period = read_text(root, f"{folder}/cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return round(min(limits), 2) if limits else None


def memory_mb(root: Path = ROOT) -> int | None:
    """Memory of the machine in MB (2^20 bytes)."""
    total = re.search(r"^MemTotal:\s*(\d+) kB$", read_text(root, "proc/meminfo") or "", re.MULTILINE)
    return int(total.group(1)) // 1024 if total else None


def cgroup_memory_mb(root: Path = ROOT) -> int | None:
    """Memory in MB that control groups leave to this process, or None where they set no limit."""
    texts = [
        read_text(root, f"{folder}/{name}")
        for folder in _cgroup_folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    limits = [int(text) >> 20 for text in texts if text and text.isdigit()]
    limit = min(limits, default=None)
    total = memory_mb(root)
    return limit if limit is not None and (total is None or limit < total) else None


def governor(root: Path = ROOT) -> str | None:
    """The CPU frequency governor, or None where the kernel does not scale (most virtual machines)."""
    return read_text(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def nvidia_driver(root: Path = ROOT) -> str | None:
    """Version of NVIDIA's kernel driver, or None where it is not loaded."""
    text = read_text(root, "proc/driver/nvidia/version") or ""
    version = re.search(r"Kernel Module\D*?\s(\d+(?:\.\d+)+)", re.sub(r"x86_64|aarch64", "", text))
    return version.group(1) if version else None


def jetson(root: Path = ROOT, jetpack_package: str | None = None, nvpmodel: str | None = None) -> Jetson | None:
    """The Jetson that this is, or None elsewhere.

    Parameters
    ----------
    jetpack_package
        Installed version of Debian package ``nvidia-jetpack``, where it is installed.
    nvpmodel
        What ``nvpmodel -q`` printed.
    """
    release = re.search(r"R(\d+) .*?REVISION: (\d+(?:\.\d+)*)", read_text(root, "etc/nv_tegra_release") or "")
    model = read_text(root, "proc/device-tree/model")
    if not release and "jetson" not in (model or "").lower():
        return None
    l4t = f"{release.group(1)}.{release.group(2)}" if release else None
    jetpack = jetpack_package.partition("+")[0] if jetpack_package else None
    if jetpack is None and l4t:
        jetpack = next((v for k, v in _JETPACK_OF_L4T.items() if l4t == k or l4t.startswith(f"{k}.")), None)
    mode = re.search(r"NV Power Mode:\s*(\S+)", nvpmodel or "")
    return Jetson(model, l4t, jetpack, mode.group(1) if mode else None)


def _cgroup_folders(root: Path, controller: str) -> list[str]:
    """Folders of this process's control group for one controller and of all groups above it."""
    for line in (read_text(root, "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = f"sys/fs/cgroup/{controller}" if controllers else "sys/fs/cgroup"
        names = [name for name in path.split("/") if name]
        folders = ["/".join([base, *names[:depth]]) for depth in range(len(names), -1, -1)]
        if any((root / folder).is_dir() for folder in folders):
            return folders
    return []
