"""A backend in a process of its own: how its end is told, that nothing stays behind, and what it is opened with."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from contract import check_picked, filled, some_tiles
from local_bundle import heat_of, write_local

from lpcnet_edge.backends import isolated
from lpcnet_edge.backends.base import Backend, HostBackend, Slot, slot_in
from lpcnet_edge.backends.choice import open_backend, tuning_cache
from lpcnet_edge.backends.isolated import IsolatedBackend
from lpcnet_edge.backends.isolated_child import Kind, Message, Server, mapped, receive, send
from lpcnet_edge.backends.tuning import Tuning, allowed_cpus, save_tuning
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.bundle.sign import load_private_key, make_keys, sign_bundle
from lpcnet_edge.errors import BackendFailed, ChangedFile, LpcnetError, SignatureError, StaleCache, UsageError

TUNING = Tuning(threads=1, batch=4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bundle") / "local")


@pytest.fixture
def null(bundle: Bundle) -> Iterator[IsolatedBackend]:
    backend = IsolatedBackend(bundle, "null", hang_s=0.2)
    yield backend
    backend.close()


def wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether it runs; one that has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def slots_in(pid: int) -> int:
    """Slots that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().count("/memfd:lpcnet-edge-slot")


# How it ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_child_is_named_by_its_signal_and_another_serves(bundle: Bundle, number: signal.Signals) -> None:
    tiles = some_tiles(40)
    backend = IsolatedBackend(bundle, "onnxruntime", tuning=TUNING, use_cache=False)
    slot, other = filled(backend, tiles), backend.make_slot(4)
    os.kill(backend.pid, signal.SIGSTOP)  # or it might be done before the signal comes
    backend.submit(slot, 40)
    os.kill(backend.pid, number)
    with suppress(ProcessLookupError):
        os.kill(backend.pid, signal.SIGCONT)
    with pytest.raises(BackendFailed, match=f"the engine process was ended by {number.name} .mend") as caught:
        wait_for(lambda: backend.collect(slot, 0.01))
    assert caught.value.mend
    for call in (backend.submit, backend.submit):  # a slot has no work after a failure, and may be submitted again
        with pytest.raises(BackendFailed, match=number.name):
            call(other, 4)
    with pytest.raises(BackendFailed, match=number.name):
        backend.make_slot(4)
    assert not Path(f"/proc/{backend.pid}").exists(), "it is reaped"
    assert (slot.pixels[:40] == tiles).all(), "our side of the memory stays"
    backend.close()
    again = IsolatedBackend(bundle, "onnxruntime", tuning=TUNING, use_cache=False)
    slot = filled(again, tiles)
    again.submit(slot, 40)
    assert again.collect(slot)
    np.testing.assert_allclose(slot.score[:40], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)
    again.close()


def test_one_that_dies_while_it_opens_is_an_error(bundle: Bundle) -> None:
    def children() -> set[int]:
        found = Path("/proc/self/task").glob("*/children")
        return {int(child) for path in found for child in path.read_text().split()}

    before = children()

    def kill_it() -> None:
        wait_for(lambda: bool(children() - before))
        for child in children() - before:
            os.kill(child, signal.SIGKILL)

    killer = threading.Thread(target=kill_it)
    killer.start()
    with pytest.raises(BackendFailed, match="the engine process was ended by SIGKILL"):
        IsolatedBackend(bundle, "openvino", tuning=TUNING)
    killer.join()
    assert children() == before


def ask(backend: IsolatedBackend, slot: Slot) -> None:
    """Work for a child that is about to be gone: its last threads, still ending, may take the command."""
    backend.submit(slot, 1)
    backend.collect(slot)


def test_its_last_words_are_told_and_passed_on(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    backend = IsolatedBackend(bundle, "null")
    slot = backend.make_slot(1)
    with caplog.at_level(logging.WARNING):
        os.kill(backend.pid, signal.SIGSEGV)
        wait_for(lambda: not is_there(backend.pid))
        with pytest.raises(BackendFailed, match=r"was ended by SIGSEGV; it said: .*<string>.*line 4 in <module>"):
            ask(backend, slot)
    backend.close()
    assert "Fatal Python error: Segmentation fault" in caplog.text


def test_a_child_that_does_not_answer_is_killed_after_the_limit(null: IsolatedBackend) -> None:
    slot = null.make_slot(4)
    os.kill(null.pid, signal.SIGSTOP)
    started_s = time.monotonic()
    null.submit(slot, 2)
    assert not null.collect(slot, 0.05), "whoever asks for a shorter wait gets it"
    with pytest.raises(BackendFailed, match=r"the engine process has not answered for \d\.\d s and was killed"):
        null.collect(slot)
    assert 1.2 <= time.monotonic() - started_s < 10  # hang_s, and half a second for each of two tiles
    assert not Path(f"/proc/{null.pid}").exists()


def test_making_a_slot_may_take_long(null: IsolatedBackend) -> None:
    """Libraries are loaded for it, graphs captured and kernels compiled."""
    os.kill(null.pid, signal.SIGSTOP)
    going_on = threading.Timer(1.2, os.kill, (null.pid, signal.SIGCONT))
    going_on.start()
    slot = null.make_slot(1)  # hang_s and half a second for its tile have passed
    going_on.join()
    null.submit(slot, 1)
    assert null.collect(slot)


def test_one_that_hangs_while_it_opens_is_killed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a driver may that is being updated. Without an end of it no run would ever try another."""
    start, pids = isolated._start, list[int]()

    def stopped(connection: socket.socket) -> subprocess.Popen[bytes]:
        process = start(connection)
        os.kill(process.pid, signal.SIGSTOP)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(isolated, "_start", stopped)
    monkeypatch.setattr(isolated, "MAKE_S", 0.1)
    with pytest.raises(BackendFailed, match=r"has not answered for \d\.\d s and was killed"):
        IsolatedBackend(bundle, "null", hang_s=0.1)
    assert not is_there(pids[0])


@pytest.mark.parametrize("left", [0, 1])
def test_too_many_open_files_are_an_error_and_cost_no_slot(null: IsolatedBackend, left: int) -> None:
    """With no number left the kernel drops the memory's file; with one left it cannot be mapped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(left):
            os.close(taken.pop())
        with pytest.raises(BackendFailed, match=r"memory of a slot cannot be shared: Too many open files .*ulimit -n"):
            null.make_slot(1)
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    null.make_slot(1)
    wait_for(lambda: slots_in(null.pid) == 1)


def test_waiting_long_before_asking_is_no_hang(null: IsolatedBackend) -> None:
    slots = [null.make_slot(1) for _ in range(2)]
    null.submit(slots[0], 1)
    time.sleep(0.9)  # longer than the limit: the answer has been there all along
    null.submit(slots[1], 1)
    assert null.collect(slots[1])
    time.sleep(0.9)  # the answer for the first has been read meanwhile
    null.submit(slots[1], 1)
    assert null.collect(slots[1])
    assert null.collect(slots[0])


def test_signals_for_us_leave_it_alone(null: IsolatedBackend) -> None:
    assert os.getsid(null.pid) == null.pid, "a terminal's Ctrl-C does not reach it"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as systemd sends them to everyone
        os.kill(null.pid, number)
    slot = null.make_slot(1)
    null.submit(slot, 1)
    assert null.collect(slot)


def test_close_ends_it_and_may_be_called_twice(bundle: Bundle) -> None:
    backend = IsolatedBackend(bundle, "onnxruntime", tuning=TUNING, use_cache=False)
    slot = backend.make_slot(16)
    backend.submit(slot, 16)
    backend.close()
    backend.close()
    assert not Path(f"/proc/{backend.pid}").exists()
    with pytest.raises(BackendFailed, match="was closed"):
        backend.submit(backend.make_slot(1), 1)


PARENT = """
import sys, threading, time
from lpcnet_edge.backends.isolated import IsolatedBackend
from lpcnet_edge.bundle.read import open_bundle
def open_it():
    global backend
    backend = IsolatedBackend(open_bundle(sys.argv[1]), "null")
thread = threading.Thread(target=open_it)
thread.start()
thread.join()
slot = backend.make_slot(64)
for _ in range(100):  # the thread that started the child is long gone
    backend.submit(slot, 64)
    assert backend.collect(slot)
print(backend.pid, flush=True)
if sys.argv[2] != "ends":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["killed", "killed while the child is stopped", "ends"])
def test_it_ends_with_its_parent_and_nothing_stays(bundle: Bundle, how: str) -> None:
    def left() -> set[str]:
        return {name for name in os.listdir("/dev/shm") if "lpcnet" in name}

    before = left()
    with subprocess.Popen([sys.executable, "-c", PARENT, bundle.path, how], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if how == "ends":
            assert parent.wait(10) == 0
        else:
            assert is_there(pid)
            assert slots_in(pid) == 1
            if "stopped" in how:
                os.kill(pid, signal.SIGSTOP)
            parent.kill()
    wait_for(lambda: not is_there(pid))
    assert left() == before


def test_files_threads_and_slots_do_not_grow_with_restarts(bundle: Bundle) -> None:
    def counts() -> tuple[int, int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), slots_in(os.getpid())

    def once(number: int) -> None:
        backend = IsolatedBackend(bundle, "null")
        slots = [backend.make_slot(8) for _ in range(3)]
        backend.submit(slots[0], 8)
        if number % 2:
            os.kill(backend.pid, signal.SIGKILL)
        backend.close()
        assert not Path(f"/proc/{backend.pid}").exists()

    once(0)
    before = counts()
    for number in range(20):
        once(number)
    assert counts() == before


def test_a_slot_that_is_let_go_of_goes_there_too(null: IsolatedBackend) -> None:
    kept = null.make_slot(1)
    for _ in range(5):
        null.submit(null.make_slot(8), 8)  # let go of while at work
    gc.collect()
    null.submit(kept, 1)
    assert null.collect(kept)
    assert slots_in(null.pid) == 1


# What it is opened with ---------------------------------------------------------------------------------------------


def raised_by(opening: Callable[[], Backend]) -> tuple[type[LpcnetError], str, str | None]:
    with pytest.raises(LpcnetError) as caught:
        opening()
    return type(caught.value), caught.value.message, caught.value.mend


def test_errors_of_opening_are_the_same_as_in_this_process(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    found = raised_by(lambda: IsolatedBackend(bundle, "opnvino"))
    assert found == raised_by(lambda: open_backend(bundle, "opnvino"))
    assert found[0] is UsageError
    IsolatedBackend(bundle, "openvino", tuning=TUNING).close()
    blobs = list((tmp_path / "cache").rglob("*.blob"))
    assert len(blobs) > 3, "it keeps what it compiled where others find it"
    for blob in blobs:
        blob.write_bytes(b"!")
    found = raised_by(lambda: IsolatedBackend(bundle, "openvino", tuning=TUNING))
    assert found == raised_by(lambda: open_backend(bundle, "openvino", tuning=TUNING))
    assert found[0] is StaleCache


def test_it_takes_the_tuning_that_is_kept(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    cache = tuning_cache(bundle, "onnxruntime")
    assert cache is not None
    save_tuning(cache, Tuning(1, 1, 2, allowed_cpus(), measured=True))
    backend = IsolatedBackend(bundle, "onnxruntime")
    backend.close()
    assert "batches up to 2 (tuned here)" in backend.about
    assert backend.about.endswith("in a process of its own")


def test_it_opens_only_the_bundle_that_was_verified(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "key")
    path = write_local(tmp_path / "b").path
    sign_bundle(path, open_bundle(path).manifest_sha256, load_private_key(private))
    bundle = open_bundle(path, trusted_key=public)
    IsolatedBackend(bundle, "null").close()
    (path / "localization.onnx").write_bytes(b"?" * (path / "localization.onnx").stat().st_size)
    with pytest.raises(ChangedFile, match=r"localization\.onnx"):
        IsolatedBackend(bundle, "null")
    path.rename(tmp_path / "aside")
    write_local(path, provenance={"by": "nobody who could sign it"})
    with pytest.raises(SignatureError):
        open_bundle(path, trusted_key=public)
    with pytest.raises(ChangedFile, match="another bundle than when the run began"):
        IsolatedBackend(bundle, "null")


def test_it_opens_nothing_for_a_run_of_another_version(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upgraded in place during a run: the two might not agree on where in the shared memory the scores lie."""
    monkeypatch.setattr(isolated, "CODE_SHA256", "of what was installed when the run began")
    with pytest.raises(BackendFailed, match="the installed lpcnet-edge is another than when the run began"):
        IsolatedBackend(bundle, "null")


def test_it_starts_where_standard_input_and_output_are_closed(bundle: Bundle) -> None:
    script = """
import os, sys
from lpcnet_edge.backends.isolated import IsolatedBackend
from lpcnet_edge.bundle.read import open_bundle
for descriptor in range(3):
    os.close(descriptor)
backend = IsolatedBackend(open_bundle(sys.argv[1]), "null")
slot = backend.make_slot(4)
backend.submit(slot, 4)
os._exit(0 if backend.collect(slot) else 3)
"""
    assert subprocess.run([sys.executable, "-c", script, str(bundle.path)], timeout=60).returncode == 0


def test_a_failure_of_the_backend_is_told_once_and_the_slot_serves_again(bundle: Bundle) -> None:
    backend = IsolatedBackend(bundle, "openvino", tuning=TUNING, use_cache=False)
    tiles = some_tiles(8)
    slot = filled(backend, tiles)
    for _ in range(2):
        backend.submit(slot, slot.capacity + 1)
        with pytest.raises(BackendFailed, match="openvino failed in the localization stage: "):
            backend.collect(slot)
        backend.submit(slot, 8)
        assert backend.collect(slot)
        np.testing.assert_allclose(slot.score[:8], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)
    backend.close()


# A backend with memory of its own -----------------------------------------------------------------------------------


class OwnMemory:
    """A real backend that computes on slots of its own only, as one on a GPU does."""

    def __init__(self, real: Backend) -> None:
        self.name, self.about = real.name, real.about
        self.make_slot, self.close = real.make_slot, real.close
        self.submit, self.collect = real.submit, real.collect
        self.submit_picked, self.collect_picked = real.submit_picked, real.collect_picked


def test_pixels_and_results_are_copied_where_the_backend_has_memory_of_its_own(bundle: Bundle) -> None:
    backend = OwnMemory(open_backend(bundle, "onnxruntime", tuning=TUNING, use_cache=False))
    assert not isinstance(backend, HostBackend)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = threading.Thread(target=Server(theirs, backend).run)
    serving.start()

    def ask(message: Message) -> Message:
        send(ours, message)
        answer = receive(ours)
        assert (answer.kind, answer.slot) == (Kind.DONE, message.slot)
        return answer

    made = ask(Message(Kind.MAKE, 7, 5))
    assert made.file is not None
    file = made.file
    slot: Slot = slot_in(lambda size: mapped(file, size), tuple(json.loads(made.payload)))
    os.close(file)
    tiles, picked = some_tiles(5), np.array([1, 2, 4], np.int32)
    slot.pixels[:5] = tiles
    ask(Message(Kind.SUBMIT, 7, 5))
    np.testing.assert_allclose(slot.score[:5], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)
    ask(Message(Kind.SUBMIT_PICKED, 7, 3, picked.tobytes()))
    check_picked(slot, tiles, picked)
    ours.close()
    serving.join()
    theirs.close()
    backend.close()
