"""What runs a stage on a device: made from a bundle's engine or graph, bound once to addresses, enqueued ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lpcnet_edge.backends.cuda.device import Stream


class BoundStage(Protocol):
    """A stage with fixed addresses and fixed shapes."""

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream; allocates nothing, waits for nothing, and may be captured after one call.

        Raises :class:`~lpcnet_edge.errors.BackendFailed`.
        """

    def close(self) -> None:
        """Give back what the binding holds; twice is fine."""


class Stage(Protocol):
    """One stage of a bundle, loaded on a device.

    Attributes
    ----------
    largest
        The largest batch it takes.
    """

    largest: int

    def bind(self, addresses: Mapping[str, int], rows: Mapping[str, int], lane: int = 0) -> BoundStage:
        """A binding whose tensors lie at ``addresses`` (by name; of device or mapped memory), each with ``rows`` rows.

        Localization: ``pixels`` (rows) -> ``embedding``, ``score``. Confidence: ``pixels`` and ``embedding`` (N rows),
        ``picked`` (M rows, int32) -> ``classes``, ``confidence`` (M rows). Bindings of one ``lane`` are never at work
        at one time, so they may share working memory.
        """

    def close(self) -> None:
        """Give back everything, the bindings too."""
