"""TensorRT and TensorRT-RTX: the one place that imports either, by name, and one code path for both."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from types import ModuleType

from lpcnet_edge.backends.tensorrt_versions import Branch, Logger, Module, branch_of
from lpcnet_edge.errors import MissingLibrary, UsageError

_JETPACK_MEND = "sudo apt-get install nvidia-jetpack, and an environment made with --system-site-packages"


MOST_MESSAGES = 256


class Messages:
    """What the library said since :meth:`captured` was entered, instead of printing it: its first words, no more, for
    an engine may run for a year."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._turn = Lock()

    def add(self, kind: list[str], message: str) -> None:
        """Take note of one of ``errors`` or ``warnings``."""
        if len(kind) < MOST_MESSAGES:
            kind.append(message)

    @contextmanager
    def captured(self) -> Iterator[Messages]:
        """Start empty, and keep others out: the library has one logger for all its objects, and what builds side by
        side would also time each other's kernels."""
        with self._turn:
            self.errors, self.warnings = [], []
            yield self


@dataclass(frozen=True)
class Library:
    """A loaded module: itself, its version, what is particular to that version, and its logger and messages."""

    module: str
    version: str
    branch: Branch
    trt: Module
    logger: Logger
    messages: Messages


@functools.cache
def load_library(module: str) -> Library:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises :class:`~lpcnet_edge.errors.MissingLibrary` where it is not installed, does not load, or is of a version
    that is not served, and :class:`~lpcnet_edge.errors.UsageError` for another name.
    """
    trt: Module = _imported(module)
    version = str(trt.__version__)
    branch = branch_of(module, version)
    messages = Messages()
    return Library(module, version, branch, trt, _make_logger(trt, messages), messages)


def _imported(module: str) -> ModuleType:
    try:
        if module == "tensorrt":
            import tensorrt

            return tensorrt  # type: ignore[no-any-return]
        if module == "tensorrt_rtx":
            import tensorrt_rtx

            return tensorrt_rtx  # type: ignore[no-any-return]
    except ModuleNotFoundError as exc:
        if exc.name == module:
            raise MissingLibrary(f"the library {module} is not installed", mend=_mend(module)) from exc
        raise _broken(module, exc) from exc
    except (ImportError, OSError, RuntimeError) as exc:
        raise _broken(module, exc) from exc
    raise UsageError(f"'{module}' is no module that builds plans", mend="use tensorrt or tensorrt_rtx")


def _broken(module: str, exc: Exception) -> MissingLibrary:
    reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return MissingLibrary(f"the library {module} is installed but does not load: {reason}", mend=_mend(module))


def _mend(module: str) -> str:
    if module == "tensorrt" and platform.machine() == "aarch64":
        return _JETPACK_MEND
    return f"pip install -e '.[{module.replace('_', '-')}]' (in the repository)"


def _make_logger(trt: Module, messages: Messages) -> Logger:
    """One logger for all builders, parsers and runtimes: the library keeps the first it gets and warns of others."""

    class Recorder(trt.ILogger):  # type: ignore[misc]  # a class of a module without types
        def log(self, severity: object, message: str) -> None:  # never raises: the library would print that
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                messages.add(messages.errors, message)
            elif severity == trt.ILogger.WARNING:
                messages.add(messages.warnings, message)

    return Recorder()
