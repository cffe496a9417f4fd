"""Where frames come from: ``with open_source(spec, channels=1) as source: for item in source: ...``."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from lpcnet_edge.errors import BadInput, UsageError
from lpcnet_edge.runtime.sources.base import LiveSource, PartNamer, Source
from lpcnet_edge.runtime.sources.frame import BadFrame, Frame, Item
from lpcnet_edge.runtime.sources.images import IMAGE_SUFFIXES, ImageSource, from_glob, from_path
from lpcnet_edge.runtime.sources.raw import ITERABLE, IterableSource, StdinSource
from lpcnet_edge.runtime.sources.settings import (
    CameraSettings,
    CorrectionSettings,
    ReconnectSettings,
    SourceSettings,
)
from lpcnet_edge.runtime.sources.video import VIDEO_SUFFIXES, StreamSource, VideoSource

__all__ = [
    "BadFrame",
    "CameraSettings",
    "CorrectionSettings",
    "Frame",
    "Item",
    "LiveSource",
    "PartNamer",
    "ReconnectSettings",
    "Source",
    "SourceSettings",
    "open_source",
]

_KINDS = "a folder, a file, a glob, rtsp://..., v4l2:/dev/video0, genicam:ADDRESS or stdin:WxH"


def open_source(
    spec: str | Path | Iterable[object],
    settings: SourceSettings | None = None,
    *,
    channels: int,
    part_id: PartNamer | None = None,
    skip: Container[str] = (),
) -> Source:
    """Open what ``spec`` names (docs/sources.md); devices are connected to before this returns.

    Parameters
    ----------
    spec
        A text as there; a ``Path``, which is always a file or folder; or an iterable of arrays, frames or paths of
        image files. A list or tuple of nothing but paths is decoded side by side, as a folder is.
    settings
        Defaults where None.
    channels
        What the network wants: 1 for (H, W), 3 for (H, W, 3) BGR.
    part_id
        Names the part of each item, in order; otherwise ``settings.part_pattern`` does, or the frame's own name.
    skip
        Image files only: names that a resumed run has done already.

    Raises
    ------
    UsageError
        A text that names no source, what is no source at all, one image where several are wanted, or ``skip`` for
        another kind than image files.
    BadInput
        A path that is missing, empty or unreadable as a whole. (Single files are bad frames.)
    MissingDevice, MissingLibrary
        A camera or stream that does not answer; Aravis not installed.
    """
    chosen = settings or SourceSettings()
    if not isinstance(spec, (str, Path)):
        if isinstance(spec, np.ndarray) and spec.ndim < (3 if channels == 1 else 4):
            raise UsageError(f"an array of shape {spec.shape} is one image", mend="give a list that holds it")
        if not isinstance(spec, Iterable):
            raise UsageError(f"{spec!r} is no source", mend=f"give {_KINDS}, or an iterable of arrays, frames or paths")
        if isinstance(spec, (list, tuple)) and spec and all(isinstance(item, (str, Path)) for item in spec):
            named = replace(chosen, name=chosen.name or ITERABLE)
            return ImageSource("", [os.fspath(item) for item in spec], channels, named, part_id, skip)
        source: Source = IterableSource(spec, channels, chosen, part_id)
    else:
        text = os.fspath(spec)
        scheme = "" if isinstance(spec, Path) or os.path.exists(text) else _scheme(text)
        if scheme == "" and (os.path.isdir(text) or not text.lower().endswith(VIDEO_SUFFIXES)):
            return _open_files(text, channels, chosen, part_id, skip, is_path=isinstance(spec, Path))
        source = _open_other(scheme, text, channels, chosen, part_id)
    if skip:
        source.close()
        raise UsageError("only image files can be skipped by name", mend="resume with a folder or a glob")
    return source


def _scheme(text: str) -> str:
    match = re.match(r"(rtsps?|http|https|rtmp|udp|srt)://", text) or re.match(r"(v4l2|genicam|stdin):", text)
    unknown = re.match(r"([a-z0-9]{2,}):", text)
    if not match and unknown:
        raise UsageError(
            f"'{text}' begins like a source of kind '{unknown[1]}', which is unknown", mend=f"use {_KINDS}"
        )
    return match[1] if match else ""


def _open_files(
    text: str,
    channels: int,
    settings: SourceSettings,
    part_id: PartNamer | None,
    skip: Container[str],
    *,
    is_path: bool,
) -> Source:
    if not os.path.lexists(text):
        if not is_path and re.search(r"[*?\[]", text):
            return from_glob(text, channels, settings, part_id, skip)
        raise BadInput(f"there is no {text}", mend=f"give {_KINDS}")
    if text.startswith("/dev/video"):
        raise UsageError(f"{text} is a camera, no file", mend=f"write v4l2:{text}")
    if not os.path.isdir(text) and not text.lower().endswith(IMAGE_SUFFIXES):
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise UsageError(f"{text} ends in no suffix of an image or a video", mend=f"rename it to one of {known}")
    return from_path(text, channels, settings, part_id, skip)


def _open_other(scheme: str, text: str, channels: int, settings: SourceSettings, part_id: PartNamer | None) -> Source:
    if scheme == "":
        return VideoSource(text, channels, settings, part_id)
    if scheme == "stdin":
        return StdinSource(text, channels, settings, part_id)
    if scheme == "genicam":
        # Here, because only a station with such a camera has Aravis.
        from lpcnet_edge.runtime.sources.genicam import GenicamSource

        return GenicamSource(text.removeprefix("genicam:"), channels, settings, part_id)
    device = text.removeprefix("v4l2:")
    if scheme == "v4l2" and not device.startswith("/dev/"):
        raise UsageError(f"'{text}' names no device", mend="write v4l2:/dev/video0; v4l2-ctl --list-devices lists them")
    return StreamSource(device, channels, settings, part_id)
