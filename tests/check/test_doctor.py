"""What doctor says of machines that tests make up."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from lpcnet_edge.check.doctor import (
    LIBRARIES,
    Cuda,
    Library,
    Report,
    cuda_driver,
    examine,
    installed_cuda,
    installed_version,
    require_an_engine,
)
from lpcnet_edge.errors import MissingLibrary


class Driver:
    """A CUDA driver library: what ctypes would load."""

    def __init__(self, status: int = 0, version: int = 13000, devices: Sequence[tuple[str, int, int]] = ()) -> None:
        self.status, self.version, self.devices = status, version, devices

    def __call__(self, name: str) -> Driver:
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, number: Any) -> int:
        number._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, number: Any) -> int:
        number._obj.value = len(self.devices)
        return 0

    def cuDeviceGetName(self, name: Any, size: int, index: int) -> int:
        name.value = self.devices[index][0].encode()
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, index: int) -> int:
        number._obj.value = self.devices[index][{75: 1, 76: 2}[attribute]]
        return 0


def no_driver(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def look(
    root: Path, installed: Sequence[str] = (), driver: Any = no_driver, answers: dict[str, str] | None = None
) -> Report:
    return examine(
        root,
        run=lambda command: (answers or {}).get(command[0]),
        version_of=lambda library: "1.0" if library.name in installed else None,
        load=driver,
    )


def mends(report: Report) -> dict[str, str]:
    found: dict[str, str] = report.to_json()["mends"]
    return found


def test_a_bare_machine_has_a_mend_for_everything_missing(tmp_path: Path) -> None:
    report = look(tmp_path)
    missing = {finding.name for finding in report.findings() if finding.value is None and finding.topic != "machine"}
    assert missing == {library.name for library in LIBRARIES} | {"nvidia_driver", "cuda_driver"}
    assert missing <= set(mends(report))
    with pytest.raises(MissingLibrary) as caught:
        require_an_engine(report)
    assert caught.value.mend == "pip install openvino onnxruntime"


def test_a_machine_without_a_gpu_runs_on_its_cpu(tmp_path: Path) -> None:
    report = look(tmp_path, ["openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"])
    assert report.engines == ("openvino", "onnxruntime"), "TensorRT needs a GPU"
    require_an_engine(report)


@pytest.mark.parametrize(
    ("capability", "engines"),
    [
        ((8, 9), ("tensorrt", "tensorrt_rtx")),
        ((7, 0), ("tensorrt",)),
        ((9, 0), ("tensorrt",)),
        ((12, 0), ("tensorrt", "tensorrt_rtx")),
    ],
)
def test_a_machine_with_a_gpu(capability: tuple[int, int], engines: tuple[str, ...], tmp_path: Path) -> None:
    driver = Driver(devices=[("NVIDIA L4", *capability)], version=12080)
    report = look(tmp_path, ["tensorrt", "tensorrt_rtx"], driver)
    assert report.engines == engines
    assert report.cuda.cuda_version == "12.8"
    lines = {finding.name: finding.value for finding in report.findings()}
    assert lines["gpu_0"] == f"NVIDIA L4, SM {capability[0]}.{capability[1]}"


@pytest.mark.parametrize(
    ("installed", "offered", "mend"),
    [
        (None, 12060, "pip install 'cuda-bindings==12.*' (the driver's CUDA is 12.6)"),
        ("13.5.0", 12060, "pip install 'cuda-bindings==12.*' (the driver's CUDA is 12.6)"),
        ("12.9.10", 12060, None),
        ("12.9.10", 13000, None),
        ("13.5.0", 13000, None),
    ],
)
def test_cuda_bindings_must_not_be_newer_than_the_driver(
    installed: str | None, offered: int, mend: str | None, tmp_path: Path
) -> None:
    report = examine(
        tmp_path,
        run=lambda command: None,
        version_of=lambda library: installed if library.name == "cuda_bindings" else None,
        load=Driver(devices=[("Orin", 8, 7)], version=offered),
    )
    assert mends(report).get("cuda_bindings") == mend


@pytest.mark.parametrize(("made_for", "offered", "told"), [(13, 12040, True), (13, 13000, False), (12, 13000, False)])
def test_tensorrt_must_not_be_newer_than_the_driver(made_for: int, offered: int, told: bool, tmp_path: Path) -> None:
    report = examine(
        tmp_path,
        run=lambda command: None,
        version_of=lambda library: "10.3" if library.name == "tensorrt" else None,
        load=Driver(devices=[("NVIDIA L4", 8, 9)], version=offered),
        cuda_of=lambda library: made_for if library.name == "tensorrt" else None,
    )
    assert report.made_for_cuda == {"tensorrt": made_for}
    finding = next(finding for finding in report.findings() if finding.name == "tensorrt")
    assert (finding.problem is not None) is told
    if told:
        assert finding.problem == "made for CUDA 13, and the driver's is 12.4"
        assert "tensorrt-cu12 'cuda-bindings==12.*'" in mends(report)["tensorrt"]


def test_what_cuda_a_library_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"a", "a-cu13"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    library = Library("a", ("a", "a-cu13", "a-cu12"), "a", "", "")
    assert installed_cuda(library) == 13
    installed.add("a-cu12")
    assert installed_cuda(library) == 12, "the one that an older driver can run"
    installed.clear()
    assert installed_cuda(library) is None


def test_cuda_errors_are_named() -> None:
    assert cuda_driver("550.54", Driver(status=803)).error == (
        "cuInit gave error 803: kernel driver and driver library are of different versions, reboot"
    )
    assert "cuInit gave error 1234" in str(cuda_driver(None, Driver(status=1234)).error)
    assert cuda_driver(None, Driver()) == Cuda(None, "13.0", (), "the driver sees no device")
    assert cuda_driver("1.2", no_driver) == Cuda("1.2", None, (), "libcuda.so.1 is not there")


def test_cuda_driver_of_this_machine_gives_no_error() -> None:
    found = cuda_driver(None, ctypes.CDLL)
    assert (found.error is None) == bool(found.devices)


def test_a_jetson_is_told_what_jetsons_need(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n", encoding="utf-8")
    report = look(tmp_path, answers={"dpkg-query": "6.2+b77", "nvpmodel": "NV Power Mode: 15W\n0"})
    assert report.jetson is not None
    assert (report.jetson.jetpack, report.jetson.power_mode) == ("6.2", "15W")
    assert "nvidia-jetpack" in mends(report)["tensorrt"]
    assert "-m 0" not in mends(report)["power_mode"], "which is the mode that this one is in"
    assert "/etc/nvpmodel.conf" in mends(report)["power_mode"]
    fast = look(tmp_path, answers={"nvpmodel": "NV Power Mode: MAXN_SUPER\n2"})
    assert "power_mode" not in mends(fast)


def test_commands_of_a_jetson_are_run_on_jetsons_only(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> str | None:
        raise AssertionError(f"{command} was run")

    examine(tmp_path, run=run, version_of=lambda library: None, load=no_driver)


def test_limits_and_governor(tmp_path: Path) -> None:
    for path, text in {
        "proc/cpuinfo": "processor\t: 0\nprocessor\t: 1\n",
        "proc/self/status": "Cpus_allowed_list:\t0\n",
        "proc/self/cgroup": "0::/\n",
        "proc/meminfo": "MemTotal: 8388608 kB\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/memory.max": str(1 << 30),
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    report = look(tmp_path)
    lines = {finding.name: finding.value for finding in report.findings()}
    assert lines["cpus"] == "2, 1 allowed, 0.5 by control group"
    assert lines["memory"] == "8192 MB, 1024 MB by control group"
    assert "performance" in mends(report)["governor"]


def test_report_is_plain_data(tmp_path: Path) -> None:
    report = look(tmp_path, ["openvino"], Driver(devices=[("NVIDIA L4", 8, 9)]))
    assert json.loads(json.dumps(report.to_json()))["cuda"]["devices"] == [
        {"name": "NVIDIA L4", "compute_capability": "8.9"}
    ]


def test_installed_version() -> None:
    assert installed_version(Library("numpy", ("no-such-distribution", "numpy"), "numpy", "", ""))
    assert installed_version(Library("absent", ("absent",), "no_such_module", "", "")) is None
    assert installed_version(Library("bare", ("no-such-distribution",), "numpy", "", "")) is None
