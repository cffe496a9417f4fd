"""The pictures of a check's report: what each of two networks saw in an image, as data that a page can hold."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.check.agreement import Agreement, Measured
from lpcnet_edge.imaging import PALETTE, resize_image, resize_mask
from lpcnet_edge.page.markup import table, text
from lpcnet_edge.types import ClassMap, Dataset

LEAST, MOST = 8, 40
"""Pictures: with fewer flips than the least, the images that differ most fill up; beyond the most, flips are listed."""

MAX_BYTES = 3_500_000
"""Of all pictures together, so that the page stays under 5 MB."""

LISTED = 1000
"""Parts in a table at most, for the same reason."""

_MAX_SIDE_PX = 512
_TINT, _SOLID = 90, 255


@dataclass(frozen=True)
class Picture:
    """One image: its place in the dataset, why it is shown, and layers by name as ``data:`` addresses.

    ``cut`` is where the line between the two begins, in per cent of the width: amid the pixels that differ.
    """

    index: int
    caption: str
    kind: str
    cut: int
    layers: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """Of its layers as text."""
        return sum(map(len, self.layers.values()))


def pictures(
    agreement: Agreement, before: Measured, after: Measured, dataset: Dataset, *, max_bytes: int = MAX_BYTES
) -> list[Picture]:
    """The parts whose verdict changed, worst kinds first, then the images that differ most.

    Layers are ``image`` (JPEG) and ``reference``, ``candidate`` and ``truth`` (PNG, transparent but for the defects).
    """
    chosen: list[tuple[int, str, str]] = []
    places = {image.entry.name: index for index, image in enumerate(agreement.candidate.images)}
    flips = sorted(agreement.flips, key=lambda flip: (not flip.defective, not flip.reference_rejects))
    for flip in flips[:MOST]:
        way = "float rejects, the bundle passes" if flip.reference_rejects else "float passes, the bundle rejects"
        kind = "wrong" if flip.defective == flip.reference_rejects else "right"
        state = "defective" if flip.defective else "good"
        chosen.append((places[flip.image], f"part {flip.part} ({state}): {way}", kind))
    taken = {index for index, _, _ in chosen}
    for index in np.argsort(-np.asarray(agreement.differing), kind="stable").tolist():
        if len(chosen) >= LEAST or not agreement.differing[index]:
            break
        if index not in taken:
            part = agreement.candidate.parts[index]
            caption = f"part {part}: the same verdict, {agreement.differing[index]} px differ"
            chosen.append((index, caption, "same"))
    found: list[Picture] = []
    room = max_bytes
    for index, caption, kind in chosen:
        picture = Picture(index, caption, kind, _cut(index, before, after), _layers(index, before, after, dataset))
        room -= picture.size_bytes
        if room < 0:
            break
        found.append(picture)
    return found


def _layers(index: int, before: Measured, after: Measured, dataset: Dataset) -> dict[str, str]:
    sample = dataset.read(index)
    tile = after.maps.tile_px
    side = min(tile, _MAX_SIDE_PX)
    image = resize_image(resize_image(sample.image, tile, tile), side, side)
    maps = {
        "reference": before.maps.map(index),
        "candidate": after.maps.map(index),
        "truth": resize_mask(sample.mask, tile, tile),
    }
    layers = {"image": _address("jpeg", ".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])}
    for name, classes in maps.items():
        drawn = _transparent(resize_mask(classes, side, side), fill=name != "truth")
        layers[name] = _address("png", ".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return layers


def _cut(index: int, before: Measured, after: Measured) -> int:
    """Beside the pixels that differ where only one of the two has a defect there, to show it; else amid them."""
    ours, theirs = after.maps.map(index), before.maps.map(index)
    rows, columns = np.nonzero(ours != theirs)
    if not columns.size:
        return 50
    ends = columns.min() - 4, columns.max() + 5
    only = [not map_[rows, columns].any() for map_ in (theirs, ours)]  # float has none, the bundle has none
    place = ends[only.index(True)] if any(only) else float(columns.mean())
    return int(np.clip(100 * place / after.maps.tile_px, 4, 96))


def _transparent(classes: ClassMap, *, fill: bool) -> NDArray[np.uint8]:
    """(H, W, 4) BGRA: defects tinted and outlined in their class's colour, all else transparent."""
    canvas = np.zeros((*classes.shape, 4), np.uint8)
    for index in (int(c) for c in np.unique(classes) if c):
        colour = PALETTE[index % len(PALETTE)]
        mask = classes == index
        if fill:
            canvas[mask] = (*colour, _TINT)
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outline, -1, (*colour, _SOLID), 1)
    return canvas


def _address(kind: str, suffix: str, picture: NDArray[np.uint8], options: Sequence[int]) -> str:
    _, data = cv2.imencode(suffix, picture, list(options))
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def gallery(report: Mapping[str, Any], shown: Sequence[Picture], classes: Sequence[str]) -> str:
    """The pictures of a report with what moves their line."""
    flips = report["agreement"]["flips"]
    head = f"<p>{len(flips)} of {report['dataset']['parts']} parts change their verdict."
    if not shown:
        return f"{head} No pixel differs.</p>" if not flips else f"{head}</p>"
    legend = "".join(
        f'<span class="swatch" style="background:rgb({r},{g},{b})"></span>{text(name)}'
        for name, (b, g, r) in ((name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(classes) if i)
    )
    figures = "".join(map(_figure, shown))
    listed = ""
    if len(flips) > sum(picture.kind != "same" for picture in shown):
        which = "All" if len(flips) <= LISTED else f"The first {LISTED} of"
        table_ = flip_table(flips, "float", "bundle")
        listed = f"<details><summary>{which} {len(flips)} parts</summary>{table_}</details>"
    return f"""{head} Left of the line is float, right of it the bundle; drag it.</p>
<p>{legend}</p>
<div class="tools"><label>all <input type="range" id="all" min="0" max="100" value="50"
aria-label="line of all pictures" style="width:160px;vertical-align:middle"></label>
<label><input type="checkbox" id="truth"> outline of the truth</label>
<label><input type="checkbox" id="masks"> images only</label></div>
<div class="gallery">{figures}</div>{listed}"""


def _figure(picture: Picture) -> str:
    layers = picture.layers
    images = "".join(
        f'<img class="{name}{"" if name == "image" else " mask"}" src="{layers[name]}" alt="">'
        for name in ("image", "reference", "candidate", "truth")
    )
    word = {"wrong": "worse", "right": "better", "same": ""}[picture.kind]
    return (
        f'<figure style="--cut:{picture.cut}%"><div class="stack">{images}<i></i>'
        f'<em class="l">float</em><em class="r">bundle</em></div>'
        f'<input type="range" min="0" max="100" value="{picture.cut}" aria-label="from float to bundle">'
        f'<figcaption><b class="{picture.kind}">{word}</b> {text(picture.caption)}</figcaption></figure>'
    )


def flip_table(flips: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """The parts on which two decide differently, and what each of the two says; of many the first."""
    rows = [
        [text(flip["part"]), f"<td>{'defective' if flip['defective'] else 'good'}</td>",
         f"<td>{'reject' if flip['reference_rejects'] else 'pass'}</td>",
         f"<td>{'pass' if flip['reference_rejects'] else 'reject'}</td>", f"<td>{text(flip['image'])}</td>"]
        for flip in flips[:LISTED]
    ]  # fmt: skip
    more = f'<p class="soft">and {len(flips) - LISTED} more (--json has all)</p>' if len(flips) > LISTED else ""
    return table(("part", "is", first, second, "image"), rows) + more
