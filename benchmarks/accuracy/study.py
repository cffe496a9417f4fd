r"""Does LPC-Net's idea pay? The ablation and the peers, trained alike, measured out of fold; one JSON record a run.

    python benchmarks/accuracy/study.py --data DIR [--configs backbone lpc-net ...] [--folds 1 2 3 4] [--seeds 0 1 ...]
        [--split tile|image] [--grouping index|numbers] [--steps N] [--batch N] [--crop PX] [--threads N] [--jobs N]
        [--start WORK] [--teacher NAME] [--hints WEIGHT] [--records benchmarks/records/study]
        [--work runs/study/work] [--dry-run]
    python benchmarks/accuracy/study.py --data carbon-fabric:count=3000,seed=1 \
        --test carbon-fabric:count=300,seed=900002

All runs have one budget, one augmentation and, for the same seed, the same crops in the same order. Kill it at any
time and give the same command again: finished runs are found by their records, the one in hand goes on from its
checkpoint. Folds and seeds come before configurations, so that an unfinished study still has pairs to compare.
``study_tables.py`` makes the tables and the figures of whatever records there are.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from study_networks import ABLATION, CONFIGURATIONS
from study_runs import Busy, Interrupted, Plan, Run, make_record, open_plan

from lpcnet_edge.cli.console import EXIT_INTERRUPTED, TrainingDisplay
from lpcnet_edge.cli.options import number as finite
from lpcnet_edge.errors import LpcnetError, UsageError
from lpcnet_edge.network.recipe import load_recipe

ALL = "all"
EXIT_BUSY = 75
"""What a child returns whose run another process is at."""


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", required=True, help="the Magnetic Tile folder, or carbon-fabric:count=N,seed=N")
    parser.add_argument("--test", help="held-out images where --data has no folds: unseen seeds of carbon fabric")
    parser.add_argument("--split", choices=("tile", "image"), default="tile", help="image leaks, and is named so")
    parser.add_argument("--grouping", choices=("index", "numbers"), help="where Magnetic Tile's parts come from")
    parser.add_argument("--configs", nargs="+", choices=(*CONFIGURATIONS, ALL), default=list(ABLATION))
    parser.add_argument("--folds", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipe", help="name or path; default: that of the data's name")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--crop", type=int, help="side in px, instead of the recipe's")
    parser.add_argument("--tile", type=int, help="side in px, instead of the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves it to torch")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, for one GPU")
    parser.add_argument("--records", type=Path, default=Path("benchmarks/records/study"))
    parser.add_argument("--work", type=Path, default=Path("runs/study/work"))
    parser.add_argument("--start", type=Path, help="--work of another study: begin with what the same configs learned")
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        help="weights, or a run's folder in --work, whose predictions all runs learn beside the masks",
    )
    parser.add_argument("--hints", type=finite, metavar="WEIGHT", help="of what ImageNet taught, for LPC-Net's stage 2")
    parser.add_argument("--dry-run", action="store_true", help="say which runs there are and which are done")
    return parser


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan of the command line; raises ``UsageError`` and what opening the data raises."""
    if args.hints is not None and args.hints < 0:
        raise UsageError(f"--hints {args.hints:g}", mend="use 0 or more")
    for name in ("steps", "batch", "crop", "tile", "jobs"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}", mend="use 1 or more")
    name = args.recipe or ("carbon-fabric" if args.data.partition(":")[0] == "carbon-fabric" else "magnetic-tile")
    base = load_recipe(name)
    sampling = replace(
        base.sampling, batch=args.batch or base.sampling.batch, crop_px=args.crop or base.sampling.crop_px
    )
    steps = args.steps or base.steps
    recipe = replace(
        base,
        steps=steps,
        warmup_steps=min(base.warmup_steps, max(1, steps // 10)),
        tile_px=args.tile or base.tile_px,
        sampling=sampling,
        checkpoint_every=min(base.checkpoint_every, 50),
        loss=base.loss if args.hints is None else replace(base.loss, hints=args.hints),
    )
    return open_plan(
        args.data,
        args.test,
        args.split,
        args.grouping,
        recipe,
        recipe_name=Path(name).name,
        recipe_steps=base.steps,
        records=args.records,
        work=args.work,
        start=args.start,
        teacher=args.teacher,
    )


def runs_of(args: argparse.Namespace, plan: Plan) -> list[Run]:
    """All runs in their order: seeds, then folds, then configurations."""
    known = plan.folds()
    folds, seeds = dict.fromkeys(args.folds or known), dict.fromkeys(args.seeds)
    for fold in folds:
        if fold not in known:
            raise UsageError(f"there is no fold {fold!r}", mend=f"use some of: {', '.join(known)}")
    configs = CONFIGURATIONS if ALL in args.configs else tuple(dict.fromkeys(args.configs))
    runs = [Run(config, fold, seed) for seed in seeds for fold in folds for config in configs]
    for run in runs:
        plan.started_from(run)  # what is missing is said now, not after hours
    return runs


def say(done: int, total: int, run: Run, text: str) -> None:
    print(f"[{done}/{total}] {run.config}, fold {run.fold}, seed {run.seed}: {text}", flush=True)


def run_here(plan: Plan, runs: list[Run]) -> int:
    """Run after run in this process."""
    status = 0
    for number, run in enumerate(runs, start=1):
        try:
            with TrainingDisplay() as display:
                record, new = make_record(plan, run, display)
        except Busy:
            say(number, len(runs), run, "another process is at it")
            status = EXIT_BUSY
            continue
        metrics, seconds = record["metrics"], record["run"]["seconds"]
        text = f"mIoU {metrics['mean_iou']:.2f}, mPA {metrics['mean_pixel_accuracy']:.2f}"
        say(number, len(runs), run, f"{text}, {seconds:.0f} s" if new else f"{text} (found)")
    return status


def run_side_by_side(runs: list[Run], jobs: int, argv: list[str], work: Path) -> int:
    """Each run in a process of its own, ``jobs`` at a time; a stop is handed on to all of them."""
    work.mkdir(parents=True, exist_ok=True)
    waiting, active = list(runs), dict[subprocess.Popen[bytes], tuple[Run, Path]]()
    stopped: list[int] = []
    previous = {n: signal.signal(n, lambda number, _: stopped.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    done, status = 0, 0
    try:
        while waiting or active:
            while waiting and len(active) < jobs and not stopped:
                run = waiting.pop(0)
                log = work / f"{run.config}.fold-{run.fold}.seed-{run.seed}.log"
                one = ["--configs", run.config, "--folds", run.fold, "--seeds", str(run.seed), "--jobs", "1"]
                with log.open("ab") as stream:
                    command = [sys.executable, str(Path(__file__).resolve()), *argv, *one]
                    child = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
                active[child] = (run, log)
            if stopped:
                waiting.clear()
                for child in active:
                    child.send_signal(signal.SIGTERM)
                stopped.clear()
                status = EXIT_INTERRUPTED
            for child in [child for child in active if child.poll() is not None]:
                run, log = active.pop(child)
                done += 1
                lines = log.read_text(errors="replace").strip().splitlines() or [""]
                say(done, len(runs), run, lines[-1].partition("]")[2].partition(": ")[2] or lines[-1])
                status = status or child.returncode
            time.sleep(0.1)
    finally:
        for child in active:
            child.send_signal(signal.SIGTERM)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status


def show(plan: Plan, runs: list[Run]) -> int:
    left = 0
    for number, run in enumerate(runs, start=1):
        done = (plan.records / f"{plan.name_of(run)}.json").exists()
        left += not done
        say(number, len(runs), run, "done" if done else "to do")
    sampling = plan.recipe.sampling
    print(
        f"{left} runs of {plan.recipe.steps} steps, {sampling.batch} crops of {sampling.crop_px} px a step, are to do"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = options().parse_args(argv)
    try:
        if args.threads < 0:
            raise UsageError(f"--threads {args.threads}", mend="use 1 or more, or 0 to leave it to torch")
        if args.threads:
            torch.set_num_threads(args.threads)
        plan = plan_of(args)
        runs = runs_of(args, plan)
        if args.dry_run:
            return show(plan, runs)
        if args.jobs > 1:
            return run_side_by_side(runs, args.jobs, argv, args.work)
        return run_here(plan, runs)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; give the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
