"""The other end of :mod:`~lpcnet_edge.backends.isolated`: opens a backend in a process of its own and obeys commands.

Both sides send whole messages over one socket: what is asked, about which slot, how many tiles, and what else it takes.
Every command but ``DROP`` is answered once, with the slot's number. Pixels and results never pass through it: they lie
in memory that both processes have mapped, and its file goes with the last of them.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends import base
from lpcnet_edge.backends.base import Backend, HostBackend, Slot, slot_in
from lpcnet_edge.errors import BackendFailed, ChangedFile, LpcnetError

_TURN_S = 0.002
"""At most so long a new command waits while earlier work is waited for; the engines have that work meanwhile."""

CODE_SHA256 = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, base.__file__))).hexdigest()
"""Of what both processes must agree on, messages and where a slot's arrays lie, as it was when this one began."""

_HEAD = struct.Struct("<BII")
_MESSAGE_BYTES = 1 << 17
_TOLD = 4000


class Kind(IntEnum):
    """What a message says."""

    OPEN = 1
    """Open a backend: a pickled :class:`Opening`. Answered by ``DONE`` with its name and what is about it, as JSON."""
    MAKE = 2
    """Make a slot for ``count`` tiles. ``DONE`` has the shape of its pixels as JSON, and its memory's file."""
    SUBMIT = 3
    """Stage 1 on ``count`` tiles; ``DONE`` when it is through."""
    SUBMIT_PICKED = 4
    """Stage 2 on the tiles named, ``count`` int32; ``DONE`` when it is through."""
    DROP = 5
    """The slot will not be used again. No answer."""
    DONE = 6
    FAILED = 7
    """With the class, message and mend of an error as JSON."""


@dataclass(frozen=True)
class Opening:
    """What to open: a bundle's folder, the digest that its manifest must have, and what ``open_backend`` takes.

    ``code_sha256`` is the other side's ``CODE_SHA256``.
    """

    folder: Path
    manifest_sha256: str
    name: str
    options: dict[str, object]
    code_sha256: str


@dataclass(frozen=True)
class Message:
    """One message; ``file`` is a descriptor of the receiver's, which must close it."""

    kind: Kind
    slot: int = 0
    count: int = 0
    payload: bytes = b""
    file: int | None = None


def send(connection: socket.socket, message: Message) -> None:
    """Send a message whole; ``OSError`` where the other side is gone."""
    data = _HEAD.pack(message.kind, message.slot, message.count) + message.payload
    if len(data) > _MESSAGE_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; the most is {_MESSAGE_BYTES}")
    if message.file is None:
        connection.send(data)
    else:
        socket.send_fds(connection, [data], [message.file])


def receive(connection: socket.socket) -> Message:
    """The next message. ``EOFError`` where the other side is gone, and what a socket's timeout raises."""
    files = array.array("i")
    try:
        data, extra, _, _ = connection.recvmsg(_MESSAGE_BYTES, socket.CMSG_LEN(files.itemsize), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as exc:
        raise EOFError from exc
    if not data:
        raise EOFError
    for _, _, raw in extra:
        files.frombytes(raw)
    kind, slot, count = _HEAD.unpack_from(data)
    return Message(Kind(kind), slot, count, data[_HEAD.size :], files[0] if files else None)


def mapped(file: int, size: int) -> NDArray[np.uint8]:
    """The first ``size`` bytes of a file as shared memory, unmapped with the last array that looks into it."""
    return np.frombuffer(mmap.mmap(file, size), np.uint8)


@dataclass
class _Held:
    """A slot of the backend's, and the shared one: the same where the backend computes on any memory."""

    inner: Slot
    shared: Slot

    def take(self, tiles: int) -> None:
        """Copy the pixels in. (Registered with cuMemHostRegister, shared memory would be pinned and need no copy; the
        device layer has no such call.)"""
        if self.inner is not self.shared:
            np.copyto(self.inner.pixels[:tiles], self.shared.pixels[:tiles])

    def give(self, kind: Kind, tiles: int) -> None:
        """Copy out what a stage computed."""
        if self.inner is not self.shared:
            for name in ("score",) if kind is Kind.SUBMIT else ("classes", "confidence"):
                np.copyto(getattr(self.shared, name)[:tiles], getattr(self.inner, name)[:tiles])


class Server:
    """Obeys commands for an open backend until the other side is gone.

    One thread does it all, since one thread uses a backend. A command that arrives while work is waited for is begun
    within ``_TURN_S``, so that the engines have the next batch before they are through with this one.
    """

    def __init__(self, connection: socket.socket, backend: Backend) -> None:
        self._connection, self._backend = connection, backend
        self._slots: dict[int, _Held] = {}
        self._flying: deque[tuple[Message, _Held]] = deque()

    def run(self) -> None:
        """Return when the other side is gone."""
        while True:
            if self._flying and not select.select([self._connection], [], [], 0)[0]:
                self._wait()
                continue
            try:
                message = receive(self._connection)
            except EOFError:
                return
            try:
                self._obey(message)
            except Exception as exc:  # a library's own too
                send(self._connection, failure(message.slot, exc))

    def _obey(self, message: Message) -> None:
        if message.kind is Kind.MAKE:
            self._make(message)
        elif message.kind is Kind.DROP:
            self._slots.pop(message.slot, None)
        else:
            held = self._slots[message.slot]
            if message.kind is Kind.SUBMIT:
                held.take(message.count)
                self._backend.submit(held.inner, message.count)
            else:
                self._backend.submit_picked(held.inner, np.frombuffer(message.payload, np.int32))
            self._flying.append((message, held))

    def _wait(self) -> None:
        message, held = self._flying[0]
        answer = Message(Kind.DONE, message.slot)
        collect = self._backend.collect if message.kind is Kind.SUBMIT else self._backend.collect_picked
        try:
            if not collect(held.inner, _TURN_S):
                return
            held.give(message.kind, message.count)
        except Exception as exc:
            answer = failure(message.slot, exc)
        self._flying.popleft()
        send(self._connection, answer)

    def _make(self, message: Message) -> None:
        files: list[int] = []

        def memory(size: int) -> NDArray[np.uint8]:
            # A file without a name: nothing is left behind, however the processes end.
            files.append(os.memfd_create("lpcnet-edge-slot", os.MFD_CLOEXEC))
            os.posix_fallocate(files[-1], 0, size)  # too little memory is an error here, not SIGBUS later
            return mapped(files[-1], size)

        try:
            if isinstance(self._backend, HostBackend):
                inner = shared = self._backend.make_slot_in(message.count, memory)
            else:
                inner = self._backend.make_slot(message.count)
                shared = slot_in(memory, inner.pixels.shape)
            self._slots[message.slot] = _Held(inner, shared)
            shape = json.dumps(shared.pixels.shape).encode()
            send(self._connection, Message(Kind.DONE, message.slot, payload=shape, file=files[0]))
        finally:
            for file in files:
                os.close(file)


def failure(slot: int, exc: Exception) -> Message:
    """The answer that tells of an error; one that is not ours is printed too, with where it was raised."""
    if not isinstance(exc, LpcnetError):
        traceback.print_exception(exc)
        exc = BackendFailed(f"{type(exc).__name__}: {exc}")
    told = {"class": type(exc).__name__, "message": exc.message[:_TOLD], "mend": exc.mend and exc.mend[:_TOLD]}
    return Message(Kind.FAILED, slot, payload=json.dumps(told).encode())


def open_it(opening: Opening) -> Backend:
    """Verify the bundle and open a backend for it.

    The manifest must be, byte for byte, that which the other side verified, by a trusted key where one was demanded:
    so every file is too, and neither a restart nor a replaced folder gets around the signature. And a toolkit that was
    upgraded during the run would look for pixels and results elsewhere in the memory that both share.
    """
    if opening.code_sha256 != CODE_SHA256:
        raise BackendFailed(
            "the installed lpcnet-edge is another than when the run began", mend="end this run and begin a new one"
        )
    from lpcnet_edge.backends.choice import open_backend
    from lpcnet_edge.bundle.read import open_bundle

    bundle = open_bundle(opening.folder)
    if bundle.manifest_sha256 != opening.manifest_sha256:
        raise ChangedFile(
            f"{opening.folder} holds another bundle than when the run began: {bundle.id}",
            mend="begin a new run with it, or put the other one back",
        )
    return open_backend(bundle, opening.name, **opening.options)  # type: ignore[arg-type]


def end_with_parent() -> None:
    """Have the kernel end this process when the parent ends, which holds the other end of our standard input.

    Not by PR_SET_PDEATHSIG, which is sent when the parent's *thread* ends that started us: one that opened the backend
    again in the background. And not by a thread of ours, which could not run while a library holds the interpreter.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # it ended before
        sys.exit(1)


def main(descriptor: int) -> None:
    """Serve the connection with this descriptor; ends with it."""
    # The parent is the one to be asked to stop: it drains, and closes the connection when it needs us no more.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    lowest = os.dup(descriptor)  # select takes none from 1024 on, and the parent may have so many open
    os.close(descriptor)
    with socket.socket(fileno=lowest) as connection:
        try:
            backend = open_it(pickle.loads(receive(connection).payload))  # from the process that started us
        except Exception as exc:
            send(connection, failure(0, exc))
            return
        try:
            about = json.dumps([backend.name, backend.about]).encode()
            send(connection, Message(Kind.DONE, payload=about))
            Server(connection, backend).run()
        except OSError:  # the other side is gone while we told it something
            pass
        finally:
            backend.close()
