"""Does one network decide as another did: both measured on the same images, and image by image against each other."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcnet_edge import metrics
from lpcnet_edge.build.judging import Judgement
from lpcnet_edge.check.evaluate import evaluate
from lpcnet_edge.check.evaluation import Evaluation, points
from lpcnet_edge.check.walk import Progress
from lpcnet_edge.datasets.remembered import Remembered
from lpcnet_edge.decision import Rules
from lpcnet_edge.metrics import CAUGHT_OVERLAP
from lpcnet_edge.types import ClassMap, Dataset, Prediction, Segmenter


class Recorder:
    """A segmenter that keeps every class map it gives, compressed: a few hundred bytes an image."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.maps: list[bytes] = []
        self.classes, self.channels, self.tile_px = segmenter.classes, segmenter.channels, segmenter.tile_px

    def predict(self, tiles: np.ndarray[Any, np.dtype[np.uint8]]) -> Prediction:
        """As the segmenter recorded does."""
        prediction = self._segmenter.predict(tiles)
        self.maps += [zlib.compress(np.ascontiguousarray(map_).tobytes(), 1) for map_ in prediction.classes]
        return prediction

    def map(self, index: int) -> ClassMap:
        """The class map (S, S) of one image."""
        flat = np.frombuffer(zlib.decompress(self.maps[index]), np.uint8)
        return flat.reshape(self.tile_px, self.tile_px)


@dataclass(frozen=True)
class Flip:
    """A part on which the two decide differently; ``image`` is the one of it where the masks differ most."""

    part: str
    image: str
    defective: bool
    reference_rejects: bool


@dataclass(frozen=True)
class Measured:
    """One segmenter on a dataset: what was measured, and the class map of every image."""

    evaluation: Evaluation
    maps: Recorder


@dataclass(frozen=True)
class Agreement:
    """Two evaluations of the same images, and how alike the two networks are.

    Attributes
    ----------
    reference, candidate
        Both measured against the ground truth.
    pixels
        Share 0..1 of pixels of equal class.
    mask_iou
        IoU of the two defect masks over all images (1 where neither has any).
    flips
        Parts whose verdict changed.
    caught, lost
        Defects that the reference catches, and those of them that the candidate does not.
    differing
        (N,) pixels of unequal class in each image, in the dataset's order.
    """

    reference: Evaluation
    candidate: Evaluation
    pixels: float
    mask_iou: float
    flips: tuple[Flip, ...]
    caught: int
    lost: int
    differing: tuple[int, ...]

    @property
    def new_escapes(self) -> tuple[str, ...]:
        """Defective parts that only the candidate passes."""
        return tuple(flip.part for flip in self.flips if flip.defective and flip.reference_rejects)

    @property
    def new_overkill(self) -> tuple[str, ...]:
        """Good parts that only the candidate rejects."""
        return tuple(flip.part for flip in self.flips if not flip.defective and not flip.reference_rejects)

    def to_json(self) -> dict[str, Any]:
        """Plain data as docs/json.md describes: the candidate's evaluation, and the comparison beside it."""
        found, theirs = self.candidate.to_json(), self.reference.to_json()
        found["reference"], found["candidate"] = _side(theirs), _side(found)
        found["escapes"]["new"] = list(self.new_escapes)
        found["overkill"]["new"] = list(self.new_overkill)
        found["agreement"] = {
            "pixels": points(self.pixels),
            "mask_iou": points(self.mask_iou),
            "mean_iou_drop": round(_miou(self.reference) - _miou(self.candidate), 3),
            "flips": [vars(flip) for flip in self.flips],
            "defects_caught_by_reference": self.caught,
            "defects_lost": self.lost,
        }
        return found

    def judgement(self) -> Judgement:
        """What a build asks."""
        return Judgement(
            reference_miou=_miou(self.reference),
            candidate_miou=_miou(self.candidate),
            mask_iou=100 * self.mask_iou,
            pixels=100 * self.pixels,
            new_escapes=self.new_escapes,
            caught=self.caught,
            lost=self.lost,
            report=self.to_json(),
        )


class Comparison:
    """A reference measured once, with which any number of candidates can be compared."""

    def __init__(
        self,
        reference: Segmenter,
        dataset: Dataset,
        *,
        rules: Rules | None = None,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> None:
        self._dataset, self._rules, self._batch = dataset, rules, batch
        self.measured = measure(reference, dataset, rules, batch, progress)

    @property
    def reference(self) -> Evaluation:
        """The reference's own figures."""
        return self.measured.evaluation

    def against(self, candidate: Segmenter, progress: Progress | None = None) -> Agreement:
        """Measure a candidate on the same images."""
        return compare(self.measured, measure(candidate, self._dataset, self._rules, self._batch, progress))

    def judge(self, candidate: Segmenter) -> Judgement:
        """The short form of :meth:`against`, as a build asks for it."""
        return self.against(candidate).judgement()


def measure(
    segmenter: Segmenter,
    dataset: Dataset,
    rules: Rules | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Measured:
    """As :func:`~lpcnet_edge.check.evaluate.evaluate`, keeping the class maps."""
    recorder = Recorder(segmenter)
    return Measured(evaluate(recorder, dataset, rules=rules, batch=batch, progress=progress), recorder)


def compare(reference: Measured, candidate: Measured) -> Agreement:
    """How alike two segmenters are that were measured on the same images."""
    equal = pixels = both = either = 0
    differing = []
    for index in range(len(candidate.maps.maps)):
        ours, theirs = candidate.maps.map(index), reference.maps.map(index)
        same = int(np.count_nonzero(ours == theirs))
        differing.append(ours.size - same)
        equal, pixels = equal + same, pixels + ours.size
        both += int(np.count_nonzero((ours > 0) & (theirs > 0)))
        either += int(np.count_nonzero((ours > 0) | (theirs > 0)))
    before, after = reference.evaluation, candidate.evaluation
    caught = before.defects.overlap >= CAUGHT_OVERLAP
    return Agreement(
        reference=before,
        candidate=after,
        pixels=equal / pixels,
        mask_iou=both / either if either else 1.0,
        flips=_flips(before, after, differing),
        caught=int(caught.sum()),
        lost=int((caught & (after.defects.overlap < CAUGHT_OVERLAP)).sum()),
        differing=tuple(differing),
    )


def _side(report: Mapping[str, Any]) -> dict[str, Any]:
    """One network's figures, copied: the pixel figures, and what else an evaluation has of it."""
    others = {key: copy.deepcopy(report[key]) for key in ("defects", "escapes", "overkill", "gate", "confidence")}
    return {**report["candidate"], **others}


def _flips(reference: Evaluation, candidate: Evaluation, differing: Sequence[int]) -> tuple[Flip, ...]:
    names, before = metrics.any_by_part(reference.parts, reference.rejected)
    _, after = metrics.any_by_part(candidate.parts, candidate.rejected)
    _, defective = metrics.any_by_part(reference.parts, reference.defective)
    worst: dict[str, int] = {}
    for index, part in enumerate(reference.parts):
        if part not in worst or differing[index] > differing[worst[part]]:
            worst[part] = index
    return tuple(
        Flip(name, reference.images[worst[name]].entry.name, bool(defective[i]), bool(before[i]))
        for i, name in enumerate(names)
        if before[i] != after[i]
    )


def _miou(evaluation: Evaluation) -> float:
    return 100 * float(metrics.mean_iou(evaluation.confusion))


def comparing(dataset: Dataset, rules: Rules) -> Callable[[Segmenter, Any], Callable[[Segmenter], Judgement]]:
    """What ``build_bundle`` takes as ``make_judge``: compare candidates with the float reference on ``dataset``."""
    dataset = Remembered(dataset)

    def make(reference: Segmenter, progress: Any) -> Callable[[Segmenter], Judgement]:
        def told(phase: str) -> Progress:
            return lambda done, total: progress(phase, done, total)

        comparison = Comparison(reference, dataset, rules=rules, progress=told("checking float"))
        return lambda candidate: comparison.against(candidate, told("checking the candidate")).judgement()

    return make
