"""``bench``: how fast a bundle is on this machine, where the time goes, and whether the figures can be trusted."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import EXIT_INTERRUPTED, add_json_option, phases, print_json, text_console
from lpcnet_edge.cli.options import add_dataset_options, number, open_data, refuse_outputs
from lpcnet_edge.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lpcnet_edge.bench.options import Options
    from lpcnet_edge.bundle.read import Bundle
    from lpcnet_edge.types import Dataset

_MODES = ("vs", "budget_ms", "estimate", "sustained")
_OUTPUTS = ("record", "markdown", "html")
_HOW = ("backend", "batches", "seconds", "rounds", "gate", "framing", "frame_size", "quick", "data", "channels",
        "images_root", "parts", "empty_masks", "grouping", "key")  # fmt: skip
"""How to measure: what a comparison of records, like a mode and an output, has no use for."""


def add_verbs(verbs: Any) -> None:
    """Add ``bench``."""
    parser = verbs.add_parser("bench", help="how fast a bundle is here, and where the time of a frame goes")
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="its folder")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="as in run; default auto")
    parser.add_argument("--batches", metavar="N,N", help="batch sizes of the stages, default 1 and the largest in use")
    parser.add_argument("--seconds", type=number, default=3.0, metavar="S", help="of each measurement, default 3")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="what is compared takes turns, default 3")
    parser.add_argument("--gate", default="auto", metavar="off|auto|T", help="of the pipeline, as in run")
    parser.add_argument("--framing", choices=("resize", "tile"), help="as in run")
    parser.add_argument("--frame-size", metavar="WxH", help="px of generated frames, and of mosaics of golden tiles")
    parser.add_argument("--quick", action="store_true", help="a fast look")
    add_dataset_options(parser, required=False)
    group = parser.add_argument_group("instead, or besides")
    group.add_argument("--sustained", type=number, metavar="MINUTES", help="besides: the pipeline for so long")
    group.add_argument("--vs", type=Path, metavar="BUNDLE", help="two bundles in turn, the ratio pair by pair")
    group.add_argument("--budget-ms", type=number, metavar="MS", help="overlap, picked tiles and batch that hold a p99")
    group.add_argument("--estimate", metavar="DEVICE", help="a roofline: orin-nano, orin-nx, agx-orin ..., this-cpu")
    group.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="two records")
    group.add_argument("--max-slowdown", type=number, metavar="PERCENT", help="with --compare: exit code 1 beyond it")
    group = parser.add_argument_group("records")
    group.add_argument("--record", type=Path, metavar="FILE", help="write the JSON object")
    group.add_argument("--markdown", type=Path, metavar="FILE", help="write tables in Markdown")
    group.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument("--key", type=Path, metavar="PUBLIC", help="demand the bundle's signature by this public key")
    add_json_option(parser)
    usual = {name: parser.get_default(name) for name in (*_MODES, *_OUTPUTS, *_HOW)}
    parser.set_defaults(run=run_bench, usual=usual)


def run_bench(args: argparse.Namespace) -> int:
    """``lpcnet-edge bench``"""
    if args.compare:
        return _compare(args)
    if args.bundle is None:
        raise UsageError("no bundle is given", mend="lpcnet-edge bench BUNDLE, or --compare A.json B.json")
    if args.max_slowdown is not None:
        raise UsageError("--max-slowdown is for --compare", mend="leave it out")
    modes = [f"--{name.replace('_', '-')}" for name in _MODES if getattr(args, name) is not None]
    if len(modes) > 1:
        raise UsageError(f"{' and '.join(modes)} are separate measurements", mend="run them one after the other")
    inputs = (args.key, Path(args.data) if args.data else None)
    refuse_outputs(args.record, args.markdown, args.html, inputs=inputs)
    from lpcnet_edge.bundle.read import open_bundle

    bundle = open_bundle(args.bundle, trusted_key=args.key)
    options = _options(args, bundle)
    data, size_px = _data(args, bundle), _size(args.frame_size)
    with phases() as progress:
        record = _measure(args, bundle, data, options, size_px, progress)
    if not args.json:  # first: a full disk must not cost what was measured
        from lpcnet_edge.bench.text import print_record

        print_record(record, text_console())
    _write(args, record)
    if args.json:
        print_json(record)
    sustained = record["sustained"]
    return EXIT_INTERRUPTED if sustained and sustained["interrupted"] else 0


def _measure(
    args: argparse.Namespace,
    bundle: Bundle,
    data: Dataset | Path | None,
    options: Options,
    size_px: tuple[int, int] | None,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    if args.vs is not None:
        from lpcnet_edge.bench.versus import measure_against
        from lpcnet_edge.bundle.read import open_bundle

        other = open_bundle(args.vs, trusted_key=args.key)
        return measure_against(bundle, other, data, options, size_px=size_px, progress=progress)
    if args.budget_ms is not None:
        from lpcnet_edge.bench.budget_frames import measure_budget

        return measure_budget(bundle, data, options, args.budget_ms, size_px=size_px, progress=progress)
    if args.estimate is not None:
        from lpcnet_edge.bench.estimate import measure_estimate

        return measure_estimate(bundle, data, options, args.estimate, size_px=size_px, progress=progress)
    from lpcnet_edge.bench.measure import measure

    if args.sustained is not None and args.sustained <= 0:
        raise UsageError(f"--sustained {args.sustained:g}", mend="give minutes above 0")
    sustained_s = None if args.sustained is None else 60 * args.sustained
    return measure(bundle, data, options, size_px=size_px, sustained_s=sustained_s, progress=progress)


def _options(args: argparse.Namespace, bundle: Bundle) -> Options:
    from lpcnet_edge.bench.options import Options, quick
    from lpcnet_edge.cli.run import gate_of
    from lpcnet_edge.runtime.pipeline import framing_for

    batches = None
    if args.batches is not None:
        try:
            batches = tuple(int(text) for text in args.batches.split(","))
        except ValueError as exc:
            raise UsageError(f"--batches {args.batches}", mend="write whole numbers: --batches 1,4,16") from exc
    chosen = Options(
        backend=args.backend,
        batches=batches,
        seconds=args.seconds,
        rounds=args.rounds,
        gate=gate_of(args.gate),
        framing=framing_for(0, 0, bundle.manifest.tile_px, args.framing) if args.framing else None,
    )
    return quick(chosen) if args.quick else chosen


def _data(args: argparse.Namespace, bundle: Bundle) -> Dataset | Path | None:
    """The dataset that ``--data`` names, or its folder where it is one of plain images."""
    from lpcnet_edge.errors import BadData

    if args.data is None:
        return None
    try:
        return open_data(args)
    except BadData:
        from lpcnet_edge.datasets.magnetic_tile import FOLDERS
        from lpcnet_edge.datasets.spec import COCO_FILES
        from lpcnet_edge.runtime.sources.images import IMAGE_SUFFIXES

        folder = Path(args.data)
        if any((folder / name).exists() for name in ("classes.yaml", "masks", "tiles.csv", *FOLDERS, *COCO_FILES)):
            raise  # a dataset that is damaged: its masks are no frames
        if folder.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*")):
            return folder
        raise


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= min(size) <= max(size) <= 8192:
        raise UsageError(f"--frame-size {text}", mend="write width x height in px, up to 8192: --frame-size 2448x2048")
    return size


def _write(args: argparse.Namespace, record: dict[str, Any]) -> None:
    import json

    from lpcnet_edge.files import finite, write_atomically

    if args.record:
        write_atomically(args.record, json.dumps(finite(record), indent=2, ensure_ascii=False) + "\n")
    if args.markdown:
        from lpcnet_edge.bench.words import markdown

        write_atomically(args.markdown, markdown(record))
    if args.html:
        from lpcnet_edge.bench.page import page

        write_atomically(args.html, page(record))


def _compare(args: argparse.Namespace) -> int:
    from lpcnet_edge.bench.compare import compare, read_record

    if args.bundle is not None:
        raise UsageError("--compare takes two records and no bundle", mend="leave the bundle out")
    for name, default in args.usual.items():
        if getattr(args, name) != default:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--compare measures nothing, {option} is given", mend=f"leave {option} out")
    if args.max_slowdown is not None and args.max_slowdown < 0:
        raise UsageError(f"--max-slowdown {args.max_slowdown:g}", mend="give percent, 0 or more")
    before, after = (read_record(path) for path in args.compare)
    found = compare(before, after, args.max_slowdown)
    if args.json:
        print_json(found)
    else:
        from lpcnet_edge.bench.text import print_comparison

        print_comparison(found, text_console())
    for row in found["limits_broken"]:
        print(
            f"error: {row['message']}\nmend: measure both again on a quiet machine; else look for what changed",
            file=sys.stderr,
        )
    return CheckFailed.exit_code if found["limits_broken"] else 0
