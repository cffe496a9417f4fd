"""``build``: weights to a bundle of engines, and a bundle to plans for this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import add_json_option, phases, print_json, text_console
from lpcnet_edge.cli.options import add_dataset_options, add_rules_option, open_check_data, open_data, open_rules
from lpcnet_edge.errors import UsageError

if TYPE_CHECKING:
    from lpcnet_edge.build.settings import BuildResult, Progress
    from lpcnet_edge.build.splits import Splits
    from lpcnet_edge.build.station import StationPlans
    from lpcnet_edge.check.first_use import MadeHere

_METHODS = ("auto", "minmax", "percentile", "entropy", "mse")
_OF_DATA = ("channels", "images_root", "parts", "empty_masks", "grouping")
_FROM_WEIGHTS = (
    *("weights", "out", "data", *_OF_DATA, "check_fold"),
    *("check_data", "recipe", "method", "max_drop", "qat", "rules"),
)
"""What a build from weights takes and plans of a finished bundle do not: no default, so that what is given is known."""

_BACKENDS = ("auto", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx")


def add_verbs(verbs: Any) -> None:
    """Add this module's verb to the command."""
    parser = verbs.add_parser("build", help="weights to a bundle of INT8, FP16 or FP32 engines")
    kinds = parser.add_mutually_exclusive_group()
    for name in ("int8", "fp16", "fp32"):
        kinds.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name, help=f"build {name.upper()}"
        )
    parser.add_argument("--weights", metavar="NAME", help="shipped weights, or the path of a .safetensors or .pt file")
    parser.add_argument(
        "--from", dest="bundle", type=Path, metavar="BUNDLE", help="make this machine's plans of a bundle"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the bundle's folder")
    add_dataset_options(parser, required=False)
    parser.add_argument("--check-fold", nargs="+", metavar="N", help="folds to check on, not to calibrate with")
    parser.add_argument("--check-data", metavar="DATA", help="other data to check on")
    parser.add_argument("--recipe", type=Path, metavar="YAML", help="which tiles calibrate (docs/calibration.md)")
    parser.add_argument("--method", choices=_METHODS, metavar="NAME", help=f"{', '.join(_METHODS)}; default auto")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="mIoU that INT8 or FP16 may lose, 0.5")
    parser.add_argument(
        "--qat",
        nargs="?",
        type=int,
        const=True,
        metavar="STEPS",
        help="fine-tune with the rounding in it where calibration alone does not hold (docs/qat.md)",
    )
    parser.add_argument(
        "--backend", choices=_BACKENDS, default="auto", help="what the bundle is built for and measured on"
    )
    parser.add_argument("--sm", nargs="+", metavar="CC", help="tensorrt-rtx: cards to build plans for, such as 8.9")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="sign with this private key; with --from: trust this public key only"
    )
    add_rules_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_build)


def run_build(args: argparse.Namespace) -> int:
    """``lpcnet-edge build``"""
    started = time.monotonic()
    if args.bundle is not None:
        return _build_from(args)
    if args.weights is None or args.out is None:
        raise UsageError("--weights and --out are missing", mend="lpcnet-edge build --int8 --weights NAME --out DIR")
    from lpcnet_edge.build.build import build_bundle
    from lpcnet_edge.build.calibration_set import CalibrationRecipe
    from lpcnet_edge.build.settings import BuildSettings
    from lpcnet_edge.check.agreement import comparing
    from lpcnet_edge.config import load_config
    from lpcnet_edge.decision import Rules

    options: dict[str, Any] = {}
    if args.recipe is not None:
        options["recipe"] = load_config(args.recipe, CalibrationRecipe)
    for name in ("qat", "method"):
        if getattr(args, name) is not None and args.precision not in (None, "int8"):
            raise UsageError(
                f"--{name} is for INT8, --{args.precision} is given", mend=f"use --int8, or leave --{name} out"
            )
    if args.qat is not None:
        from lpcnet_edge.network.quantisation import QatSettings

        options["qat"] = QatSettings() if args.qat is True else QatSettings(steps=args.qat)
    if args.max_drop is not None:
        if args.precision == "fp32":
            raise UsageError("--max-drop is for INT8 and FP16: FP32 loses nothing", mend="leave --max-drop out")
        if not 0 <= args.max_drop <= 100:
            raise UsageError(f"--max-drop is {args.max_drop:g}", mend="give points of mIoU, 0 to 100")
        options["max_drop"] = args.max_drop
    plans = {args.backend.replace("-", "_"): tuple(args.sm or ())} if args.backend.startswith("tensorrt") else {}
    if args.sm and not plans:
        raise UsageError("--sm is for plans", mend="add --backend tensorrt-rtx")
    for module, capabilities in plans.items():  # before a minute's work, not after it
        from lpcnet_edge.build.plans import find_targets

        find_targets(module, capabilities)
    settings = BuildSettings(
        precision=args.precision or "int8",
        backend="onnxruntime" if args.backend == "onnxruntime" else "openvino",
        method=args.method or "auto",
        rules=open_rules(args) or Rules(),
        sign_with=args.key,
        plans=plans,
        **options,
    )
    with phases() as progress:
        splits = _splits(args, progress)
        result = build_bundle(
            args.weights, splits.calibration, args.out, settings, comparing(splits.check, settings.rules), progress
        )
    result = replace(result, seconds=time.monotonic() - started)  # with the data looked through and all imports
    if args.json:
        print_json({**result.to_json(), "split": splits.note})
    else:
        _print(result, splits)
    return 0


def _splits(args: argparse.Namespace, progress: Progress) -> Splits:
    from lpcnet_edge.build.splits import generated_splits, split, split_from

    if args.check_data and args.check_fold:
        raise UsageError("--check-data and --check-fold are both given", mend="leave one of them out")
    if args.data is None:
        for name in (*_OF_DATA, "check_fold", "check_data"):
            if getattr(args, name) is not None:
                option = f"--{name.replace('_', '-')}"
                mend = "name the data to calibrate with as --data"
                raise UsageError(f"{option} is given and --data is not", mend=mend)
        if args.weights != "carbon-fabric":
            raise UsageError(
                "--data is missing: calibration needs images", mend="name the dataset's folder with --data"
            )
        return generated_splits()
    data = open_data(args)
    if args.check_data:
        return split_from(data, open_check_data(args), args.check_data, progress)
    return split(data, args.weights, args.check_fold, progress)


def _build_from(args: argparse.Namespace) -> int:
    from lpcnet_edge.build.station import plans_for_station
    from lpcnet_edge.bundle.read import open_bundle

    given = [f"--{name.replace('_', '-')}" for name in _FROM_WEIGHTS if getattr(args, name) is not None]
    if given:
        raise UsageError(
            f"--from takes everything from the bundle, {', '.join(given)} {'is' if len(given) == 1 else 'are'} given",
            mend=f"leave {'it' if len(given) == 1 else 'them'} out, or build anew from --weights",
        )
    bundle = open_bundle(args.bundle, trusted_key=args.key)
    if args.precision not in (None, bundle.manifest.precision):
        raise UsageError(
            f"{args.bundle} is {bundle.manifest.precision}, --{args.precision} is given",
            mend=f"use --{bundle.manifest.precision}, or build a {args.precision} bundle from the weights",
        )
    made: StationPlans | MadeHere
    with phases() as progress:
        if args.sm:
            made = plans_for_station(bundle, args.backend, tuple(args.sm), progress)
        else:
            from lpcnet_edge.check.first_use import build_here

            made = build_here(bundle, args.backend, progress)
    if args.json:
        print_json({"bundle": bundle.id, "selftest": None, **made.to_json()})
    else:
        for line in made.lines():
            print(line)
    return 0


def _print(result: BuildResult, splits: Splits) -> None:
    from rich.table import Table
    from rich.text import Text

    console = text_console()  # names of folders and data are never read as markup
    check: Any = result.report["check"]
    console.print(Text(f"{result.bundle.manifest.precision} beside float: {splits.note}"))
    table = Table()
    for column in ("", "float", result.bundle.manifest.precision):
        table.add_column(column, justify="left" if not column else "right")
    rows: list[tuple[str, Callable[[Any], str]]] = [
        ("mIoU", lambda side: f"{side['mean_iou']:.2f}"),
        ("mPA", lambda side: f"{side['mean_pixel_accuracy']:.2f}"),
        ("IoU of defect", lambda side: f"{side['defect_iou']:.2f}"),
    ]
    for name, show in rows:
        table.add_row(name, show(check["reference"]), show(check["candidate"]))
    console.print(table)
    agreement = check["agreement"]
    console.print(
        f"defect masks overlap by {agreement['mask_iou']:.2f} %, {agreement['pixels']:.3f} % of the pixels agree, "
        f"{len(check['escapes']['new'])} new escapes, {agreement['defects_lost']} of "
        f"{agreement['defects_caught_by_reference']} caught defects lost"
    )
    if result.bundle.manifest.precision == "int8":
        restored = ", ".join(result.restored_layers) or "none"
        console.print(f"ranges by {result.report['method']}; layers kept in float: {restored}")
    for note in result.notes:
        console.print(Text(note))
    about = f"{result.bundle.id}, {result.seconds:.1f} s, {result.peak_rss_mb:.0f} MB"
    console.print(Text(f"{result.bundle.path}: {about}"))
