"""``check``, ``predict`` and ``gallery``: what a network says of images, and how right it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli import bundle_check
from lpcnet_edge.cli.console import add_json_option, print_json, progress_bar, text_console
from lpcnet_edge.cli.options import add_dataset_options, add_rules_option, open_data, open_rules, refuse_in_bundles
from lpcnet_edge.errors import BadInput, UsageError

if TYPE_CHECKING:
    from lpcnet_edge.types import Segmenter


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs to the command."""
    parser = verbs.add_parser("check", help="measure a bundle beside its float network, or weights alone")
    _add_weights_option(parser, required=False)
    add_dataset_options(parser)
    parser.add_argument("--fold", nargs="+", metavar="N", help="only the images of these folds")
    parser.add_argument("--stratum", nargs="+", metavar="KEY", help="what to report apart, such as exposure")
    add_rules_option(parser)
    _add_batch_option(parser)
    bundle_check.add_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_check)

    parser = verbs.add_parser("predict", help="verdicts on image files, with overlays where --out says")
    _add_weights_option(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where verdicts.jsonl and overlays/ go")
    add_rules_option(parser)
    _add_batch_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_predict)

    parser = verbs.add_parser("gallery", help="the worst errors on labelled images as a page of pictures")
    _add_weights_option(parser)
    add_dataset_options(parser)
    parser.add_argument("--fold", nargs="+", metavar="N", help="only the images of these folds")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where index.html and the pictures go")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="pictures of each kind, default 10")
    _add_batch_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_gallery)


def _add_weights_option(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--weights", required=required, metavar="NAME", help="shipped weights, or the path of a .safetensors file"
    )


def _add_batch_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="images at a time, default 16")


def _open_segmenter(args: argparse.Namespace) -> Segmenter:
    from lpcnet_edge.network.weights import load_network

    return load_network(args.weights)


def run_check(args: argparse.Namespace) -> int:
    """``lpcnet-edge check``"""
    if args.bundle is not None:
        return bundle_check.run_bundle_check(args)
    if args.weights is None:
        raise UsageError("neither a bundle nor --weights is given", mend="check BUNDLE --data DATA")
    bundle_check.refuse_options(args)
    from lpcnet_edge.build.splits import trained_on
    from lpcnet_edge.check.evaluate import evaluate

    dataset, rules = open_data(args, args.fold), open_rules(args)
    bundle_check.warn_of_training(dataset, trained_on(args.weights))
    with progress_bar("checking") as progress:
        found = evaluate(
            _open_segmenter(args), dataset, batch=args.batch, rules=rules, strata=args.stratum, progress=progress
        )
    if args.json:
        print_json(found.to_json())
        return 0
    from lpcnet_edge.check.report import print_evaluation

    print_evaluation(found, text_console())
    return 0


def run_predict(args: argparse.Namespace) -> int:
    """``lpcnet-edge predict``"""
    from lpcnet_edge.check.predict import predict_images

    refuse_in_bundles(args.out, folder=True)
    rules = open_rules(args)
    with progress_bar("predicting") as progress:
        rows = predict_images(_open_segmenter(args), args.images, rules, args.out, batch=args.batch, progress=progress)
    if args.json:
        outcomes = [row.verdict.outcome for row in rows]
        counts = {outcome: outcomes.count(outcome) for outcome in ("pass", "reject", "review")}
        print_json({"counts": counts, "images": [row.to_json() for row in rows]})
    else:
        from lpcnet_edge.check.report import print_verdicts

        print_verdicts(rows, text_console())
    return BadInput.exit_code if any(row.error for row in rows) else 0


def run_gallery(args: argparse.Namespace) -> int:
    """``lpcnet-edge gallery``"""
    from lpcnet_edge.check.gallery import write_gallery

    refuse_in_bundles(args.out, folder=True)
    dataset = open_data(args, args.fold)
    with progress_bar("drawing") as progress:
        page = write_gallery(
            _open_segmenter(args), dataset, args.out, worst=args.worst, batch=args.batch, progress=progress
        )
    if args.json:
        print_json({"page": str(page)})
    else:
        print(page)
    return 0
