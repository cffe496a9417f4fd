"""What both bindings share: a device that owns all it made, counts it, and gives it back exactly once."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from math import prod
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpcnet_edge.backends.cuda.device import Ledger, Properties
from lpcnet_edge.backends.cuda.errors import closed
from lpcnet_edge.errors import LpcnetError, UsageError


class HeldDevice(ABC):
    """The owner: what is held of a device, newest given back first."""

    binding: str
    has_graphs: bool
    properties: Properties

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.held: dict[int, Held[Any]] = {}  # by id(), in the order of making
        self.is_open = True

    def require_open(self) -> None:
        """Raise ``UsageError`` after :meth:`close`."""
        if not self.is_open:
            raise closed("device")

    def close(self) -> None:
        """Wait for its streams and give back everything; twice is fine. What fails is raised when all is given back."""
        if not self.is_open:
            return
        # Not for the whole context: others in this process may be capturing, which that would end.
        held = list(reversed(self.held.values()))
        waits = [one.synchronize for one in held if isinstance(one, Waiting)]
        steps = [self._enter, *waits, *(one.close for one in held), self._release]
        first: LpcnetError | None = None
        for step in steps:
            try:
                step()
            except LpcnetError as exc:
                first = first or exc
        self.is_open = False
        if first:
            raise first

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except LpcnetError:
            if exc is None:  # else the first failure is the one to be told
                raise

    @abstractmethod
    def _enter(self) -> None:
        """Let the calling thread, whichever it is, give back what is held."""

    @abstractmethod
    def _release(self) -> None:
        """Give the context back."""


@runtime_checkable
class Waiting(Protocol):
    """A stream: nothing is given back under its work."""

    def synchronize(self) -> None:
        """Wait for everything."""


DeviceT = TypeVar("DeviceT", bound=HeldDevice)


class Held(ABC, Generic[DeviceT]):
    """Something of a device, counted from its making to its :meth:`close`."""

    kind: str

    def __init__(self, device: DeviceT, nbytes: int = 0) -> None:
        """Count it: to be called as soon as CUDA has made it."""
        self.device = device
        self.nbytes = nbytes
        self.is_open = True
        device.ledger.add(self.kind, nbytes)
        device.held[id(self)] = self

    def close(self) -> None:
        """Give it back; twice is fine. It counts as given back even where CUDA refuses, for then it is lost."""
        if self.is_open:
            self.is_open = False
            del self.device.held[id(self)]
            self.device.ledger.remove(self.kind, self.nbytes)
            self._give_back()

    @abstractmethod
    def _give_back(self) -> None:
        """Let CUDA have it back."""


class HeldPinned(Held[DeviceT]):
    """Pinned host memory, seen as arrays."""

    kind = "pinned"
    address: int

    def __init__(self, device: DeviceT, nbytes: int, host_address: int) -> None:
        super().__init__(device, nbytes)
        self.host_address = host_address
        ctypes.memset(host_address, 0, nbytes)  # write-combined memory too: it is written, not read

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A view of its first bytes; it must not be used after :meth:`close`."""
        if not self.is_open:
            raise closed("pinned memory")
        kind, count = np.dtype(dtype), prod(shape)
        if count * kind.itemsize > self.nbytes:
            raise UsageError(
                f"{shape} of {kind} are {count * kind.itemsize} bytes, the buffer has {self.nbytes}",
                mend="ask for a smaller array, or for a larger buffer",
            )
        memory: Any = (ctypes.c_uint8 * self.nbytes).from_address(self.host_address)
        view: NDArray[Any] = np.frombuffer(memory, kind, count)
        return view.reshape(shape)


def require_bytes(nbytes: int) -> None:
    """Raise ``UsageError`` for a buffer of nothing: CUDA makes none."""
    if nbytes < 1:
        raise UsageError(f"a buffer has at least one byte, not {nbytes}", mend="ask for 1 byte or more")


def require_addresses(target: int, source: int) -> None:
    """Raise ``UsageError`` for the address of what was closed, or is not mapped."""
    if not (target and source):
        raise UsageError(
            "a copy from or to address 0",
            mend="the buffer was closed; unmapped pinned memory lies at its array's address",
        )
