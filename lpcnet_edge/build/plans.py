"""A bundle's two ONNX files to plans for cards named, or for this machine's GPU: the files of a bundle's ``plans/``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lpcnet_edge.backends.cuda_driver import cuda_driver
from lpcnet_edge.backends.tensorrt import Library, load_library
from lpcnet_edge.backends.tensorrt_build import WORKSPACE_BYTES, Plan, build_plan, check_target
from lpcnet_edge.backends.tensorrt_network import ShapeRange
from lpcnet_edge.backends.tensorrt_progress import Progress
from lpcnet_edge.bundle.manifest import TensorSpec
from lpcnet_edge.bundle.model import scan_model, tensor_specs
from lpcnet_edge.bundle.names import shown
from lpcnet_edge.bundle.plans import plan_files
from lpcnet_edge.errors import BuildFailed, MissingDevice, UsageError


@dataclass(frozen=True)
class StageOnnx:
    """One stage's ONNX files: the bundle's own, and the float16-typed one derived from it, where there is one."""

    canonical: bytes
    float16: bytes | None = None


@dataclass(frozen=True)
class Batch:
    """Sizes of every dynamic axis: 1 to ``largest``, and the ``best`` one, which the kernels are chosen for."""

    best: int = 8
    largest: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.best <= self.largest:
            raise UsageError(
                f"a batch of at most {self.largest} cannot be best at {self.best}", mend="let 1 <= best <= largest"
            )


@dataclass(frozen=True)
class BuiltPlans:
    """Plans as files of a bundle or a cache.

    Attributes
    ----------
    files
        ``plans/<runtime>-<version>-<device>/<stage>.plan`` and a ``plan.yaml`` beside, path -> bytes.
    notes
        What a person should be told: a float16-typed file that was refused, the library's warnings.
    seconds
        Time in the builder, all plans together.
    """

    files: dict[str, bytes]
    notes: tuple[str, ...]
    seconds: float


def build_plans(
    stages: Mapping[str, StageOnnx],
    *,
    module: str,
    compute_capabilities: Sequence[str] | None = None,
    batch: Batch = Batch(),
    workspace_bytes: int = WORKSPACE_BYTES,
    timing_caches: Path | None = None,
    progress: Progress | None = None,
) -> BuiltPlans:
    """Build every stage for every device.

    The float16-typed file is tried first; where the library refuses it, the canonical one serves, which ``plan.yaml``
    and the notes say. Inputs and outputs of a plan are always those of the canonical file.

    Parameters
    ----------
    stages
        ``localization`` and ``confidence``.
    module
        ``tensorrt`` or ``tensorrt_rtx``.
    compute_capabilities
        Such as ``8.9``; None is the first GPU of this machine.
    timing_caches
        A folder for the builder's measurements, used where the library has a use for them.
    workspace_bytes, progress
        As in :func:`~lpcnet_edge.backends.tensorrt_build.build_plan`.

    Raises
    ------
    As :func:`~lpcnet_edge.backends.tensorrt_build.build_plan`.
    """
    library, name, wanted = find_targets(module, compute_capabilities)
    runtime = module.replace("_", "-")
    files: dict[str, bytes] = {}
    notes: list[str] = []
    seconds = 0.0
    jobs = _Jobs(len(wanted) * len(stages), progress)
    for capability in wanted:
        device = f"sm{capability.replace('.', '')}"
        options: dict[str, Any] = {
            "module": module,
            "compute_capability": _named(library, capability, name),
            "workspace_bytes": workspace_bytes,
            "timing_cache": _timing_cache(library, timing_caches, f"{runtime}-{library.version}-{device}"),
        }
        plans, records = {}, {}
        for stage, onnx in stages.items():
            report = jobs.next(f"{stage} for {device}")
            built = _build_stage(onnx, batch, {**options, "progress": report})
            plans[stage], records[stage] = (built.plan.data, onnx.canonical), built.record()
            seconds += built.plan.seconds
            notes += [f"{stage} for {device}: {note}" for note in built.notes()]
        settings = {
            "device_name": name,
            "batch": {"least": 1, **asdict(batch)},
            "workspace_bytes": workspace_bytes,
            "stages": records,
        }
        files |= plan_files(runtime, library.version, device, plans, settings)
    return BuiltPlans(files, tuple(dict.fromkeys(notes)), seconds)


def find_targets(module: str, compute_capabilities: Sequence[str] | None) -> tuple[Library, str | None, list[str]]:
    """The library, the name of this machine's GPU where none is named, and the compute capabilities to build for.

    Raises ``MissingLibrary``, ``MissingDevice``, or ``UsageError`` for a GPU that the library does not build for.
    """
    library = load_library(module)
    wanted = list(dict.fromkeys(compute_capabilities or ()))
    if not wanted:
        name, capability = _this_machine(library)
        check_target(library, _named(library, capability, name))
        return library, name, [capability]
    for capability in wanted:
        check_target(library, capability)
    return library, None, wanted


@dataclass(frozen=True)
class _Built:
    plan: Plan
    source: bytes
    typed: Literal["float32", "float16"]
    refused: str | None

    def record(self) -> dict[str, Any]:
        """What ``plan.yaml`` keeps of it."""
        return {
            "typed": self.typed,
            "float16_refused": self.refused,
            "built_from_sha256": hashlib.sha256(self.source).hexdigest(),
            "inputs": [asdict(spec) for spec in self.plan.inputs],
            "outputs": [asdict(spec) for spec in self.plan.outputs],
        }

    def notes(self) -> list[str]:
        refused = f"the float16-typed file is refused, the canonical file serves: {self.refused}"
        return [*([refused] if self.refused else []), *map(shown, self.plan.notes)]


def _build_stage(onnx: StageOnnx, batch: Batch, options: Mapping[str, Any]) -> _Built:
    model = scan_model(onnx.canonical, "the ONNX file")
    inputs, outputs = tensor_specs(model.graph.input), tensor_specs(model.graph.output)
    options = {**options, "profiles": _profiles(inputs, batch)}
    built = refused = None
    if onnx.float16 is not None:
        try:
            built = _Built(build_plan(onnx.float16, **options), onnx.float16, "float16", None)
        except BuildFailed as exc:
            refused = shown(exc.message)
    built = built or _Built(build_plan(onnx.canonical, **options), onnx.canonical, "float32", refused)
    return _same(built, inputs, outputs)


def _same(built: _Built, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> _Built:
    """Refuse a plan that takes or gives other tensors than the stage does."""
    plan = built.plan
    for what, have, want in (("inputs", plan.inputs, inputs), ("outputs", plan.outputs, outputs)):
        if {spec.name: spec for spec in have} != {spec.name: spec for spec in want}:
            raise BuildFailed(
                f"the plan's {what} are {'; '.join(map(str, have))}, the stage's {'; '.join(map(str, want))}",
                mend="keep inputs and outputs when types inside are changed",
            )
    return built


def _profiles(inputs: Sequence[TensorSpec], batch: Batch) -> dict[str, ShapeRange]:
    def shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else size for axis in spec.shape)

    dynamic = [spec for spec in inputs if any(isinstance(axis, str) for axis in spec.shape)]
    return {spec.name: (shape(spec, 1), shape(spec, batch.best), shape(spec, batch.largest)) for spec in dynamic}


def _this_machine(library: Library) -> tuple[str, str]:
    """Name and compute capability of the GPU that the library would use."""
    found = cuda_driver(None)
    if not found.devices:
        ahead = ", ".join(library.branch.compute_capabilities)
        raise MissingDevice(
            f"no NVIDIA GPU to build plans for: {found.error}",
            mend=f"name the cards to build for with --sm: {ahead}"
            if ahead
            else "build them on the station that has the GPU",
        )
    return found.devices[0].name, found.devices[0].compute_capability


def _named(library: Library, capability: str, this_machine: str | None) -> str | None:
    """What to ask the builder for: a library that builds for its own machine only is asked for nothing."""
    return None if this_machine is not None and not library.branch.compute_capabilities else capability


def _timing_cache(library: Library, folder: Path | None, name: str) -> Path | None:
    return folder / f"{name}.timing" if folder is not None and library.branch.cache == "timing" else None


class _Jobs:
    """The share done over several builds, one after the other."""

    def __init__(self, count: int, progress: Progress | None) -> None:
        self._count, self._progress, self._started, self._share = count, progress, 0, 0.0

    def next(self, label: str) -> Progress | None:
        """The progress of the next build."""
        before, self._started = self._started, self._started + 1
        if self._progress is None:
            return None
        report = self._progress

        def tell(share: float, phase: str) -> None:  # a second try of one job begins at 0 again
            self._share = max(self._share, (before + share) / self._count)
            report(self._share, f"{label}: {phase}")

        return tell
