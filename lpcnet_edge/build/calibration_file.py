"""``calibration.json``: the ranges of every quantised tensor, addressed by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from lpcnet_edge.build.histogram import OBSERVER_VERSION, Histogram
from lpcnet_edge.build.ranges import LEVELS, METHODS, PERCENTILE, Method, all_ranges
from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.errors import BadArtifact, LpcnetError
from lpcnet_edge.files import write_atomically

FORMAT = "lpcnet-edge calibration 1"
_MEND = "remove it: the next build calibrates again"


@dataclass(frozen=True)
class CalibrationKey:
    """Everything that ranges depend on. Two keys are equal if and only if the ranges may be shared.

    Attributes
    ----------
    weights
        SHA-256 of the weights file.
    preprocessing
        What happens to a camera's bytes before the first layer, in words that change when it does.
    calibration_set
        Digest of the calibration set.
    method
        The method asked for: one of ``METHODS``, or ``auto``.
    percentile, levels
        Parameters of the methods.
    tile_px
        Side of the tiles.
    observer
        ``OBSERVER_VERSION`` of the histograms.
    backend
        On which ``auto`` compared the methods; empty where the method was named.
    network
        SHA-256 over both float ONNX files: with the same weights another source of the network, or another export,
        computes other activations. Empty in files of versions that did not ask for it.
    """

    weights: str
    preprocessing: str
    calibration_set: str
    method: str
    tile_px: int
    percentile: float = PERCENTILE
    levels: int = LEVELS
    observer: int = OBSERVER_VERSION
    backend: str = ""
    network: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all of it: the address of a calibration."""
        return _digest(to_mapping(self))


@dataclass(frozen=True)
class TensorRange:
    """One quantised tensor: what was seen of it, its range by every method, and the method that was chosen for it.

    ``count`` and ``zeros`` are numbers of values, ``minimum`` and ``maximum`` exact. ``learned`` is the range that a
    quantisation-aware fine-tune ended with, where there was one.
    """

    count: int
    zeros: int
    minimum: float
    maximum: float
    ranges: Mapping[str, float]
    method: str
    learned: float | None = None

    def __post_init__(self) -> None:
        if set(self.ranges) != set(METHODS) or self.method not in METHODS or self.range <= 0:
            raise ValueError(f"ranges of {', '.join(METHODS)} above 0 and one of them as method are needed")

    @property
    def range(self) -> float:
        """The largest ``|x|`` that is kept, by the method chosen, or as it was learned."""
        return self.ranges[self.method] if self.learned is None else self.learned


@dataclass(frozen=True)
class Calibration:
    """The ranges of all quantised tensors by name, and the key they were measured under."""

    key: CalibrationKey
    tensors: Mapping[str, TensorRange]

    def scales(self) -> dict[str, float]:
        """The scale of each tensor: range / levels, always above 0."""
        return {name: tensor.range / self.key.levels for name, tensor in self.tensors.items()}

    def with_method(self, method: Method) -> Calibration:
        """The same measurements with another method chosen for every tensor."""
        return replace(self, tensors={name: replace(t, method=method) for name, t in self.tensors.items()})

    def with_learned(self, scales: Mapping[str, float]) -> Calibration:
        """The same measurements with the scales that a fine-tune ended with."""
        tensors = {name: replace(t, learned=scales[name] * self.key.levels) for name, t in self.tensors.items()}
        return replace(self, tensors=tensors)


def calibration_of(key: CalibrationKey, histograms: Mapping[str, Histogram], method: Method) -> Calibration:
    """The calibration that histograms amount to, by the key's parameters, with ``method`` chosen for every tensor.

    Raises ``BadArtifact`` for a tensor that was never seen: its range would be a guess.
    """
    unseen = [name for name, histogram in histograms.items() if not histogram.count]
    if unseen:
        raise BadArtifact(
            f"{len(unseen)} tensors were never observed, such as {unseen[0]}",
            mend="run the calibration tiles through the graph that has these tensors",
        )
    tensors = {
        name: TensorRange(
            h.count,
            h.zeros,
            h.minimum,
            h.maximum,
            {str(m): r for m, r in all_ranges(h, levels=key.levels, percentile=key.percentile).items()},
            method,
        )
        for name, h in histograms.items()
    }
    return Calibration(key, tensors)


def calibration_json(calibration: Calibration) -> str:
    """The content of ``calibration.json`` (docs/calibration.md); floats are written so that they read back exactly."""
    body = _body(calibration)
    content = {"format": FORMAT, "digest": _digest(body), "address": calibration.key.digest, **body}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write ``calibration.json`` atomically."""
    write_atomically(path, calibration_json(calibration))


def read_calibration(path: Path) -> Calibration:
    """Read ``calibration.json`` whatever its key; raises ``BadArtifact`` where it is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as exc:
        raise BadArtifact(f"{path} cannot be read as JSON: {exc}", mend=_MEND) from exc
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise BadArtifact(f"{path}: its format is {found!r}, this version reads {FORMAT!r}", mend=_MEND)
    body = {name: value for name, value in content.items() if name not in ("format", "digest", "address")}
    if _digest(body) != content.get("digest"):
        raise BadArtifact(f"{path} is damaged or was edited: its digest does not fit its content", mend=_MEND)
    try:
        key = from_mapping(CalibrationKey, content["key"], f"{path}: key")
        tensors = {n: from_mapping(TensorRange, t, f"{path}: {n}") for n, t in content["tensors"].items()}
    except (AttributeError, KeyError, TypeError, LpcnetError) as exc:
        raise BadArtifact(f"{path}: it has no proper content: {exc}", mend=_MEND) from exc
    return Calibration(key, tensors)


def load_calibration(path: Path, key: CalibrationKey) -> tuple[Calibration | None, str]:
    """The calibration in ``path`` where its key is ``key``; else None and the reason, to be told to the user.

    The reason names everything that differs: ``weights, tile_px 256 instead of 128``. Raises ``BadArtifact`` for a
    file that is damaged, since whoever damaged it may have to know.
    """
    if not path.exists():
        return None, f"nothing is kept in {path} yet"
    found = read_calibration(path)
    differences = [
        f"{f.name} {_short(getattr(found.key, f.name))} instead of {_short(getattr(key, f.name))}"
        for f in fields(CalibrationKey)
        if getattr(found.key, f.name) != getattr(key, f.name)
    ]
    if differences:
        return None, f"{path} was measured with another {'; another '.join(differences)}"
    return found, ""


def _body(calibration: Calibration) -> dict[str, Any]:
    tensors = {name: to_mapping(tensor) for name, tensor in calibration.tensors.items()}
    return {"key": to_mapping(calibration.key), "tensors": tensors}


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) > 40 and " " not in text else text


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of a calibration")
