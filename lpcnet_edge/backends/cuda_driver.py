"""The CUDA driver, asked through its C interface for what it offers: no binding is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_CUDA_ERRORS = {
    34: "the driver is a stub, without a device behind it",
    100: "no CUDA device",
    803: "kernel driver and driver library are of different versions, reboot",
    999: "unknown error, often a driver update without a reboot",
}


@dataclass(frozen=True)
class CudaDevice:
    """One GPU: its name and compute capability, as in ``8.9``."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Cuda:
    """The CUDA driver: the version it offers, or the error that it gave, and its devices."""

    driver_version: str | None
    cuda_version: str | None
    devices: tuple[CudaDevice, ...]
    error: str | None


def cuda_driver(driver_version: str | None, load: Callable[[str], Any] = ctypes.CDLL) -> Cuda:
    """Ask the driver library, through its C interface, for its version and devices."""
    try:
        lib = load("libcuda.so.1")
    except OSError:
        return Cuda(driver_version, None, (), "libcuda.so.1 is not there")
    status = lib.cuInit(0)
    if status != 0:
        reason = _CUDA_ERRORS.get(status, "see CUresult in the CUDA driver's documentation")
        return Cuda(driver_version, None, (), f"cuInit gave error {status}: {reason}")
    number = ctypes.c_int()
    lib.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    lib.cuDeviceGetCount(ctypes.byref(number))
    devices = tuple(_cuda_device(lib, index) for index in range(number.value))
    return Cuda(driver_version, version, devices, None if devices else "the driver sees no device")


def _cuda_device(lib: Any, index: int) -> CudaDevice:
    name = ctypes.create_string_buffer(256)
    lib.cuDeviceGetName(name, len(name), index)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        lib.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
        capability.append(str(value.value))
    return CudaDevice(name.value.decode(errors="replace"), ".".join(capability))
