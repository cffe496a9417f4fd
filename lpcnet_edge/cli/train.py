"""``train`` and ``show``: making a network, and what one costs or a bundle holds."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpcnet_edge.cli.bundle import show_bundle
from lpcnet_edge.cli.console import EXIT_INTERRUPTED, TrainingDisplay, add_json_option, print_json
from lpcnet_edge.cli.options import add_dataset_options, number, open_data, refuse_in_bundles, wrong_use
from lpcnet_edge.errors import BadConfig, UsageError


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs to the command."""
    parser = verbs.add_parser("train", help="train a network on images; a killed run goes on with --resume")
    add_dataset_options(parser)
    parser.add_argument(
        "--recipe", default="general", metavar="NAME", help="a packaged recipe, or a .yaml file; default general"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where weights, card and curves go")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--exclude-fold", nargs="+", default=[], metavar="N", help="folds to keep out of training")
    parser.add_argument("--validate-fold", metavar="N", help="one fold to keep out and to draw the curves with")
    parser.add_argument("--start", metavar="NAME", help="weights to begin with, such as carbon-fabric; default random")
    parser.add_argument("--teacher", metavar="NAME", help="weights whose predictions are learned beside the masks")
    parser.add_argument(
        "--hints", type=number, metavar="WEIGHT", help="of what ImageNet taught, such as 2; instead of the recipe's"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's")
    add_json_option(parser)
    parser.set_defaults(run=run_train)

    parser = verbs.add_parser("show", help="what a bundle holds, or what a network costs, block by block")
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="a folder that `build` wrote")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", metavar="NAME", help="shipped weights, or the path of a .safetensors file")
    source.add_argument("--preset", metavar="NAME", help="edge (default) or large")
    parser.add_argument("--tile", type=int, metavar="PX", help="side of a tile, default 256")
    parser.add_argument("--classes", type=int, metavar="N", help="of a preset, with the background; default 6")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="of a preset; default 1")
    add_json_option(parser)
    parser.set_defaults(run=run_show)


def run_train(args: argparse.Namespace) -> int:
    """``lpcnet-edge train``"""
    from lpcnet_edge.datasets import with_fold, without_fold
    from lpcnet_edge.network.recipe import load_recipe
    from lpcnet_edge.network.training import train
    from lpcnet_edge.network.weights import load_network

    refuse_in_bundles(args.out, folder=True)
    changes = {key: getattr(args, key) for key in ("steps", "seed") if getattr(args, key) is not None}
    recipe = load_recipe(args.recipe)
    with wrong_use():
        recipe = replace(recipe, **changes)
    if args.hints is not None:
        try:
            recipe = replace(recipe, loss=replace(recipe.loss, hints=args.hints))
        except ValueError as exc:
            raise UsageError(f"--hints: {exc}", mend="give 2, or leave it out") from exc
    data = open_data(args)
    validation = with_fold(data, {args.validate_fold}) if args.validate_fold else None
    left_out = {*args.exclude_fold, *filter(None, [args.validate_fold])}
    notes: dict[str, object] = {
        "data": Path(args.data).name,
        "recipe": Path(args.recipe).name,
        "excluded_folds": sorted(left_out),
    }
    for name in ("start", "teacher"):
        if getattr(args, name):
            notes[name] = Path(getattr(args, name)).name
    named = {*recipe.sampling.drawn, *recipe.sampling.paste_in_place}
    if unknown := sorted(named - set(data.classes)):
        said = f"{data.name} has no class {', '.join(unknown)}, which the recipe draws or pastes"
        print(f"warning: {said}\nmend: its classes are {', '.join(data.classes[1:])}", file=sys.stderr)
    if recipe.steps <= recipe.warmup_steps:
        said = f"the learning rate rises over warmup_steps {recipe.warmup_steps}, which {recipe.steps} steps end in"
        print(f"warning: {said}\nmend: train longer, or lower warmup_steps in a recipe of your own", file=sys.stderr)
    with TrainingDisplay() as display:
        summary = train(
            without_fold(data, left_out) if left_out else data,
            recipe,
            args.out,
            resume=args.resume,
            validation=validation,
            progress=display,
            start=load_network(args.start) if args.start else None,
            teacher=load_network(args.teacher) if args.teacher else None,
            notes=notes,
        )
    if args.json:
        weights = None if summary.weights is None else str(summary.weights)
        figures = {"steps": summary.steps, "seconds": summary.seconds, "figures": summary.figures}
        print_json({"out_dir": str(summary.out_dir), "weights": weights, **figures})
    elif summary.weights is None:
        print(f"stopped at step {summary.steps} of {recipe.steps}; go on with --resume")
    else:
        print(f"{summary.weights}: {summary.steps} steps in {summary.seconds:.0f} s")
    return EXIT_INTERRUPTED if summary.weights is None else 0


def run_show(args: argparse.Namespace) -> int:
    """``lpcnet-edge show``"""
    fixed = ("tile", "classes", "channels") if args.bundle is not None else ("classes", "channels")
    given = [f"--{name}" for name in fixed if getattr(args, name) is not None]
    if args.bundle is not None and (args.weights or args.preset):
        raise UsageError("a bundle and a network to show", mend="leave out --weights and --preset, or the bundle")
    if given and (args.bundle is not None or args.weights):
        what = "a bundle says" if args.bundle is not None else "weights say"
        raise UsageError(f"{what} what {' and '.join(given)} would", mend=f"leave out {', '.join(given)}")
    if args.bundle is not None:
        return show_bundle(args.bundle, as_json=args.json)
    from lpcnet_edge.network.config import preset
    from lpcnet_edge.network.cost import network_cost

    if args.weights:
        from lpcnet_edge.network.weights import load_network

        config = load_network(args.weights).network.config
    else:
        classes = 6 if args.classes is None else args.classes
        names = ("background", *(f"class_{index}" for index in range(1, classes)))
        try:
            config = preset(args.preset or "edge", names, args.channels or 1)
        except BadConfig as exc:
            raise UsageError(f"--classes {classes}: {exc.message}", mend="use 2 to 255") from exc
    cost = network_cost(config, 256 if args.tile is None else args.tile)
    stages = {
        stage: {"flops": cost.flops(stage), "parameters": cost.parameters(stage)} for stage in ("stage1", "stage2")
    }
    total = {"flops": cost.flops(), "parameters": cost.parameters()}
    if args.json:
        from lpcnet_edge.config import to_mapping

        blocks = [to_mapping(block) for block in cost.blocks]
        print_json({"network": to_mapping(config), "tile_px": cost.tile_px, **stages, "total": total, "blocks": blocks})
        return 0
    print(f"{'block':<34}{'output':>16}{'MFLOP':>10}{'parameters':>12}")
    for block in cost.blocks:
        shape = " x ".join(map(str, block.shape))
        print(f"{block.name:<34}{shape:>16}{block.flops / 1e6:>10.2f}{block.parameters:>12,}")
    for name, row in {**stages, "total": total}.items():
        print(f"{name:<34}{'':>16}{row['flops'] / 1e6:>10.2f}{row['parameters']:>12,}")
    return 0
