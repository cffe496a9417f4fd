"""Plans for the played runtime, and bundles with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpcnet_edge.bundle.plans import plan_files
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle


def plan_of(bundle: Bundle, stage: str, **changes: Any) -> bytes:
    """A plan for the played runtime, with two profiles: 1 to 2 rows, and 1 to 8."""
    spec = bundle.manifest.stages[stage]
    tensors = [("INPUT", tensor) for tensor in spec.inputs] + [("OUTPUT", tensor) for tensor in spec.outputs]
    io = [{"name": t.name, "mode": mode, "dtype": t.dtype, "axes": list(t.shape)} for mode, t in tensors]
    plan = {"stage": stage, "io": io, "profiles": [(1, 4, 8), (1, 2, 2)], "memory": 4096, **changes}
    return json.dumps(plan).encode()


def plans_of(
    bundle: Bundle, runtime: str, version: str, device: str, make: Callable[[str], bytes] | None = None, **settings: Any
) -> dict[str, bytes]:
    """Files of ``plans/``."""
    stages = {
        stage: (make(stage) if make else plan_of(bundle, stage), bundle.read(spec.file))
        for stage, spec in bundle.manifest.stages.items()
    }
    return plan_files(runtime, version, device, stages, settings)


def with_plans(bundle: Bundle, out: Path, plans: dict[str, bytes]) -> Bundle:
    models = {spec.file: bundle.read(spec.file) for spec in bundle.manifest.stages.values()}
    return write_bundle(out, replace(bundle.manifest, files={}), models | plans)


def flip(path: Path) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
