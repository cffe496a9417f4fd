"""Keeping OpenVINO's signal stack out of a process that handles signals.

Compiling a model, OpenVINO registers an alternate signal stack of its own for the calling thread, and puts back the one
before it when the model is destroyed. With several models destroyed in another order than they were made, the stack put
back is one that is freed, and the next signal that Python handles (Ctrl-C, SIGTERM) ends the process with a
segmentation fault. So the thread's stack is put back at once: then every model remembers a stack that outlives it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Put this thread's alternate signal stack back at the end, whatever was registered in between."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "sigaltstack"):  # no such thing on this system
        yield
        return
    before = _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
