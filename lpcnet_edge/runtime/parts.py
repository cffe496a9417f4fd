"""The views of one part joined as their verdicts come."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from lpcnet_edge.decision import join_views
from lpcnet_edge.types import PartVerdict, Verdict

_REMEMBERED = 1024


class PartJoiner:
    """Every part of which a view came ends in exactly one verdict: when its last view is there, or its time is up.

    A view that comes after that is of a part already decided: a reject of its own, since nothing vouches for it. But
    one that the part has had begins it anew: a counter that went round, or a part that is inspected again.

    Parameters
    ----------
    expected
        Names of the views that a part must have.
    timeout_ms
        From the part's first view to its last.
    """

    def __init__(self, expected: Sequence[str], timeout_ms: float) -> None:
        self._expected, self._timeout_ns = tuple(expected), int(1e6 * timeout_ms)
        self._open: OrderedDict[str, tuple[int, dict[str, Verdict]]] = OrderedDict()
        self._done: OrderedDict[str, set[str]] = OrderedDict()  # and the views that came

    def add(self, view: str, verdict: Verdict, now_ns: int | None = None) -> list[PartVerdict]:
        """Take one view's verdict; returns the parts that are decided by it or by the time it came."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        decided = self.due(now_ns)
        part = verdict.part_id
        seen = self._done.pop(part, None)
        if seen is not None and view not in seen:
            self._remember(part, {*seen, view})
            return [*decided, join_views(part, self._expected, {view: verdict}, late=(view,))]
        _, views = self._open.setdefault(part, (now_ns, {}))
        if view in views:  # the same part again before it was whole: the first pass is decided as it is
            decided.append(self._close(part))
            _, views = self._open.setdefault(part, (now_ns, {}))
            self._done.pop(part)
        views[view] = verdict
        if all(name in views for name in self._expected):
            decided.append(self._close(part))
        return decided

    def due(self, now_ns: int | None = None) -> list[PartVerdict]:
        """The parts whose time is up."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        late = [part for part, (first_ns, _) in self._open.items() if now_ns - first_ns > self._timeout_ns]
        return [self._close(part) for part in late]

    def next_due_s(self, now_ns: int | None = None) -> float | None:
        """Seconds until :meth:`due` has something; None while no part is open."""
        if not self._open:
            return None
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        first_ns = next(iter(self._open.values()))[0]
        return max(0.0, (first_ns + self._timeout_ns - now_ns) / 1e9) + 1e-3

    def close(self) -> list[PartVerdict]:
        """Decide what is open: what has not come is missing."""
        return [self._close(part) for part in list(self._open)]

    def _close(self, part: str) -> PartVerdict:
        _, views = self._open.pop(part)
        self._remember(part, set(views))
        return join_views(part, self._expected, views)

    def _remember(self, part: str, seen: set[str]) -> None:
        self._done[part] = seen
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
