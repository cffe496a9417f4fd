"""How far a source is read ahead: so many frames, or four times as many while they are small."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lpcnet_edge.runtime.inbox import Inbox
from lpcnet_edge.runtime.sources.frame import Frame


def frames(count: int, side: int) -> Iterator[Frame]:
    return (Frame(np.zeros((side, side), np.uint8), "p", 0, str(n), "s", n) for n in range(count))


class Watched(threading.Condition):
    """Says that somebody waits: at first that is who reads, for room."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.is_waited_for.set()  # the lock is held until the wait has begun
        return super().wait(timeout)


@pytest.mark.parametrize(
    ("side", "small_bytes", "ahead"),
    [(8, 0, 4), (8, 10**6, 16), (100, 60_000, 6), (100, 10_000, 4)],
    ids=["no bytes named", "small", "as many as the bytes hold", "large"],
)
def test_read_ahead(side: int, small_bytes: int, ahead: int) -> None:
    changed = Watched()
    inbox = Inbox(frames(200, side), 4, changed=changed, small_bytes=small_bytes)
    assert changed.is_waited_for.wait(60)
    assert inbox._frames == ahead
    taken = 0
    while not inbox.done:
        if inbox.take() is None:
            inbox.wait()
        else:
            taken += 1
            assert inbox._frames <= ahead
    assert taken == 200
    assert inbox._bytes == 0


def test_dropping_does_not_read_further_ahead() -> None:
    inbox = Inbox(frames(50, 8), 4, "drop-oldest", small_bytes=10**6)
    inbox.wait()
    while not inbox._ended:
        time.sleep(0.01)
    assert inbox._frames == 4
    assert inbox.dropped == 46
    items = [inbox.take() for _ in range(50)]
    assert [item.sequence for item in items if item is not None] == list(range(50))
    assert inbox._bytes == 0
