"""Image files: one, those of a glob, or a folder of any size, decoded side by side and yielded in order."""

from __future__ import annotations

import glob
import os
import re
from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2

from lpcnet_edge.errors import BadInput, UnreadableImage
from lpcnet_edge.files import name_as_text
from lpcnet_edge.imaging import read_image
from lpcnet_edge.runtime.sources.base import PartNamer, Raw, Source, now_ns
from lpcnet_edge.runtime.sources.settings import SourceSettings

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_AHEAD = 2  # images decoded or being decoded per thread, beyond the one in hand


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which ``a2`` comes before ``a10``; names that differ only in leading zeros go by text."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def list_images(folder: str, recursive: bool) -> list[str]:
    """Paths below ``folder`` of the files with an image's suffix, in natural order, hidden ones left out.

    The kind of an entry comes with its name, so nothing is asked about single files but links. Links to folders are not
    followed. Raises ``BadInput`` for a folder that cannot be read: what is in it must not be passed over.
    """
    found: list[str] = []
    below = [""]
    while below:
        here = below.pop()
        try:
            with os.scandir(os.path.join(folder, here)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.name.lower().endswith(IMAGE_SUFFIXES) and not _leads_to_folder(entry):
                        found.append(os.path.join(here, entry.name))
                    elif recursive and entry.is_dir(follow_symlinks=False):
                        below.append(os.path.join(here, entry.name))
        except OSError as exc:
            where = os.path.join(folder, here) if here else folder
            raise BadInput(f"{where}: {exc.strerror or exc}", mend="check the path and its permissions") from exc
    return sorted(found, key=natural_key)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link round in a circle, or to where we may not look: one bad frame, not the whole folder
        return False


class ImageSource(Source):
    """Files that are decoded by threads, some ahead of the one in hand; see :func:`from_path` and :func:`from_glob`.

    A file that cannot be decoded is a bad frame; so is one that has gone since the folder was listed. With more than
    one thread OpenCV's own threads are turned off, in the whole process: they would fight with ours for the same cores.

    Parameters
    ----------
    folder
        The names are paths below it.
    names
        In the order to read.
    skip
        Names to leave out, as those that a resumed run has done; the others keep their ``sequence``.
    """

    def __init__(
        self,
        folder: str,
        names: Sequence[str],
        channels: int,
        settings: SourceSettings,
        part_id: PartNamer | None = None,
        skip: Container[str] = (),
    ) -> None:
        super().__init__(os.path.basename(os.path.abspath(folder)), channels, settings, part_id)
        self.total = len(names)
        self._folder = folder
        self._names = names
        self._skip = skip
        self._threads = settings.decode_threads or min(4, len(os.sched_getaffinity(0)))

    def _read(self) -> Iterator[Raw]:
        if self._threads > 1:
            cv2.setNumThreads(1)
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix=f"decode {self.name}")
        pending: deque[Future[Raw]] = deque()
        try:
            for name in self._names:
                if self._stopped.is_set():
                    return
                shown = name_as_text(name)
                if shown in self._skip:
                    while pending:
                        yield pending.popleft().result()
                    yield shown, None, 0
                    continue
                pending.append(pool.submit(self._decode, name, shown))
                if len(pending) > _AHEAD * self._threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, name: str, shown: str) -> Raw:
        if self._stopped.is_set():
            return "", None, 0
        taken_ns = now_ns()
        try:
            pixels = read_image(Path(self._folder, name), self.channels, bits=self.settings.bits)
        except UnreadableImage as exc:
            return shown, exc.message, taken_ns
        return shown, self._prepare(pixels), taken_ns


def from_path(
    path: str, channels: int, settings: SourceSettings, part_id: PartNamer | None = None, skip: Container[str] = ()
) -> ImageSource:
    """A folder's images, or a single file; raises ``BadInput`` where there is none."""
    if not os.path.isdir(path):
        folder, name = os.path.split(path)
        return ImageSource(folder or ".", [name], channels, settings, part_id, skip)
    names = list_images(path, settings.recursive)
    if not names:
        deeper = "" if settings.recursive else "; source.recursive: true in --config looks into the folders below"
        raise BadInput(f"{path} holds no images", mend=f"images end in {', '.join(IMAGE_SUFFIXES)}{deeper}")
    return ImageSource(path, names, channels, settings, part_id, skip)


def from_glob(
    pattern: str, channels: int, settings: SourceSettings, part_id: PartNamer | None = None, skip: Container[str] = ()
) -> ImageSource:
    """The files that match, whatever they end in; ``**`` stands for any folders. Raises ``BadInput`` for none.

    Names are paths below the last folder before the first wildcard.
    """
    fixed = os.path.dirname(pattern[: re.search(r"[*?\[]", pattern).start()])  # type: ignore[union-attr]  # a glob
    # A set: where ** stands twice, a path is found on several ways.
    found = {path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path)}
    if not found:
        raise BadInput(
            f"no file matches {pattern}",
            mend="quote it, so that the shell does not expand it first; for a [ in a name write [[]",
        )
    names = sorted((os.path.relpath(path, fixed or ".") for path in found), key=natural_key)
    return ImageSource(fixed or ".", names, channels, settings, part_id, skip)
