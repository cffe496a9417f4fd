"""Probes of the machine, on folders made to look like machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpcnet_edge import machine

X86 = """\
processor\t: 0
model name\t: AMD  EPYC 9654   96-Core Processor
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16

processor\t: 1
model name\t: AMD  EPYC 9654   96-Core Processor
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni
"""
ORIN = """\
processor\t: 0
Features\t: fp asimd asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd42

processor\t: 1
Features\t: fp asimd asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""
L4T_36_4_3 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n"


def write(root: Path, **files: str) -> Path:
    """Make files below a root; ``__`` in a name stands for ``/``."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def write_path(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def test_an_empty_machine_gives_no_error(tmp_path: Path) -> None:
    assert machine.os_name(tmp_path) == "unknown"
    assert machine.cpu_model(tmp_path) == "unknown"
    assert machine.instruction_sets(tmp_path) == ()
    assert machine.cpu_count(tmp_path) == 0
    nothing = (machine.affinity_count, machine.cgroup_cpus, machine.memory_mb, machine.cgroup_memory_mb)
    for probe in (*nothing, machine.governor, machine.nvidia_driver, machine.jetson):
        assert probe(tmp_path) is None


def test_this_machine_gives_no_error() -> None:
    assert machine.cpu_count() >= 1
    assert machine.cpu_model() != ""
    assert (machine.memory_mb() or 0) > 100


def test_os_name(tmp_path: Path) -> None:
    write(tmp_path, **{"etc__os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'})
    write(tmp_path, proc__sys__kernel__osrelease="6.1.0-18-amd64\n")
    assert machine.os_name(tmp_path) == "Debian GNU/Linux 12 (bookworm), Linux 6.1.0-18-amd64"


def test_x86(tmp_path: Path) -> None:
    write(tmp_path, proc__cpuinfo=X86)
    assert machine.cpu_model(tmp_path) == "AMD EPYC 9654 96-Core Processor"
    assert machine.cpu_count(tmp_path) == 2
    assert machine.instruction_sets(tmp_path) == ("AVX2", "AVX512", "AVX512-VNNI"), "what every core has"


@pytest.mark.parametrize(("flag", "has"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_vnni", False)])
def test_processors_that_multiply_in_bfloat16(tmp_path: Path, flag: str, has: bool) -> None:
    write(tmp_path, proc__cpuinfo=f"processor\t: 0\nflags\t\t: avx2 avx512f {flag}\n")
    assert machine.multiplies_bfloat16(tmp_path) is has


def test_arm(tmp_path: Path) -> None:
    write(tmp_path, proc__cpuinfo=ORIN)
    assert machine.cpu_model(tmp_path) == "Cortex-A78AE"
    assert machine.instruction_sets(tmp_path) == ("NEON", "FP16", "dotprod")
    write(tmp_path, proc__cpuinfo=ORIN.replace("0xd42", "0xfff", 1))
    assert machine.cpu_model(tmp_path) == "ARM 0x41/0xfff + Cortex-A78AE"


@pytest.mark.parametrize(("allowed", "count"), [("0-1", 2), ("3", 1), ("0-3,8,10-11", 7)])
def test_affinity(allowed: str, count: int, tmp_path: Path) -> None:
    write(tmp_path, proc__self__status=f"Name:\tpython\nCpus_allowed:\tf\nCpus_allowed_list:\t{allowed}\n")
    assert machine.affinity_count(tmp_path) == count


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    write(tmp_path, proc__self__cgroup="0::/a/b\n", proc__meminfo="MemTotal:       16000000 kB\n")
    write_path(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    write_path(tmp_path, "sys/fs/cgroup/a/cpu.max", "150000 100000\n")
    write_path(tmp_path, "sys/fs/cgroup/a/memory.max", str(2 << 30))
    write_path(tmp_path, "sys/fs/cgroup/a/b/memory.max", "max\n")
    assert machine.cgroup_cpus(tmp_path) == 1.5, "the limit of a group above holds as well"
    assert machine.cgroup_memory_mb(tmp_path) == 2048
    assert machine.memory_mb(tmp_path) == 15625


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    write(tmp_path, proc__self__cgroup="4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n", proc__meminfo="MemTotal: 1000 kB\n")
    write_path(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "200000")
    write_path(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000")
    write_path(tmp_path, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712")
    assert machine.cgroup_cpus(tmp_path) == 2.0
    assert machine.cgroup_memory_mb(tmp_path) is None, "a limit above the machine's memory is none"
    write_path(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1")
    assert machine.cgroup_cpus(tmp_path) is None


def test_a_container_sees_its_group_at_the_root(tmp_path: Path) -> None:
    write(tmp_path, proc__self__cgroup="0::/\n")
    write_path(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert machine.cgroup_cpus(tmp_path) == 0.5


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n", "575.57.08"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", "540.4.0"),
        ("something else\n", None),
    ],
)
def test_nvidia_driver(text: str, version: str | None, tmp_path: Path) -> None:
    write(tmp_path, proc__driver__nvidia__version=text)
    assert machine.nvidia_driver(tmp_path) == version


def test_jetson(tmp_path: Path) -> None:
    write(tmp_path, etc__nv_tegra_release=L4T_36_4_3)
    write_path(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    found = machine.jetson(tmp_path, "6.2+b77", "NV Power Mode: MAXN_SUPER\n2")
    assert found == machine.Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2", "MAXN_SUPER")
    guessed = machine.jetson(tmp_path)
    assert guessed is not None
    assert (guessed.jetpack, guessed.power_mode) == ("6.2", None), "JetPack follows from the Jetson Linux release"


def test_the_jetpack_of_a_third_number(tmp_path: Path) -> None:
    write(tmp_path, etc__nv_tegra_release="# R35 (release), REVISION: 6.1, GCID: 1")
    found = machine.jetson(tmp_path)
    assert found is not None
    assert (found.l4t, found.jetpack) == ("35.6.1", "5.1.5")


def test_a_jetson_of_an_unknown_release(tmp_path: Path) -> None:
    write(tmp_path, etc__nv_tegra_release=L4T_36_4_3.replace("R36", "R77"))
    found = machine.jetson(tmp_path)
    assert found is not None
    assert (found.l4t, found.jetpack) == ("77.4.3", None)


def test_run_command() -> None:
    assert machine.run_command(["echo", "yes"]) == "yes"
    assert machine.run_command(["false"]) is None
    assert machine.run_command(["no-such-command-here"]) is None
    assert machine.run_command(["printf", r"caf\351"]) == "caf\ufffd", "a tool may print in another encoding"
