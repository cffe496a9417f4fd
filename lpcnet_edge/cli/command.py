"""The command's entrance: the verbs, and what each kind of ending prints and returns."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lpcnet_edge.backends.quiet import silence_libraries, silence_opencv
from lpcnet_edge.cli import bench, build, bundle, bundle_check, calibrate, doctor, judge, make, run, train, tune
from lpcnet_edge.cli.console import EXIT_INTERRUPTED
from lpcnet_edge.errors import BadInput, LpcnetError, MissingLibrary, UsageError

EXIT_INTERNAL = 70
EXIT_BROKEN_PIPE = 141

_EPILOG = """\
exit codes: 0 done, 1 a check or the work itself failed, 2 wrong use, 3 bad input or artifact,
            4 missing device or library, 70 internal error (LPCNET_DEBUG=1 shows where), 130 interrupted
"""

# A module that may be absent -> how to get it, from the folder of the repository.
_MENDS = {
    "torch": "pip install -e '.[train]'",
    "matplotlib": "pip install -e '.[train]'",
    "tensorrt": "pip install -e '.[tensorrt]'",
    "tensorrt_rtx": "pip install -e '.[tensorrt-rtx]'",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are errors of ours, printed in one place."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is left over here, where the verb is known, with the nearest option."""
        known, extra = super().parse_known_args(args, namespace)
        if extra:
            import difflib

            near = difflib.get_close_matches(extra[0].partition("=")[0], self._option_string_actions, n=1)
            mend = f"did you mean {near[0]}? {self.prog} --help" if near else f"{self.prog} --help"
            raise UsageError(f"unrecognized arguments: {' '.join(extra)}", mend=mend)
        return known, extra

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, mend=f"{self.prog} --help")


class _Version(argparse.Action):
    """``--version``, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version

        print(f"lpcnet-edge {version('lpcnet-edge')}")
        parser.exit()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the help of a long verb on its line: argparse forgets the verbs' indent when it places the column."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        lengths = [len(verb.dest) for verb in self._iter_indented_subactions(action)]
        self._action_max_length = max([self._action_max_length, *(4 + length for length in lengths)])


def make_parser() -> Parser:
    """The parser of the whole command; ``args.run`` is the chosen verb's function."""
    parser = Parser(
        prog="lpcnet-edge",
        description="Surface-defect segmentation for factory inspection.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (train, build, judge, run, tune, bench, make, calibrate, bundle, bundle_check, doctor):
        module.add_verbs(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv`` by default) and return its exit code."""
    silence_libraries()
    silence_opencv()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: what is written there is lost, and nothing else
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, for as long as the process
    _write_utf8()
    try:
        args = make_parser().parse_args(argv)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone; nothing may be written to them again, not even when Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as exc:
        if os.environ.get("LPCNET_DEBUG"):
            import traceback

            traceback.print_exc()
        return _report(exc)


def _write_utf8() -> None:
    """Where the locale is ASCII, print UTF-8, as Python does where it chooses: the names of parts and files have it.
    Elsewhere a name that the locale cannot hold is no reason to print nothing."""
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        encoding = codecs.lookup(stream.encoding).name
        if encoding == "ascii":
            stream.reconfigure(encoding="utf-8", errors=errors)
        elif stream.errors == "strict":
            stream.reconfigure(errors=errors if encoding == "utf-8" else "backslashreplace")


def _report(exc: Exception) -> int:
    """Print an error as the user should read it; returns the exit code."""
    message, mend, code = _explain(exc)
    with contextlib.suppress(OSError):  # nobody can be told on a full disk; the exit code still says it
        for what, text in (("error", message), ("mend", mend)):
            if text:
                print(f"{what}: {' '.join(text.splitlines())}", file=sys.stderr)  # a file's name may hold a line break
        sys.stderr.flush()
    return code


def _explain(exc: Any) -> tuple[str, str | None, int]:
    """Problem, mend and exit code of any exception."""
    if isinstance(exc, LpcnetError):
        return exc.message, exc.mend, exc.exit_code
    if isinstance(exc, ImportError) and not (exc.name or "").startswith("lpcnet_edge"):
        library = (exc.name or "").partition(".")[0]
        mend = f"{_MENDS.get(library, 'pip install -e .')} (in the repository)"
        return f"a library is missing or broken: {exc}", mend, MissingLibrary.exit_code
    if isinstance(exc, OSError):
        message = f"{exc.filename or 'reading or writing'}: {exc.strerror or exc}"
        return message, "check the path, its permissions and the disk", BadInput.exit_code
    text = " ".join(str(exc).split()) or "no message"
    if isinstance(exc, MemoryError):
        mend = "ask for less at a time (a smaller batch, frame or count), or use a machine with more memory"
        return f"there is not enough memory: {text}", mend, LpcnetError.exit_code
    return (
        f"internal error: {type(exc).__name__}: {text}",
        "LPCNET_DEBUG=1 shows where; please report it",
        EXIT_INTERNAL,
    )
