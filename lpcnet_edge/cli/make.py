"""``data`` and ``generate``: looking at a dataset, and making one."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from lpcnet_edge.cli.console import add_json_option, print_json, progress_bar
from lpcnet_edge.cli.options import add_dataset_options, open_data, refuse_in_bundles, wrong_use
from lpcnet_edge.errors import BadInput, UsageError


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs to the command."""
    parser = verbs.add_parser("data", help="what a dataset holds, and what is wrong with it")
    add_dataset_options(parser, positional=True)
    parser.add_argument("--splits", metavar="KEY", help="what tells training from test, default fold")
    add_json_option(parser)
    parser.set_defaults(run=run_data)

    parser = verbs.add_parser("generate", help="make labelled frames of woven carbon fabric with defects")
    parser.add_argument("kind", choices=("carbon-fabric",), help="what to make")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="an absent or empty folder")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="frames, default 64")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed gives other frames, default 0")
    parser.add_argument(
        "--size", type=_size, default=(256, 256), metavar="PX", help="256, or height x width as in 2048x2448"
    )
    parser.add_argument("--defect-share", type=float, metavar="SHARE", help="of defective frames, 0 to 1")
    add_json_option(parser)
    parser.set_defaults(run=run_generate)


def _size(text: str) -> tuple[int, int]:
    """(height, width) from ``256`` or ``2048x2448``."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 256 or 2048x2448")
    return int(match[1]), int(match[2] or match[1])


def run_data(args: argparse.Namespace) -> int:
    """``lpcnet-edge data``"""
    from lpcnet_edge.datasets import describe

    data, splits = open_data(args), args.splits or "fold"
    known = sorted({key for entry in data.entries for key in entry.strata})
    if args.splits and splits not in known:
        from lpcnet_edge.config import suggest

        mend = suggest(splits, known) if known else "leave --splits out: these data have no strata"
        raise UsageError(f"no image of {data.name} has the stratum '{splits}'", mend=mend)
    found = describe(data, splits)
    bad = any(finding["severity"] == "error" for finding in found["findings"])
    if args.json:
        print_json(found)
        return BadInput.exit_code if bad else 0
    (low, high), (narrow, wide) = (found["sizes_px"][side] or [0, 0] for side in ("height", "width"))
    print(f"{found['name']}: {found['images']} images of {found['parts']} parts ({found['defective_parts']} defective)")
    print(f"sizes: {low} to {high} px high, {narrow} to {wide} px wide; channels: {found['channels']}")
    print(f"{'class':<20}{'images':>10}{'pixels':>16}")
    for name, row in found["classes"].items():
        print(f"{name:<20}{row['images']:>10,}{row['pixels']:>16,}")
    for split, counts in found["splits"]["images"].items():
        print(f"{splits} {split}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    for finding in found["findings"]:
        more = f" and {len(finding['names']) - 1} more" if len(finding["names"]) > 1 else ""
        print(f"{finding['severity']}: {finding['names'][0]}{more}: {finding['message']} (mend: {finding['mend']})")
    return BadInput.exit_code if bad else 0


def run_generate(args: argparse.Namespace) -> int:
    """``lpcnet-edge generate``"""
    from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
    from lpcnet_edge.datasets.export import write_folder

    refuse_in_bundles(args.out, folder=True)
    with wrong_use():
        dataset = CarbonFabric(args.count, args.seed, size=args.size, defect_share=args.defect_share)
    with progress_bar("generating") as progress:
        write_folder(dataset, args.out, progress=progress)
    if args.json:
        print_json({"out": str(args.out), "images": len(dataset), "digest": dataset.digest()})
    else:
        print(f"{args.out}: {len(dataset)} frames of {args.size[0]} x {args.size[1]} px (height x width)")
    return 0
