"""``calibrate``: the images that an INT8 engine is calibrated with, the gate between the stages, the verdict rules."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import add_json_option, print_json, progress_bar
from lpcnet_edge.cli.options import (
    add_dataset_options,
    add_rules_option,
    open_check_data,
    open_data,
    refuse_in_bundles,
    refuse_inputs,
    refuse_stdout,
)
from lpcnet_edge.cli.thresholds import add_promise_options, run_gate, run_rules
from lpcnet_edge.errors import BadInput, UsageError

if TYPE_CHECKING:
    from lpcnet_edge.build.calibration_set import CalibrationRecipe
    from lpcnet_edge.build.lint_sources import Looked


def add_verbs(verbs: Any) -> None:
    """Add this module's verb to the command."""
    parser = verbs.add_parser(
        "calibrate",
        help="calibration images, the gate, how sure verdicts are",
        description="The images that INT8 is calibrated with, the gate's threshold, and how sure a defect must be to "
        "reject. Each kind takes --json.",
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)

    kind = kinds.add_parser("set", help="pick images from a dataset by a recipe, and write their manifest")
    add_dataset_options(kind)
    _add_recipe_option(kind)
    kind.add_argument("--exclude-fold", nargs="+", default=[], metavar="N", help="folds to keep out, for the check")
    kind.add_argument("--tile", type=int, default=256, metavar="PX", help="side of a tile, default 256")
    kind.add_argument("--out", required=True, type=Path, metavar="JSON", help="where the manifest goes")
    add_json_option(kind)
    kind.set_defaults(run=run_set)

    kind = kinds.add_parser("lint", help="what is wrong with a set of images; exit code 3 where it must not be used")
    kind.add_argument(
        "source", metavar="SET-OR-DATA", help="a manifest (then --data too), a dataset, or a folder of images"
    )
    add_dataset_options(kind, required=False)
    _add_recipe_option(kind)
    kind.add_argument("--live", type=Path, metavar="DIR", help="frames from the line, to compare the images with")
    check = kind.add_mutually_exclusive_group()
    check.add_argument("--check-data", metavar="DATA", help="the dataset that accuracy will be checked on")
    check.add_argument("--fold", nargs="+", default=[], metavar="N", help="the folds that accuracy will be checked on")
    add_json_option(kind)
    kind.set_defaults(run=run_lint)

    kind = kinds.add_parser(
        "gate", help="which tiles stage 1 may clear, with a bound on the parts missed; a new bundle"
    )
    add_promise_options(kind, "missed")
    kind.add_argument("--min-defect-px", type=int, default=20, metavar="N", help="of a defective tile, default 20")
    kind.add_argument("--out", required=True, type=Path, metavar="NEWBUNDLE", help="where the new bundle goes")
    kind.add_argument("--key", type=Path, metavar="FILE", help="sign it with this private key")
    add_json_option(kind)
    kind.set_defaults(run=run_gate)

    kind = kinds.add_parser(
        "rules", help="how sure a defect must be to reject, with a bound on the parts that pass; a file of rules"
    )
    add_promise_options(kind, "that pass")
    add_rules_option(kind, "the bundle's; they are what is raised from")
    kind.add_argument("--out", required=True, type=Path, metavar="YAML", help="where the new rules go")
    add_json_option(kind)
    kind.set_defaults(run=run_rules)


def _add_recipe_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, metavar="YAML", help="what to pick (docs/calibration.md)")


def _open_recipe(path: Path | None) -> CalibrationRecipe:
    from lpcnet_edge.build.calibration_set import CalibrationRecipe
    from lpcnet_edge.config import load_config

    return load_config(path, CalibrationRecipe) if path else CalibrationRecipe()


def run_set(args: argparse.Namespace) -> int:
    """``lpcnet-edge calibrate set``"""
    from lpcnet_edge.build.calibration_set import pick_calibration_set
    from lpcnet_edge.build.lint_sources import without_look_alikes, without_parts_of
    from lpcnet_edge.datasets import with_fold, without_fold

    refuse_in_bundles(args.out)
    refuse_stdout(args.out)
    if args.out.is_dir():
        raise UsageError(f"{args.out} is a folder", mend="name a file in it")
    refuse_inputs(args.out, Path(args.data), args.recipe)
    data = open_data(args)
    left_out: tuple[str, ...] = ()
    recipe = _open_recipe(args.recipe)
    with progress_bar("picking") as progress:
        if args.exclude_fold:
            check = with_fold(data, args.exclude_fold)
            data, shown = without_parts_of(without_fold(data, args.exclude_fold), check)
            data, alike = without_look_alikes(data, check, progress)
            left_out = (*shown, *alike)
        chosen = pick_calibration_set(data, recipe, args.tile, progress)
    chosen.write(args.out)
    parts = len({entry.part for entry in chosen.entries})
    if args.json:
        print_json(
            {
                "out": str(args.out),
                "digest": chosen.digest,
                "images": len(chosen.entries),
                "parts": parts,
                "left_out": list(left_out),
                "shortfalls": list(chosen.shortfalls),
            }
        )
        return 0
    print(f"{args.out}: {len(chosen.entries)} images of {parts} parts, digest {chosen.digest}")
    if left_out:
        print(f"left out, since they are parts of the excluded folds or look like them: {', '.join(left_out)}")
    for shortfall in chosen.shortfalls:
        print(f"short: {shortfall}")
    return 0


def run_lint(args: argparse.Namespace) -> int:
    """``lpcnet-edge calibrate lint``"""
    from lpcnet_edge.build.lint_sources import lint_set, look_at_folder

    with progress_bar("looking") as progress:
        ours, check = _look_at_source(args, progress)
        _refuse_other_channels(args, ours, check)
        live = look_at_folder(args.live, ours.looks[0].channels if ours.looks else None) if args.live else None
        found = lint_set(ours, check, live)
    if args.json:
        from lpcnet_edge.config import to_mapping

        print_json({**to_mapping(found), "refused": found.refused})
        return BadInput.exit_code if found.refused else 0
    print(f"{found.images} images of {found.parts} parts, compared with {found.against or 'nothing (--live)'}")
    if found.classes:
        print(", ".join(f"{count} {name}" for name, count in found.classes.items()))
    for finding in found.findings:
        print(f"{finding.severity}: {finding.message} (mend: {finding.mend})")
    print("refused" if found.refused else "usable")
    return BadInput.exit_code if found.refused else 0


def _refuse_other_channels(args: argparse.Namespace, ours: Looked, check: Looked | None) -> None:
    """Raise ``UsageError`` where the check data are read in grey and the set in colour, or the other way round."""
    if check is None or not ours.looks or not check.looks:
        return
    own, other = ours.looks[0].channels, check.looks[0].channels
    if args.check_data and own != other:
        raise UsageError(
            f"{args.source} is read with {own} channel(s), {args.check_data} with {other}: no network takes both",
            mend="name check data of the same kind, or --channels where the layout leaves it open",
        )


def _look_at_source(args: argparse.Namespace, progress: Any) -> tuple[Looked, Looked | None]:
    """The images to judge, and those of the check."""
    from lpcnet_edge.build.calibration_set import is_manifest, open_calibration_set, pick_calibration_set
    from lpcnet_edge.build.lint_sources import is_image_folder, look_at_dataset, look_at_folder, look_at_set
    from lpcnet_edge.datasets import with_fold, without_fold

    source = Path(args.source)
    check = look_at_dataset(open_check_data(args)) if args.check_data else None
    if is_manifest(source):
        if args.data is None or args.recipe:
            raise UsageError(
                f"{source} lists images of a dataset", mend="name the dataset with --data, and leave --recipe out"
            )
        data = open_data(args)
        ours = look_at_set(open_calibration_set(source, data), progress)
        return ours, look_at_dataset(with_fold(data, args.fold)) if args.fold else check
    if args.data is not None:
        raise UsageError(f"--data belongs to a manifest, {source} is none", mend="leave --data out")
    if is_image_folder(source):
        if args.recipe or args.fold:
            raise UsageError(
                f"{source} is a folder of images without labels", mend="--recipe and --fold need a dataset"
            )
        for name in ("images_root", "parts", "empty_masks", "grouping"):
            if getattr(args, name) is not None and not (name == "parts" and args.check_data):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} is of a dataset, {source} is a folder of images", mend=f"leave {option} out"
                )
        return look_at_folder(source, args.channels, progress), check
    args.data = args.source
    data = open_data(args)
    rest = without_fold(data, args.fold) if args.fold else data
    check = look_at_dataset(with_fold(data, args.fold)) if args.fold else check
    if args.recipe is None:
        return look_at_dataset(rest, progress), check
    return look_at_set(pick_calibration_set(rest, _open_recipe(args.recipe), 256), progress), check
