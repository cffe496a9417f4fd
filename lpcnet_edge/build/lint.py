"""What is wrong with a calibration set, before an engine is built on it: rules on what was measured of its images."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.build.looks import Look, Reference, look_at, twins
from lpcnet_edge.datasets.inspect import LOOK_ALIKE
from lpcnet_edge.types import Image

REFUSE_BELOW, WARN_BELOW = 16, 64
"""Images. Below the first the rare large values that ranges are about are left to chance."""

FEW_PARTS = 16
MANY = 0.1
"""Share of a set from which single odd images become a property of the set."""

REPEATING = 0.2
"""Share of images with a look-alike of another part from which looks say nothing: the product repeats itself."""

TINT_NOISE = 0.005
"""A difference of tint below this is no colour cast that anyone could see or that would move a range."""

FAR_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a calibration set, or may be.

    Attributes
    ----------
    severity
        ``refuse``: an engine calibrated with it would be wrong, or its accuracy would be measured wrong; ``warn``:
        look at it.
    kind
        ``unreadable``, ``float_images``, ``unit_range``, ``channels_first``, ``constant``, ``sixteen_bit``,
        ``too_few``, ``few_parts``, ``missing_class``, ``duplicate``, ``look_alike``, ``leak_same_pixels``,
        ``leak_same_part``, ``leak_look_alike``, ``swapped_colour``, ``grey_for_colour``, ``mixed_colour``,
        ``brightness_far``, ``contrast_far``, ``sharpness_far``.
    names
        The images concerned; empty where it is the set as a whole.
    message, mend
        The problem with its evidence, and what to do about it.
    """

    severity: Literal["refuse", "warn"]
    kind: str
    names: tuple[str, ...]
    message: str
    mend: str


def lint_tiles(tiles: Iterable[Image], reference: Reference | None = None) -> list[Finding]:
    """What is wrong with tiles about to calibrate an engine, by their pixels alone; refusals first.

    ``reference`` is what frames look like (:func:`~lpcnet_edge.build.looks.reference_of`); without one, swapped colour
    and distance from it cannot be seen.
    """
    return lint_looks([look_at(tile, f"tile {index}") for index, tile in enumerate(tiles)], reference=reference)


def lint_looks(
    looks: Sequence[Look],
    *,
    classes: Sequence[str] = (),
    check: Sequence[Look] = (),
    same_parts: bool = True,
    reference: Reference | None = None,
) -> list[Finding]:
    """What is wrong with the images of a set; refusals first.

    Parameters
    ----------
    classes
        Class names of the dataset, to miss one; none where labels are not known.
    check
        The images that accuracy will be measured on, to find leaks.
    same_parts
        Whether part names of ``check`` mean the same parts, as within one dataset; else a shared name is a warning.
    reference
        What frames look like.
    """
    found = [*_values(looks), *_amount(looks, classes)]
    found += [*_duplicates(looks), *_look_alikes(looks)]
    if check:
        found += _leaks(looks, check, same_parts)
    if reference is not None:
        found += [*_colour(looks, reference), *_distances(looks, reference)]
    return sorted(found, key=lambda finding: finding.severity)


def _named(looks: Iterable[Look]) -> tuple[str, ...]:
    return tuple(look.name for look in looks)


def _values(looks: Sequence[Look]) -> list[Finding]:
    """Numbers of the wrong kind, layout or range, and images without content."""
    found: list[Finding] = []

    def add(severity: Literal["refuse", "warn"], kind: str, chosen: Sequence[Look], message: str, mend: str) -> None:
        if chosen:
            found.append(Finding(severity, kind, _named(chosen), f"{len(chosen)} of {len(looks)} {message}", mend))

    bytes_mend = "calibrate with the camera's own bytes, 0..255: normalisation is inside the engine"
    floats = [look for look in looks if look.layout == "float"]
    highest = max((look.high for look in floats), default=0.0)
    add("refuse", "float_images", floats, f"images hold floating-point numbers up to {highest:.4g}", bytes_mend)
    whole = [look for look in looks if look.layout != "float"]
    units = [look for look in whole if look.low < look.high <= 1]
    many = len(units) > MANY * len(looks)
    add(
        "refuse" if many else "warn",
        "unit_range",
        units,
        "images have no value above 1: they were brought to 0..1 and rounded, or the lens was covered",
        bytes_mend if many else "look at them, and leave them out",
    )
    planes = [look for look in looks if look.layout == "planes"]
    add("refuse", "channels_first", planes, "images are (channels, height, width)", "transpose them: (H, W, 3), BGR")
    flat = [look for look in looks if look.high == look.low]
    add(
        "refuse" if len(flat) > MANY * len(looks) else "warn",
        "constant",
        flat,
        f"images have one value everywhere ({', '.join(sorted({f'{look.low:.4g}' for look in flat})[:4])})",
        "leave them out; look at the camera, its cable and its trigger",
    )
    deep = [look for look in whole if look.high > 255]
    add(
        "warn",
        "sixteen_bit",
        deep,
        f"images have values up to {max((look.high for look in deep), default=0):.0f}; they are divided by 256",
        "see that the line's frames are brought to 8 bits in the same way",
    )
    return found


def _amount(looks: Sequence[Look], classes: Sequence[str]) -> list[Finding]:
    found = []
    if len(looks) < WARN_BELOW:
        few = len(looks) < REFUSE_BELOW
        message = f"{len(looks)} images: under {REFUSE_BELOW if few else WARN_BELOW} the ranges are left to chance"
        found.append(Finding("refuse" if few else "warn", "too_few", (), message, "bring 128 images or more"))
    parts = len({look.part for look in looks})
    if parts < min(FEW_PARTS, len(looks)):
        message = f"{len(looks)} images show {parts} parts: images of one part are near copies"
        found.append(Finding("warn", "few_parts", (), message, f"bring images of {FEW_PARTS} parts or more"))
    labels = Counter(look.label for look in looks)
    missing = [name for index, name in enumerate(classes) if not labels[index]]
    if missing:
        what = ["images without a defect" if name == classes[0] else name for name in missing]
        message = f"the set has none of: {', '.join(what)}"
        found.append(Finding("warn", "missing_class", (), message, "add images of it: its activations may be clipped"))
    return found


def _duplicates(looks: Sequence[Look]) -> list[Finding]:
    same: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        same[look.sha256].append(look)
    copies = [group for group in same.values() if len(group) > 1]
    if not copies:
        return []
    extra = sum(len(group) - 1 for group in copies)
    message = f"{extra} images have the pixels of another, such as {' and '.join(_named(copies[0])[:2])}"
    return [Finding("warn", "duplicate", _named(x for g in copies for x in g), message, "keep one of each")]


def repeats_itself(looks: Sequence[Look]) -> bool:
    """Whether more than ``REPEATING`` of the images look like one of another part, as printed circuit boards do."""
    return len(_alike_names(_alike(looks))) > REPEATING * len(looks)


def _alike(looks: Sequence[Look]) -> list[tuple[Look, Look, float]]:
    """Images of different parts that look alike without having the same pixels, and their correlation."""
    return [
        (looks[i], looks[j], correlation)
        for i, j, correlation in twins(looks, looks, LOOK_ALIKE)
        if i < j and looks[i].part != looks[j].part and looks[i].sha256 != looks[j].sha256
    ]


def _alike_names(pairs: Iterable[tuple[Look, Look, float]]) -> set[str]:
    return {look.name for one, other, _ in pairs for look in (one, other)}


def _look_alikes(looks: Sequence[Look]) -> list[Finding]:
    """Parts that look like one, where the product does not repeat itself."""
    pairs = _alike(looks)
    names = _alike_names(pairs)
    if not pairs or len(names) > REPEATING * len(looks):
        return []
    one, other, closest = max(pairs, key=lambda pair: pair[2])
    message = (
        f"{len(names)} images look like one of another part, such as {one.name} and {other.name} "
        f"(correlation {closest:.3f})"
    )
    mend = "look at them: if they are copies keep one, if they show one part give them the same part"
    return [Finding("warn", "look_alike", tuple(sorted(names)), message, mend)]


def _leaks(looks: Sequence[Look], check: Sequence[Look], same_parts: bool) -> list[Finding]:
    """Images of the set that the accuracy check would meet again."""
    found = []
    mend = "take them out of the set, or out of the check data"
    digests = {look.sha256: look for look in check}
    same = [look for look in looks if look.sha256 in digests]
    if same:
        example = f"{same[0].name} and {digests[same[0].sha256].name}"
        message = f"{len(same)} images stand in the check data too, pixel for pixel, such as {example}"
        found.append(Finding("refuse", "leak_same_pixels", _named(same), message, mend))
    parts = {look.part for look in check}
    shared = [look for look in looks if look.part in parts and look not in same]
    if shared:
        message = f"{len(shared)} images show a part that is in the check data too, such as {shared[0].part}"
        if not same_parts:
            message += ", if the name means the same part in both"
        found.append(Finding("refuse" if same_parts else "warn", "leak_same_part", _named(shared), message, mend))
    known = {look.name for look in (*same, *shared)}
    alike = [t for t in twins(looks, check, LOOK_ALIKE) if looks[t[0]].name not in known]
    if alike:
        i, j, closest = max(alike, key=lambda pair: pair[2])
        names = tuple(dict.fromkeys(looks[t[0]].name for t in alike))
        message = (
            f"{len(names)} images look like one of the check data, such as {looks[i].name} and {check[j].name} "
            f"(correlation {closest:.3f})"
        )
        repeats = repeats_itself(looks)
        if repeats:
            message += "; so do different parts within the set, so it may be the product that repeats"
        found.append(Finding("warn" if repeats else "refuse", "leak_look_alike", names, message, mend))
    return found


def _colour(looks: Sequence[Look], reference: Reference) -> list[Finding]:
    found = []
    grey = [look for look in looks if not look.coloured]
    if reference.coloured and grey:
        if len(grey) == len(looks):
            message = f"the images are grey, {reference.what} are in colour"
            mend = "calibrate with the camera's colour frames, or with weights for grey ones"
            found.append(Finding("refuse", "grey_for_colour", (), message, mend))
        else:
            message = f"{len(grey)} of {len(looks)} images are grey, the others and {reference.what} in colour"
            found.append(Finding("warn", "mixed_colour", _named(grey), message, "leave them out"))
    ours = np.array([look.tint for look in looks if look.channels == 3])
    theirs = np.array(reference.tint)
    if ours.size and theirs.size:
        a, b = float(ours.mean()), float(theirs.mean())
        noise = 4 * math.sqrt(float(ours.var()) / ours.size + float(theirs.var()) / theirs.size)
        if abs(a - b) > max(noise, TINT_NOISE) and abs(a + b) < abs(a - b) / 3:
            message = (
                f"red and blue are swapped: (red - blue) / (red + green + blue) is {a:+.3f} in the set and "
                f"{b:+.3f} in {reference.what}; with the two exchanged it would be {-a:+.3f}"
            )
            found.append(Finding("refuse", "swapped_colour", (), message, "images are BGR here: save or read them so"))
    return found


_MEASURES: tuple[tuple[str, Callable[[Look], float], float, str], ...] = (
    ("brightness", lambda look: look.brightness, 4.0, "grey levels (mean)"),
    ("contrast", lambda look: look.contrast, 2.0, "grey levels (standard deviation)"),
    ("sharpness", lambda look: look.sharpness, 0.5, "(log2 of the Laplacian's variance)"),
)
"""Name, measure, the least margin, and unit."""


def _distances(looks: Sequence[Look], reference: Reference) -> list[Finding]:
    found = []
    for name, measure, least, unit in _MEASURES:
        ours = np.array([measure(look) for look in looks])
        theirs = np.array(getattr(reference, name))
        if not ours.size or not theirs.size:
            continue
        ours_out, theirs_out = _outside(ours, theirs, least), _outside(theirs, ours, least)
        if max(ours_out, theirs_out) > FAR_SHARE:
            (a, b, c), (x, y, z) = (np.quantile(v, (0.05, 0.5, 0.95)) for v in (ours, theirs))
            message = (
                f"{name} {unit} is {a:.4g} to {c:.4g} in the set (median {b:.4g}), {x:.4g} to {z:.4g} in "
                f"{reference.what} (median {y:.4g})"
            )
            mend = "calibrate with images taken at the station, under its light, lens and exposure"
            found.append(Finding("warn", f"{name}_far", (), message, mend))
    return found


def _outside(values: NDArray[np.float64], usual: NDArray[np.float64], least: float) -> float:
    """Share of ``values`` outside the 5 to 95 % range of ``usual``, widened by half of itself on either side."""
    low, high = np.quantile(usual, (0.05, 0.95))
    margin = max((high - low) / 2, least)
    return float(((values < low - margin) | (values > high + margin)).mean())
