"""The worst errors as pictures, so that a person can see why a figure is low.

The pictures are of the user's own data: they go to a folder that git ignores, never into the project's own.
"""

from __future__ import annotations

import heapq
import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import lpcnet_edge
from lpcnet_edge.check.walk import Checked, Progress, walk
from lpcnet_edge.errors import BadInput, UsageError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.imaging import PALETTE, overlay
from lpcnet_edge.metrics import CAUGHT_OVERLAP, confusion_matrix, iou_per_class, match_defects
from lpcnet_edge.types import Dataset, Segmenter

_IGNORE_ALL = "*\n"
_PANELS = ("image", "truth", "prediction", "confidence (dark is unsure)")


@dataclass(frozen=True, slots=True, order=True)
class _Case:
    """An image as evidence for one kind of error: the higher ``badness``, the worse."""

    badness: float
    order: int
    caption: str = field(compare=False)
    checked: Checked = field(compare=False)


class _Worst:
    """The worst cases of one kind, in bounded memory."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._heap: list[_Case] = []

    def add(self, case: _Case) -> None:
        if len(self._heap) < self._keep:
            heapq.heappush(self._heap, case)
        else:
            heapq.heappushpop(self._heap, case)

    def __iter__(self) -> Iterator[_Case]:
        return iter(sorted(self._heap, key=lambda case: (-case.badness, -case.order)))


def write_gallery(
    segmenter: Segmenter,
    dataset: Dataset,
    out: Path,
    *,
    worst: int = 10,
    batch: int = 16,
    progress: Progress | None = None,
) -> Path:
    """Write the worst errors of a segmenter on a dataset as pictures and an ``index.html``.

    For every defect class the images of lowest IoU for that class, then the largest missed defects, then the free
    images with the most false defect pixels. Each picture is a row: image, truth, prediction, confidence.

    Parameters
    ----------
    segmenter, dataset
        Of the same channels and classes.
    out
        Folder to write to; it is made, and told to be ignored by git.
    worst
        Pictures of each kind.
    batch, progress
        As in :func:`~lpcnet_edge.check.evaluate.evaluate`.

    Returns
    -------
    Path
        The index.html.

    Raises
    ------
    UsageError
        ``out`` lies in the project's ``docs`` or ``lpcnet_edge``, or holds other files than an earlier gallery;
        ``worst`` is below 1, or dataset and segmenter do not fit.
    BadInput
        ``out`` cannot be written to.
    """
    refuse_project_folders(out)
    _refuse_others_files(out)
    if worst < 1:
        raise UsageError(f"the {worst} worst images of each kind", mend="use 1 or more")
    kinds = {name: _Worst(worst) for name in _kinds(segmenter.classes)}
    for order, checked in enumerate(walk(segmenter, dataset, batch=batch, progress=progress)):
        for kind, badness, caption in _errors(checked, segmenter.classes):
            kinds[kind].add(_Case(badness, -order, caption, checked))
    try:
        return _write(kinds.items(), out, dataset.name, segmenter.classes)
    except OSError as exc:
        raise BadInput(
            f"{exc.filename or out}: {exc.strerror or exc}", mend="choose a folder that can be written to"
        ) from exc


def refuse_project_folders(out: Path) -> None:
    """Raise ``UsageError`` where pictures of data would go into the project's own folders."""
    package = Path(lpcnet_edge.__file__).resolve().parent
    forbidden = {package, package.parent / "docs", Path.cwd() / "docs", Path.cwd() / package.name}
    for folder in forbidden:
        if out.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{out} lies in {folder}: pictures of the data do not belong into the project",
                mend="write to galleries/NAME, which git ignores",
            )


def _refuse_others_files(out: Path) -> None:
    """Raise ``UsageError`` for a folder of something else: git would ignore all of it from then on."""
    ignored = out / ".gitignore"
    try:
        own = ignored.is_file() and ignored.read_text("utf-8", "replace") == _IGNORE_ALL
        taken = out.is_dir() and not own and any(out.iterdir())
    except OSError:
        return  # writing tells why
    if taken:
        raise UsageError(
            f"{out} holds files that are no gallery's", mend="name a folder of its own, such as galleries/NAME"
        )


def _kinds(classes: Sequence[str]) -> list[str]:
    return [*(f"lowest IoU: {name}" for name in classes[1:]), "missed defects", "false alarms"]


def _errors(checked: Checked, classes: Sequence[str]) -> Iterator[tuple[str, float, str]]:
    """Yield (kind, badness, caption) for every kind of error that the image shows."""
    confusion = confusion_matrix(checked.truth, checked.predicted, len(classes))
    iou = iou_per_class(confusion)
    for index in (np.flatnonzero(confusion[1:].sum(axis=1)) + 1).tolist():
        if iou[index] < 1:
            taken_for = confusion[index].copy()
            taken_for[index] = 0
            mostly = classes[int(taken_for.argmax())] if taken_for.any() else "nothing else"
            caption = f"IoU {100 * iou[index]:.1f}, {confusion[index].sum()} px, otherwise mostly {mostly}"
            yield f"lowest IoU: {classes[index]}", 1 - float(iou[index]), caption
    defects = match_defects(checked.truth, checked.predicted)
    missed = defects.overlap < CAUGHT_OVERLAP
    if missed.any():
        worst = int(np.where(missed, defects.area_px, 0).argmax())
        area = int(defects.area_px[worst])
        caption = f"{classes[defects.label[worst]]} of {area} px, {100 * defects.overlap[worst]:.0f} % of it predicted"
        yield "missed defects", float(area), caption
    false_px = int(confusion[0, 1:].sum())
    if not checked.defective and false_px:
        caption = f"{false_px} px, mostly {classes[int(confusion[0, 1:].argmax()) + 1]}"
        yield "false alarms", float(false_px), caption


def _write(kinds: Iterable[tuple[str, Iterable[_Case]]], out: Path, dataset: str, classes: Sequence[str]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    (out / ".gitignore").write_text(_IGNORE_ALL, encoding="utf-8")
    sections = []
    for number, (kind, cases) in enumerate(kinds):
        figures = []
        for rank, case in enumerate(cases, start=1):
            name = f"{number:02d}-{rank:02d}.png"
            _write_png(out / name, _row(case.checked))
            entry = case.checked.entry
            caption = f"{rank}. {entry.name} (part {entry.part}): {case.caption}; score {case.checked.score:.3f}"
            figures.append(f'<figure><img src="{name}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>')
        body = "\n".join(figures) or "<p>None.</p>"
        sections.append(f"<h2>{html.escape(kind)}</h2>\n{body}")
    index = out / "index.html"
    write_atomically(index, _page(dataset, classes, "\n".join(sections)))
    return index


def _row(checked: Checked) -> NDArray[np.uint8]:
    """Image, truth, prediction and confidence side by side, (S, 4 S + gaps, 3) BGR."""
    image = checked.image
    plain = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
    confidence = cv2.applyColorMap(checked.confidence, cv2.COLORMAP_VIRIDIS)
    panels = [plain, overlay(image, checked.truth), overlay(image, checked.predicted), confidence]
    gap = np.full((plain.shape[0], 4, 3), 255, dtype=np.uint8)
    row: list[NDArray[np.uint8]] = []
    for panel in panels:
        row += [gap, np.asarray(panel, dtype=np.uint8)]
    return np.hstack(row[1:])


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    _, data = cv2.imencode(".png", picture)
    path.write_bytes(data.tobytes())


def _page(dataset: str, classes: Sequence[str], body: str) -> str:
    legend = " ".join(
        f'<span style="border-bottom:4px solid rgb({r},{g},{b})">{html.escape(name)}</span>'
        for name, (b, g, r) in ((name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(classes) if i)
    )
    title = f"{html.escape(dataset)}: the worst errors"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.4 sans-serif; margin: 1em auto; max-width: 1060px; padding: 0 1em; }}
figure {{ margin: 0 0 1em; }} img {{ max-width: 100%; }} figcaption {{ color: GrayText; }}
span {{ margin-right: 1em; }} :root {{ color-scheme: light dark; }}
</style></head><body>
<h1>{title}</h1>
<p>Each row: {", ".join(_PANELS)}. {legend}</p>
{body}
</body></html>
"""
