"""NVIDIA's management library through its C interface: clocks, temperature, power, and why clocks are held down.

Written to NVML's documented interface; not run on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SM_CLOCK, _GPU_SENSOR = 1, 0  # nvmlClockType_t, nvmlTemperatureSensors_t

# Of nvmlClocksEventReasons those that hold clocks below what the load asks for.
_REASONS = {
    0x4: "power cap in software",
    0x8: "hardware slowdown",
    0x20: "temperature, in software",
    0x40: "temperature, in hardware",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment; None for what it does not tell."""

    name: str
    mhz: float | None
    temperature_c: float | None
    power_w: float | None
    throttled: tuple[str, ...]


class Nvml:
    """The library, opened; :func:`open_nvml` gives None where there is none."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        count = ctypes.c_uint()
        lib.nvmlDeviceGetCount_v2(ctypes.byref(count))
        self._devices: list[tuple[str, ctypes.c_void_p]] = []
        for index in range(count.value):
            handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            if lib.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                lib.nvmlDeviceGetName(handle, name, len(name))
                self._devices.append((f"{index}: {name.value.decode(errors='replace')}", handle))

    def read(self) -> list[GpuReading]:
        """All GPUs."""
        return [self._read(name, handle) for name, handle in self._devices]

    def close(self) -> None:
        """Let go of the library."""
        self._lib.nvmlShutdown()

    def _read(self, name: str, handle: ctypes.c_void_p) -> GpuReading:
        mhz, celsius, milliwatts = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        reasons = ctypes.c_ulonglong()
        lib = self._lib
        has_clock = lib.nvmlDeviceGetClockInfo(handle, _SM_CLOCK, ctypes.byref(mhz)) == 0
        has_heat = lib.nvmlDeviceGetTemperature(handle, _GPU_SENSOR, ctypes.byref(celsius)) == 0
        has_power = lib.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts)) == 0
        has_reasons = lib.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(reasons)) == 0
        held = tuple(text for bit, text in _REASONS.items() if has_reasons and reasons.value & bit)
        return GpuReading(
            name,
            float(mhz.value) if has_clock else None,
            float(celsius.value) if has_heat else None,
            milliwatts.value / 1e3 if has_power else None,
            held,
        )


def open_nvml(load: Callable[[str], Any] = ctypes.CDLL) -> Nvml | None:
    """The library, or None where it is absent or finds no driver."""
    try:
        lib = load("libnvidia-ml.so.1")
    except OSError:
        return None
    return Nvml(lib) if lib.nvmlInit_v2() == 0 else None
