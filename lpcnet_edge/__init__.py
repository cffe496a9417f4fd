"""LPC-Net for the edge: ``lpcnet_edge.inspect`` turns frames into verdicts (docs/running.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lpcnet_edge.types import Verdict

__all__ = ["inspect"]


def inspect(bundle: Any, source: Any, **options: Any) -> Iterator[Verdict]:
    """The verdict on every frame of ``source``, in order, by the bundle in the folder ``bundle``.

    All of it stands in :func:`lpcnet_edge.runtime.session.inspect`, which is imported only when this is called.
    """
    from lpcnet_edge.runtime.session import inspect as run

    return run(bundle, source, **options)
