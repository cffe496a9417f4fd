"""A text file that only grows, by whole lines, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from lpcnet_edge.errors import SinkFailed

_CHUNK = 65536


class AppendFile:
    """Appends blocks of whole lines; each block is in the file whole, and on the disk, or not at all.

    A block that cannot be written whole is cut off again, at once or before the next. What a killed process left of one
    is cut off at opening: all after the last newline. A file that somebody removed takes no more: it would be gone. A
    lock keeps a second writer out. Pipes and devices get the bytes and none of the promises.

    ``begins`` is how each line does: a file of which the first or a torn last one does not is refused, and left as it
    is. A last one that begins with 0 is torn, too: a power cut leaves such where the size was written and not the data.

    Raises ``SinkFailed`` at opening; ``append`` raises ``OSError``.
    """

    def __init__(self, path: Path, begins: bytes = b"") -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise SinkFailed(
                f"{path} cannot be written: {exc.strerror or exc}",
                mend="name a file in a folder that can be written to",
            ) from exc
        try:
            about = os.fstat(self._handle)
            self.is_regular = stat.S_ISREG(about.st_mode)
            self._has_name = about.st_nlink > 0  # a standard output may be a file without one
            if self.is_regular:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._repair(begins)
        except SinkFailed:
            os.close(self._handle)
            raise
        except OSError as exc:
            os.close(self._handle)
            held = isinstance(exc, BlockingIOError)
            raise SinkFailed(
                f"{path} is being written by another process" if held else f"{path}: {exc.strerror or exc}",
                mend="give each process a file of its own" if held else "name another file",
            ) from exc
        self._closed = False
        self._torn_at: int | None = None  # where a block began that could not even be cut off

    @property
    def size(self) -> int:
        """Bytes in the file; 0 for a pipe or device."""
        return os.fstat(self._handle).st_size if self.is_regular else 0

    def append(self, data: bytes) -> None:
        """Add whole lines, then have them on the disk; raises ``OSError`` with the file as it was before."""
        if self.is_regular and self._has_name and not os.fstat(self._handle).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "it was removed while it was written", str(self.path))
        self._cut()
        before = self.size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            if self.is_regular:
                os.fsync(self._handle)
        except OSError:
            # Also after fsync: the kernel may have dropped pages it could not write, so they are written again.
            if self.is_regular:
                self._torn_at = before
                self._cut()
            raise

    def _cut(self) -> None:
        """Cut off the block that was not written whole, if there is one; where that fails, the next call does it."""
        if self._torn_at is not None:
            os.ftruncate(self._handle, self._torn_at)
            self._torn_at = None

    def _repair(self, begins: bytes) -> None:
        end = self.size
        while end > 0:
            start = max(0, end - _CHUNK)
            newline = os.pread(self._handle, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        for start in (0, end):
            found = os.pread(self._handle, len(begins), start)
            torn = start == end and found == bytes(len(found))
            if found != begins[: len(found)] and not torn:
                raise SinkFailed(f"{self.path} holds something else", mend="name another file, or move it away")
        if end < self.size:
            os.ftruncate(self._handle, end)

    def close(self) -> None:
        """Close the file; twice is fine."""
        if not self._closed:
            self._closed = True
            os.close(self._handle)
