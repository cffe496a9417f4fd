"""Bindings of the stages, ready to be put on a stream, as a CUDA graph or call by call; and the wait for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from lpcnet_edge.backends.cuda.device import Event, Graph, Stream
from lpcnet_edge.backends.cuda.memory import SlotMemory, host_address
from lpcnet_edge.backends.cuda.stage import BoundStage, Stage

LOCALIZATION, CONFIDENCE = "localization", "confidence"

SPIN_S = 50e-6
"""How long the host asks again and again before it blocks: a blocked thread is woken some 20 to 50 us late."""

_POLL_S = 100e-6
"""Between two questions where there is a time limit: CUDA cannot wait for a limited time."""

Key = tuple[str, int, int]
"""Stage, first tile, tiles."""

Copy = tuple[int, int, int]
"""Target, source, bytes."""


class Launch:
    """An execution with the small copies that always go with it: indices before it, scores behind it.

    Copies of pixels and maps are not in here: they have streams of their own, and their size is that of the batch.
    """

    def __init__(self, bound: BoundStage, before: Sequence[Copy] = (), after: Sequence[Copy] = ()) -> None:
        self._bound, self._before, self._after = bound, before, after
        self._graph: Graph | None = None

    def enqueue(self, stream: Stream) -> None:
        """Put everything on the stream, call by call."""
        for target, source, nbytes in self._before:
            stream.copy(target, source, nbytes)
        self._bound.enqueue(stream)
        for target, source, nbytes in self._after:
            stream.copy(target, source, nbytes)

    def capture(self, stream: Stream) -> None:
        """Keep what :meth:`enqueue` does as a graph. It must have run once: the first run may allocate."""
        with stream.capture() as captured:
            self.enqueue(stream)
        self._graph = captured.graph

    def run(self, stream: Stream) -> None:
        """Put everything on the stream, at once where it was captured."""
        if self._graph is None:
            self.enqueue(stream)
        else:
            self._graph.launch(stream)

    def close(self) -> None:
        """Give back graph and binding; twice is fine."""
        graph, self._graph = self._graph, None
        try:
            if graph is not None:
                graph.close()
        finally:
            self._bound.close()


def bind_all(
    stages: Mapping[str, Stage], memory: SlotMemory, sizes: Sequence[int], scope: ExitStack
) -> dict[Key, Launch]:
    """A binding for every batch that can come to a slot: each stage, block of the largest size, and size in it.

    ``sizes`` are ascending; ``scope`` closes what was bound. Stage 2 gathers from its block alone.
    """
    made: dict[Key, Launch] = {}

    def keep(key: Key, launch: Launch) -> None:
        made[key] = launch
        scope.callback(launch.close)

    most = sizes[-1]
    for start in range(0, memory.capacity, most):
        block = min(most, memory.capacity - start)
        at = {name: memory.first(name, start) for name in memory.at}
        for size in (size for size in sizes if size <= block):
            tensors = ("pixels", "embedding", "score")
            bound = stages[LOCALIZATION].bind({name: at[name] for name in tensors}, dict.fromkeys(tensors, size))
            back = (
                [(host_address(memory.score[start // most]), at["score"], 4 * size)] if memory.score_is_copied else []
            )
            keep((LOCALIZATION, start, size), Launch(bound, after=back))

            whole, chosen = ("pixels", "embedding"), ("picked", "classes", "confidence")
            rows = {**dict.fromkeys(whole, block), **dict.fromkeys(chosen, size)}
            bound = stages[CONFIDENCE].bind({name: at[name] for name in (*whole, *chosen)}, rows)
            there = (
                [(at["picked"], host_address(memory.picked[start // most]), 4 * size)]
                if memory.mode == "staged"
                else []
            )
            keep((CONFIDENCE, start, size), Launch(bound, before=there))
    return made


def try_out(launches: Mapping[Key, Launch], stream: Stream, *, graphs: bool) -> None:
    """Run every binding once, stage 1 first, so that whatever it allocates is there; then capture each as a graph."""
    for stage in (LOCALIZATION, CONFIDENCE):
        for key, launch in launches.items():
            if key[0] == stage:
                launch.enqueue(stream)
    stream.synchronize()
    if graphs:
        for launch in launches.values():
            launch.capture(stream)


def wait_for(event: Event, timeout_s: float | None) -> bool:
    """Whether the event came within the time.

    The thread spins for ``SPIN_S`` at most, then blocks, or sleeps between questions where there is a time limit.
    """
    now_s = time.perf_counter()
    until_s = None if timeout_s is None else now_s + timeout_s
    spin_until_s = now_s + SPIN_S
    while not event.done():
        now_s = time.perf_counter()
        if until_s is not None and now_s >= until_s:
            return False
        if now_s < spin_until_s:
            continue
        if until_s is None:
            event.wait()
            return True
        time.sleep(min(_POLL_S, until_s - now_s))
    return True
