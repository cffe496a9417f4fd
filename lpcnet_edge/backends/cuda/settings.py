"""How backends on a CUDA device use it, as it stands in a station's YAML under ``cuda``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CudaSettings:
    """The use of a GPU.

    Attributes
    ----------
    memory
        ``staged``: pinned host memory, and copies that overlap with the work. ``mapped``: the engines read and write
        pinned host memory in place, for a GPU that shares the host's memory. ``auto`` asks the device which it is.
    graphs
        Whether the work of a batch is launched as one CUDA graph. A binding that has none is used without.
    binding
        The library through which CUDA is called. ``auto`` takes the first that is installed.
    """

    memory: Literal["auto", "staged", "mapped"] = "auto"
    graphs: Literal["on", "off"] = "on"
    binding: Literal["auto", "cuda-bindings", "pycuda"] = "auto"
