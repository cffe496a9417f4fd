"""INT8 that does not hold after calibration is fine-tuned under its own rounding, and judged again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.build.calibration_file import Calibration
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.export import export_network
from lpcnet_edge.build.judging import Judge, Judgement
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.parity import check_parity
from lpcnet_edge.build.quantise import LEVELS, SCALE_FLOOR, activation_scale, place
from lpcnet_edge.build.settings import Progress
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.qat import Tuned, fine_tune
from lpcnet_edge.network.quantisation import QatSettings, Quantisation
from lpcnet_edge.types import Dataset

_LOSSES_AVERAGED = 10


@dataclass(frozen=True)
class Candidate:
    """INT8 throughout: the float pair that is quantised, the ranges, and how it was judged.

    ``report`` (for ``accuracy.json``) and ``note`` tell of the fine-tune, where one was asked for.
    """

    engines: Engines
    calibration: Calibration
    judgement: Judgement
    report: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def ranges(self) -> dict[str, float]:
        """Range by tensor."""
        return {name: scale * LEVELS for name, scale in self.calibration.scales().items()}


def quantisation_of(pair: OnnxPair, ranges: Mapping[str, float]) -> Quantisation:
    """Where and how both stages round as :func:`~lpcnet_edge.build.quantise.quantise` places it, as plain data."""
    convs: list[str] = []
    uses: dict[str, tuple[tuple[str, int], ...]] = {}
    for model in (pair.localization, pair.confidence):
        placement = place(from_model(model))
        convs += placement.convs
        for tensor, readers in placement.uses.items():  # the pixels are read in both stages
            uses[tensor] = (*uses.get(tensor, ()), *readers)
    scales = {tensor: float(activation_scale(tensor, ranges)) for tensor in uses}
    return Quantisation(tuple(convs), uses, scales, LEVELS, SCALE_FLOOR)


def tune(
    network: FloatNetwork,
    calibrated: Candidate,
    dataset: Dataset,
    judge: Judge,
    settings: QatSettings,
    *,
    max_drop: float,
    tiles: NDArray[np.uint8],
    progress: Progress,
) -> Candidate:
    """Fine-tune where the calibrated candidate is broken; gives back the better of the two, by the check split.

    Parameters
    ----------
    dataset
        What to train on: the calibration side of the data, nothing of the check split.
    tiles
        (N, S, S[, 3]) uint8, on which the export of the fine-tuned network is compared with torch.
    """
    broken = calibrated.judgement.broken(max_drop)
    if not broken:
        note = "calibration alone holds: not fine-tuned"
        return _told(calibrated, {"used": False, "steps": 0, "calibrated": _figures(calibrated, max_drop)}, note)
    quantisation = quantisation_of(calibrated.engines.pair, calibrated.ranges)
    tuned = fine_tune(network, quantisation, dataset, settings, progress)
    progress("exporting", 0, 1)
    engines = calibrated.engines.of(export_network(tuned.network))
    check_parity(tuned.network, engines.reference(), tiles)
    calibration = calibrated.calibration.with_learned(tuned.scales)
    ranges = {name: scale * LEVELS for name, scale in calibration.scales().items()}
    segmenter = engines.quantised(ranges)
    found = Candidate(engines, calibration, judge(segmenter))
    segmenter.close()
    better = _order(found, max_drop) < _order(calibrated, max_drop)
    report = {
        "used": better,
        **_training(tuned, settings, dataset),
        "float_mean_iou": round(found.judgement.reference_miou, 3),
        "calibrated": _figures(calibrated, max_drop),
        "fine_tuned": _figures(found, max_drop),
    }
    before, after = calibrated.judgement.candidate_miou, found.judgement.candidate_miou
    note = (
        f"fine-tuned for {len(tuned.losses)} steps in {tuned.seconds:.0f} s, since {'; '.join(broken)}: "
        f"mIoU {before:.2f} after calibration, {after:.2f} after fine-tuning, "
        f"{found.judgement.reference_miou:.2f} in float"
    )
    if better:
        return _told(found, report, note)
    return _told(calibrated, report, f"{note}; the calibrated weights are kept")


def _told(candidate: Candidate, report: Mapping[str, Any], note: str) -> Candidate:
    return Candidate(candidate.engines, candidate.calibration, candidate.judgement, report, note)


def _order(candidate: Candidate, max_drop: float) -> tuple[int, float]:
    """Less is better: first what is broken, then the points lost."""
    return len(candidate.judgement.broken(max_drop)), candidate.judgement.drop


def _figures(candidate: Candidate, max_drop: float) -> dict[str, Any]:
    judgement = candidate.judgement
    return {
        "mean_iou": round(judgement.candidate_miou, 3),
        "drop": round(judgement.drop, 3),
        "mask_iou": round(judgement.mask_iou, 3),
        "new_escapes": len(judgement.new_escapes),
        "defects_lost": judgement.lost,
        "broken": judgement.broken(max_drop),
    }


def _training(tuned: Tuned, settings: QatSettings, dataset: Dataset) -> dict[str, Any]:
    return {
        "steps": len(tuned.losses),
        "seconds": round(tuned.seconds, 1),
        "seed": settings.seed,
        "data": dataset.name,
        "images": len(dataset.entries),
        "weights_sha256": tuned.sha256,
        "loss_first": round(fmean(tuned.losses[:_LOSSES_AVERAGED]), 5),
        "loss_last": round(fmean(tuned.losses[-_LOSSES_AVERAGED:]), 5),
    }
