"""What verbs print with: one JSON object on standard output, and progress on standard error."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lpcnet_edge.files import finite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EXIT_INTERRUPTED = 130
"""What an interrupted command returns, as shells have it: 128 + SIGINT."""

PLAIN_LINE_EVERY_S = 30.0
"""How often a training tells its figures where standard error is no terminal."""

PIPE_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, which every verb that prints figures has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object (docs/json.md) instead of text")


def print_json(value: Any) -> None:
    """Print one JSON object; numbers that JSON cannot hold (nan, infinities) become null.

    It is UTF-8 whatever the locale: where standard output is in another encoding, it is ASCII with escapes.
    """
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    print(json.dumps(finite(value), indent=2, ensure_ascii=encoding != "utf-8"))


def text_console() -> Console:
    """Where tables go: the terminal at its width, or a file or pipe at a width that cuts nothing short."""
    from rich.console import Console

    class TextConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # which has an exit code of its own; rich would end the process with 1

    console = TextConsole()
    return console if console.is_terminal else TextConsole(width=PIPE_WIDTH)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error for as long as it is a terminal; yields what to call with (done, total)."""
    with _progress() as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """A bar that says which phase of a long command is under way; yields what to call with (phase, done, total)."""
    with _progress() as progress:
        task = progress.add_task("starting", total=None)
        yield lambda phase, done, total: progress.update(task, description=phase, completed=done, total=total)


class TrainingDisplay:
    """Shows a training: a bar with the current figures on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._progress = _progress()
        self._task = self._progress.add_task("reading", total=None)
        self._told = 0.0
        self._before: dict[str, float] | None = None

    def __enter__(self) -> TrainingDisplay:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__(None, None, None)

    def reading(self, done: int, total: int) -> None:
        """``done`` of ``total`` images are read."""
        self._progress.update(self._task, completed=done, total=total)

    def step(self, done: int, total: int, figures: dict[str, float]) -> None:
        """``done`` of ``total`` steps are made; the figures are those taken last, and get a line when they are new."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._progress.update(self._task, description=f"step {shown}", completed=done, total=total)
        now, new = time.monotonic(), self._before is not None and figures != self._before
        self._before = dict(figures)
        if (
            figures
            and not self._progress.console.is_terminal
            and (done == total or (new and now - self._told >= PLAIN_LINE_EVERY_S))
        ):
            self._told = now
            self._progress.console.print(f"step {done} of {total}  {shown}", soft_wrap=True, highlight=False)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
