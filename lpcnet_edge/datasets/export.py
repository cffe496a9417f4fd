"""Any dataset as a folder of PNG files, in the layout that :class:`~lpcnet_edge.datasets.folder.Folder` reads."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
from numpy.typing import NDArray

from lpcnet_edge.config import dump_yaml
from lpcnet_edge.datasets.folder import check_names
from lpcnet_edge.errors import BadInput, UsageError
from lpcnet_edge.types import Dataset, Entry


def write_folder(dataset: Dataset, out: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write ``images/``, ``masks/``, ``classes.yaml`` and ``parts.csv`` below ``out``, whole or not at all.

    Images and masks are PNG, without loss; a mask's pixels are class indices. The folder grows under another name
    beside ``out`` and is renamed when it is complete, so that a killed run leaves no half of a dataset.

    Parameters
    ----------
    out
        Must be absent or empty.
    progress
        Called with the number of images written and their total.

    Raises
    ------
    UsageError
        ``out`` holds something already.
    BadConfig
        A class has a name that ``classes.yaml`` cannot hold.
    BadInput
        ``out`` cannot be written to. What ``dataset.read`` raises passes through.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already", mend="choose another folder, or remove that one")
    if out.name in ("", ".."):  # the folder put in its place would not be the one that somebody stands in
        raise UsageError(f"the folder {out} has no name of its own", mend="name a folder that is to be made")
    check_names(dataset.classes)
    growing = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(growing, ignore_errors=True)
        for name in ("images", "masks"):
            (growing / name).mkdir(parents=True)
        _write(dataset, growing, progress or (lambda done, total: None))
        growing.rename(out)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise BadInput(f"{exc.filename or out}: {reason}", mend="choose a folder that can be written to") from exc
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def _write(dataset: Dataset, root: Path, progress: Callable[[int, int], None]) -> None:
    entries = dataset.entries
    stems = _stems(entries)
    for index, stem in enumerate(stems):
        sample = dataset.read(index)
        (root / "images" / f"{stem}.png").write_bytes(_png(sample.image))
        (root / "masks" / f"{stem}.png").write_bytes(_png(sample.mask))
        progress(index + 1, len(stems))
    classes = {"names": list(dataset.classes), "channels": dataset.channels, "name": dataset.name}
    (root / "classes.yaml").write_text(dump_yaml(classes), encoding="utf-8")
    (root / "parts.csv").write_text(_parts_table(entries, stems), encoding="utf-8", newline="")


def _stems(entries: Sequence[Entry]) -> list[str]:
    """A file name for every entry: the last part of its name if that tells all apart, else the whole of it."""
    paths = [PurePosixPath(entry.name) for entry in entries]
    for candidates in ([path.stem for path in paths], [str(path.with_suffix("")) for path in paths]):
        stems = [re.sub(r"[^A-Za-z0-9._-]+", "_", name) for name in candidates]
        if len(set(stems)) == len(stems):
            return stems
    return [f"{index:06d}" for index in range(len(paths))]


def _parts_table(entries: Sequence[Entry], stems: Sequence[str]) -> str:
    strata = sorted({key for entry in entries for key in entry.strata} - {"image", "part"})
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["image", "part", *strata])
    for entry, stem in zip(entries, stems, strict=True):
        writer.writerow([f"{stem}.png", entry.part, *(entry.strata.get(key, "") for key in strata)])
    return table.getvalue()


def _png(pixels: NDArray[Any]) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise OSError(f"an array of shape {pixels.shape} cannot be written as PNG")
    return data.tobytes()
