"""The words of the domain as types: what a dataset, a frame and a verdict are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""(H, W) grey or (H, W, 3) BGR, uint8."""

ClassMap: TypeAlias = NDArray[np.uint8]
"""(H, W) uint8, the class index of every pixel; 0 is the background."""

ConfidenceMap: TypeAlias = NDArray[np.uint8]
"""(H, W) uint8, 0..255 standing for 0..1."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled image of a dataset, without its pixels.

    Attributes
    ----------
    name
        Unique within the dataset; for files, the path below the dataset's root.
    part
        The physical part photographed. Images of one part are not independent samples, so
        splits and confidence intervals go by part.
    label
        Class index of the image as a whole, 0 for an image without defects.
    strata
        What the image can be grouped by, such as ``{"fold": "1", "exposure": "3"}``.
    """

    name: str
    part: str
    label: int
    strata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """An entry with its pixels: ``image`` (H, W) or (H, W, 3) uint8 and ``mask`` (H, W) uint8 class indices."""

    entry: Entry
    image: Image
    mask: ClassMap


class Dataset(Protocol):
    """Labelled images. Reading is lazy and deterministic; ``entries`` costs no decoding."""

    @property
    def name(self) -> str:
        """Short name, as in ``magnetic-tile``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; index 0 is the background."""

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for BGR."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries in a fixed order."""

    def read(self, index: int) -> Sample:
        """Decode one sample; raises :class:`~lpcnet_edge.errors.BadData` (or a subclass) naming the file."""

    def select(self, indices: Sequence[int]) -> Dataset:
        """The same dataset with only these entries, in this order."""

    def digest(self) -> str:
        """SHA-256 (hex) over names, labels and contents, for provenance."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network says of N tiles of S x S pixels.

    Attributes
    ----------
    classes
        (N, S, S) uint8, the refined class of every pixel.
    confidence
        (N, S, S) uint8, 0..255 standing for 0..1: the probability of the chosen class.
    heatmap
        (N, S/16, S/16) float32, stage 1's defect probability.
    score
        (N,) float32, the largest heatmap value of each tile.
    """

    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    heatmap: NDArray[np.float32]
    score: NDArray[np.float32]


class Segmenter(Protocol):
    """Anything that turns tiles into predictions: the float network, or a bundle on a backend."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; index 0 is the background."""

    @property
    def channels(self) -> int:
        """1 for grey tiles (N, S, S), 3 for BGR tiles (N, S, S, 3)."""

    @property
    def tile_px(self) -> int:
        """S, the side of a tile in pixels."""

    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        """Predict tiles (N, S, S) or (N, S, S, 3) uint8."""


Outcome: TypeAlias = Literal["pass", "reject", "review"]
"""What becomes of a part; only ``pass`` lets it go on, ``review`` asks a person."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect found in a class map.

    Attributes
    ----------
    name
        Class name.
    box_px
        (x, y, width, height) in pixels of the class map.
    area_px
        Its pixels, not those of the box.
    area_mm2
        The area in mm2, or None where the scale of the image is not known.
    confidence
        0..1, mean over its pixels.
    zones
        Names of the rules' zones in which it has a pixel.
    contour_px
        Its outer contour as corners (x, y), where the rules ask for it.
    frame_box_px
        The box in pixels of the frame, where the class map is not the frame's pixel by pixel.
    """

    name: str
    box_px: tuple[int, int, int, int]
    area_px: int
    area_mm2: float | None
    confidence: float
    zones: tuple[str, ...] = ()
    contour_px: tuple[tuple[int, int], ...] | None = None
    frame_box_px: tuple[int, int, int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``zones``, ``contour_px`` and ``frame_box_px`` only where there are any."""
        line: dict[str, Any] = {
            "class": self.name,
            "box_px": list(self.box_px),
            "area_px": self.area_px,
            "area_mm2": self.area_mm2,
            "confidence": self.confidence,
        }
        if self.zones:
            line["zones"] = list(self.zones)
        if self.contour_px is not None:
            line["contour_px"] = [list(corner) for corner in self.contour_px]
        if self.frame_box_px is not None:
            line["frame_box_px"] = list(self.frame_box_px)
        return line


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided about one frame.

    Attributes
    ----------
    part_id
        The physical part.
    outcome
        ``pass``, ``reject`` or ``review``.
    reasons
        Why it does not pass, one sentence each; empty for a pass.
    defects
        The defects that count under the rules, whether or not they suffice to reject; largest first.
    latency_ms
        How long each stage took, and ``total`` from the moment the frame was taken; empty where nothing was timed.
    backend, bundle
        What the decision was made with; empty where it was neither a backend nor a bundle.
    """

    part_id: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    defects: tuple[Defect, ...] = ()
    latency_ms: Mapping[str, float] = field(default_factory=dict, hash=False)
    backend: str = ""
    bundle: str = ""

    def to_json(self) -> dict[str, Any]:
        """What was decided, as plain data: part_id, verdict, reasons, defects.

        The whole line, with latencies and origin, is that of ``lpcnet_edge.runtime.verdict_lines``.
        """
        return {
            "part_id": self.part_id,
            "verdict": self.outcome,
            "reasons": list(self.reasons),
            "defects": [defect.to_json() for defect in self.defects],
        }


@dataclass(frozen=True, slots=True)
class PartVerdict:
    """What is decided about one physical part, from all its views.

    Attributes
    ----------
    part_id
        The physical part.
    outcome
        ``reject`` if any view rejects, is missing or came late; else ``review`` if any asks for it; else ``pass``.
    reasons
        Why it does not pass, each beginning with the view's name; empty for a pass.
    views
        The verdict of each view that came, by its name.
    """

    part_id: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    views: Mapping[str, Verdict] = field(default_factory=dict, hash=False)
