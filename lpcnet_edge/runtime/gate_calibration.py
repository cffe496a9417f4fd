"""A bundle's gate calibrated on labelled images: the same tiles, stage 1 and backend as a run has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.bundle.manifest import GateSpec, Manifest, trained_on
from lpcnet_edge.bundle.names import printable
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle
from lpcnet_edge.config import to_mapping
from lpcnet_edge.datasets.selection import trained_among
from lpcnet_edge.errors import BadData, UsageError
from lpcnet_edge.metrics.gate_threshold import GateCalibration, calibrate_gate
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.pipeline import framing_for
from lpcnet_edge.runtime.tile_plan import count_defect_px, plan_tiles, write_tiles
from lpcnet_edge.types import Dataset

Progress = Callable[[int, int], None]

MIN_DEFECT_PX = 20
"""Fewer defect pixels than this in a corner of a tile are nothing that stage 1 could be asked to see."""

_BATCH = 16


@dataclass(frozen=True)
class TileScores:
    """Stage 1 on the tiles of a dataset: for each tile its score, part, image and number of defect pixels."""

    score: NDArray[np.float32]
    parts: tuple[str, ...]
    images: tuple[str, ...]
    defect_px: NDArray[np.int64]


def require_channels(manifest: Manifest, dataset: Dataset) -> None:
    """Raise ``BadData`` where the dataset's channels are not the bundle's."""
    if dataset.channels != manifest.channels:
        raise BadData(
            f"{dataset.name} has {dataset.channels} channel(s), the bundle takes {manifest.channels}",
            mend=f"choose images like the bundle's, or --channels {manifest.channels} where the layout leaves it open",
        )


def score_tiles(
    bundle: Bundle,
    backend: Backend,
    dataset: Dataset,
    *,
    framing: Framing | None = None,
    progress: Progress | None = None,
) -> TileScores:
    """Run stage 1 on every tile of a dataset, in memory bounded by one image.

    Raises ``BadData`` where the dataset's channels are not the bundle's.
    """
    manifest = bundle.manifest
    require_channels(manifest, dataset)
    scores, counts = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    parts: list[str] = []
    images: list[str] = []
    slot = backend.make_slot(_BATCH)
    total = len(dataset.entries)
    for number, entry in enumerate(dataset.entries):
        sample = dataset.read(number)
        height, width = sample.mask.shape
        plan = plan_tiles(height, width, framing or framing_for(height, width, manifest.tile_px))
        for first in range(0, len(plan), _BATCH):
            count = min(_BATCH, len(plan) - first)
            write_tiles(sample.image, plan, slot.pixels, first, count)
            backend.submit(slot, count)
            backend.collect(slot)
            scores.append(slot.score[:count].copy())
        counts.append(count_defect_px(sample.mask, plan))
        parts += [entry.part] * len(plan)
        images += [entry.name] * len(plan)
        if progress is not None:
            progress(number + 1, total)
    return TileScores(np.concatenate(scores), tuple(parts), tuple(images), np.concatenate(counts))


def seen_in_training(bundle: Bundle, dataset: Dataset) -> str:
    """A sentence where the weights' card names images of ``dataset`` among those that they were trained on; else "".

    Stage 1 scores the defects that it was trained on higher than new ones, so that a threshold found on them promises
    nothing about new parts.
    """
    which = trained_among(dataset, trained_on(bundle.manifest))
    return which and (
        f"the weights' card says that they were trained on {which}; scores are better there than on new parts, for "
        "which nothing is promised then"
    )


def write_with_gate(
    bundle: Bundle, out: Path, found: GateCalibration, *, data: dict[str, object], sign_with: Path | None = None
) -> Bundle:
    """Write the bundle anew with a calibrated gate: a changed gate is a new bundle with a new id.

    ``data`` says what it was calibrated on; it goes into the provenance. Raises ``UsageError`` where ``out`` is the
    bundle itself, and what :meth:`~lpcnet_edge.bundle.Bundle.read` raises where it changed since it was opened.
    """
    if out.exists() and out.samefile(bundle.path):
        raise UsageError(f"{out} is the bundle itself, which is never changed", mend="give another folder as --out")
    gate = GateSpec("threshold", found.threshold, found.alpha, found.parts, found.confidence)
    about = {name: value for name, value in to_mapping(found).items() if name not in to_mapping(gate)}
    if not np.isfinite(found.cleared):
        about["cleared"] = None  # no free tiles
    provenance = {**bundle.manifest.provenance, "gate": {**about, **printable(data), "from_bundle": bundle.id}}
    files: dict[str, bytes | Path] = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest = replace(bundle.manifest, gate=gate, provenance=provenance)
    return write_bundle(out, manifest, files, sign_with=sign_with)


def calibrate_bundle(
    bundle: Bundle,
    backend: Backend,
    dataset: Dataset,
    alpha: float | Literal["auto"] = "auto",
    *,
    view: Literal["part", "image"] = "part",
    min_defect_px: int = MIN_DEFECT_PX,
    confidence: float | None = None,
    framing: Framing | None = None,
    progress: Progress | None = None,
) -> GateCalibration:
    """The gate's threshold for a bundle from a dataset, by physical part.

    Raises what :func:`score_tiles` and :func:`~lpcnet_edge.metrics.gate_threshold.calibrate_gate` raise.
    """
    tiles = score_tiles(bundle, backend, dataset, framing=framing, progress=progress)
    return calibrate_gate(
        tiles.score,
        tiles.parts,
        tiles.defect_px >= min_defect_px,
        alpha,
        images=tiles.images,
        view=view,
        min_defect_px=min_defect_px,
        confidence=confidence,
    )
