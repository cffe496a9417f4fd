"""``bundle.yaml`` as frozen dataclasses: what a bundle is, and the size and digest of every file in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lpcnet_edge.bundle.names import MANIFEST, SIGNATURE, check_name, check_names, is_printable, shown
from lpcnet_edge.config import suggest
from lpcnet_edge.decision import Rules
from lpcnet_edge.errors import BadConfig

SCHEMA_VERSION = 1
DTYPES = ("uint8", "int8", "int32", "int64", "float16", "float32", "bool")
MAX_FILES = 2048
MAX_FILE_BYTES = 1 << 31
TILE_MULTIPLE_PX = 16
LARGEST_TILE_PX = 8192


def is_tile_side(px: int, multiple_px: int = TILE_MULTIPLE_PX) -> bool:
    """Whether tiles may have this side."""
    return multiple_px <= px <= LARGEST_TILE_PX and px % multiple_px == 0


Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
"""A property of an ONNX file: the narrowest type that its convolutions compute in."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a stage: its dtype, and its shape, in which text such as ``N`` is a dynamic size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _check_text("the tensor name", self.name)
        if self.dtype not in DTYPES:
            raise BadConfig(f"'{shown(self.dtype)}' is no dtype of a tensor", mend=suggest(self.dtype, DTYPES))
        for size in self.shape:
            if isinstance(size, str) and not _SYMBOL.fullmatch(size):
                raise ValueError(f"'{shown(size)}' in the shape of '{self.name}' is no name of a size, such as N")
            if isinstance(size, int) and size < 1:
                raise ValueError(f"the shape of '{self.name}' has the size {size}; the smallest is 1")

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage: its ONNX file in the bundle, what goes in and out, and the layers that stay in float."""

    file: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    float_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.file.endswith(".onnx"):
            raise ValueError(f"the file '{self.file}' of a stage is no .onnx file")
        if not self.inputs or not self.outputs:
            raise ValueError(f"'{self.file}' has no {'inputs' if not self.inputs else 'outputs'}")
        _check_unique("tensor", [tensor.name for tensor in (*self.inputs, *self.outputs)])
        for layer in self.float_layers:
            _check_text("the layer name", layer)
        _check_unique("float layer", self.float_layers)


@dataclass(frozen=True, slots=True)
class GateSpec:
    """Which tiles the second stage sees: all (``off``), or those whose score is not below ``threshold``.

    ``parts`` independent defective parts bound the share of them that the gate lets escape by ``alpha``: on average
    over calibrations, and then alpha is no less than 1 / (parts + 1), or with a ``confidence``, and then it is no less
    than 1 - (1 - confidence)^(1 / parts).
    """

    mode: Literal["off", "threshold"] = "off"
    threshold: float | None = None
    alpha: float | None = None
    parts: int | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        values = {"threshold": self.threshold, "alpha": self.alpha, "parts": self.parts}
        if self.mode == "off":
            given = [name for name, value in {**values, "confidence": self.confidence}.items() if value is not None]
            if given:
                raise ValueError(f"the gate is off, and yet has a value for {', '.join(given)}")
            return
        if self.threshold is None or self.alpha is None or self.parts is None:
            missing = [name for name, value in values.items() if value is None]
            raise ValueError(f"the gate has a threshold, and no value for {', '.join(missing)}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the gate's threshold is {self.threshold}; it lies between 0 and 1")
        if self.parts < 1:
            raise ValueError(f"the gate was calibrated on {self.parts} parts; the fewest is 1")
        least = 1 / (self.parts + 1)
        if self.confidence is not None:
            if not 0 < self.confidence < 1:
                raise ValueError(f"the gate's confidence is {self.confidence}; it lies between 0 and 1")
            least = -math.expm1(math.log1p(-self.confidence) * (1 / self.parts))
        if not least * (1 - 1e-9) <= self.alpha < 1:
            raise ValueError(f"the gate's alpha is {self.alpha}; with {self.parts} parts it is {least:.4g} to 1")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 (hex) of one file."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"'{shown(self.sha256)}' is no SHA-256 in hex")
        if not 0 <= self.size_bytes <= MAX_FILE_BYTES:
            raise ValueError(f"size_bytes is {self.size_bytes}; it lies between 0 and {MAX_FILE_BYTES}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``bundle.yaml`` says.

    Attributes
    ----------
    name
        Letters, digits and ``_ . -``; the bundle's id begins with it.
    classes
        Class names by index; index 0 is the background.
    channels
        1 for grey tiles, 3 for BGR.
    tile_px
        Side of a tile.
    precision
        What was asked for; at least one stage has it.
    localization, confidence
        The two stages.
    gate, rules
        Which tiles stage 2 sees, and what rejects a part.
    provenance, accuracy
        Plain data for the reader: weights, calibration set, versions; what was measured when it was built.
    files
        Every file of the bundle but ``bundle.yaml`` and ``signature``, by its path in POSIX form.
    """

    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
    name: str
    classes: tuple[str, ...]
    channels: Literal[1, 3]
    tile_px: int
    precision: Precision
    localization: StageSpec
    confidence: StageSpec
    gate: GateSpec = GateSpec()
    rules: Rules = field(default_factory=Rules)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {self.schema_version}; this toolkit writes {SCHEMA_VERSION}")
        check_bundle_name(self.name)
        check_classes(self.classes)
        if not is_tile_side(self.tile_px):
            raise ValueError(
                f"tile_px is {self.tile_px}; it is a multiple of {TILE_MULTIPLE_PX} up to {LARGEST_TILE_PX}"
            )
        if self.localization.file == self.confidence.file:
            raise ValueError(f"both stages name the file '{self.confidence.file}'")
        if self.precision not in (self.localization.precision, self.confidence.precision):
            raise ValueError(f"precision is {self.precision}, which neither stage has")
        self.rules.check_classes(self.classes)
        check_plain(self.provenance, "provenance")
        check_plain(self.accuracy, "accuracy")
        if len(self.files) > MAX_FILES:
            raise ValueError(f"{len(self.files)} files; a bundle has at most {MAX_FILES}")
        for name in self.files:
            if name.lower() in (MANIFEST, SIGNATURE):
                raise ValueError(f"'{name}' is listed among the files, and cannot list itself")

    @property
    def stages(self) -> dict[str, StageSpec]:
        """The two stages by name, in the order in which they run."""
        return {"localization": self.localization, "confidence": self.confidence}

    def check_files(self) -> None:
        """Raise ``ValueError`` for an unsafe or ambiguous file name, ``BadConfig`` for a stage without its file."""
        check_names(self.files)
        for stage, spec in self.stages.items():
            check_name(spec.file)
            if spec.file not in self.files:
                mend = suggest(spec.file, [name for name in self.files if name.endswith(".onnx")] or ["no .onnx file"])
                raise BadConfig(f"the stage '{stage}' names '{spec.file}', which is not among the files", mend=mend)


def trained_on(manifest: Manifest) -> object:
    """What the weights' card, as the bundle's provenance has it, says of the images trained on; None without one."""
    weights = manifest.provenance.get("weights")
    return weights.get("trained_on") if isinstance(weights, dict) else None


def check_bundle_name(name: str) -> None:
    """Raise ``ValueError`` unless a bundle may be called so."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{shown(name)}' is no name of a bundle (up to 64 letters, digits, '_', '.', '-', the first a letter or "
            "digit)"
        )


def check_classes(classes: Sequence[str]) -> None:
    """Raise ``ValueError`` unless a bundle may have these classes."""
    if not 2 <= len(classes) <= 255:
        raise ValueError(f"{len(classes)} classes; there are 2 (background and a defect) to 255")
    for name in classes:
        _check_text("the class name", name)
    _check_unique("class", classes)


def check_plain(value: object, where: str) -> None:
    """Raise ``ValueError`` unless the value is what YAML and JSON both hold, finite, and safe to print."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}; keys are text")
            check_plain(key, where)
            check_plain(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif isinstance(value, str):
        if not all(is_printable(c) or c in "\n\t" for c in value):
            raise ValueError(f"{where} has control characters: '{shown(value)}'")
    elif type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; only finite numbers are kept")
    elif value is not None and type(value) not in (bool, int):
        raise ValueError(f"{where} is a {type(value).__name__}; only plain data is kept")


def _check_text(what: str, text: str) -> None:
    if not text.strip() or not is_printable(text) or len(text) > 256:
        raise ValueError(f"{what} '{shown(text)}' is empty, over 256 characters or has control characters")


def _check_unique(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} '{name}' is there twice")
        seen.add(name)
