"""Records of the study brought together: which may be compared, what they count, and what is missing from them."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study_bootstrap import Draws, Floats, draw, estimate, figure_names, interval, resampled

from lpcnet_edge.errors import BadData

FULL_SEEDS = 5
BASELINE = "backbone"
ABLATION = ("backbone", "loss-weight", "embedding", "pcm", "lpc-net")
FROM_IMAGENET = ("efficientnet-lite0",)

Key = tuple[str, str, int]  # configuration, fold, seed


@dataclass(frozen=True)
class Compared:
    """Two configurations on the runs that both have: figures with their intervals, and how they differ.

    Arrays have the columns of :func:`~study_bootstrap.figure_names`; intervals are (2, columns).
    """

    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    value: Floats
    bounds: Floats
    difference: Floats | None
    difference_bounds: Floats | None


class Group:
    """Records of one plan: the same data, split and budget. Raises ``BadData`` where they contradict each other."""

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self.records: dict[Key, dict[str, Any]] = {(r["config"], r["fold"], r["seed"]): r for r in records}
        first = records[0]
        self.plan, self.budget, self.classes = first["plan"], first["budget"], tuple(first["classes"])
        self.columns = figure_names(self.classes)
        self.folds = sorted({fold for _, fold, _ in self.records})
        self.seeds = sorted({seed for _, _, seed in self.records})
        found = {config for config, _, _ in self.records}
        self.configs = [c for c in ABLATION if c in found] + sorted(found - set(ABLATION))
        self.strata = self._strata()
        self.parts = sorted(self.strata)

    def _strata(self) -> dict[str, str]:
        """The class that each part is drawn with: of those that its images show, the one with the fewest images."""
        images: dict[str, Counter[str]] = defaultdict(Counter)
        shown: dict[tuple[str, str], Any] = {}
        for (_, fold, _), record in sorted(self.records.items()):
            for part, row in record["parts"].items():
                known = shown.setdefault((fold, part), row["images"])
                if known != row["images"]:
                    raise BadData(f"records disagree about the images of part {part}", mend="make them again")
        for (_, part), row in shown.items():
            images[part].update(row)
        total: Counter[str] = sum(images.values(), Counter())
        return {part: min(row, key=lambda name: (total[name], name)) for part, row in images.items()}

    def parts_of(self) -> Counter[str]:
        """Number of parts by class (``free`` for parts without defects)."""
        return Counter(self.strata.values())

    def rectangle(self, configs: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The most folds, then the most seeds, for which every one of ``configs`` has all runs."""
        best: tuple[tuple[str, ...], tuple[int, ...]] = ((), ())
        for size in range(len(self.folds), 0, -1):
            for folds in itertools.combinations(self.folds, size):
                pairs = list(itertools.product(configs, folds))
                seeds = tuple(s for s in self.seeds if all((c, f, s) in self.records for c, f in pairs))
                if len(seeds) > len(best[1]):
                    best = folds, seeds
            if best[1]:
                return best
        return best

    def shared_by(self, configs: Sequence[str]) -> Group | None:
        """These configurations alone, on the runs that every one of them has; None where there is none."""
        folds, seeds = self.rectangle(configs)
        shared = [self.records[key] for key in itertools.product(configs, folds, seeds)]
        return Group(shared) if shared else None

    def cells(self, config: str, folds: Sequence[str], seeds: Sequence[int]) -> NDArray[np.int64]:
        """(F, S, P, K, K): pixels by fold, seed and part; a part has none where it was not held out."""
        at = {part: index for index, part in enumerate(self.parts)}
        count = len(self.classes)
        result = np.zeros((len(folds), len(seeds), len(at), count, count), np.int64)
        for (i, fold), (j, seed) in itertools.product(enumerate(folds), enumerate(seeds)):
            for part, row in self.records[config, fold, seed]["parts"].items():
                result[i, j, at[part]] += np.array(row["confusion"], np.int64)
        return result

    def draws(self, cells: NDArray[np.int64], seeds: int) -> tuple[NDArray[np.int64], Draws]:
        """The cells of the parts that were held out at all, and draws of them."""
        there = np.flatnonzero(cells.sum(axis=(0, 1, 3, 4)))
        strata = [self.strata[self.parts[index]] for index in there]
        return cells[:, :, there], draw(strata, len(cells), seeds)

    def compare(self, config: str, baseline: str | None = None) -> Compared | None:
        """A configuration, and its paired difference from ``baseline``; None without a run in common."""
        folds, seeds = self.rectangle([config, baseline] if baseline else [config])
        if not seeds:
            return None
        cells, draws = self.draws(self.cells(config, folds, seeds), len(seeds))
        value, spread = estimate(cells), resampled(cells, draws)
        if baseline is None:
            return Compared(folds, seeds, value, interval(spread), None, None)
        others, _ = self.draws(self.cells(baseline, folds, seeds), len(seeds))
        difference = value - estimate(others)
        bounds = interval(spread - resampled(others, draws))
        return Compared(folds, seeds, value, interval(spread), difference, bounds)

    @property
    def title(self) -> str:
        """What the group is, for a heading."""
        kind = {"tile": "by physical tile", "image": "by image at random (leaks)", "unseen": "unseen seeds"}
        return f"{self.plan['data']}, {kind[self.plan['split']]}"

    def caption(self) -> list[str]:
        """What was done, how far it is from the full study, and what that means; one sentence a line."""
        budget, folds = self.budget, ", ".join(self.folds)
        taught = f", taught by {budget['teacher']}" if "teacher" in budget else ""
        if hints := self.plan["recipe"].get("loss", {}).get("hints"):
            taught += f", with hints of what ImageNet taught at weight {hints:g}"
        lines = [
            f"{len(self.records)} runs: configurations {', '.join(self.configs)}; held-out folds {folds}; "
            f"seeds {', '.join(map(str, self.seeds))}.",
            f"Each run: {budget['steps']} steps of {budget['batch']} crops of {budget['crop_px']} px from tiles of "
            f"{budget['tile_px']} px, recipe `{budget['recipe']}`, from {budget['start']}{taught}.",
        ]
        if ahead := [config for config in self.configs if config in FROM_IMAGENET]:
            lines.append(f"**{', '.join(ahead)} knew ImageNet** before its first step, the others nothing.")
        less = []
        if len(self.seeds) < FULL_SEEDS:
            less.append(f"{len(self.seeds)} of {FULL_SEEDS} seeds")
        if budget["steps"] < budget["recipe_steps"]:
            less.append(f"{budget['steps']} of the recipe's {budget['recipe_steps']} steps")
        if self.plan["split"] != "unseen" and len(self.folds) < 4:
            less.append(f"{len(self.folds)} of 4 folds")
        absent = [config for config in ABLATION if config not in self.configs]
        if absent:
            less.append(f"without {', '.join(absent)}")
        if less:
            lines.append(
                f"**A reduced study**: {'; '.join(less)}. Its intervals are wide, and a longer budget may turn it."
            )
        if len(self.seeds) == 1:
            lines.append("With one seed the intervals hold the chance of the parts, not that of a training.")
        missing = len(self.configs) * len(self.folds) * len(self.seeds) - len(self.records)
        if missing:
            lines.append(
                f"**Unfinished**: {missing} runs are missing; each comparison uses the runs that both sides have."
            )
        if self.plan["split"] == "image":
            lines.append(
                "**This split leaks**: photographs of one part stand in training and in test. It is here "
                "to be compared with published figures, and for nothing else."
            )
        return [*lines, *self._made_with()]

    def _made_with(self) -> list[str]:
        runs = [record["run"] for record in self.records.values()]
        devices = Counter(run["device"] for run in runs)
        hours = sum(run["seconds"] for run in runs) / 3600
        lines = [f"Made on {', '.join(sorted(devices))}: {hours:.1f} hours of training in all."]
        codes = {run["code"] for run in runs}
        if len(codes) > 1:
            lines.append(f"**The records are of {len(codes)} states of the code**, which need not agree.")
        commits = sorted({run["commit"][:12] for run in runs})
        return [*lines, f"Commits: {', '.join(commits)}; data digest {self.plan['digest'][:12]}."]


def read_groups(records: Sequence[dict[str, Any]]) -> list[Group]:
    """Records grouped by plan; the largest group of a dataset and split comes first."""
    by_plan: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        by_plan[json.dumps(record["plan"], sort_keys=True)].append(record)
    groups = [Group(found) for found in by_plan.values()]
    order = {"tile": 0, "unseen": 1, "image": 2}
    return sorted(groups, key=lambda g: (order[g.plan["split"]], g.plan["data"], -len(g.records)))


def record_paths(folder: Path) -> list[Path]:
    """The records in a folder; raises ``BadData`` where there is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise BadData(f"{folder} holds no record", mend="run benchmarks/accuracy/study.py first")
    return paths
