"""One run of the study: train a configuration without a fold, measure it on the fold, leave one JSON record."""

from __future__ import annotations

import fcntl
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from study_bootstrap import named_figures
from study_measure import code_digest, device, load_into, load_run, measure_by_part
from study_networks import begin, builder, cost_of, needs_stage1, recipe_of
from study_records import SCHEMA, read_record, write_record

from lpcnet_edge.config import to_mapping
from lpcnet_edge.datasets import open_dataset, with_fold, without_fold
from lpcnet_edge.errors import BadConfig, UsageError
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.recipe import Recipe
from lpcnet_edge.network.training import TrainProgress, train
from lpcnet_edge.network.weights import load_network, weights_path
from lpcnet_edge.types import Dataset

FOLDS = 4
UNSEEN = "unseen"
CODE = code_digest()  # of what this process runs, whatever becomes of the files while it does

Split = Literal["tile", "image"]


class Interrupted(Exception):
    """A run was asked to stop and has left a checkpoint."""


class Busy(Exception):
    """Another process is at this run."""


@dataclass(frozen=True)
class Run:
    """One training and its held-out images."""

    config: str
    fold: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """What all runs of a study share.

    Attributes
    ----------
    data
        The labelled images.
    test
        Images that no run trains on; None where folds of ``data`` are held out in turn.
    split
        ``tile``: folds of whole physical parts. ``image``: images dealt at random, so that photographs of one part
        stand on both sides, as in much of what is published; it measures memory too.
    recipe_name, recipe, recipe_steps
        The recipe, with the study's own budget, and the steps that it has by itself.
    records, work
        Where records go, and where runs keep checkpoints and weights.
    start
        The work folder of another study, whose run of the same configuration and seed each run begins with; None for
        random weights.
    teacher
        Weights, by name or path, or the folder of a finished run of a study, whose predictions every run learns beside
        the masks; None for none.
    """

    data: Dataset
    test: Dataset | None
    split: Split
    recipe_name: str
    recipe: Recipe
    recipe_steps: int
    records: Path
    work: Path
    start: Path | None = None
    teacher: str | None = None

    def folds(self) -> list[str]:
        """The folds to hold out in turn; one named ``unseen`` where there are images of their own for it."""
        if self.test is not None:
            return [UNSEEN]
        if self.split == "image":
            return [str(k + 1) for k in range(FOLDS)]
        found = sorted({entry.strata["fold"] for entry in self.data.entries if "fold" in entry.strata})
        if not found:
            raise UsageError(f"{self.data.name} has no folds", mend="give --test, images that are held out")
        return found

    def split_at(self, fold: str) -> tuple[Dataset, Dataset]:
        """Training and held-out images of a fold."""
        if self.test is not None:
            return self.data, self.test
        if self.split == "tile":
            return without_fold(self.data, {fold}), with_fold(self.data, {fold})
        folds = deal_images(self.data.entries)
        held = [i for i, of in enumerate(folds) if of == fold]
        return self.data.select([i for i, of in enumerate(folds) if of != fold]), self.data.select(held)

    def identity(self) -> dict[str, Any]:
        """All that must be equal for two records to be compared."""
        recipe = to_mapping(self.recipe)
        for name in ("seed", "embed_localization", "weight_loss", "refine_pixels", "checkpoint_every"):
            del recipe[name]
        if self.teacher is None:
            del recipe["loss"]["distillation"]
        if not self.recipe.loss.hints:
            del recipe["loss"]["hints"]
        return {
            "data": self.data.name,
            "digest": self.data.digest(),
            "test_digest": None if self.test is None else self.test.digest(),
            "split": UNSEEN if self.test is not None else self.split,
            "recipe": recipe,
            **({} if self.start is None else {"start": self.origin()}),
            **({} if self.teacher is None else {"teacher": digest_of(self.teacher)}),
        }

    def origin(self) -> str:
        """What runs begin with, in words; raises ``UsageError`` where the folder holds no or two studies."""
        if self.start is None:
            return "random weights"
        names = {path.parent.name for path in self.start.glob("*.fold-*.seed-*/weights.safetensors")}
        studies = sorted({name.partition(".fold-")[0].rpartition(".")[0] for name in names})
        if len(studies) != 1:
            raise UsageError(
                f"{self.start} holds finished runs of {len(studies)} studies: {', '.join(studies) or 'none'}",
                mend="give the --work folder of one study that has run",
            )
        return f"what the same configuration and seed learned in {studies[0]}"

    def started_from(self, run: Run) -> Path | None:
        """The folder of the run that a run begins with; raises ``UsageError`` where there is not exactly one."""
        if self.start is None:
            return None
        pattern = f"*.{run.config}.fold-*.seed-{run.seed}"
        found = [path.parent for path in sorted(self.start.glob(f"{pattern}/weights.safetensors"))]
        if len(found) != 1:
            raise UsageError(
                f"{self.start} holds {len(found)} finished runs named {pattern}: one is needed to start from",
                mend="run the other study first, with the same --configs and --seeds, and give its --work here",
            )
        return found[0]

    def name_of(self, run: Run) -> str:
        """Name of a run's record and folder."""
        split = UNSEEN if self.test is not None else self.split
        return f"{self.data.name}.{split}.{run.config}.fold-{run.fold}.seed-{run.seed}"


def deal_images(entries: Any, seed: int = 2025) -> list[str]:
    """A fold for each image, at random but with each class spread evenly. Photographs of one part are torn apart."""
    rng = np.random.default_rng(seed)
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        by_label[entry.label].append(index)
    folds = [""] * len(entries)
    start = 0
    for label in sorted(by_label):
        for position, index in enumerate(rng.permutation(by_label[label]).tolist()):
            folds[index] = str((start + position) % FOLDS + 1)
        start += len(by_label[label])
    return folds


def make_record(plan: Plan, run: Run, progress: TrainProgress | None = None) -> tuple[dict[str, Any], bool]:
    """The record of a run, and whether it was made now rather than found.

    Raises
    ------
    Interrupted
        SIGINT or SIGTERM came; the run goes on where it stopped when this is called again.
    Busy
        Another process is at it.
    UsageError
        The record found is of another study.
    """
    path = plan.records / f"{plan.name_of(run)}.json"
    identity = plan.identity()
    folder = plan.work / plan.name_of(run)
    with _claimed(folder):
        if path.exists():
            found = read_record(path)
            if found["plan"] != identity:
                changed = [key for key, value in identity.items() if found["plan"].get(key) != value]
                raise UsageError(
                    f"{path.name} is of another study: {', '.join(changed)} differ", mend="use another --records folder"
                )
            return found, False
        record = _measure(plan, run, identity, folder, progress)
        write_record(path, record)
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return record, True


def _measure(
    plan: Plan, run: Run, identity: dict[str, Any], folder: Path, progress: TrainProgress | None
) -> dict[str, Any]:
    training, held_out = plan.split_at(run.fold)
    recipe = recipe_of(run.config, plan.recipe, run.seed)
    built: list[Any] = []

    def build(config: Any) -> Any:
        built.append(builder(run.config)(config))
        begin(run.config, built[-1])
        return built[-1]

    notes = {"study": plan.name_of(run), "excluded_folds": [run.fold]}
    origin = plan.started_from(run)
    summary = train(
        training,
        recipe,
        folder,
        resume=True,
        progress=progress,
        start=None if origin is None else load_run(origin, builder(run.config)),
        teacher=None if plan.teacher is None else load_teacher(plan.teacher),
        notes=notes,
        build=build,
    )
    if summary.weights is None:
        raise Interrupted
    card = yaml.safe_load((folder / "card.yaml").read_text())
    network = load_into(built[-1], summary.weights, recipe.tile_px)
    parts, total = measure_by_part(network, held_out, scores=needs_stage1(run.config))
    cost = cost_of(run.config, held_out.classes, held_out.channels, plan.recipe)
    sampling = recipe.sampling
    return {
        "schema": SCHEMA,
        "config": run.config,
        "fold": run.fold,
        "seed": run.seed,
        "steps": recipe.steps,
        "plan": identity,
        "budget": {
            "recipe": plan.recipe_name,
            "steps": recipe.steps,
            "recipe_steps": plan.recipe_steps,
            "batch": sampling.batch,
            "crop_px": sampling.crop_px,
            "tile_px": recipe.tile_px,
            "crops": recipe.steps * sampling.batch,
            "start": plan.origin(),
            **({} if plan.teacher is None else {"teacher": Path(plan.teacher).name}),
        },
        "network": {"parameters": cost.parameters, "flops": cost.flops},
        "data": {
            "name": held_out.name,
            "training_digest": training.digest(),
            "held_out_digest": held_out.digest(),
            "training_images": len(training.entries),
            "held_out_images": len(held_out.entries),
        },
        "classes": list(held_out.classes),
        "metrics": named_figures(total, held_out.classes),
        "confusion": total.tolist(),
        "parts": parts,
        "weights_sha256": card["weights"]["sha256"],
        "run": {
            "commit": card["versions"]["commit"],
            "code": CODE,
            "versions": card["versions"],
            "device": device(),
            "threads": torch.get_num_threads(),
            "precision": card["run"]["precision"],
            "seconds": card["run"]["seconds"],
            "finished": card["run"]["finished"],
        },
    }


def load_teacher(teacher: str) -> FloatNetwork:
    """The network that weights or a finished run hold; raises ``UsageError`` or what loading weights raises."""
    folder = Path(teacher)
    return load_run(folder, builder(_config_of(folder))) if folder.is_dir() else load_network(teacher)


def digest_of(teacher: str) -> str:
    """SHA-256 (hex) of the weights file of weights by name or path, or of a finished run; raises as loading it does."""
    path = Path(teacher)
    if path.is_dir():
        _config_of(path)
        path /= "weights.safetensors"
    else:
        path = weights_path(teacher)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _config_of(folder: Path) -> str:
    """The configuration that a finished run trained."""
    try:
        study: str = yaml.safe_load((folder / "card.yaml").read_text())["run"]["study"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as exc:
        raise UsageError(
            f"{folder} is no finished run of a study", mend="give one of the folders in its --work, or a weights file"
        ) from exc
    return study.partition(".fold-")[0].rpartition(".")[2]


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from the same run for as long as this one is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Busy(folder.name) from exc
        yield


def open_plan(data: str, test: str | None, split: Split, grouping: str | None, recipe: Recipe, **about: Any) -> Plan:
    """The plan for what was asked on the command line; raises ``UsageError`` for what does not go together."""
    fabric = data.partition(":")[0] == "carbon-fabric"
    if fabric and test is None:
        raise UsageError("carbon fabric has no folds", mend="add --test carbon-fabric:count=300,seed=900002")
    if test is not None and split == "image":
        raise UsageError("--split image and --test were both given", mend="keep one of the two")
    opened = open_dataset(data, grouping=grouping) if grouping else open_dataset(data)  # type: ignore[arg-type]
    held_out = None if test is None else open_dataset(test)
    if held_out is not None and held_out.classes != opened.classes:
        raise BadConfig(f"{test} has other classes than {data}", mend="test on images of the same kind")
    shared = set() if held_out is None else {e.part for e in opened.entries} & {e.part for e in held_out.entries}
    if shared:
        raise UsageError(
            f"{len(shared)} parts of {test} are in {data} too, {min(shared)} for one, and would be trained on",
            mend="test on parts that --data does not show: another seed, another folder",
        )
    return Plan(opened, held_out, split, recipe=recipe, **about)
