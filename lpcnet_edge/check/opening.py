"""A bundle, or the float network it was built from, as a :class:`~lpcnet_edge.types.Segmenter`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import AUTO, BACKENDS, first_choice, open_backend
from lpcnet_edge.backends.engine import EngineSegmenter, open_engine
from lpcnet_edge.backends.tuning import default_tuning
from lpcnet_edge.bundle.manifest import GateSpec, Manifest
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import BadInput, MissingLibrary, UsageError
from lpcnet_edge.types import Prediction, Segmenter

CANONICAL = "canonical"
"""The bundle's own files in ONNX Runtime with optimisations off: what other backends are compared with."""

_STAGES = ("localization", "confidence")
REFERENCE_FILES = tuple(f"reference/{stage}.onnx" for stage in _STAGES)


@dataclass(frozen=True)
class Opened:
    """A segmenter, and in words what it is."""

    segmenter: Segmenter
    about: str


class BackendSegmenter:
    """A bundle on a station's backend: an image a tile, stage 2 on every one, no gate.

    A backend gives no heatmap, so that of a prediction is empty, (N, 0, 0).
    """

    def __init__(self, backend: Backend, manifest: Manifest, *, tiles: int = 8) -> None:
        self._backend, self._slot, self._tiles = backend, backend.make_slot(tiles), tiles  # a slot may hold more
        self.classes, self.channels, self.tile_px = manifest.classes, int(manifest.channels), manifest.tile_px

    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        """Predict tiles (N, S, S) or (N, S, S, 3) uint8; raises ``BadInput`` on other shapes."""
        shape = self._slot.pixels.shape[1:]
        if tiles.dtype != np.uint8 or tiles.shape[1:] != shape:
            raise BadInput(
                f"tiles are {tiles.dtype} of shape {tiles.shape}, this bundle takes uint8 of (N, {str(shape)[1:]}",
                mend="resize them, and convert grey to colour or back",
            )
        size = self._tiles
        parts = [self._predict(tiles[start : start + size]) for start in range(0, len(tiles), size)]
        classes, confidence, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Prediction(classes, confidence, np.zeros((len(tiles), 0, 0), np.float32), score)

    def _predict(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        slot, count = self._slot, len(tiles)
        slot.pixels[:count] = tiles
        self._backend.submit(slot, count)
        self._backend.collect(slot)
        self._backend.submit_picked(slot, np.arange(count, dtype=np.int32))
        self._backend.collect_picked(slot)
        return slot.classes[:count].copy(), slot.confidence[:count].copy(), slot.score[:count].copy()


class GatedSegmenter:
    """A segmenter behind a bundle's gate: what the gate clears is background, with a confidence of ``1 - score``."""

    def __init__(self, inner: Segmenter, gate: GateSpec) -> None:
        self._inner, self._threshold = inner, gate.threshold
        self.classes, self.channels, self.tile_px = inner.classes, inner.channels, inner.tile_px

    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        """As the inner segmenter does, then the gate."""
        found = self._inner.predict(tiles)
        if self._threshold is None:
            return found
        cleared = found.score < self._threshold
        classes, confidence = found.classes.copy(), found.confidence.copy()
        classes[cleared] = 0
        confidence[cleared] = np.rint(255 * (1 - found.score[cleared])).astype(np.uint8)[:, None, None]
        return Prediction(classes, confidence, found.heatmap, found.score)


@contextmanager
def open_candidate(bundle: Bundle, backend: str = "auto") -> Iterator[Opened]:
    """A bundle as it decides on a backend of this machine, its gate included.

    ``backend`` is ``auto``, ``canonical`` or one that a station could take. Raises ``UsageError`` for others,
    ``MissingLibrary`` where it is not installed, and whatever opening it raises.
    """
    if backend == CANONICAL:
        engines = EngineSegmenter(
            *(
                open_engine("onnxruntime", bundle.read(spec.file), optimise=False)
                for spec in bundle.manifest.stages.values()
            ),
            **_about(bundle.manifest),
        )
        try:
            about = f"{bundle.id}: its own files, unoptimised, in ONNX Runtime"
            yield Opened(GatedSegmenter(engines, bundle.manifest.gate), about)
        finally:
            engines.close()
        return
    opened = check_backend(bundle, backend)
    try:
        yield Opened(
            GatedSegmenter(BackendSegmenter(opened, bundle.manifest), bundle.manifest.gate),
            f"{bundle.id} on {opened.about}",
        )
    finally:
        opened.close()


def check_backend(bundle: Bundle, name: str, *, batch: int | None = None) -> Backend:
    """A station's backend with a bundle, for engines whose outputs mean something: ``UsageError`` for ``null``.

    ``batch`` bounds the batch sizes that are compiled for a processor; by default they are a station's. On a GPU, whose
    plans hold kernels for every size, they always are.
    """
    real = sorted(set(BACKENDS) - {"null"})
    if name not in ("auto", *real):
        known = ["auto", *real, CANONICAL]
        raise UsageError(f"no backend that can be checked is called '{name}'", mend=suggest(name, known))
    name = first_choice(bundle) if name == "auto" else name
    bounded = replace(default_tuning(), batch=batch) if batch is not None and name in AUTO else None
    return open_backend(bundle, name, tuning=bounded)


@contextmanager
def open_reference(bundle: Bundle) -> Iterator[Opened]:
    """The float network that a bundle was built from.

    In torch, where torch is installed and shipped weights have the SHA-256 in the bundle's provenance; else the float
    ONNX pair in the bundle. Raises ``UsageError`` where there is neither, ``MissingLibrary`` without a CPU runtime.
    """
    shipped = _in_torch(bundle)
    if shipped is not None:
        yield shipped
        return
    if not has_reference(bundle):
        raise UsageError(
            f"there is nothing to compare {bundle.path} with: it has no reference/ pair, and the weights it was built "
            "from are not among those shipped here, or torch is not installed",
            mend="build the bundle again: `lpcnet-edge build` keeps the float pair in it",
        )
    runtime = next((name for name in ("openvino", "onnxruntime") if find_spec(name)), None)
    if runtime is None:
        raise MissingLibrary("neither OpenVINO nor ONNX Runtime is installed", mend="pip install openvino")
    engines = EngineSegmenter(
        *(open_engine(runtime, bundle.read(name)) for name in REFERENCE_FILES), **_about(bundle.manifest)
    )
    try:
        yield Opened(engines, f"the bundle's float ONNX pair in {runtime}")
    finally:
        engines.close()


def has_reference(bundle: Bundle) -> bool:
    """Whether the float ONNX pair is in the bundle."""
    return all(name in bundle.manifest.files for name in REFERENCE_FILES)


def _in_torch(bundle: Bundle) -> Opened | None:
    weights = bundle.manifest.provenance.get("weights")
    if not isinstance(weights, dict) or find_spec("torch") is None:
        return None
    name = str(weights.get("name", ""))
    folder = files("lpcnet_edge").joinpath("weights")  # looked at before torch is loaded, which takes seconds
    shipped = {entry.name: entry for entry in folder.iterdir()} if folder.is_dir() else {}
    file = shipped.get(f"{name}.safetensors")
    if file is None or hashlib.sha256(file.read_bytes()).hexdigest() != weights.get("sha256"):
        return None
    from lpcnet_edge.network.weights import load_network

    return Opened(load_network(name), f"the float weights {name} in torch")


def _about(manifest: Manifest) -> dict[str, Any]:
    return {"classes": manifest.classes, "channels": int(manifest.channels), "tile_px": manifest.tile_px}
