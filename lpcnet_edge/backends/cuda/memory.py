"""The memory behind a slot on a CUDA device: what the host sees of it, what the stages see, and the copies between."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.cuda.device import Buffer, Device, HostBuffer, MemoryMode, Properties
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.bundle.manifest import Manifest
from lpcnet_edge.errors import UsageError


@dataclass(frozen=True)
class TileShape:
    """What one tile takes: camera bytes, (S, S) or (S, S, 3), and stage 1's embedding of it."""

    side: int
    channels: int
    embedding_bytes: int

    @classmethod
    def of(cls, manifest: Manifest) -> TileShape:
        """That of a bundle."""
        spec = {spec.name: spec for spec in manifest.localization.outputs}["embedding"]
        nbytes = prod(int(size) for size in spec.shape[1:]) * np.dtype(spec.dtype).itemsize
        return cls(manifest.tile_px, manifest.channels, nbytes)

    @property
    def pixels(self) -> tuple[int, ...]:
        """Of a tile's camera bytes."""
        plane = (self.side, self.side)
        return plane if self.channels == 1 else (*plane, 3)

    @property
    def plane_bytes(self) -> int:
        """Of a tile's class map; its confidence map has as many."""
        return self.side * self.side


def memory_mode(asked: CudaSettings, properties: Properties) -> MemoryMode:
    """``staged`` or ``mapped``; raises ``UsageError`` where mapped memory was asked for and the device has none."""
    if asked.memory == "mapped" and not properties.maps_host:
        raise UsageError(
            f"{properties.name} cannot map the host's memory",
            mend="use --memory staged or auto (cuda.memory in --config)",
        )
    if asked.memory == "auto":
        return "mapped" if properties.integrated and properties.maps_host else "staged"
    return asked.memory


_ALIGNED_BYTES = 256
"""TensorRT's demand on the address of a tensor (``IExecutionContext::setTensorAddress`` in its header)."""


@dataclass(frozen=True)
class SlotMemory:
    """Buffers for ``capacity`` tiles, bound in blocks of ``block`` tiles.

    ``at`` says where the stages find each tensor. In ``mapped`` mode that is the very memory that the host sees. In
    ``staged`` mode it is device memory, but for the scores where the device can write them to the host's memory itself.
    Class and confidence maps lie one after the other, so that one copy of two rows brings both. ``score`` and
    ``picked`` have a row for each block, longer than the block, so that each begins at an aligned address.
    """

    capacity: int
    block: int
    shape: TileShape
    mode: MemoryMode
    pixels: NDArray[np.uint8]
    score: NDArray[np.float32]  # (blocks, lead)
    maps: NDArray[np.uint8]  # (2, N, S, S)
    picked: NDArray[np.int32]  # (blocks, lead)
    at: dict[str, int]
    score_is_copied: bool

    def first(self, name: str, start: int) -> int:
        """Where the stages find the rows of a tensor from ``start`` on, the first tile of a block."""
        if name in ("score", "picked"):
            return self.at[name] + start // self.block * self.picked.strides[0]
        if name == "embedding":
            return self.at[name] + start // self.block * _padded(self.block * self.shape.embedding_bytes)
        return self.at[name] + start * self.row_bytes(name)

    def row_bytes(self, name: str) -> int:
        """Of one row of a tensor."""
        shape = self.shape
        return {
            "pixels": prod(shape.pixels),
            "classes": shape.plane_bytes,
            "confidence": shape.plane_bytes,
        }[name]


def slot_memory(
    device: Device, shape: TileShape, capacity: int, block: int, mode: MemoryMode, scope: ExitStack
) -> SlotMemory:
    """Allocate a slot's memory; ``scope`` gives it back. Raises what the device raises."""
    mapped = mode == "mapped"
    blocks, lead = -(-capacity // block), _padded(4 * block) // 4

    def host(nbytes: int, *, in_place: bool) -> HostBuffer:
        buffer = device.pinned(nbytes, mapped=in_place)
        scope.callback(buffer.close)
        return buffer

    def beside(buffer: HostBuffer) -> Buffer:
        """Where the stages work on what the host has in ``buffer``."""
        return buffer if mapped else on_device(buffer.nbytes)

    def on_device(nbytes: int) -> Buffer:
        buffer = device.memory(nbytes)
        scope.callback(buffer.close)
        return buffer

    planes = capacity * shape.plane_bytes
    pixels = host(capacity * prod(shape.pixels), in_place=mapped)
    maps = host(2 * planes, in_place=mapped)
    picked = host(4 * blocks * lead, in_place=mapped)
    score_is_copied = not mapped and not device.properties.maps_host
    score = host(4 * blocks * lead, in_place=not score_is_copied)
    results = beside(maps).address
    at = {
        "pixels": beside(pixels).address,
        "picked": beside(picked).address,
        "embedding": on_device(blocks * _padded(block * shape.embedding_bytes)).address,
        "score": on_device(score.nbytes).address if score_is_copied else score.address,
        "classes": results,
        "confidence": results + planes,
    }
    side = (capacity, shape.side, shape.side)
    return SlotMemory(
        capacity=capacity,
        block=block,
        shape=shape,
        mode=mode,
        pixels=pixels.array((capacity, *shape.pixels), np.uint8),
        score=score.array((blocks, lead), np.float32),
        maps=maps.array((2, *side), np.uint8),
        picked=picked.array((blocks, lead), np.int32),
        at=at,
        score_is_copied=score_is_copied,
    )


def _padded(nbytes: int) -> int:
    """The next multiple of ``_ALIGNED_BYTES``."""
    return -(-nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES


def host_address(array: NDArray[Any]) -> int:
    """Where an array begins, for a copy."""
    return int(array.ctypes.data)
