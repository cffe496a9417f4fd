"""What an engine takes and gives, held against what the bundle says of the stage. Nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lpcnet_edge.backends.tensorrt_network import DTYPES
from lpcnet_edge.backends.tensorrt_versions import DataType, Engine, TensorIOMode, TensorLocation
from lpcnet_edge.bundle.manifest import StageSpec, TensorSpec
from lpcnet_edge.bundle.names import shown
from lpcnet_edge.errors import BadArtifact, UsageError

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """An optimization profile: the smallest and the largest shape of every input, and the most rows that all take."""

    ranges: Mapping[str, tuple[Shape, Shape]]
    most_rows: int

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every input's shape lies within."""
        return all(
            least <= size <= most
            for name, (low, high) in self.ranges.items()
            for least, size, most in zip(low, shapes[name], high, strict=True)
        )


def check_interface(engine: Engine, spec: StageSpec, what: str, rebuild: str) -> None:
    """Raise ``BadArtifact`` unless the engine's inputs and outputs are the stage's, all of them in device memory."""
    found = {}
    for index in range(int(engine.num_io_tensors)):
        name = str(engine.get_tensor_name(index))
        mode: TensorIOMode = engine.get_tensor_mode(name)
        kind: DataType = engine.get_tensor_dtype(name)
        location: TensorLocation = engine.get_tensor_location(name)
        shape = ", ".join(str(int(size)) for size in engine.get_tensor_shape(name))
        found[name] = f"{mode.name} {DTYPES.get(kind.name, kind.name)} ({shape}) {location.name}"
    tensors = [("INPUT", tensor) for tensor in spec.inputs] + [("OUTPUT", tensor) for tensor in spec.outputs]
    wanted = {tensor.name: f"{mode} {tensor.dtype} ({_fixed(tensor)}) DEVICE" for mode, tensor in tensors}
    for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
        have, want = (side.get(name, "no such tensor") for side in (found, wanted))
        if have != want:
            raise BadArtifact(f"{what} is of another stage: '{shown(name)}' is {have}, not {want}", mend=rebuild)


def _fixed(tensor: TensorSpec) -> str:
    return ", ".join(str(size) if isinstance(size, int) else "-1" for size in tensor.shape)


def profiles_of(engine: Engine, spec: StageSpec) -> list[Profile]:
    """The engine's optimization profiles, by their index."""
    found = []
    for index in range(int(engine.num_optimization_profiles)):
        ranges = {}
        for tensor in spec.inputs:
            dims = engine.get_tensor_profile_shape(tensor.name, index)
            least, _, most = (tuple(int(size) for size in shape) for shape in dims)
            ranges[tensor.name] = (least, most)
        dynamic = [tensor.name for tensor in spec.inputs if isinstance(tensor.shape[0], str)]
        found.append(Profile(ranges, min(ranges[name][1][0] for name in dynamic)))
    return found


def fitting(profiles: Sequence[Profile], shapes: Mapping[str, Shape], what: str) -> Profile:
    """Of the profiles that take the shapes, the one that ends lowest: its kernels were chosen for sizes nearest them.

    Raises ``UsageError`` where none does.
    """
    found = [profile for profile in profiles if profile.takes(shapes)]
    if not found:
        asked = ", ".join(f"'{name}' {shapes[name]}" for name in profiles[0].ranges)
        largest = max(profile.most_rows for profile in profiles)
        raise UsageError(f"{what} does not take {asked}", mend=f"give 1 to {largest} rows, or build for larger batches")
    return min(found, key=lambda profile: profile.most_rows)


def shapes_for(spec: StageSpec, rows: Mapping[str, int], what: str) -> dict[str, Shape]:
    """The shape of every input and output for ``rows`` of each input.

    Raises ``UsageError`` for an input without rows, or two that share an axis and have different rows.
    """
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        axis = tensor.shape[0]
        if isinstance(axis, int):
            continue
        if tensor.name not in rows:
            raise UsageError(f"{what}: no rows for '{tensor.name}'", mend=f"give its {axis}, 1 or more")
        given = rows[tensor.name]
        if sizes.setdefault(axis, given) != given:
            raise UsageError(
                f"{what}: '{tensor.name}' has {given} rows where another input has {sizes[axis]}",
                mend=f"both are {axis}: give the same",
            )
    return {
        tensor.name: tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)
        for tensor in (*spec.inputs, *spec.outputs)
    }
