"""The training loop: resumable to the bit, killed without loss, its result a weights file with a card."""

from __future__ import annotations

import copy
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from lpcnet_edge.errors import BadConfig, UsageError
from lpcnet_edge.network.card import finish_run
from lpcnet_edge.network.checkpoint import Checkpoint, load_checkpoint, run_digest, save_checkpoint
from lpcnet_edge.network.confidence import ConfidenceNet
from lpcnet_edge.network.config import NetworkConfig, preset
from lpcnet_edge.network.feed import Batch, Feed, prefetched
from lpcnet_edge.network.imagenet import Hints
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.losses import LossTerms, lpc_loss, stage1_loss
from lpcnet_edge.network.model import LpcNet, Outputs, normalise
from lpcnet_edge.network.precision import autocast_dtype
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


class _Run:
    """Model, optimiser and averaged weights of one training."""

    def __init__(self, network: LpcNet, recipe: Recipe, teacher: FloatNetwork | None = None) -> None:
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher: LpcNet | None = None
        if teacher is not None:
            own = copy.deepcopy(teacher.network).eval()  # its owner may go on with it elsewhere
            self.teacher = own.to(self.device, memory_format=torch.channels_last)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.hints = Hints(network.config).place(self.device) if recipe.loss.hints else None
        self.learned = [*self.network.parameters(), *(self.hints.parameters() if self.hints is not None else ())]
        flat = [p for p in self.learned if p.ndim <= 1]
        deep = [p for p in self.learned if p.ndim > 1]
        groups = [{"params": deep, "weight_decay": recipe.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.dtype = autocast_dtype(recipe.precision, self.device)
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine down to a hundredth."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return recipe.learning_rate * (step + 1) / recipe.warmup_steps
        done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def train_step(self, step: int, batch: Batch) -> LossTerms:
        pixels, mask = (torch.from_numpy(array).to(self.device) for array in batch)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        x = normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            heat_logits, embedding = self.network.localization(x)
            if self.hints is not None:
                levels = self.network.confidence.encoder(x, embedding)
                logits = self.network.confidence.decode(levels)
                apart = self.hints(levels[1:], self.hints.wanted(x))
            elif not self.recipe.loss.stage1_only:
                logits = self.network.confidence(x, embedding)
        if self.recipe.loss.stage1_only:
            terms = stage1_loss(heat_logits, mask.long(), self.recipe.loss)
        else:
            outputs = Outputs(heat_logits, embedding, *logits)
            taught = None if self.teacher is None else self._taught(self.teacher, x)
            terms = lpc_loss(outputs, mask.long(), self.recipe.loss, weight_loss=self.recipe.weight_loss, taught=taught)
            if self.hints is not None:
                terms = replace(terms, total=terms.total + self.recipe.loss.hints * apart, hints=apart.detach())
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(terms.total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.learned, self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._update_average(step)
        return terms

    @torch.no_grad()
    def _taught(self, teacher: LpcNet, x: Tensor) -> Tensor:
        """A teacher's class probabilities (N, K, H, W) for normalised tiles."""
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = teacher(x).refined
        full = functional.interpolate(logits.float(), size=x.shape[2:], mode="bilinear", align_corners=False)
        return torch.softmax(full, dim=1)

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        state = self.network.state_dict()
        floating = [name for name, value in state.items() if value.dtype.is_floating_point]
        torch._foreach_lerp_([self.average[n] for n in floating], [state[n] for n in floating], 1 - decay)

    def averaged(self) -> FloatNetwork:
        """A copy of the network with the averaged weights."""
        network = copy.deepcopy(self.network)
        network.load_state_dict({name: value.detach().cpu().clone() for name, value in self.average.items()})
        return FloatNetwork(network, self.recipe.tile_px, device=self.device.type)

    def is_finite(self) -> bool:
        """Whether every averaged weight is a number: one step that is not spoils them for good."""
        return all(bool(torch.isfinite(value).all()) for value in self.average.values())

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({} if self.hints is None else {"hints": self.hints.state_dict()}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.hints is not None:
            self.hints.load_state_dict(state["hints"])
        average: dict[str, Tensor] = state["average"]
        self.average = {name: value.to(self.device) for name, value in average.items()}
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:  # empty where the run so far needed none: it began on a processor, or in another type
            self.scaler.load_state_dict(state["scaler"])


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
    run = _Run(network, recipe, teacher)
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
                taken = {**_loss_figures(terms), "learning_rate": run.rate(at)}
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


def _loss_figures(terms: LossTerms) -> dict[str, float]:
    return {
        "loss": float(terms.total.detach()),
        "localization": float(terms.localization),
        "tile": float(terms.tile),
        "refined": float(terms.refined),
        "initial": float(terms.initial),
        **({} if terms.distilled is None else {"distilled": float(terms.distilled)}),
        **({} if terms.hints is None else {"hints": float(terms.hints)}),
    }


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
