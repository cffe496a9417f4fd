"""Clocks, temperatures and power from folders made to look like machines, and the judgement on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lpcnet_edge.bench import sensors
from lpcnet_edge.bench.nvml import Nvml, open_nvml
from lpcnet_edge.bench.sensors import Sample
from lpcnet_edge.bench.stability import Sampler, judge, series

CPU = "sys/devices/system/cpu"


def put_path(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_an_empty_machine_tells_nothing(tmp_path: Path) -> None:
    assert sensors.cpu_mhz(tmp_path, [0]) == ()
    for read in (sensors.jetson_gpu_mhz, sensors.temperatures_c, sensors.power_w, sensors.energy_j):
        assert read(tmp_path) == {}
    assert sensors.power_mode(tmp_path) is None
    assert sensors.stolen_share(None, None) is None


def test_a_core_that_hides_its_clock_hides_all(tmp_path: Path) -> None:
    for cpu in (0, 1):
        put_path(tmp_path, f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq", f"{1_500_000 + cpu * 1000}\n")
    assert sensors.cpu_mhz(tmp_path, [1, 0]) == (1500.0, 1501.0)
    assert sensors.cpu_mhz(tmp_path, [0, 2]) == ()
    put_path(tmp_path, f"{CPU}/cpu1/cpufreq/scaling_cur_freq", "<unknown>\n")
    assert sensors.cpu_mhz(tmp_path, [0, 1]) == ()


def test_a_jetson(tmp_path: Path) -> None:
    put_path(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "918000000\n")
    put_path(tmp_path, "sys/class/devfreq/15340000.vic/cur_freq", "729600000\n")
    chip = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4"
    for number, (label, millivolts, milliamperes) in enumerate(
        [("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 4992, 500), ("VDD_SOC", 5000, 300)], 1
    ):
        put_path(tmp_path, f"{chip}/in{number}_label", f"{label}\n")
        put_path(tmp_path, f"{chip}/in{number}_input", f"{millivolts}\n")
        put_path(tmp_path, f"{chip}/curr{number}_input", f"{milliamperes}\n")
    for zone, (kind, value) in enumerate([("cpu-thermal", 51_250), ("cv0-thermal", -256_000)]):
        put_path(tmp_path, f"sys/class/thermal/thermal_zone{zone}/type", kind)
        put_path(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", str(value))
    assert sensors.jetson_gpu_mhz(tmp_path) == {"17000000.gpu": 918.0}
    assert sensors.power_w(tmp_path) == pytest.approx({"VDD_IN": 10.0, "VDD_CPU_GPU_CV": 2.496, "VDD_SOC": 1.5})
    assert sensors.temperatures_c(tmp_path) == {"cpu-thermal": 51.25}


def test_a_pc(tmp_path: Path) -> None:
    put_path(tmp_path, "sys/class/hwmon/hwmon0/name", "amdgpu\n")
    put_path(tmp_path, "sys/class/hwmon/hwmon0/power1_input", "31000000\n")
    put_path(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0\n")
    put_path(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "900000000\n")
    put_path(tmp_path, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "1000000000\n")
    put_path(tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", "1\n")
    put_path(tmp_path, "sys/firmware/acpi/platform_profile", "balanced\n")
    put_path(tmp_path, f"{CPU}/cpu0/cpufreq/scaling_governor", "powersave\n")
    assert sensors.power_w(tmp_path) == {"amdgpu 1": 31.0}
    before = sensors.energy_j(tmp_path)
    put_path(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "50000000\n")  # it has wrapped round
    assert sensors.power_between(before, sensors.energy_j(tmp_path), 10.0) == pytest.approx({"package-0": 15.0})
    assert sensors.power_mode(tmp_path) == "profile balanced, governor powersave"
    assert sensors.stolen_share("cpu  100 0 0 100 0 0 0 0 0 0\n", "cpu  150 0 0 130 0 0 0 20 0 0\n") == 0.2


def test_a_laptop_on_battery_is_told(tmp_path: Path) -> None:
    supply = "sys/class/power_supply"
    put_path(tmp_path, f"{supply}/AC/type", "Mains")
    for name, status in (("BAT0", "Charging"), ("mouse", "Discharging")):
        put_path(tmp_path, f"{supply}/{name}/type", "Battery")
        put_path(tmp_path, f"{supply}/{name}/status", status)
    put_path(tmp_path, f"{supply}/mouse/scope", "Device")
    assert sensors.power_mode(tmp_path) is None
    put_path(tmp_path, f"{supply}/BAT0/status", "Discharging\n")
    assert sensors.power_mode(tmp_path) == "on battery"


def test_two_cards_of_one_kind_are_two_rails(tmp_path: Path) -> None:
    for number, label in enumerate(("PPT", "PPT", "", "")):
        put_path(tmp_path, f"sys/class/hwmon/hwmon{number}/name", "amdgpu")
        put_path(tmp_path, f"sys/class/hwmon/hwmon{number}/power1_input", f"{number + 1}000000")
        if label:
            put_path(tmp_path, f"sys/class/hwmon/hwmon{number}/power1_label", label)
    rails = {"PPT": 1.0, "PPT (hwmon1)": 2.0, "amdgpu 1": 3.0, "amdgpu 1 (hwmon3)": 4.0}
    assert sensors.power_w(tmp_path) == rails


@pytest.mark.parametrize(
    ("rails", "whole"),
    [
        ({}, None),
        ({"VDD_IN": 9.0, "VDD_CPU_GPU_CV": 4.0, "VDD_SOC": 2.0}, 9.0),
        ({"VDD_GPU_SOC": 8.0, "VDD_CPU_CV": 3.0, "VIN_SYS_5V0": 5.0}, 16.0),
        ({"POM_5V_IN": 5.0, "POM_5V_GPU": 2.0}, 5.0),
        ({"psys": 30.0, "package-0": 20.0}, 30.0),
        ({"package-0": 20.0, "package-1": 22.0, "0: NVIDIA RTX A2000": 60.0}, 102.0),
    ],
)
def test_a_rail_within_another_counts_once(rails: dict[str, float], whole: float | None) -> None:
    assert sensors.whole_power_w(rails) == whole


def loaded(clocks: list[float], **more: Any) -> list[Sample]:
    return [Sample(float(n), "work", (mhz, 800.0), **more) for n, mhz in enumerate(clocks)]


@pytest.mark.parametrize(
    ("clocks", "drifts", "stable", "says"),
    [
        ([3000.0] * 20, {"pipeline": 0.01}, True, ""),
        ([3000.0] * 10 + [2700.0] * 10, {"pipeline": 0.0}, False, "the CPU clock moved by 10.0 % (2700 to 3000 MHz)"),
        ([3000.0] * 20, {"pipeline": -0.12}, False, "pipeline: the throughput drifted by -12.0 %"),
        ([3000.0] * 99 + [800.0], {"pipeline": None}, True, ""),  # a core that slept for one sample
    ],
)
def test_the_judgement(clocks: list[float], drifts: dict[str, float | None], stable: bool, says: str) -> None:
    found = judge(loaded(clocks), drifts, threads=1)
    assert found.stable is stable
    assert "; ".join(found.reasons).startswith(says)
    assert bool(found.reasons) == (not stable)


def test_clocks_that_cannot_be_read_are_not_stable() -> None:
    blind = [Sample(float(n), "work") for n in range(20)]
    found = judge(blind, {"pipeline": 0.0}, threads=1)
    assert found.stable == "unknown"
    assert found.reasons == ("the processor's clock cannot be read here",)
    assert judge(blind, {"pipeline": 0.5}, threads=1).stable is False
    assert judge(loaded([3000.0] * 9), {}, threads=1, uses_gpu=True).stable == "unknown"
    idle = [Sample(float(n), "", (3000.0 - 100 * n,)) for n in range(20)]  # not under load
    assert judge([*idle, *loaded([3000.0] * 9)], {}, threads=1).stable is True


def test_a_gpu_that_is_held_down_is_unstable() -> None:
    held = loaded([3000.0] * 9, gpu_mhz={"0": 1800.0}, throttled=("0: temperature, in hardware",))
    assert judge(held, {}, threads=1, uses_gpu=True).reasons == ("clocks were held down, 0: temperature, in hardware",)
    assert judge(held, {}, threads=1).stable is True


def test_the_sampler_reads_in_the_background(tmp_path: Path) -> None:
    import os

    for cpu in os.sched_getaffinity(0):
        put_path(tmp_path, f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq", "2000000")
    put_path(tmp_path, "proc/stat", "cpu  1 0 0 1 0 0 0 0 0 0\n")
    with Sampler(tmp_path, period_s=0.001, nvml=lambda: None) as sampler, sampler.phase("work"):
        while len(sampler.samples) < 3:
            pass
    assert {sample.phase for sample in sampler.samples} <= {"work", ""}
    assert all(set(sample.cpu_mhz) == {2000.0} for sample in sampler.samples)
    assert len(series(sampler.samples * 1000, 0.0)) <= 240


class FakeNvml:
    """The C functions of NVML as far as they are called; a GPU at 60 W whose power is capped."""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, out: Any) -> int:
        return set_to(out, 1)

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, out: Any) -> int:
        return 0

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: int) -> int:
        buffer.value = b"NVIDIA RTX A2000"
        return 0

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int, out: Any) -> int:
        return set_to(out, 1200) if kind == 1 else 2

    def nvmlDeviceGetTemperature(self, handle: Any, kind: int, out: Any) -> int:
        return 3  # not supported

    def nvmlDeviceGetPowerUsage(self, handle: Any, out: Any) -> int:
        return set_to(out, 60_500)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any, out: Any) -> int:
        return set_to(out, 0x4 | 0x1)


def set_to(out: Any, value: int) -> int:
    out._obj.value = value
    return 0


def test_nvml_is_read_through_its_c_interface() -> None:
    nvml = open_nvml(lambda name: FakeNvml())
    assert isinstance(nvml, Nvml)
    (reading,) = nvml.read()
    assert reading.name == "0: NVIDIA RTX A2000"
    assert (reading.mhz, reading.temperature_c, reading.power_w) == (1200.0, None, 60.5)
    assert reading.throttled == ("power cap in software",)

    def absent(name: str) -> Any:
        raise OSError(name)

    assert open_nvml(absent) is None
