"""A backend in a child process: what kills or poisons that process costs the work in flight, not the station.

A CUDA error that sticks, a segmentation fault in a library, the kernel's out-of-memory killer: each ends the child, or
is ended with it, and is a ``BackendFailed`` that says what happened. Whoever opens the backend again gets a new child.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge import errors
from lpcnet_edge.backends.base import Slot, slot_in
from lpcnet_edge.backends.choice import AUTO
from lpcnet_edge.backends.isolated_child import CODE_SHA256, Kind, Message, Opening, mapped, receive, send
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BackendFailed, LpcnetError

log = logging.getLogger(__name__)

TILE_S = 0.5
"""What a batch is given for each of its tiles, on top of ``hang_s``."""

MAKE_S = 600.0
"""What opening, and on a GPU the making of a slot, is given on top of ``hang_s``: at a first start libraries are loaded
and models compiled for it, and TensorRT-RTX compiles kernels for every size of batch."""

_END_S = 5.0
"""What the child is given to end by itself, and what the kernel is given to end it."""

# The same modules as here, and never one from the working directory, which `-m` would put first.
_START = """import sys
sys.path[:] = sys.argv[2:]
from lpcnet_edge.backends.isolated_child import main
main(int(sys.argv[1]))
"""


@dataclass(eq=False)
class _Own:
    """The slot's number, whether it is at work, and what that is given on top of ``hang_s``."""

    number: int
    at_work: bool = False
    more_s: float = 0.0


class IsolatedBackend:
    """Another backend, by name, in a process of its own. Its slots are memory that both processes share.

    A backend on the CPU computes on that memory itself; one on a GPU copies between it and its own pinned slots.
    After the child has died every call raises ``BackendFailed``: open a new one.

    Parameters
    ----------
    bundle
        Opened again by the child, which verifies all of it and that it is still this one.
    name, options
        For :func:`~lpcnet_edge.backends.choice.open_backend`, in the child.
    hang_s
        A child that has not answered for so long, and ``TILE_S`` for each tile of the largest batch at work, is killed;
        opening, and on a GPU the making of a slot, may take ``MAKE_S`` more.

    Raises
    ------
    LpcnetError
        What opening the backend raises in the child, of the same class.
    BackendFailed
        The child does not start, or died while it opened the backend.
    """

    def __init__(self, bundle: Bundle, name: str = "auto", *, hang_s: float = 10.0, **options: object) -> None:
        self._hang_s = hang_s
        self._flying: dict[int, _Own] = {}
        self._answers: dict[int, Message] = {}
        self._dropped: deque[int] = deque()
        self._made = 0
        self._since_s = time.monotonic()
        self._failure = ""
        self._last_words: deque[tuple[float, str]] = deque(maxlen=3)
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = _start(theirs)
        except OSError as exc:
            self._connection.close()
            raise BackendFailed(f"the engine process does not start: {exc}", mend="check the machine's limits") from exc
        assert self._process.stdout is not None
        self._listener = Thread(target=self._listen, args=(self._process.stdout,), name="engine process", daemon=True)
        self._listener.start()
        try:
            opening = Opening(bundle.path.absolute(), bundle.manifest_sha256, name, options, CODE_SHA256)
            own = _Own(0)
            self._begin(own, Message(Kind.OPEN, payload=pickle.dumps(opening)), MAKE_S)
            message = self._end(own, None)
            assert message is not None
            self.name, about = json.loads(message.payload)
        except BaseException:  # Ctrl-C too
            self._kill()
            self.close()
            raise
        self.about = f"{about}, in a process of its own"

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def make_slot(self, tiles: int) -> Slot:
        self._made += 1
        own = _Own(self._made)
        self._begin(own, Message(Kind.MAKE, own.number, tiles), TILE_S * tiles if self.name in AUTO else MAKE_S)
        message = self._end(own, None)
        assert message is not None
        file = message.file
        try:
            if file is None:  # the kernel drops what this process has no number left for
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            with open(file, "rb", buffering=0):  # closed when it is mapped
                slot = slot_in(partial(mapped, file), tuple(json.loads(message.payload)))
        except OSError as exc:
            self._dropped.append(own.number)
            raise BackendFailed(
                f"the memory of a slot cannot be shared: {exc.strerror}",
                mend="free memory, or allow more open files: ulimit -n, in a systemd unit LimitNOFILE=",
            ) from exc
        slot.own = own
        weakref.finalize(slot, self._dropped.append, own.number).atexit = False
        return slot

    def submit(self, slot: Slot, count: int) -> None:
        self._begin(slot.own, Message(Kind.SUBMIT, slot.own.number, count), TILE_S * count)

    def collect(self, slot: Slot, timeout_s: float | None = None) -> bool:
        return not slot.own.at_work or self._end(slot.own, timeout_s) is not None

    def submit_picked(self, slot: Slot, picked: NDArray[np.int32]) -> None:
        payload = np.ascontiguousarray(picked, np.int32).tobytes()
        message = Message(Kind.SUBMIT_PICKED, slot.own.number, len(picked), payload)
        self._begin(slot.own, message, TILE_S * len(picked))

    collect_picked = collect

    def close(self) -> None:
        """End the child: it waits for what still runs, for ``_END_S`` at most, and not at all where that hangs."""
        self._connection.close()
        hangs = bool(self._flying) and time.monotonic() > self._since_s + self._hang_s
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if hangs else _END_S)
        self._kill()
        self._listener.join(_END_S)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._failure = self._failure or "the engine process was closed"

    def _begin(self, own: _Own, message: Message, more_s: float) -> None:
        if own.at_work:
            raise RuntimeError("the slot is still at work")
        while self._dropped:
            gone = self._dropped.popleft()
            self._flying.pop(gone, None)
            self._answers.pop(gone, None)
            self._tell(Message(Kind.DROP, gone))
        self._tell(message)
        if not self._flying.keys() - self._answers.keys():  # nothing was awaited
            self._since_s = time.monotonic()
        own.at_work, own.more_s = True, more_s
        self._flying[own.number] = own

    def _end(self, own: _Own, timeout_s: float | None) -> Message | None:
        """What came of the slot's work; None where it still runs when the time is up."""
        try:
            message = self._answer(own.number, timeout_s)
        except LpcnetError:
            self._forget(own)
            raise
        if message is not None:
            self._forget(own)
        return message

    def _forget(self, own: _Own) -> None:
        own.at_work = False
        self._flying.pop(own.number, None)

    def _answer(self, number: int, timeout_s: float | None) -> Message | None:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while number not in self._answers:
            self._check()
            waits = [] if until_s is None else [until_s]
            if self._flying:
                waits.append(self._since_s + self._hang_s + max(own.more_s for own in self._flying.values()))
            now_s = time.monotonic()
            self._connection.settimeout(max(0.0, min(waits) - now_s) if waits else None)
            try:
                message = receive(self._connection)
            except EOFError:
                self._fail()
            except (TimeoutError, BlockingIOError):
                now_s = time.monotonic()
                if until_s is not None and now_s >= until_s:
                    return None
                if now_s >= waits[-1]:
                    self._fail(f"has not answered for {now_s - self._since_s:.1f} s and was killed")
            else:
                self._since_s = time.monotonic()
                if message.slot == number or message.slot in self._flying:
                    self._answers[message.slot] = message
        answer = self._answers.pop(number)
        if answer.kind is Kind.FAILED:
            raise _told(answer.payload)
        return answer

    def _tell(self, message: Message) -> None:
        self._check()
        try:
            self._connection.settimeout(self._hang_s)
            send(self._connection, message)
        except TimeoutError:
            self._fail(f"took no command for {self._hang_s:g} s and was killed")
        except ConnectionError:
            self._fail()

    def _check(self) -> None:
        if self._failure:
            raise BackendFailed(self._failure, mend=_MEND)

    def _fail(self, what: str = "") -> None:
        """End the child where it still runs, and raise what happened to it: ``what``, or how it ended."""
        if not what:  # its end of the connection is closed, so it is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            what = _ending(self._process.returncode)
        self._kill()
        self._listener.join(1.0)
        recent_s = time.monotonic() - self._hang_s - _END_S
        said = " | ".join(text for at_s, text in self._last_words if at_s > recent_s)[-300:]
        self._failure = f"the engine process {what}{f'; it said: {said}' if said else ''}"
        self._check()

    def _kill(self) -> None:
        self._process.kill()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            log.error("the engine process %d was killed and does not end: it hangs in the kernel", self.pid)

    def _listen(self, output: IO[bytes]) -> None:
        """Pass on what the child and its libraries print, and keep the last of it."""
        with output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._last_words.append((time.monotonic(), text))
                    log.warning("%s", text)


_MEND = "the run starts a new one; where that happens again, its output above and dmesg say more"


def _start(connection: socket.socket) -> subprocess.Popen[bytes]:
    # Above those that the child gets anew: where ours are closed, as a daemon's may be, the socket is one of them.
    descriptor = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _START, str(descriptor), *(path for path in sys.path if isinstance(path, str))],
            pass_fds=[descriptor],
            stdin=subprocess.PIPE,  # never written: its end is how the child learns of ours
            stdout=subprocess.PIPE,  # ours is for what the user asked
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us
        )
    finally:
        os.close(descriptor)


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its connection and was killed"
    if code >= 0:
        return f"ended with exit status {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _told(payload: bytes) -> LpcnetError:
    """The error that the child sent, of its class."""
    told = json.loads(payload)
    kind = getattr(errors, told["class"], None)
    if isinstance(kind, type) and issubclass(kind, LpcnetError):
        return kind(told["message"], mend=told["mend"])
    return BackendFailed(f"{told['class']}: {told['message']}", mend=told["mend"])
