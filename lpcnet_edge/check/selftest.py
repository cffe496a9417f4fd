"""``lpcnet-edge selftest``: does this machine compute what was recorded when the bundle was built?

The bundle's golden tiles go through a backend, and its outputs are compared with those that the canonical files gave in
ONNX Runtime with optimisations off. It says nothing of accuracy, only of drift: a library, a driver, a processor or a
memory chip that computes something else than it did.
"""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import AUTO
from lpcnet_edge.backends.engine import EngineSegmenter, open_engine
from lpcnet_edge.build.golden import GOLDEN_FILE
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.check.opening import CANONICAL, BackendSegmenter, check_backend
from lpcnet_edge.errors import BadBundle, CheckFailed
from lpcnet_edge.types import Prediction, Segmenter

_NAMES = ("tiles", "heatmap", "score", "classes", "confidence")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a tile's outputs may lie from the recorded ones.

    Attributes
    ----------
    score
        Of stage 1's score, 0..1.
    classes
        Share 0..1 of the tile's pixels that may have another class.
    confidence
        Share 0..1 of the tile's pixels whose confidence may differ by more than 16 of 255.
    """

    score: float
    classes: float
    confidence: float


TOLERANCES = {
    "fp32": Tolerance(score=0.005, classes=0.0005, confidence=0.002),
    "fp16": Tolerance(score=0.03, classes=0.001, confidence=0.005),
    "int8": Tolerance(score=0.03, classes=0.002, confidence=0.01),
}
"""By the bundle's precision. Where INT8 rounds the other way, a level is lost or won, and later layers see it. FP16 may
be bfloat16, of 8 bits instead of 11."""

CONFIDENCE_STEP = 16


@dataclass(frozen=True, slots=True)
class Drift:
    """One output of one golden tile that is outside its tolerance, and the sentence that says so."""

    tile: int
    output: str
    value: float
    tolerance: float
    message: str


@dataclass(frozen=True)
class SelfTest:
    """A finished self-test: the largest deviations over all tiles, and what drifted."""

    bundle: str
    backend: str
    tiles: int
    seconds: float
    tolerance: Tolerance
    score: float
    classes: float
    confidence: float
    drifts: Sequence[Drift]

    def to_json(self) -> dict[str, Any]:
        """Plain data as docs/json.md describes."""
        return {
            "bundle": self.bundle,
            "backend": self.backend,
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "tolerance": asdict(self.tolerance),
            "largest": {"score": self.score, "classes": self.classes, "confidence": self.confidence},
            "drifts": [asdict(drift) for drift in self.drifts],
            "passed": not self.drifts,
        }

    def error(self) -> CheckFailed | None:
        """The failure as an error, None where it passed."""
        if not self.drifts:
            return None
        tiles = sorted({drift.tile for drift in self.drifts})
        return CheckFailed(
            f"{self.bundle} has drifted on {self.backend}: {self.drifts[0].message} "
            f"({len(tiles)} of {self.tiles} golden tiles)",
            mend="do not inspect with it; try `--backend canonical`: if that passes, what changed is this machine's "
            "runtime or driver, else the bundle itself: build or copy it again",
        )


def run_selftest(bundle: Bundle, backend: str = "auto") -> SelfTest:
    """Open a bundle on a backend and run its golden tiles.

    A processor's engines are compiled for single tiles, which takes the least time; a GPU's, which are there for every
    size of batch, get the tiles one by one and then all at once. A station that has its own open passes its segmenter
    to :func:`compare_golden`.

    Raises
    ------
    BadBundle
        The bundle has no golden tiles, or the file is damaged.
    And whatever opening the backend raises.
    """
    start = time.perf_counter()
    golden = read_golden(bundle)
    if backend == CANONICAL:
        models = (bundle.read(spec.file) for spec in bundle.manifest.stages.values())
        engines = EngineSegmenter(
            *(open_engine("onnxruntime", model, optimise=False) for model in models),
            classes=bundle.manifest.classes,
            channels=int(bundle.manifest.channels),
            tile_px=bundle.manifest.tile_px,
            batch=len(golden["tiles"]),
        )
        return compare_golden(bundle, engines, CANONICAL, golden, start)
    opened = check_backend(bundle, backend, batch=1)
    # A processor's engines are compiled for one size of batch; a GPU's plans hold kernels for every size.
    sizes = (1,) if opened.name in AUTO else (1, len(golden["tiles"]))
    try:
        for tiles in sizes:
            segmenter = BackendSegmenter(opened, bundle.manifest, tiles=tiles)
            found = compare_golden(bundle, segmenter, _about(opened, tiles), golden, start)
            if found.drifts:
                break
        return found
    finally:
        opened.close()


def _about(backend: Backend, tiles: int) -> str:
    return backend.about if tiles == 1 else f"{backend.about}, {tiles} tiles at once"


def read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The golden file's arrays; raises ``BadBundle`` where there is none or it does not fit the bundle."""
    if GOLDEN_FILE not in bundle.manifest.files:
        raise BadBundle(f"{bundle.path} has no golden tiles ({GOLDEN_FILE})", mend="build the bundle again")
    try:
        with np.load(io.BytesIO(bundle.read(GOLDEN_FILE)), allow_pickle=False) as content:
            golden = {name: content[name] for name in _NAMES}
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as exc:
        raise BadBundle(f"{bundle.path}: {GOLDEN_FILE} cannot be used: {exc}", mend="build the bundle again") from exc
    side, count = bundle.manifest.tile_px, len(golden["tiles"])
    planes = (count, side, side)
    wanted = {
        "tiles": planes if bundle.manifest.channels == 1 else (*planes, 3),
        "score": (count,),
        "classes": planes,
        "confidence": planes,
    }
    for name, shape in wanted.items():
        if golden[name].shape != shape or not count:
            raise BadBundle(
                f"{bundle.path}: '{name}' in {GOLDEN_FILE} has the shape {golden[name].shape}, {shape} was expected",
                mend="build the bundle again",
            )
        if golden[name].dtype != (np.float32 if name == "score" else np.uint8):
            raise BadBundle(
                f"{bundle.path}: '{name}' in {GOLDEN_FILE} is of {golden[name].dtype}", mend="build the bundle again"
            )
    return golden


def compare_golden(
    bundle: Bundle, segmenter: Segmenter, about: str, golden: dict[str, NDArray[Any]], start: float
) -> SelfTest:
    """Run the golden tiles through an open segmenter without a gate; ``start`` is where the time counts from."""
    found = segmenter.predict(golden["tiles"])
    tolerance = TOLERANCES[bundle.manifest.precision]
    score = np.abs(found.score.astype(np.float64) - golden["score"])
    score[~np.isfinite(score)] = np.inf
    unequal = found.classes != golden["classes"]
    far = np.abs(found.confidence.astype(np.int16) - golden["confidence"]) > CONFIDENCE_STEP
    classes, confidence = unequal.mean(axis=(1, 2)), far.mean(axis=(1, 2))
    drifts = []
    for tile in range(len(score)):
        if not score[tile] <= tolerance.score:
            was, now = float(golden["score"][tile]), float(found.score[tile])
            message = f"golden tile {tile} scores {now:.4f}, recorded was {was:.4f} (tolerance {tolerance.score:g})"
            drifts.append(Drift(tile, "score", float(score[tile]), tolerance.score, message))
        for output, share, where, allowed in (
            ("classes", classes, unequal, tolerance.classes),
            ("confidence", confidence, far, tolerance.confidence),
        ):
            if share[tile] > allowed:
                message = _sentence(bundle, output, tile, found, golden, where[tile], allowed)
                drifts.append(Drift(tile, output, float(share[tile]), allowed, message))
    return SelfTest(
        bundle=bundle.id,
        backend=about,
        tiles=len(score),
        seconds=time.perf_counter() - start,
        tolerance=tolerance,
        score=float(score.max()),
        classes=float(classes.max()),
        confidence=float(confidence.max()),
        drifts=drifts,
    )


def _sentence(
    bundle: Bundle,
    output: str,
    tile: int,
    found: Prediction,
    golden: dict[str, NDArray[Any]],
    where: NDArray[np.bool_],
    allowed: float,
) -> str:
    """How much of a tile deviates, and an example: the pixel in the middle of those that do."""
    rows, columns = np.nonzero(where)
    y, x = int(rows[len(rows) // 2]), int(columns[len(rows) // 2])
    now, was = int(getattr(found, output)[tile, y, x]), int(golden[output][tile, y, x])
    if output == "classes":
        names = bundle.manifest.classes
        example = f"{names[now] if now < len(names) else now} for {names[was] if was < len(names) else was}"
        what = "have another class"
    else:
        example, what = f"{now} for {was}", f"differ in confidence by more than {CONFIDENCE_STEP} of 255"
    return (
        f"{100 * where.mean():.2f} % of the pixels of golden tile {tile} {what}, such as {example} at x {x}, y {y} "
        f"(tolerance {100 * allowed:g} %)"
    )
