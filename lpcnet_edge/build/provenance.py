"""What a bundle's manifest says of where it came from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpcnet_edge.build.calibration_set import CalibrationSet
from lpcnet_edge.build.settings import BuildSettings
from lpcnet_edge.build.splits import trained_on
from lpcnet_edge.machine import package_version
from lpcnet_edge.types import Dataset

_LIBRARIES = ("lpcnet-edge", "torch", "onnx", "openvino", "onnxruntime")


def made_from(
    weights: str | Path, digest: str, chosen: CalibrationSet, data: Dataset, settings: BuildSettings
) -> dict[str, Any]:
    """The weights (``digest`` is their SHA-256), the tiles that calibrated, the settings, and what built it."""
    return {
        "weights": {"name": Path(weights).name, "sha256": digest, "trained_on": trained_on(weights)},
        "calibration": {"data": data.name, "digest": chosen.digest, "tiles": len(chosen.entries)},
        "backend": settings.backend,
        "max_drop": settings.max_drop,
        "versions": {name: package_version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def fine_tune(report: Mapping[str, Any]) -> dict[str, Any]:
    """That the weights are no longer those of the file named, where a fine-tune changed them."""
    qat = report.get("qat") or {}
    kept = ("data", "images", "steps", "seed", "weights_sha256")
    return {"qat": {name: qat[name] for name in kept}} if qat.get("used") else {}
