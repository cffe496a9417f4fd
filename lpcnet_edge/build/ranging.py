"""Ranges for a network: from the cache if everything they depend on is the same, else measured and compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.build.calibration_file import (
    Calibration,
    CalibrationKey,
    calibration_json,
    calibration_of,
    load_calibration,
    save_calibration,
)
from lpcnet_edge.build.calibration_set import CalibrationSet
from lpcnet_edge.build.engines import Engines
from lpcnet_edge.build.observe import observe
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.build.quantise import LEVELS
from lpcnet_edge.build.ranges import METHODS, Method
from lpcnet_edge.build.settings import Progress
from lpcnet_edge.files import write_atomically

PREPROCESSING = (
    "uint8 grey or BGR, whole image resized to the tile, an axis that shrinks by INTER_AREA and one that grows by "
    "INTER_LINEAR, (p - 128) / 127"
)


@dataclass(frozen=True)
class Ranging:
    """The calibration chosen, the agreement that each method reached, and whether it came from the cache."""

    calibration: Calibration
    methods: dict[str, dict[str, float]]
    reused: bool
    note: str

    @property
    def ranges(self) -> dict[str, float]:
        """Range by tensor."""
        return {name: scale * LEVELS for name, scale in self.calibration.scales().items()}


def find_ranges(
    engines: Engines,
    weights_sha256: str,
    chosen: CalibrationSet,
    tiles: NDArray[np.uint8],
    method: str,
    cache: Path,
    progress: Progress,
) -> Ranging:
    """Ranges by ``method``, or by the method that wins on the calibration set where it is ``auto``.

    The winner is the one whose engines' defect masks overlap most with those of float over the set; agreement of all
    pixels decides between equals. ``tiles`` (N, S, S[, 3]) uint8 are those of ``chosen``, read once for all of a build.
    """
    key = CalibrationKey(
        weights=weights_sha256,
        preprocessing=PREPROCESSING,
        calibration_set=chosen.digest,
        method=method,
        tile_px=chosen.tile_px,
        backend=engines.backend if method == "auto" else "",
        network=_network_digest(engines.pair),
    )
    path = cache / f"{key.digest}.json"
    calibration, why = load_calibration(path, key)
    if calibration is not None and set(calibration.tensors) != engines.quantised_tensors():
        calibration, why = None, f"{path} is of other tensors"
    note = "calibration reused" if calibration is not None else f"calibrated, since {why}"
    reused = calibration is not None
    if calibration is None:
        histograms = observe(engines.pair, tiles, len(tiles), lambda d, t: progress("observing activations", d, t))
        calibration = calibration_of(key, histograms, "minmax" if method == "auto" else _method(method))
    methods = _read_table(path, calibration) if reused else {}
    if method == "auto" and not methods:
        methods = _compare(engines, calibration, tiles, progress)
        best = max(methods, key=lambda name: (methods[name]["mask_iou"], methods[name]["pixels"]))
        calibration = calibration.with_method(_method(best))
    if not reused or methods != _read_table(path, calibration):
        save_calibration(path, calibration)
        write_atomically(_table(path), json.dumps({"calibration": _digest(calibration), "methods": methods}))
    return Ranging(calibration, methods, reused, note)


def _network_digest(pair: OnnxPair) -> str:
    """SHA-256 (hex) over the two float files."""
    digest = hashlib.sha256()
    for model in (pair.localization, pair.confidence):
        digest.update(hashlib.sha256(model.SerializeToString()).digest())
    return digest.hexdigest()


def _table(path: Path) -> Path:
    """Where the comparison of methods that chose the calibration in ``path`` is kept."""
    return path.with_suffix(".methods.json")


def _read_table(path: Path, calibration: Calibration) -> dict[str, dict[str, float]]:
    """The comparison that chose this very calibration; empty where it is absent or of another."""
    try:
        content = json.loads(_table(path).read_text(encoding="utf-8"))
        methods: dict[str, dict[str, float]] = content["methods"]
        return methods if content["calibration"] == _digest(calibration) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _digest(calibration: Calibration) -> str:
    return hashlib.sha256(calibration_json(calibration).encode()).hexdigest()


def _compare(
    engines: Engines, calibration: Calibration, tiles: NDArray[np.uint8], progress: Progress
) -> dict[str, dict[str, float]]:
    """Agreement with float over the calibration set, by method."""
    wanted = engines.reference().predict(tiles).classes
    rows: dict[str, dict[str, float]] = {}
    for done, method in enumerate(METHODS):
        progress("comparing methods", done, len(METHODS))
        scales = calibration.with_method(method).scales()
        candidate = engines.quantised({name: scale * LEVELS for name, scale in scales.items()})
        found = candidate.predict(tiles).classes
        candidate.close()
        either = int(((found > 0) | (wanted > 0)).sum())
        rows[method] = {
            "mask_iou": 100 * float(((found > 0) & (wanted > 0)).sum() / either) if either else 100.0,
            "pixels": 100 * float((found == wanted).mean()),
        }
    progress("comparing methods", len(METHODS), len(METHODS))
    return rows


def _method(name: str) -> Method:
    for method in METHODS:
        if method == name:
            return method
    raise AssertionError(name)


def methods_report(ranging: Ranging) -> dict[str, Any]:
    """For ``accuracy.json``: the method chosen, and the table of all of them where they were compared."""
    used = {tensor.method for tensor in ranging.calibration.tensors.values()}
    return {
        "method": used.pop() if len(used) == 1 else "mixed",
        "methods": ranging.methods,
    }
