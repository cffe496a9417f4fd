"""A GPU's backend in a process of its own: the contract, and an error that only the end of its process can cure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from contract import Contract
from local_bundle import frame_of, write_local

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.isolated import IsolatedBackend
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BackendFailed, MissingDevice, MissingLibrary
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import LiveSettings, RunSettings

pytestmark = pytest.mark.gpu

NAME = "torch-cuda"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bundle") / "local")


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Iterator[Backend]:
    try:
        opened = IsolatedBackend(bundle, NAME)
    except (MissingDevice, MissingLibrary) as exc:
        pytest.skip(str(exc))
    yield opened
    opened.close()


class TestIsolatedOnAGpu(Contract):
    """Pixels are copied into the child's pinned memory, and results out of it."""


def poison(backend: Backend) -> str:
    """Have stage 2 read far outside of the slot; what it says of it."""
    slot = backend.make_slot(4)
    backend.submit(slot, 4)
    assert backend.collect(slot)
    with pytest.raises(BackendFailed) as caught:
        _ = backend.submit_picked(slot, np.array([1 << 30], np.int32)), backend.collect_picked(slot)
    return caught.value.message


def test_an_illegal_access_costs_the_child_and_no_more(bundle: Bundle, backend: Backend) -> None:
    poisoned = IsolatedBackend(bundle, NAME)
    slot = poisoned.make_slot(4)
    assert "confidence stage" in poison(poisoned)
    with pytest.raises(BackendFailed):  # the error sticks to the process
        _ = poisoned.submit(slot, 4), poisoned.collect(slot)
    poisoned.close()
    assert not Path(f"/proc/{poisoned.pid}").exists()
    other = backend.make_slot(4)  # in another process all along
    backend.submit(other, 4)
    assert backend.collect(other)


def test_an_illegal_access_in_a_run_costs_rejects_and_a_restart(bundle: Bundle, backend: Backend) -> None:
    def frames() -> Iterator[np.ndarray]:  # type: ignore[type-arg]
        for number in count():
            if session.reopened and last - at > 20:
                return
            time.sleep(0.005)
            yield frame_of(number, defects=number % 2)

    at = last = 0
    settings = RunSettings(isolate=True, live=LiveSettings(reopen_first_s=0.01))
    with Session(bundle, [frames()], settings, backend=NAME, live=True) as session:
        results = []
        for result in session:
            results.append(result)
            last = result.item.sequence
            if last == 20:
                assert session._room is not None
                engines = session._room.ready()
                assert engines is not None
                poison(engines)
            if not session.reopened:
                at = last
    assert [result.item.sequence for result in results] == list(range(len(results)))
    assert session.reopened == 1
    refused = ["engine failed: " in "".join(result.verdict.reasons) for result in results]
    assert any(refused)
    assert not any(refused[:20])
    assert not any(refused[-10:])
