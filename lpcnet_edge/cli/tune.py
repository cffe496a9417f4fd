"""``tune``: how this machine runs a bundle fastest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import add_json_option, print_json, progress_bar
from lpcnet_edge.cli.options import number

if TYPE_CHECKING:
    from lpcnet_edge.backends.trials import Trial


def add_verbs(verbs: Any) -> None:
    """Add this module's verb to the command."""
    parser = verbs.add_parser("tune", help="find out how this machine runs a bundle fastest")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="auto, openvino or onnxruntime")
    parser.add_argument("--seconds", type=number, default=2.0, metavar="S", help="for each choice, default 2")
    add_json_option(parser)
    parser.set_defaults(run=run_tune)


def run_tune(args: argparse.Namespace) -> int:
    """``lpcnet-edge tune``"""
    from lpcnet_edge.backends.trials import tune
    from lpcnet_edge.bundle.read import open_bundle

    bundle = open_bundle(args.bundle)
    with progress_bar("measuring") as progress:
        name, trials, best, kept = tune(bundle, args.backend, seconds=args.seconds, progress=progress)
    if args.json:
        print_json({
            "backend": name,
            "best": _trial(best),
            "trials": [_trial(trial) for trial in trials],
            "kept": None if kept is None else str(kept),
        })  # fmt: skip
        return 0
    for trial in trials:
        mark = "  <- best" if trial is best else ""
        t = trial.tuning
        print(f"{t.threads} threads, {t.streams} streams, batch {t.batch:<3} {trial.tiles_per_s:8.1f} tiles/s{mark}")
    print(f"kept in {kept}: run takes it from now on" if kept else "nothing could be kept in a cache folder")
    return 0


def _trial(trial: Trial) -> dict[str, Any]:
    t = trial.tuning
    return {"threads": t.threads, "streams": t.streams, "batch": t.batch, "tiles_per_s": trial.tiles_per_s}
