"""Clocks, temperatures and power as the kernel tells them, below a root folder, so that tests can feed another.

What is absent or odd is left out, never guessed. The clock in ``/proc/cpuinfo`` is not used: virtual machines show a
constant there, whatever the processor does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lpcnet_edge.machine import ROOT, read_text

_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")
"""What the devfreq folders of Jetson GPUs are called."""

_HOLDS = {"VDD_IN": "VDD_", "POM_5V_IN": "POM_5V_", "psys": "package-"}
"""Rails that measure a whole, a Jetson module or a laptop, and how the names of those within it begin."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read at one moment.

    Attributes
    ----------
    time_s
        ``time.perf_counter``.
    phase
        What was being measured; empty between measurements.
    cpu_mhz
        Of each core that the process may use; empty where it cannot be read.
    gpu_mhz, temperature_c, power_w
        By name.
    throttled
        Why the GPU's driver holds its clocks down, in its words.
    """

    time_s: float
    phase: str
    cpu_mhz: tuple[float, ...] = ()
    gpu_mhz: dict[str, float] = field(default_factory=dict)
    temperature_c: dict[str, float] = field(default_factory=dict)
    power_w: dict[str, float] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()


def cpu_mhz(root: Path = ROOT, cpus: Iterable[int] | None = None) -> tuple[float, ...]:
    """Current clock of each core, MHz (cpufreq tells kHz); empty unless every core tells it."""
    found = []
    for cpu in sorted(os.sched_getaffinity(0) if cpus is None else cpus):
        value = _number(root, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")
        if value is None:
            return ()
        found.append(value / 1e3)
    return tuple(found)


def jetson_gpu_mhz(root: Path = ROOT) -> dict[str, float]:
    """Current clock of a Jetson's GPU, MHz (devfreq tells Hz), by the folder's name."""
    found = {}
    for folder in _folders(root, "sys/class/devfreq", "*"):
        name = folder.rsplit("/", 1)[-1]
        if any(part in name for part in _GPU_NAMES):
            value = _number(root, f"{folder}/cur_freq")
            if value is not None:
                found[name] = value / 1e6
    return found


def temperatures_c(root: Path = ROOT) -> dict[str, float]:
    """Temperature of each thermal zone, degrees C (the kernel tells thousandths), by its type."""
    found = {}
    for folder in _folders(root, "sys/class/thermal", "thermal_zone*"):
        value = _number(root, f"{folder}/temp")
        if value is not None and -40e3 < value < 200e3:  # an unpowered zone of a Jetson says -256000
            name = read_text(root, f"{folder}/type") or folder.rsplit("/", 1)[-1]
            found[name if name not in found else f"{name} ({folder.rsplit('thermal_zone', 1)[-1]})"] = value / 1e3
    return found


def power_w(root: Path = ROOT) -> dict[str, float]:
    """Power by rail, W: a Jetson's INA3221 monitors (mV times mA), and what other hwmon chips tell in microwatts."""
    found: dict[str, float] = {}
    chips = _folders(root, "sys/bus/i2c/drivers/ina3221", "*/hwmon/hwmon*")
    chips = chips or [
        folder
        for folder in _folders(root, "sys/class/hwmon", "hwmon*")
        if read_text(root, f"{folder}/name") == "ina3221"
    ]
    for folder in chips:
        for channel in (1, 2, 3):
            volts, amperes = (_number(root, f"{folder}/{kind}{channel}_input") for kind in ("in", "curr"))
            if volts is not None and amperes is not None:
                label = read_text(root, f"{folder}/in{channel}_label") or f"{folder.rsplit('/', 1)[-1]} {channel}"
                _add(found, label, folder, volts * amperes / 1e6)
    for folder in _folders(root, "sys/class/hwmon", "hwmon*"):
        name = read_text(root, f"{folder}/name") or folder.rsplit("/", 1)[-1]
        for channel in range(1, 5):
            value = _number(root, f"{folder}/power{channel}_input")
            if value is not None and name != "ina3221":
                label = read_text(root, f"{folder}/power{channel}_label") or f"{name} {channel}"
                _add(found, label, folder, value / 1e6)
    return found


def _add(found: dict[str, float], label: str, folder: str, value: float) -> None:
    """Under a label of its own: two cards of one kind call their rails the same."""
    found[label if label not in found else f"{label} ({folder.rsplit('/', 1)[-1]})"] = value


def whole_power_w(rails: dict[str, float]) -> float | None:
    """Of rails by name the sum, each watt once: without those that another one holds. None where there are none."""
    parts = [part for whole, part in _HOLDS.items() if whole in rails]
    counted = [
        value for name, value in rails.items() if name in _HOLDS or not any(name.startswith(part) for part in parts)
    ]
    return sum(counted) if counted else None


def energy_j(root: Path = ROOT) -> dict[str, tuple[float, float]]:
    """(energy, range of the counter) of each RAPL package, J, by name; readable by root alone on many systems."""
    found = {}
    for folder in _folders(root, "sys/class/powercap", "intel-rapl:*"):
        if folder.count(":") != 1:
            continue  # a part of a package
        value, limit = (_number(root, f"{folder}/{kind}") for kind in ("energy_uj", "max_energy_range_uj"))
        if value is not None and limit:
            found[read_text(root, f"{folder}/name") or folder.rsplit("/", 1)[-1]] = (value / 1e6, limit / 1e6)
    return found


def power_between(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]], seconds: float
) -> dict[str, float]:
    """Mean power of each RAPL package between two readings of :func:`energy_j`, W; a counter may wrap round once."""
    if seconds <= 0:
        return {}
    return {
        name: ((value - before[name][0]) % limit) / seconds for name, (value, limit) in after.items() if name in before
    }


def power_mode(root: Path = ROOT) -> str | None:
    """The platform profile, the cores' governors and a battery in use, in words; None where there is none of it."""

    def discharges(folder: str) -> bool:
        kind, scope, status = (read_text(root, f"{folder}/{name}") for name in ("type", "scope", "status"))
        return kind == "Battery" and scope != "Device" and status == "Discharging"  # a mouse has one, too

    profile = read_text(root, "sys/firmware/acpi/platform_profile")
    governors = sorted(
        {
            text
            for folder in _folders(root, "sys/devices/system/cpu", "cpu[0-9]*")
            if (text := read_text(root, f"{folder}/cpufreq/scaling_governor"))
        }
    )
    parts = [f"profile {profile}"] if profile else []
    parts += [f"governor {' and '.join(governors)}"] if governors else []
    parts += ["on battery"] if any(map(discharges, _folders(root, "sys/class/power_supply", "*"))) else []
    return ", ".join(parts) or None


def stolen_share(before: str | None, after: str | None) -> float | None:
    """Of two readings of ``/proc/stat``: the share of all cores' time that a hypervisor gave to others."""
    rows = []
    for text in (before, after):
        fields = (text or "").partition("\n")[0].split()
        if len(fields) < 9 or fields[0] != "cpu":
            return None
        rows.append([int(value) for value in fields[1:9]])
    spent = [b - a for a, b in zip(*rows, strict=True)]
    return spent[7] / sum(spent) if sum(spent) > 0 else None


def _folders(root: Path, base: str, pattern: str) -> list[str]:
    try:
        return sorted(path.relative_to(root).as_posix() for path in (root / base).glob(pattern))
    except OSError:
        return []


def _number(root: Path, path: str) -> float | None:
    try:
        return float(read_text(root, path) or "")
    except ValueError:
        return None
