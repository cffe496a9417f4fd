"""Which images an INT8 engine is calibrated with: picked by a recipe, balanced, and written down with their digests."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpcnet_edge.build.looks import pixel_digest
from lpcnet_edge.build.strata import CLASS, Draw, brightness_bins, strata_of
from lpcnet_edge.bundle.manifest import is_tile_side
from lpcnet_edge.config import from_mapping, suggest, to_mapping
from lpcnet_edge.errors import BadArtifact, BadConfig, BadData, LpcnetError, UsageError
from lpcnet_edge.files import name_as_text, write_atomically
from lpcnet_edge.imaging import resize_image
from lpcnet_edge.types import Dataset, Image

FORMAT = "lpcnet-edge calibration set 1"
BRIGHTNESS = "brightness"

Progress = Callable[[int, int], None]
"""Called with the number of images read and their total."""


@dataclass(frozen=True)
class CalibrationRecipe:
    """What to pick.

    Attributes
    ----------
    tiles
        How many images; each becomes one tile.
    defect_share
        0..1 of them have a defect (a label other than background).
    strata
        What to balance over, the most important first: ``class`` (the label's name), ``brightness`` (quantile bins
        of the mean grey level) and any stratum that the dataset's entries have.
    brightness_bins
        How many bins of brightness.
    counts
        Exact numbers for some values of one stratum, as in ``class: {crack: 20}``; the rest is shared among the
        others.
    candidates
        At most this many images are read to measure their brightness.
    seed
        Another seed picks other images.
    """

    tiles: int = 128
    defect_share: float = 0.5
    strata: tuple[str, ...] = (CLASS, BRIGHTNESS)
    brightness_bins: int = 4
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    candidates: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tiles < 1 or self.brightness_bins < 1 or self.candidates < self.tiles:
            raise BadConfig(
                f"tiles is {self.tiles}, brightness_bins {self.brightness_bins}, candidates {self.candidates}",
                mend="use 1 or more tiles and bins, and no fewer candidates than tiles",
            )
        if not 0 <= self.defect_share <= 1:
            raise BadConfig(f"defect_share is {self.defect_share}", mend="use 0 to 1")
        if len(set(self.strata)) < len(self.strata):
            raise BadConfig("strata names one stratum twice", mend="name each once")
        if len(self.counts) > 1 or not set(self.counts) <= {*self.strata} - {BRIGHTNESS}:
            raise BadConfig(
                f"counts are given for {', '.join(self.counts)}",
                mend="give counts for one stratum, one of `strata` other than brightness",
            )
        asked = [n for values in self.counts.values() for n in values.values()]
        if any(n < 0 for n in asked) or sum(asked) > self.tiles:
            raise BadConfig(f"counts add up to {sum(asked)} of {self.tiles} tiles", mend="use 0 or more, tiles at most")


@dataclass(frozen=True, slots=True)
class Picked:
    """One image of a set; ``sha256`` is :func:`~lpcnet_edge.build.looks.pixel_digest` of it before resizing.

    ``name`` and ``part`` are as :func:`~lpcnet_edge.files.name_as_text` writes them.
    """

    name: str
    part: str
    sha256: str
    stratum: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationSet:
    """What was picked.

    Attributes
    ----------
    dataset
        The entries picked, in the order of the dataset that they come from.
    entries
        The same, as the manifest has them.
    recipe, tile_px
        How they were picked; the side of the tiles.
    shortfalls
        Where the data had less than the recipe asks, one sentence each.
    """

    dataset: Dataset
    entries: tuple[Picked, ...]
    recipe: CalibrationRecipe
    tile_px: int
    shortfalls: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical manifest: data, recipe, tile side, and every entry."""
        return _digest(self._content())

    def tiles(self) -> Iterator[Image]:
        """The tiles one by one, (S, S) or (S, S, 3) uint8.

        Raises ``BadData`` (or a subclass) for an image that cannot be read, or is not the one that was picked.
        """
        for index, entry in enumerate(self.entries):
            image = self.dataset.read(index).image
            if pixel_digest(image) != entry.sha256:
                raise BadData(
                    f"{entry.name} is not the image that was picked: its pixels have another SHA-256",
                    mend="pick the calibration set again (lpcnet-edge calibrate set)",
                )
            yield resize_image(image, self.tile_px, self.tile_px)

    def to_manifest(self) -> dict[str, Any]:
        """Plain data for JSON: ``format``, ``digest``, ``dataset``, ``recipe``, ``tile_px``, ``shortfalls``, rows."""
        content = self._content()
        return {"format": FORMAT, "digest": _digest(content), **content}

    def write(self, path: Path) -> None:
        """Write the manifest as JSON, an image a line."""
        content = self.to_manifest()
        rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in content.pop("images"))
        head = json.dumps(content, indent=2, ensure_ascii=False).removesuffix("\n}")
        write_atomically(path, f'{head},\n  "images": [\n{rows}\n  ]\n}}\n')

    def _content(self) -> dict[str, Any]:
        return {
            "dataset": name_as_text(self.dataset.name),
            "recipe": to_mapping(self.recipe),
            "tile_px": self.tile_px,
            "shortfalls": list(self.shortfalls),
            "images": [[e.name, e.part, e.sha256, list(e.stratum)] for e in self.entries],
        }


def pick_calibration_set(
    dataset: Dataset, recipe: CalibrationRecipe, tile_px: int, progress: Progress | None = None
) -> CalibrationSet:
    """Pick images as the recipe says; the same data and recipe always give the same set.

    Shares are even over the values of the first stratum, within each over those of the second, and so on; then the
    part with the fewest images picked so far comes first, since images of one part are near copies. A value that has
    fewer images than its share gives all that it has, and the others of its level make up for it; where defective
    (or free) images run out, the other side makes up. Both are stated in ``shortfalls``.

    Raises
    ------
    BadData
        The data has fewer images than ``tiles``, none of a side that is asked for, or fewer than a count says.
    BadConfig
        A stratum, or a value in ``counts``, that the data does not have.
    UsageError
        ``tile_px`` is none that a bundle may have.
    """
    if not is_tile_side(tile_px):
        raise UsageError(f"a tile of {tile_px} px", mend="use the side of the network's tiles, such as 256")
    entries = dataset.entries
    cheap = tuple(key for key in recipe.strata if key != BRIGHTNESS)
    rows = strata_of(dataset, cheap)
    _check(dataset, recipe, [dict(zip(cheap, row, strict=True)) for row in rows])
    draw = Draw(
        names=[name_as_text(entry.name) for entry in entries],
        parts=[name_as_text(entry.part) for entry in entries],
        defective=[entry.label != 0 for entry in entries],
        defect_share=recipe.defect_share,
        counted=tuple(
            (frozenset(i for i, row in enumerate(rows) if row[cheap.index(key)] == value), count)
            for key, values in recipe.counts.items()
            for value, count in values.items()
        ),
        first=recipe.strata[0] if recipe.strata else "",
        seed=recipe.seed,
    )
    pool: Sequence[int] = range(len(entries))
    strata = dict(enumerate(rows))
    digests: dict[int, str] = {}
    if BRIGHTNESS in recipe.strata:
        if len(entries) > recipe.candidates:
            pool, _ = draw.images(pool, recipe.candidates, strata, times=recipe.candidates // recipe.tiles)
        greys: list[float] = []
        for done, i in enumerate(pool, 1):
            image = dataset.read(i).image
            digests[i] = pixel_digest(image)
            greys.append(float(image.mean()))
            if progress is not None:
                progress(done, len(pool))
        at = recipe.strata.index(BRIGHTNESS)
        bins = brightness_bins(greys, recipe.brightness_bins)
        strata = {i: (*rows[i][:at], b, *rows[i][at:]) for i, b in zip(pool, bins, strict=True)}
    chosen, shortfalls = draw.images(pool, recipe.tiles, strata)
    picked = []
    for done, i in enumerate(chosen, 1):
        digest = digests.get(i) or pixel_digest(dataset.read(i).image)
        picked.append(Picked(draw.names[i], draw.parts[i], digest, strata[i]))
        if progress is not None and BRIGHTNESS not in recipe.strata:
            progress(done, len(chosen))
    return CalibrationSet(dataset.select(chosen), tuple(picked), recipe, tile_px, tuple(shortfalls))


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of a calibration set, damaged or not."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return b'"lpcnet-edge calibration set' in stream.read(256)


def open_calibration_set(path: Path, dataset: Dataset) -> CalibrationSet:
    """The set that a manifest lists, with its images in ``dataset``; their pixels are checked as ``tiles()`` reads.

    Raises
    ------
    BadArtifact
        The file is no manifest, or was changed since it was written.
    BadData
        An image of it is not in the dataset.
    """
    mend = "pick the set again (lpcnet-edge calibrate set)"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise BadArtifact(f"{path} cannot be read as JSON: {exc}", mend=mend) from exc
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise BadArtifact(f"{path}: its format is {found!r}, this version reads {FORMAT!r}", mend=mend)
    body = {key: value for key, value in content.items() if key not in ("format", "digest")}
    if _digest(body) != content.get("digest"):
        raise BadArtifact(f"{path} was changed since it was written: its digest does not fit", mend=mend)
    try:
        recipe = from_mapping(CalibrationRecipe, content["recipe"], f"{path}: recipe")
        rows = [Picked(str(n), str(p), str(s), tuple(map(str, t))) for n, p, s, t in content["images"]]
        tile_px, shortfalls = int(content["tile_px"]), tuple(map(str, content["shortfalls"]))
    except (KeyError, TypeError, ValueError, LpcnetError) as exc:
        raise BadArtifact(f"{path}: it has no proper content: {exc}", mend=mend) from exc
    places = {name_as_text(entry.name): i for i, entry in enumerate(dataset.entries)}
    missing = [row.name for row in rows if row.name not in places]
    if missing:
        raise BadData(
            f"{path}: {len(missing)} of its {len(rows)} images are not in {dataset.name}, such as {missing[0]}",
            mend="name the dataset that the set was picked from, with the same options",
        )
    return CalibrationSet(dataset.select([places[r.name] for r in rows]), tuple(rows), recipe, tile_px, shortfalls)


def _check(dataset: Dataset, recipe: CalibrationRecipe, rows: Sequence[Mapping[str, str]]) -> None:
    """Refuse what the data cannot give."""
    total, defective = len(rows), sum(entry.label != 0 for entry in dataset.entries)
    if not total:
        raise BadData(f"{dataset.name} has no image to pick from", mend="exclude fewer folds, or correct the parts")
    if total < recipe.tiles:
        raise BadData(
            f"the recipe asks for {recipe.tiles} tiles, {dataset.name} has {total} images to pick from",
            mend=f"write `tiles: {total}` or less into a recipe file, given as --recipe; or bring more images",
        )
    for share, count, what, mend in (
        (recipe.defect_share, defective, "with a defect", 0),
        (1 - recipe.defect_share, total - defective, "without a defect", 1),
    ):
        if round(recipe.tiles * share) and not count:
            raise BadData(
                f"the recipe asks for {round(recipe.tiles * share)} images {what}, {dataset.name} has none",
                mend=f"set `defect_share: {mend}` in the recipe, or bring such images",
            )
    for key, values in recipe.counts.items():
        have = Counter(row[key] for row in rows)
        for value, count in values.items():
            if value not in have:
                raise BadConfig(f"counts: no image has {key} '{value}'", mend=suggest(value, sorted(have)))
            if have[value] < count:
                raise BadData(
                    f"the recipe asks for {count} images of {key} {value}, {dataset.name} has {have[value]}",
                    mend=f"set `{value}: {have[value]}` or less in the recipe's counts",
                )
        others = total - sum(have[value] for value in values)
        if others < recipe.tiles - sum(values.values()):
            raise BadData(
                f"beside its counts the recipe asks for {recipe.tiles - sum(values.values())} tiles, "
                f"{dataset.name} has {others} images of another {key}",
                mend="raise the counts, or ask for fewer tiles",
            )


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
