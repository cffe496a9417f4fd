"""Settings of sources, as they stand in YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lpcnet_edge.config import refuse_non_finite


@dataclass(frozen=True, slots=True)
class ReconnectSettings:
    """What follows the loss of a live source: the pause doubles from ``first_s`` to ``largest_s``.

    ``attempts`` in a row without success end the source with an error; None tries for ever.
    """

    first_s: float = 0.5
    largest_s: float = 10.0
    attempts: int | None = None

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if not 0 < self.first_s <= self.largest_s:
            raise ValueError(f"first_s is {self.first_s}; it lies above 0 and at most at largest_s, {self.largest_s}")
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; give at least 1, or null for no limit")


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """A GenICam camera; what is None or empty stays as the camera has it.

    Attributes
    ----------
    exposure_us, gain, frame_rate_hz
        Gain in the camera's own unit, dB for most. Setting one turns its automatic off where there is one.
    pixel_format
        As the camera names it: ``Mono8``, ``Mono12Packed``, ``BayerRG8`` ... (docs/sources.md lists what is decoded).
    trigger
        ``free`` runs by itself, ``software`` waits for ``source.trigger()``, ``hardware`` for ``trigger_source``.
    trigger_source
        The camera's input, as in ``Line1``.
    features
        Any other GenICam feature by name, set in this order before the rest.
    packet_size
        Bytes of a GigE Vision packet; 0 keeps the camera's. 8192 or so with jumbo frames on the whole path.
    buffers
        Frames the driver can hold.
    silent_s
        A free-running camera without a frame for so long counts as lost.
    """

    exposure_us: float | None = None
    gain: float | None = None
    frame_rate_hz: float | None = None
    pixel_format: str = ""
    trigger: Literal["free", "software", "hardware"] = "free"
    trigger_source: str = "Line1"
    features: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    packet_size: int = 0
    buffers: int = 16
    silent_s: float = 3.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if self.packet_size < 0 or self.packet_size > 65535:
            raise ValueError(f"packet_size is {self.packet_size}; it lies between 0 and 65535")
        if self.buffers < 2:
            raise ValueError(f"buffers is {self.buffers}; it takes 2, one to fill and one to read")
        if self.silent_s <= 0:
            raise ValueError(f"silent_s is {self.silent_s}; it is above 0")
        for name, value in (("exposure_us", self.exposure_us), ("frame_rate_hz", self.frame_rate_hz)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it is above 0, or null for what the camera has")
        apart_s = max(1 / (self.frame_rate_hz or float("inf")), (self.exposure_us or 0) / 1e6)
        if self.trigger == "free" and apart_s >= self.silent_s:
            raise ValueError(
                f"silent_s is {self.silent_s}; the camera would count as lost between two frames, {apart_s:g} s apart"
            )


@dataclass(frozen=True, slots=True)
class CorrectionSettings:
    """Dark frame and flat field (see :mod:`lpcnet_edge.runtime.sources.correction`).

    Attributes
    ----------
    dark, flat
        Averages with the lens covered, and of an even bright surface: 8-bit or 16-bit images, or float ``.npy``, in
        levels of 0..255 (16-bit images: 0..65535 for 0..255). ``dark`` without ``flat`` only subtracts.
    largest_gain
        No pixel is brightened more than this: a dead pixel has no right gain.
    """

    dark: Path | None = None
    flat: Path | None = None
    largest_gain: float = 4.0

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if self.largest_gain < 1:
            raise ValueError(f"largest_gain is {self.largest_gain}; it is at least 1")


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """How a source is read; a field that its kind does not use is ignored.

    Attributes
    ----------
    name
        Stands in verdicts and in the names of frames; by default the folder, file or device.
    recursive
        Image folder: also the folders below, without following links to folders.
    decode_threads
        Image files: 0 takes one per core of this process, 4 at most.
    bits
        Significant low bits of images deeper than 8 bits: 12 where a 12-bit camera wrote 16-bit files as they were. A
        sample becomes its upper 8 bits.
    part_pattern
        Regular expression searched in a frame's name; its group ``part`` (or its first) is the part. Empty: the name.
    queue_frames
        Live: frames that may wait to be processed. Beyond, the oldest becomes a bad frame that says so.
    """

    name: str = ""
    recursive: bool = False
    decode_threads: int = 0
    bits: int = 16
    part_pattern: str = ""
    queue_frames: int = 4
    reconnect: ReconnectSettings = ReconnectSettings()
    camera: CameraSettings = CameraSettings()
    correction: CorrectionSettings = CorrectionSettings()

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if not 8 <= self.bits <= 16:
            raise ValueError(f"bits is {self.bits}; it lies between 8 and 16")
        if self.decode_threads < 0:
            raise ValueError(f"decode_threads is {self.decode_threads}; give 1 or more, or 0 for one per core")
        if self.queue_frames < 1:
            raise ValueError(f"queue_frames is {self.queue_frames}; it takes at least 1")
        try:
            pattern = re.compile(self.part_pattern)
        except re.error as exc:
            raise ValueError(f"part_pattern {self.part_pattern!r}: {exc}") from exc
        if self.part_pattern and not pattern.groups:
            raise ValueError(f"part_pattern {self.part_pattern!r} has no group; write (?P<part>...) around the part")
