"""What a carbon-fabric frame will show, decided from the seed before any pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lpcnet_edge.errors import BadConfig

CLASSES = ("background", "broken_tow", "fuzz_ball", "gap", "foreign_thread", "wrinkle")
BROKEN_TOW, FUZZ_BALL, GAP, FOREIGN_THREAD, WRINKLE = range(1, len(CLASSES))

LIGHTS = ("raking", "ring", "dome")

# Length of a defect (its diameter, for a fuzz ball) in tow widths, smallest and largest.
EXTENT_TOWS: dict[int, tuple[float, float]] = {
    BROKEN_TOW: (3.0, 5.5),
    FUZZ_BALL: (1.9, 3.8),
    GAP: (3.5, 7.0),
    FOREIGN_THREAD: (3.5, 8.0),
    WRINKLE: (4.0, 8.0),
}

SMALLEST_FRAME_PX, LARGEST_FRAME_PX = 128, 8192
LARGEST_SEED = 2**63 - 1

# Frames whose defectiveness and class are dealt from one shuffled deck, so that any run of indices is balanced.
_DECK = 20

Stream: TypeAlias = Literal["deck", "plan", "weave", "light", "specks", "defects", "sensor"]
_STREAMS: tuple[Stream, ...] = ("deck", "plan", "weave", "light", "specks", "defects", "sensor")


@dataclass(frozen=True, slots=True)
class FabricSettings:
    """How frames of woven carbon fabric are made.

    Attributes
    ----------
    height_px, width_px
        Size of a frame, 128..8192 each. The weave looks the same, in pixels, at every size.
    tow_px
        Smallest and largest width of a tow, drawn per frame.
    rotation_deg
        The weave is turned by at most this much against the frame, 0..20.
    plain_share
        Probability of plain weave; the rest is 2x2 twill.
    tracer_share
        Probability that coloured tracer tows are woven in.
    defect_share
        Probability that a frame has defects. The fabric under a defect does not depend on it: with 0, the same
        seed and index give the undamaged twin of a frame.
    mean_extra_defects
        Mean number (Poisson) of defects beyond the first on a frame that has any.
    max_defects
        Most defects on one frame.

    Raises
    ------
    BadConfig
        A value is out of its range.
    """

    height_px: int = 256
    width_px: int = 256
    tow_px: tuple[float, float] = (12.0, 22.0)
    rotation_deg: float = 8.0
    plain_share: float = 0.4
    tracer_share: float = 0.9
    defect_share: float = 0.5
    mean_extra_defects: float = 0.2
    max_defects: int = 3

    def __post_init__(self) -> None:
        _check("height_px", self.height_px, SMALLEST_FRAME_PX, LARGEST_FRAME_PX, whole=True)
        _check("width_px", self.width_px, SMALLEST_FRAME_PX, LARGEST_FRAME_PX, whole=True)
        if not isinstance(self.tow_px, tuple | list) or len(self.tow_px) != 2:
            raise BadConfig(
                f"tow_px is {self.tow_px!r}, not two widths", mend="give the smallest and the largest width"
            )
        _check("tow_px[0]", self.tow_px[0], 8, 40)
        _check("tow_px[1]", self.tow_px[1], self.tow_px[0], 40)
        _check("rotation_deg", self.rotation_deg, 0, 20)
        _check("plain_share", self.plain_share, 0, 1)
        _check("tracer_share", self.tracer_share, 0, 1)
        _check("defect_share", self.defect_share, 0, 1)
        _check("mean_extra_defects", self.mean_extra_defects, 0, 1000)
        _check("max_defects", self.max_defects, 1, 1000, whole=True)


@dataclass(frozen=True, slots=True)
class PlannedDefect:
    """One defect to come: class index, centre and extent in pixels of the frame."""

    kind: int
    y_px: float
    x_px: float
    extent_px: float


@dataclass(frozen=True, slots=True)
class FramePlan:
    """All that can be told of a frame without drawing it; ``defects[0]`` names the frame's label."""

    weave: Literal["twill", "plain"]
    light: str
    tow_px: float
    rotation_deg: float
    defects: tuple[PlannedDefect, ...]

    @property
    def label(self) -> int:
        """Class index of the first defect, 0 for a good frame."""
        return self.defects[0].kind if self.defects else 0


def random_stream(seed: int, index: int, stream: Stream) -> np.random.Generator:
    """Independent random numbers for one aspect of one frame, so that no aspect disturbs another."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, _STREAMS.index(stream)])))


def plan_frame(settings: FabricSettings, seed: int, index: int) -> FramePlan:
    """Decide weave, light and defects of frame ``index``; costs well under a millisecond.

    Raises
    ------
    BadConfig
        The seed or the index is negative.
    """
    _check("seed", seed, 0, LARGEST_SEED, whole=True)
    _check("index", index, 0, LARGEST_SEED, whole=True)
    rng = random_stream(seed, index, "plan")
    weave: Literal["twill", "plain"] = "plain" if rng.random() < settings.plain_share else "twill"
    light = LIGHTS[int(rng.integers(len(LIGHTS)))]
    tow_px = float(rng.uniform(*settings.tow_px))
    rotation_deg = float(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    kind = _deal(settings.defect_share, seed, index)
    defects = _place(settings, tow_px, kind, rng) if kind else ()
    return FramePlan(weave, light, tow_px, rotation_deg, defects)


def _deal(defect_share: float, seed: int, index: int) -> int:
    """Class of the first defect of a frame, 0 for none, balanced over every run of indices."""
    deck, place = divmod(index, _DECK)
    rng = random_stream(seed, deck, "deck")
    card = float((rng.permutation(_DECK)[place] + rng.random(_DECK)[place]) / _DECK)
    if card >= defect_share:
        return 0
    kinds = len(CLASSES) - 1
    return 1 + min(kinds - 1, int(card / defect_share * kinds))


def _place(settings: FabricSettings, tow_px: float, first: int, rng: np.random.Generator) -> tuple[PlannedDefect, ...]:
    """Choose extents and centres; a further defect that finds no room of its own is left out."""
    height, width = settings.height_px, settings.width_px
    wanted = min(settings.max_defects, 1 + int(rng.poisson(settings.mean_extra_defects)))
    placed: list[PlannedDefect] = []
    for number in range(wanted):
        kind = int(rng.integers(1, len(CLASSES))) if number else first
        extent = min(tow_px * float(rng.uniform(*EXTENT_TOWS[kind])), 0.6 * min(height, width))
        margin = 0.4 * extent
        for _ in range(12):
            y, x = float(rng.uniform(margin, height - margin)), float(rng.uniform(margin, width - margin))
            if all(np.hypot(y - d.y_px, x - d.x_px) > 0.75 * (extent + d.extent_px) for d in placed):
                placed.append(PlannedDefect(kind, y, x, extent))
                break
    return tuple(placed)


def _check(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse a value that is no number (no whole number, if asked) from ``low`` to ``high``."""
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        kind = "whole number" if whole else "number"
        raise BadConfig(f"{name} is {value!r}", mend=f"set {name} to a {kind} from {low} to {high}")
