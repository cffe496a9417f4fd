"""Options that several verbs share, and what they open."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lpcnet_edge.errors import BadConfig, UsageError

if TYPE_CHECKING:
    from lpcnet_edge.decision import Rules
    from lpcnet_edge.types import Dataset


def number(text: str) -> float:
    """A finite number, as the type of an option: ``float`` would take nan and infinity, too."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return value


def refuse_in_bundles(*outputs: Path | None, folder: bool = False) -> None:
    """Raise ``UsageError`` for what would be written into a bundle: with a file more, it is refused ever after.

    ``folder``: the outputs are folders, which the bundle itself is, too.
    """
    for out in filter(None, outputs):
        path = out.resolve()
        for above in (path, *path.parents) if folder else path.parents:
            if (above / "bundle.yaml").exists():
                where = "is" if above == path else "lies inside"
                raise UsageError(f"{out} {where} the bundle {above}", mend="write it beside the bundle")


@contextmanager
def wrong_use() -> Iterator[None]:
    """Where settings are made of options: what they refuse (``BadConfig``) is ``UsageError``, for no file is wrong."""
    try:
        yield
    except BadConfig as exc:
        raise UsageError(exc.message, mend=exc.mend) from exc


def is_stdout(path: Path | None) -> bool:
    """Whether what is written there comes out of standard output, as of ``/dev/stdout``; the null device is nowhere."""
    if path is None:
        return False
    try:
        there, ours, nowhere = os.stat(path), os.fstat(sys.stdout.fileno()), os.stat(os.devnull)
        return os.path.samestat(there, ours) and not os.path.samestat(there, nowhere)
    except (OSError, ValueError):  # nothing there, or standard output is no file
        return False


def refuse_stdout(*files: Path | None) -> None:
    """Raise ``UsageError`` for a file that is standard output, where what the verb prints would stand in it, too."""
    for out in filter(is_stdout, files):
        raise UsageError(f"{out} is standard output, where the verb prints what it found", mend="name a file")


def refuse_outputs(*files: Path | None, inputs: Sequence[Path | None] = ()) -> None:
    """Raise ``UsageError`` for a file that cannot be written, or that is one of the ``inputs`` (as ``refuse_inputs``
    has it): before a verb's long work, and not after it."""
    refuse_in_bundles(*files)
    refuse_stdout(*files)
    given = [out for out in files if out is not None]
    for number, out in enumerate(given):
        refuse_inputs(out, *inputs)
        if out.resolve() in [other.resolve() for other in given[:number]] and (out.is_file() or not out.exists()):
            raise UsageError(f"{out} is given for two outputs: one would replace the other", mend="name two files")
        folder = out.resolve().parent
        if not folder.is_dir():
            raise UsageError(f"{out}: there is no folder {out.parent}", mend=f"mkdir -p {out.parent}")
        if out.is_dir():
            raise UsageError(f"{out} is a folder", mend="name a file in it")
        if not os.access(folder if not out.exists() or out.is_file() else out, os.W_OK):
            raise UsageError(f"{out}: you may not write there", mend="name a file in a folder that you can write to")


def refuse_inputs(out: Path, *inputs: Path | None) -> None:
    """Raise ``UsageError`` where ``out`` is one of the ``inputs``, or holds the labels, parts or classes of a dataset
    that is."""
    read = [path for name in inputs if name is not None for path in (name, *_tables(name)) if path.is_file()]
    if out.resolve() in [path.resolve() for path in read]:
        raise UsageError(f"{out} is read, and would be replaced by what is written", mend="name another file")


def _tables(data: Path) -> list[Path]:
    """The files that a dataset's labels, parts and classes are in: in its folder, or beside its JSON file."""
    if data.is_file():
        return [data.parent / "parts.csv"]
    from lpcnet_edge.datasets.spec import COCO_FILES

    places = [data / name for name in ("classes.yaml", "parts.csv", "tiles.csv", *COCO_FILES)]
    return [*places, data / "annotations" / "parts.csv", *(data / "annotations").glob("*.json")]


def add_dataset_options(parser: argparse.ArgumentParser, *, positional: bool = False, required: bool = True) -> None:
    """Add the dataset and how to read it."""
    text = "a dataset's folder, a COCO .json, or carbon-fabric:count=64,seed=7 (docs/data.md)"
    if positional:
        parser.add_argument("data", metavar="DATA", help=text)
    else:
        parser.add_argument("--data", required=required, metavar="DATA", help=text)
    parser.add_argument("--channels", type=int, choices=(1, 3), help="read images as grey (1) or colour (3)")
    parser.add_argument("--images-root", metavar="DIR", help="COCO: where the images are")
    parser.add_argument("--parts", metavar="REGEX", help="COCO: finds the physical part in an image's name")
    parser.add_argument("--empty-masks", choices=("keep", "drop"), help="Magnetic Tile: defective images with no mask")
    parser.add_argument(
        "--grouping", choices=("index", "numbers"), help="Magnetic Tile: where parts and folds come from"
    )


def open_data(args: argparse.Namespace, folds: list[str] | None = None) -> Dataset:
    """The dataset that the options name, or those of its entries that are in ``folds``."""
    from lpcnet_edge.datasets import open_dataset, with_fold

    dataset = open_dataset(
        args.data,
        channels=args.channels,
        images_root=args.images_root,
        parts=args.parts,
        empty_masks=args.empty_masks,
        grouping=args.grouping,
    )
    return with_fold(dataset, set(folds)) if folds else dataset


def open_check_data(args: argparse.Namespace) -> Dataset:
    """The dataset of ``--check-data``, read in the channels and, where it is COCO too, in the parts of ``--data``."""
    from lpcnet_edge.datasets import Coco, open_dataset

    check = open_dataset(args.check_data, channels=args.channels)
    if args.parts is not None and isinstance(check, Coco) and not (check.path.parent / "parts.csv").exists():
        return open_dataset(args.check_data, channels=args.channels, parts=args.parts)
    return check


def add_rules_option(parser: argparse.ArgumentParser, default: str = "any defect pixel rejects") -> None:
    """Add ``--rules``; ``default`` says what holds without it."""
    parser.add_argument("--rules", type=Path, metavar="YAML", help=f"verdict rules; by default {default}")


def open_rules(args: argparse.Namespace) -> Rules | None:
    """The verdict rules that the options name, if any."""
    from lpcnet_edge.config import load_config
    from lpcnet_edge.decision import Rules

    return load_config(args.rules, Rules) if args.rules else None
