"""A device without anything behind it: addresses, a ledger, streams that know whether they are captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from lpcnet_edge.backends.cuda.device import Ledger, Properties


class PlainDevice:
    binding = "none"
    has_graphs = True

    def __init__(self, name: str, capability: str, capturing: set[int] | None = None) -> None:
        self.properties = Properties(name, capability, integrated=False, maps_host=True, memory_bytes=1 << 30)
        self.ledger = Ledger()
        self.live: dict[int, Any] = {}
        self.capturing = capturing if capturing is not None else set()
        self._next = 1 << 20

    def memory(self, nbytes: int) -> Any:
        assert nbytes > 0
        address, self._next = self._next, self._next + -(-nbytes // 256) * 256
        return self._hold("memory", address, nbytes, SimpleNamespace(address=address, nbytes=nbytes))

    def stream(self) -> Any:
        handle, self._next = self._next, self._next + 256
        made = SimpleNamespace(handle=handle, synchronize=lambda: None, capture=lambda: self._capture(handle))
        return self._hold("stream", handle, 0, made)

    def make_current(self) -> None:
        pass

    def close(self) -> None:
        for held in list(self.live.values()):
            held.close()

    def _hold(self, kind: str, key: int, nbytes: int, made: Any) -> Any:
        def close() -> None:
            if self.live.pop(key, None) is not None:
                self.ledger.remove(kind, nbytes)

        self.ledger.add(kind, nbytes)
        self.live[key] = made
        made.close = close
        return made

    @contextmanager
    def _capture(self, handle: int) -> Iterator[Any]:
        captured = SimpleNamespace(graph=None)
        self.capturing.add(handle)
        yield captured
        self.capturing.discard(handle)
        captured.graph = SimpleNamespace(launch=lambda stream: None)
