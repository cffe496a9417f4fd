"""What a build is told, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lpcnet_edge.build.calibration_set import CalibrationRecipe
from lpcnet_edge.build.ranges import METHODS, Method
from lpcnet_edge.bundle.manifest import Precision
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.decision import Rules
from lpcnet_edge.errors import BadConfig
from lpcnet_edge.network.quantisation import QatSettings

CpuBackend = Literal["openvino", "onnxruntime"]


Progress = Callable[[str, int, int], None]
"""Who watches a build: called with the phase in words, and how far it is of how much."""


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    Attributes
    ----------
    precision
        ``int8``, ``fp16`` or ``fp32``.
    backend
        The CPU runtime that calibrates nothing but measures everything: parity and accuracy.
    recipe
        Which tiles calibrate.
    method
        How ranges are found; ``auto`` takes the one whose engine agrees best with float on the calibration set.
    max_drop
        Points of mIoU that INT8 may lose on the check split.
    batch
        Tiles at a time while measuring.
    rules
        Verdict rules of the bundle.
    qat
        How to fine-tune where calibrated INT8 does not hold; None restores precision only.
    sign_with
        PEM file of the private key that signs it.
    plans
        Module (``tensorrt`` or ``tensorrt_rtx``) and compute capabilities to build plans for; none where empty.
    """

    precision: Precision = "int8"
    backend: CpuBackend = "openvino"
    recipe: CalibrationRecipe = field(default_factory=CalibrationRecipe)
    method: Method | Literal["auto"] = "auto"
    max_drop: float = 0.5
    batch: int = 8
    rules: Rules = field(default_factory=Rules)
    qat: QatSettings | None = None
    sign_with: Path | None = None
    plans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in (*METHODS, "auto"):
            raise BadConfig(f"method is {self.method!r}", mend=f"use auto or one of {', '.join(METHODS)}")
        if not 0 <= self.max_drop <= 100 or self.batch < 1:
            raise BadConfig(f"max_drop is {self.max_drop:g}, batch {self.batch}", mend="use 0 to 100 points, 1 or more")
        if self.qat is not None and self.precision != "int8":
            raise BadConfig(f"qat is for int8, precision is {self.precision}", mend="leave qat out, or build int8")

    def recipe_for(self, images: int) -> CalibrationRecipe:
        """Which tiles are picked of so many images. Where nothing is calibrated no more than there are, then without
        counts: they serve the parity and the self-test alone."""
        if self.precision == "int8" or images >= self.recipe.tiles or not images:
            return self.recipe
        return replace(self.recipe, tiles=images, counts={})


@dataclass(frozen=True)
class BuildResult:
    """A finished build; ``report`` is what went into ``accuracy.json``, and how long a fine-tune took; ``phases`` the
    seconds that each phase took."""

    bundle: Bundle
    report: Mapping[str, Any]
    seconds: float
    peak_rss_mb: float
    phases: Mapping[str, float]
    restored_layers: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data as docs/json.md describes."""
        check = self.report.get("check") or {}
        return {
            "bundle": str(self.bundle.path),
            "id": self.bundle.id,
            "precision": self.bundle.manifest.precision,
            "seconds": round(self.seconds, 2),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "phases": {phase: round(seconds, 2) for phase, seconds in self.phases.items()},
            "restored_layers": list(self.restored_layers),
            "method": self.report.get("method"),
            "qat": self.report.get("qat"),
            "reference": check.get("reference"),
            "candidate": check.get("candidate"),
            "agreement": check.get("agreement"),
            "escapes": check.get("escapes"),
            "notes": list(self.notes),
        }
