"""Rates of devices for the estimate: facts of their makers' data sheets, each with its source, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

from lpcnet_edge.config import suggest
from lpcnet_edge.errors import UsageError

THIS_CPU = "this-cpu"

_INT8_OPS_A_CYCLE = 1024
"""Dense INT8 operations (2 a multiply-add) of one Ampere tensor core of Orin in a cycle. With it cores times clock give
the data sheets' own figures for the GPU alone: 10 and 20 dense TOPS of Orin Nano 4GB and 8GB; 25 and 30 of Orin NX 8GB
and 16GB (35 and 50 with the DLAs' 10 and 20); half of AGX Orin 32GB's and 64GB's 108 and 170 sparse TOPS."""

_NANO = "NVIDIA Jetson Orin Nano Series data sheet, DS-11105-001"
_NX = "NVIDIA Jetson Orin NX Series data sheet, DS-10712-001 v1.7"
_AGX = "NVIDIA Jetson AGX Orin Series data sheet, DS-10662-001 v1.8"


@dataclass(frozen=True, slots=True)
class Device:
    """What the estimate takes of a device.

    Attributes
    ----------
    name
        In full.
    int8_ops, float_ops, vector_ops
        Operations a second (2 a multiply-add): INT8, the narrowest float that engines use, and outside convolutions.
    bytes_per_s
        Of memory.
    float_bytes
        Of a number that is not INT8.
    sources
        A sentence for each figure.
    """

    name: str
    int8_ops: float
    float_ops: float
    vector_ops: float
    bytes_per_s: float
    float_bytes: int
    sources: tuple[str, ...]


def _orin(name: str, cuda_cores: int, tensor_cores: int, mhz: float, gb_per_s: float, source: str) -> Device:
    int8 = tensor_cores * _INT8_OPS_A_CYCLE * mhz * 1e6
    return Device(
        name,
        int8_ops=int8,
        float_ops=int8 / 2,
        vector_ops=2.0 * cuda_cores * mhz * 1e6,
        bytes_per_s=gb_per_s * 1e9,
        float_bytes=2,
        sources=(
            f"{cuda_cores} CUDA cores, {tensor_cores} tensor cores, {mhz:g} MHz, {gb_per_s:g} GB/s: {source}",
            f"{int8 / 1e12:.1f} dense INT8 TOPS: tensor cores x {_INT8_OPS_A_CYCLE} operations a cycle x clock; FP16: "
            "half of it (NVIDIA Ampere architecture); the sheets' headline figures are sparse, twice as high, and with "
            "the DLAs",
        ),
    )


DEVICES: dict[str, Device] = {
    "orin-nano-4gb": _orin("Jetson Orin Nano 4GB", 512, 16, 625, 34, _NANO),
    "orin-nano": _orin("Jetson Orin Nano 8GB", 1024, 32, 625, 68, _NANO),
    "orin-nano-super": _orin(
        "Jetson Orin Nano 8GB in MAXN SUPER",
        1024,
        32,
        1020,
        102,
        "NVIDIA Jetson Orin Nano Super Developer Kit data sheet",
    ),
    "orin-nx-8gb": _orin("Jetson Orin NX 8GB", 1024, 32, 765, 102, _NX),
    "orin-nx": _orin("Jetson Orin NX 16GB", 1024, 32, 918, 102, _NX),
    "orin-nx-super": _orin("Jetson Orin NX 8GB or 16GB in MAXN_SUPER", 1024, 32, 1173, 102, _NX),
    "agx-orin-32gb": _orin("Jetson AGX Orin 32GB", 1792, 56, 939, 204.8, _AGX),
    "agx-orin": _orin("Jetson AGX Orin 64GB", 2048, 64, 1300, 204.8, f"{_AGX}, and Technical Brief 1.2"),
}


def device_called(name: str) -> Device:
    """A device by its short name; raises ``UsageError``."""
    if name not in DEVICES:
        raise UsageError(f"no figures of '{name}' are known", mend=suggest(name, [*DEVICES, THIS_CPU]))
    return DEVICES[name]
