"""``check BUNDLE`` and ``selftest``: whether a bundle decides as the float network did, and as it did when built."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import add_json_option, phases, print_json, text_console
from lpcnet_edge.cli.options import number, open_data, open_rules, refuse_outputs
from lpcnet_edge.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from lpcnet_edge.check.limits import Limits
    from lpcnet_edge.types import Dataset

_BACKEND_HELP = (
    "openvino, onnxruntime, tensorrt, tensorrt-rtx, torch-cuda, or canonical (the bundle's own files, unoptimised); "
    "default auto"
)


def add_verbs(verbs: Any) -> None:
    """Add ``selftest``; ``check`` is one verb for networks and bundles, which ``judge`` adds."""
    parser = verbs.add_parser("selftest", help="whether this machine computes what was recorded in a bundle")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    parser.add_argument("--backend", default="auto", metavar="NAME", help=_BACKEND_HELP)
    parser.add_argument("--key", type=Path, metavar="PUBLIC", help="demand a signature by this public key")
    add_json_option(parser)
    parser.set_defaults(run=run_selftest)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``check`` takes with a bundle."""
    group = parser.add_argument_group("with a bundle")
    group.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="compare a bundle with its float network")
    group.add_argument("--backend", metavar="NAME", help=_BACKEND_HELP)
    group.add_argument("--against", type=Path, metavar="BUNDLE", help="another bundle to compare with, too")
    group.add_argument("--key", type=Path, metavar="PUBLIC", help="demand their signatures by this public key")
    group.add_argument("--limits", type=Path, metavar="YAML", help="what must hold (docs/checking.md)")
    group.add_argument("--max-drop", type=number, metavar="POINTS", help="mIoU that may be lost")
    group.add_argument("--max-new-escapes", type=int, metavar="N", help="defective parts that only the bundle passes")
    group.add_argument("--layers", action="store_true", help="what each quantised layer costs, the worst first")
    group.add_argument("--html", type=Path, metavar="FILE", help="write a report with pictures of the data")
    group.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML, a test case for each limit")


def refuse_options(args: argparse.Namespace) -> None:
    """Raise ``UsageError`` where an option for a bundle is given without one."""
    for name in ("backend", "against", "key", "limits", "max_drop", "max_new_escapes", "layers", "html", "junit"):
        if getattr(args, name) not in (None, False):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is for bundles, and none is given", mend=f"check BUNDLE {option} ...")


def run_bundle_check(args: argparse.Namespace) -> int:
    """``lpcnet-edge check BUNDLE``"""
    from lpcnet_edge.bundle.manifest import trained_on
    from lpcnet_edge.bundle.read import open_bundle
    from lpcnet_edge.check.bundle_check import check_bundle

    if args.weights is not None:
        raise UsageError(
            "a bundle and --weights are given; the float network of a bundle is found from what it was built from",
            mend="leave one of them out",
        )
    if args.stratum:
        raise UsageError("--stratum is for --weights", mend="leave it out: all strata of up to 32 values are reported")
    limits, bundle = _limits(args), open_bundle(args.bundle, trusted_key=args.key)
    other = open_bundle(args.against, trusted_key=args.key) if args.against else None
    refuse_outputs(args.html, args.junit, inputs=(args.limits, args.rules, Path(args.data)))
    if args.html:
        from lpcnet_edge.check.gallery import refuse_project_folders

        refuse_project_folders(args.html)
    dataset = open_data(args, args.fold)
    warn_of_training(dataset, trained_on(bundle.manifest))
    with phases() as progress:
        found = check_bundle(
            bundle,
            dataset,
            backend=args.backend or "auto",
            rules=open_rules(args),
            limits=limits,
            other=other,
            layers=args.layers,
            batch=args.batch,
            progress=progress,
        )
    report = found.to_json()
    if not args.json:  # first: a full disk must not cost what was measured
        from lpcnet_edge.check.bundle_report import print_bundle_check

        print_bundle_check(report, text_console())
    if args.html:
        from lpcnet_edge.check.page import write_page

        write_page(args.html, found, dataset)
    if args.junit:
        from lpcnet_edge.check.junit import junit_xml
        from lpcnet_edge.files import write_atomically

        write_atomically(args.junit, junit_xml(report))
    if args.json:
        print_json(report)
    for row in report["limits_broken"]:
        _say(row["message"] + "".join(f"; {cause}" for cause in row["causes"]), row["try"])
    return CheckFailed.exit_code if report["limits_broken"] else 0


def warn_of_training(dataset: Dataset, trained: object) -> None:
    """Say it where the weights' card, ``trained``, has images of the dataset among those that it names."""
    from lpcnet_edge.datasets.selection import trained_among

    if which := trained_among(dataset, trained):
        print(
            f"warning: the weights' card says that they were trained on {which}: new parts are not decided as well\n"
            "mend: check on parts that were held out, such as --fold N",
            file=sys.stderr,
        )


def run_selftest(args: argparse.Namespace) -> int:
    """``lpcnet-edge selftest``"""
    from lpcnet_edge.bundle.read import open_bundle
    from lpcnet_edge.check.selftest import run_selftest as run

    found = run(open_bundle(args.bundle, trusted_key=args.key), args.backend)
    error = found.error()
    if args.json:
        print_json(found.to_json())
    elif error is None:
        print(
            f"{found.bundle} computes what was recorded: {found.tiles} golden tiles in {found.seconds:.2f} s; at most "
            f"{100 * found.classes:.3g} % of a tile's pixels have another class (allowed "
            f"{100 * found.tolerance.classes:g} %), scores differ by {found.score:.2g} ({found.tolerance.score:g})"
        )
        print(found.backend)
    if error is not None:
        _say(error.message, error.mend or "")
        return error.exit_code
    return 0


def _limits(args: argparse.Namespace) -> Limits:
    from dataclasses import replace

    from lpcnet_edge.check.limits import Limits
    from lpcnet_edge.config import load_config

    limits = load_config(args.limits, Limits) if args.limits else Limits()
    given = {name: getattr(args, name) for name in ("max_drop", "max_new_escapes") if getattr(args, name) is not None}
    try:
        return replace(limits, **given)
    except ValueError as exc:
        raise UsageError(str(exc), mend="correct that option") from exc


def _say(message: str, mend: str) -> None:
    """An error as every error is told, where a report has been printed too."""
    print(f"error: {message}\nmend: {mend}", file=sys.stderr)
