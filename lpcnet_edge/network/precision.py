"""Which arithmetic training uses on this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from lpcnet_edge.errors import MissingDevice


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The reduced type for ``auto``, ``float32``, ``bfloat16`` or ``float16`` on a device; None for float32.

    ``auto`` is float16 on CUDA, bfloat16 on a processor with AVX512-BF16 or AMX (elsewhere it is emulated and slower
    than float32), float32 otherwise. Raises ``MissingDevice`` for float16 without CUDA.
    """
    if precision == "float16" and device.type != "cuda":
        raise MissingDevice("float16 training needs a CUDA device", mend="use precision: auto, bfloat16 or float32")
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _multiplies_bfloat16() else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def _multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        flags = set(cpuinfo.read_text(errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
