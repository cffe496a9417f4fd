"""``build --from``: what this machine makes of a bundle, from the bundle alone, into this machine's cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from lpcnet_edge.build.half import to_half
from lpcnet_edge.build.settings import Progress
from lpcnet_edge.bundle.cache import build_cache
from lpcnet_edge.bundle.machine_plans import put_plans
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import UsageError


@dataclass(frozen=True)
class StationPlans:
    """For which runtime the plans are, where they are, and what a person should be told."""

    runtime: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data as docs/json.md describes."""
        return {"files": list(self.files), "notes": list(self.notes), "seconds": round(self.seconds, 2)}

    def lines(self) -> list[str]:
        """For a person."""
        return [*self.notes, *self.files]


def plans_for_station(
    bundle: Bundle, backend: str, compute_capabilities: tuple[str, ...], progress: Progress
) -> StationPlans:
    """Build TensorRT plans of both stages into the machine's cache.

    ``backend`` is ``tensorrt`` or ``tensorrt-rtx``; ``auto`` takes the one that is installed. The CPU backends need
    none. Raises ``UsageError`` for those, ``MissingLibrary`` or ``MissingDevice`` where there is nothing to build with.
    """
    from lpcnet_edge.build.plans import StageOnnx, build_plans

    if backend in ("openvino", "onnxruntime"):
        raise UsageError(
            f"{backend} needs no plans: it compiles the bundle when it is opened", mend="lpcnet-edge run BUNDLE SOURCE"
        )
    module = _installed() if backend == "auto" else backend.replace("-", "_")
    stages = {}
    for name, spec in bundle.manifest.stages.items():
        canonical = bundle.read(spec.file)
        half = None
        if spec.precision != "fp32":
            half = to_half(onnx.load_model_from_string(canonical)).SerializeToString()
        stages[name] = StageOnnx(canonical, half)
    built = build_plans(
        stages,
        module=module,
        compute_capabilities=compute_capabilities or None,
        timing_caches=build_cache("timing"),
        progress=lambda share, phase: progress(phase, round(100 * share), 100),
    )
    files = tuple(map(str, put_plans(bundle, built.files)))
    return StationPlans(module.replace("_", "-"), files, built.notes, built.seconds)


def _installed() -> str:
    from importlib.util import find_spec

    return next((name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name) is not None), "tensorrt")
