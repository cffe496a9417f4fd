"""The training loop: resumable to the bit, killed without loss, its result a weights file with a card."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import cv2
import torch

from lpcnet_edge.errors import BadConfig, UsageError
from lpcnet_edge.network.card import finish_run
from lpcnet_edge.network.checkpoint import Checkpoint, load_checkpoint, run_digest, save_checkpoint
from lpcnet_edge.network.confidence import ConfidenceNet
from lpcnet_edge.network.config import NetworkConfig, preset
from lpcnet_edge.network.feed import Feed, prefetched
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.optimisation import Optimisation, loss_figures
from lpcnet_edge.network.recipe import Recipe
from lpcnet_edge.network.transfer import adopt_weights
from lpcnet_edge.network.validation import validate
from lpcnet_edge.types import Dataset

_LOG_EVERY = 20


class TrainProgress(Protocol):
    """Who watches a training: reading of tiles, then steps with the current figures."""

    def reading(self, done: int, total: int) -> None: ...

    def step(self, done: int, total: int, figures: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class TrainSummary:
    """What a training left behind: ``weights`` is None where it was interrupted before the last step."""

    out_dir: Path
    weights: Path | None
    steps: int
    seconds: float
    figures: dict[str, float]


def train(
    dataset: Dataset,
    recipe: Recipe,
    out_dir: Path,
    *,
    resume: bool = False,
    validation: Dataset | None = None,
    progress: TrainProgress | None = None,
    start: FloatNetwork | None = None,
    teacher: FloatNetwork | None = None,
    notes: dict[str, Any] | None = None,
    build: Callable[[NetworkConfig], LpcNet] = LpcNet,
) -> TrainSummary:
    """Train a network on every entry of ``dataset``.

    Writes ``checkpoint.pt`` on the way, and at the end ``weights.safetensors`` (the averaged weights), ``card.yaml``,
    ``metrics.csv`` and ``curves.png``, each atomically. With ``resume`` it goes on from the checkpoint with the losses
    that an unbroken run has on the same machine, thread count and library versions. SIGINT and SIGTERM end the run
    after the step in hand, with a checkpoint.

    Parameters
    ----------
    validation
        Evaluated every ``recipe.validate_every`` steps, for the curves; it never chooses what is kept.
    start
        A trained network to begin with instead of random weights, as
        :func:`~lpcnet_edge.network.transfer.adopt_weights` takes it over.
    teacher
        A trained network of the same classes and channels, a larger one as a rule. Its predictions of every batch are
        learned beside the masks (:func:`~lpcnet_edge.network.losses.distillation_loss`).
    notes
        What the card should say besides (folds, the source of the data).
    build
        Makes the network of its configuration: another one with the same outputs, for a comparison. The weights file of
        such a network is its own affair; :func:`~lpcnet_edge.network.weights.load_network` refuses it.

    Raises
    ------
    BadConfig
        The training diverged; the last checkpoint with finite weights is kept, and no weights are written.
    UsageError
        ``out_dir`` holds a run and ``resume`` is false, or finished weights without the checkpoint to go on from; or
        the teacher is of other classes or channels, or has nothing to teach a recipe for stage 1 alone; or the recipe
        has hints and ``build`` makes another stage 2.
    MissingLibrary
        The recipe has hints, and the weights that they come from are not installed.
    StaleCheckpoint
        The checkpoint is of another recipe, dataset or network.
    """
    cv2.setNumThreads(1)  # the augmentation must not take the processor from the network
    config = preset(
        recipe.preset,
        dataset.classes,
        dataset.channels,
        embed_localization=recipe.embed_localization,
        weight_loss=recipe.weight_loss,
        refine_pixels=recipe.refine_pixels,
    )
    if teacher is not None:
        _check_teacher(teacher, config, recipe)
    torch.manual_seed(recipe.seed)
    network = build(config)
    if recipe.loss.hints and not isinstance(network.confidence, ConfidenceNet):
        raise UsageError("the recipe has hints, which are for LPC-Net's own stage 2", mend="set loss.hints to 0")
    if start is not None:
        adopt_weights(network, start.network)
    # The packaged network's random start follows from its configuration and the seed; another's is told apart by it.
    origin = start.network if start is not None else None if build is LpcNet else network
    learned_from = None if teacher is None else teacher.network.state_dict()
    digest = run_digest(config, recipe, dataset, None if origin is None else origin.state_dict(), learned_from)
    path = out_dir / "checkpoint.pt"
    if not resume and (path.exists() or (out_dir / "weights.safetensors").exists()):
        raise UsageError(f"{out_dir} holds a run already", mend="add --resume to go on with it, or use another folder")
    if resume and not path.exists() and (out_dir / "weights.safetensors").exists():
        raise UsageError(
            f"{out_dir} holds finished weights and no checkpoint to go on from: a new run would take their place",
            mend="use another folder, or move the weights away",
        )
    out_dir.mkdir(parents=True, exist_ok=True)  # before the first step, not at the first checkpoint
    run = Optimisation(network, recipe, teacher)
    rows: list[dict[str, float]] = []
    first, spent = 0, 0.0
    if resume and path.exists():
        saved = load_checkpoint(path, digest)
        run.restore(saved.state)
        rows, first, spent = saved.rows, saved.step, saved.seconds
    started = time.monotonic()
    feed = Feed(dataset, recipe, progress.reading if progress else None)
    step = first

    def save() -> None:
        if not run.is_finite():  # a checkpoint of it would take the place of the last good one
            raise BadConfig(
                f"the training diverged: after {step} steps its weights are not finite",
                mend="lower the recipe's learning_rate, or lengthen its warmup_steps, and train in another folder",
            )
        save_checkpoint(path, Checkpoint(digest, step, spent + time.monotonic() - started, rows, run.state()))

    figures = {name: value for row in rows for name, value in row.items() if name != "step"}
    run.network.train()
    with _stop_requested() as stop:
        for at, batch in prefetched(feed, first, recipe.steps):
            terms = run.train_step(at, batch)
            step = at + 1
            last = step == recipe.steps
            judged = validation if step % recipe.validate_every == 0 or last else None
            if step % _LOG_EVERY == 0 or judged is not None or last:
                taken = {**loss_figures(terms), "learning_rate": run.rate(at)}
                if judged is not None:
                    taken.update(validate(run.averaged(), judged))
                figures.update(taken)
                rows.append({"step": float(step), **taken})
            if progress is not None:
                progress.step(step, recipe.steps, figures)
            if stop() and not last:  # after the last step there is nothing to go on with
                break
            if step % recipe.checkpoint_every == 0 or last:
                save()
    seconds = spent + time.monotonic() - started
    if step < recipe.steps:
        save()
        return TrainSummary(out_dir, None, step, seconds, figures)
    precision = str(run.dtype or torch.float32).removeprefix("torch.")
    provenance = {"seconds": round(seconds, 1), "threads": torch.get_num_threads(), "precision": precision}
    weights = finish_run(out_dir, run.averaged(), dataset, recipe, rows, {**provenance, **(notes or {})})
    return TrainSummary(out_dir, weights, step, seconds, figures)


def _check_teacher(teacher: FloatNetwork, config: NetworkConfig, recipe: Recipe) -> None:
    if recipe.loss.stage1_only:
        raise UsageError(
            "the recipe trains stage 1 alone, and a teacher teaches stage 2",
            mend="leave out the teacher, or give loss.segmentation a weight",
        )
    if (teacher.classes, teacher.channels) != (config.classes, config.channels):
        raise UsageError(
            f"the teacher knows {', '.join(teacher.classes)} in {teacher.channels} channel(s), the images show "
            f"{', '.join(config.classes)} in {config.channels}",
            mend="train the teacher on the same kind of images",
        )


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks between steps; the second one stops at once."""
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread: the caller handles signals
        pass
    try:
        yield lambda: asked
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
