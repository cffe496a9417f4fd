"""``calibrate gate`` and ``calibrate rules``: thresholds with a promise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import print_json, progress_bar
from lpcnet_edge.cli.options import add_dataset_options, open_data, open_rules, refuse_outputs
from lpcnet_edge.errors import UsageError

if TYPE_CHECKING:
    from lpcnet_edge.bundle.read import Bundle
    from lpcnet_edge.runtime.framing import Framing
    from lpcnet_edge.types import Dataset


def add_promise_options(parser: argparse.ArgumentParser, missed: str) -> None:
    """A bundle, what it is calibrated on, and what is promised then."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder; it is not changed")
    add_dataset_options(parser)
    parser.add_argument("--fold", nargs="+", default=[], metavar="N", help="only these folds: none that was trained on")
    parser.add_argument(
        "--alpha", default="auto", metavar="auto|A", help=f"bound on the share of defective parts {missed}"
    )
    parser.add_argument("--confidence", metavar="SHARE", help="how surely this very calibration keeps it, such as 0.95")
    parser.add_argument(
        "--view", choices=("part", "image"), default="part", help="one that is so in all of its images, or in any one"
    )
    parser.add_argument("--framing", choices=("resize", "tile"), help="as in run")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="auto, openvino or onnxruntime")


def run_gate(args: argparse.Namespace) -> int:
    """``lpcnet-edge calibrate gate``"""
    from lpcnet_edge.backends.choice import open_backend
    from lpcnet_edge.bundle.write import check_out
    from lpcnet_edge.runtime.gate_calibration import calibrate_bundle, write_with_gate

    if args.min_defect_px < 1:
        raise UsageError(f"--min-defect-px {args.min_defect_px}", mend="a defective tile has 1 defect pixel or more")
    alpha, confidence = _promise(args)
    check_out(args.out, sign_with=args.key)
    bundle, data, framing = _open(args)
    backend = open_backend(bundle, args.backend)
    try:
        with progress_bar("scoring") as progress:
            found = calibrate_bundle(
                bundle,
                backend,
                data,
                alpha,
                view=args.view,
                min_defect_px=args.min_defect_px,
                confidence=confidence,
                framing=framing,
                progress=progress,
            )
    finally:
        backend.close()
    about: dict[str, object] = {"data": data.name, "digest": data.digest(), "fold": args.fold, "backend": backend.about}
    about["framing"] = args.framing or "by size"
    if _warn_of_training(bundle, data):
        about["seen_in_training"] = True
    made = write_with_gate(bundle, args.out, found, data=about, sign_with=args.key)
    if args.json:
        from lpcnet_edge.config import to_mapping

        said = {"bound": found.bound, "guarantee": found.guarantee.splitlines()}
        print_json({"out": str(args.out), "id": made.id, "signed": made.signed, **to_mapping(found), **said})
        return 0
    print(f"{args.out}: {made.id}{', signed' if made.signed else ''}")
    print(f"threshold {found.threshold:.6g}; it clears {100 * found.cleared:.1f} % of the free tiles")
    print(found.guarantee)
    return 0


def run_rules(args: argparse.Namespace) -> int:
    """``lpcnet-edge calibrate rules``"""
    from lpcnet_edge.files import write_atomically
    from lpcnet_edge.runtime.rules_calibration import calibrate_rules

    alpha, confidence = _promise(args)
    refuse_outputs(args.out, inputs=(Path(args.data), args.rules))
    bundle, data, framing = _open(args)
    with progress_bar("deciding") as progress:
        found = calibrate_rules(
            bundle,
            data,
            open_rules(args) or bundle.manifest.rules,
            alpha,
            view=args.view,
            confidence=confidence,
            backend=args.backend,
            framing=framing,
            progress=progress,
        )
    seen = _warn_of_training(bundle, data)
    folds = f", fold {', '.join(args.fold)}" if args.fold else ""
    warning = "; the network was trained on some of these images, so nothing is promised" if seen else ""
    write_atomically(args.out, found.to_yaml(f"For the bundle {bundle.id}, calibrated on {data.name}{folds}{warning}."))
    if args.json:
        print_json({"out": str(args.out), "bundle": bundle.id, "seen_in_training": seen, **found.to_json()})
        return 0
    print(f"{args.out}: min_confidence {found.threshold:.4f} or more in every rule")
    for line in (*found.became, *found.guarantee.splitlines()):
        print(line)
    return 0


def _promise(args: argparse.Namespace) -> tuple[Any, float | None]:
    """Alpha and the confidence, before anything is opened."""
    if args.backend == "null":
        raise UsageError("the backend null computes nothing: its scores mean nothing", mend="leave --backend out")
    alpha: Any = args.alpha if args.alpha == "auto" else _share("--alpha", args.alpha, "0.05, or auto")
    return alpha, None if args.confidence is None else _share("--confidence", args.confidence, "0.95")


def _open(args: argparse.Namespace) -> tuple[Bundle, Dataset, Framing | None]:
    """The bundle, what it is calibrated on, and the framing that is asked for."""
    from lpcnet_edge.bundle.read import open_bundle
    from lpcnet_edge.runtime.pipeline import framing_for

    bundle, data = open_bundle(args.bundle), open_data(args, args.fold)
    return bundle, data, framing_for(0, 0, bundle.manifest.tile_px, args.framing) if args.framing else None


def _warn_of_training(bundle: Bundle, data: Dataset) -> bool:
    """Whether the network has seen these images, which is said."""
    from lpcnet_edge.runtime.gate_calibration import seen_in_training

    seen = seen_in_training(bundle, data)
    if seen:
        print(f"warning: {seen}\nmend: calibrate on parts that were held out, such as --fold N", file=sys.stderr)
    return bool(seen)


def _share(option: str, text: str, such_as: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"{option} {text}: no share above 0 and below 1", mend=f"give one such as {such_as}")
    return share
