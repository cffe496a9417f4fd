"""Contact sheets: a few samples of every class, with and without their masks, in one picture.

python -m lpcnet_edge.datasets.contact_sheet carbon-fabric OUT.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.datasets.spec import open_dataset
from lpcnet_edge.errors import LpcnetError, UsageError
from lpcnet_edge.imaging import overlay
from lpcnet_edge.types import ClassMap, Dataset, Image, Sample

_PAD_PX, _TITLE_PX = 6, 20
_PAPER, _INK = 245, (40, 40, 40)


def contact_sheet(dataset: Dataset, *, per_class: int = 2, view_px: int = 160, frame: Sample | None = None) -> Image:
    """Lay out samples of every class beside their masks.

    Parameters
    ----------
    dataset
        Any dataset; it is read until ``per_class`` samples of each label are found.
    per_class
        Samples per class.
    view_px
        Side of the square shown of each sample, at its own scale, around its defect.
    frame
        A larger frame for the foot of the sheet, shown whole, its defects outlined.

    Returns
    -------
    Image
        (height, width, 3) uint8 BGR.
    """
    if per_class < 1:
        raise UsageError(f"{per_class} samples of each class are no sheet", mend="ask for 1 or more")
    rows = []
    for label, title in enumerate(dataset.classes):
        chosen = [index for index, entry in enumerate(dataset.entries) if entry.label == label][:per_class]
        views = [_around_defect(dataset.read(index), label, view_px) for index in chosen]
        pictures = [picture for image, mask in views for picture in (_colour(image), overlay(image, mask))]
        if pictures:
            rows.append(_titled(title.replace("_", " "), pictures))
    if frame is not None:
        size = f"{frame.image.shape[1]} x {frame.image.shape[0]} px"
        rows.append(_titled(f"a frame of {size}, defects outlined", [overlay(frame.image, frame.mask, alpha=0.0)]))
    width = max((row.shape[1] for row in rows), default=1)
    filled = [
        cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(_PAPER,) * 3) for row in rows
    ]
    return np.asarray(np.vstack(filled), dtype=np.uint8)


def write_sheet(path: Path, sheet: Image, max_kb: int = 700) -> int:
    """Write a sheet as PNG of at most ``max_kb`` kilobytes, with as few colour levels as that takes.

    Returns the step between levels, 1 for an untouched sheet. Raises ``UsageError`` if no step is enough or the
    file cannot be written.
    """
    for step in (1, 4, 8, 12, 16, 24, 32):
        levels = np.minimum(np.arange(256) // step * step + step // 2, 255).astype(np.uint8)
        done, data = cv2.imencode(".png", cv2.LUT(sheet, levels), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if done and data.size <= max_kb * 1000:
            try:
                path.write_bytes(data.tobytes())
            except OSError as exc:
                raise UsageError(f"{path}: {exc.strerror or exc}", mend="give a path that can be written") from exc
            return step
    raise UsageError(f"the sheet does not fit into {max_kb} kB", mend="raise --max-kb, or lower --per-class")


def _large_frame(dataset: Dataset) -> Sample | None:
    """A drawn dataset can show its defects together on one larger frame."""
    if not isinstance(dataset, CarbonFabric):
        return None
    crowded = replace(dataset.settings, mean_extra_defects=5.0, max_defects=6)
    return CarbonFabric(1, dataset.seed + 1, size=(380, 658), defect_share=1.0, settings=crowded).read(0)


def _around_defect(sample: Sample, label: int, view_px: int) -> tuple[Image, ClassMap]:
    """Cut the square around the labelled defect, or around the middle of a sample without one."""
    height, width = sample.mask.shape
    ys, xs = np.nonzero(sample.mask == label) if label else (np.array([height // 2]), np.array([width // 2]))
    if not len(ys):
        ys, xs = np.array([height // 2]), np.array([width // 2])
    tall, wide = min(view_px, height), min(view_px, width)
    top = int(np.clip((ys.min() + ys.max() - tall) // 2, 0, height - tall))
    left = int(np.clip((xs.min() + xs.max() - wide) // 2, 0, width - wide))
    window = (slice(top, top + tall), slice(left, left + wide))
    return sample.image[window], sample.mask[window]


def _colour(image: Image) -> Image:
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), dtype=np.uint8)


def _titled(title: str, pictures: Sequence[Image]) -> Image:
    """Pictures side by side under a line of text."""
    height = max(picture.shape[0] for picture in pictures) + _TITLE_PX + _PAD_PX
    width = sum(picture.shape[1] + _PAD_PX for picture in pictures) + _PAD_PX
    row = np.full((height, width, 3), _PAPER, np.uint8)
    cv2.putText(row, title, (_PAD_PX, _TITLE_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    left = _PAD_PX
    for picture in pictures:
        row[_TITLE_PX : _TITLE_PX + picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + _PAD_PX
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lpcnet_edge.datasets.contact_sheet",
        description=__doc__.splitlines()[0],
        epilog="The sheet of a drawn dataset may be committed. Do not commit sheets of real data: they are copies "
        "of images whose licence, or whose owner, may not allow it.",
    )
    parser.add_argument("dataset", help="a dataset as other commands take it: a path, or carbon-fabric:seed=7")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--per-class", type=int, default=2, help="samples of each class (default 2)")
    parser.add_argument("--max-kb", type=int, default=700, help="largest file, in kB; colours are thinned to fit")
    options = parser.parse_args(arguments)
    try:
        dataset = open_dataset(options.dataset)
        sheet = contact_sheet(dataset, per_class=options.per_class, frame=_large_frame(dataset))
        step = write_sheet(options.out, sheet, options.max_kb)
    except LpcnetError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    print(f"{options.out}: {options.out.stat().st_size // 1000} kB, colour step {step}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
