"""Dark frame, flat field and scale: what makes one camera's pixels comparable over its field. Pure functions.

Two-point correction, as in EMVA 1288's model of offset and gain per pixel: ``(raw - dark) * mean(flat - dark) / (flat -
dark)``, the mean taken per channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.errors import BadConfig, BadInput, UnreadableImage
from lpcnet_edge.runtime.sources.settings import CorrectionSettings
from lpcnet_edge.types import Image

FloatImage = NDArray[np.float32]


def average_frames(frames: Iterable[Image]) -> FloatImage:
    """Mean of frames of one size, float32 in levels of 0..255: what a dark frame or a flat field is made of.

    Raises ``BadInput`` for none, or for frames of different sizes.
    """
    total: NDArray[np.float64] | None = None
    count = 0
    for frame in frames:
        if total is None:
            total = np.zeros(frame.shape, np.float64)
        elif total.shape != frame.shape:
            raise BadInput(f"frame {count} is {frame.shape}, the ones before {total.shape}", mend="give one size")
        total += frame
        count += 1
    if total is None:
        raise BadInput("there are no frames to average", mend="take some 32 frames with the lens covered or on grey")
    return (total / count).astype(np.float32)


def flat_field_gain(flat: FloatImage, dark: FloatImage | None = None, *, largest_gain: float = 4.0) -> FloatImage:
    """Gain of every pixel that makes the flat field even, at most ``largest_gain``; same shape as ``flat``.

    Raises ``BadInput`` where over a hundredth of the pixels would need more, or are white, so that nothing is known of
    them: then it is no flat field.
    """
    white = float((flat >= 255).mean())
    if white > 0.01:
        raise BadInput(
            f"{white:.1%} of the flat field is overexposed, or not in levels of 0..255",
            mend="take it again with less light, or a shorter exposure; 16-bit levels are for images of 16 bits",
        )
    light = flat if dark is None else flat - dark
    # In double precision: float32 stops counting some million pixels on, and each channel at another level.
    mean = light.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = mean / light
    beyond = ~((light > 0) & (gain <= largest_gain))
    share = float(beyond.mean())
    if share > 0.01:
        raise BadInput(
            f"{share:.1%} of the flat field is so dark that it needs a gain above {largest_gain:g}",
            mend="take it of an even bright surface, not overexposed, with the dark frame of the same exposure",
        )
    return np.where(beyond, np.float32(largest_gain), gain).astype(np.float32)


def correct(pixels: Image, dark: FloatImage | None, gain: FloatImage | None) -> Image:
    """Subtract ``dark`` and multiply by ``gain``, rounded and held to 0..255; all of one shape, any may be None."""
    if dark is not None and gain is not None:
        light = cv2.subtract(pixels, dark, dtype=cv2.CV_32F)
        return np.asarray(cv2.multiply(light, gain, dtype=cv2.CV_8U), dtype=np.uint8)
    if dark is not None:
        return np.asarray(cv2.subtract(pixels, dark, dtype=cv2.CV_8U), dtype=np.uint8)
    if gain is not None:
        return np.asarray(cv2.multiply(pixels, gain, dtype=cv2.CV_8U), dtype=np.uint8)
    return pixels


@dataclass(frozen=True, slots=True)
class Correction:
    """A dark frame and a gain, ready to apply; either may be None."""

    dark: FloatImage | None = None
    gain: FloatImage | None = None

    @classmethod
    def load(cls, settings: CorrectionSettings, channels: int) -> Correction:
        """Read the files named; raises ``BadConfig`` where one cannot serve, ``BadInput`` for a bad flat field."""
        dark = _read(settings.dark, channels)
        flat = _read(settings.flat, channels)
        if dark is not None and flat is not None and dark.shape != flat.shape:
            raise BadConfig(
                f"{settings.dark} is {dark.shape}, {settings.flat} is {flat.shape}",
                mend="take both with the same region and pixel format",
            )
        gain = None if flat is None else flat_field_gain(flat, dark, largest_gain=settings.largest_gain)
        return cls(dark, gain)

    def apply(self, pixels: Image) -> Image:
        """Correct one frame; raises ``UnreadableImage`` for one of another shape than the correction."""
        for known in (self.dark, self.gain):
            if known is not None and known.shape != pixels.shape:
                raise UnreadableImage(
                    f"the frame is {pixels.shape}, the flat field or dark frame {known.shape}",
                    mend="take the correction again with the camera's present region and pixel format",
                )
        return correct(pixels, self.dark, self.gain)


def _read(path: Path | None, channels: int) -> FloatImage | None:
    if path is None:
        return None
    try:
        if path.suffix == ".npy":
            image = np.load(path, allow_pickle=False)
        else:
            flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
            image = cv2.imdecode(np.fromfile(path, np.uint8), flag | cv2.IMREAD_ANYDEPTH)
    except (OSError, ValueError, EOFError, cv2.error) as exc:
        raise BadConfig(f"{path}: {exc}", mend="name an image file or a .npy array") from exc
    if image is not None and (not isinstance(image, np.ndarray) or image.dtype.kind not in "uif"):
        raise BadConfig(f"{path} is no array of numbers", mend="write it with numpy.save, of what average_frames gives")
    shape = (2, None) if channels == 1 else (3, 3)
    if image is None or (image.ndim, None if image.ndim == 2 else image.shape[2]) != shape:
        raise BadConfig(f"{path} is no image of {channels} channels", mend="take it with the channels of the network")
    levels: FloatImage = image.astype(np.float32)
    if image.dtype == np.uint16:
        levels /= 257  # 65535 / 255
    if not np.isfinite(levels).all():
        raise BadConfig(f"{path} has values that are no numbers", mend="take it again")
    return levels


@dataclass(frozen=True, slots=True)
class Target:
    """A flat calibration target.

    Attributes
    ----------
    kind
        ``chessboard``, or a grid of circles: ``circles`` in rows and columns, ``asymmetric-circles`` with every other
        row shifted by half a pitch.
    columns, rows
        Inner corners of a chessboard (one fewer than its squares), circles of a grid.
    pitch_mm
        Side of a square; distance of neighbouring centres along a row, for ``asymmetric-circles`` half of that.
    """

    kind: Literal["chessboard", "circles", "asymmetric-circles"]
    columns: int
    rows: int
    pitch_mm: float

    def __post_init__(self) -> None:
        if self.columns < 3 or self.rows < 3:
            raise ValueError(f"a target of {self.columns}x{self.rows} points is too small; it takes 3x3")
        if not 0 < self.pitch_mm < math.inf:
            raise ValueError(f"pitch_mm is {self.pitch_mm}; it is a number of mm above 0")

    def points_mm(self) -> NDArray[np.float64]:
        """(rows * columns, 2) x and y in mm, in the order in which OpenCV reports them."""
        y, x = (axis.astype(np.float64) for axis in np.mgrid[0 : self.rows, 0 : self.columns])
        if self.kind == "asymmetric-circles":
            x = 2 * x + y % 2
        return np.stack([x.ravel(), y.ravel()], axis=1) * self.pitch_mm


@dataclass(frozen=True, slots=True)
class Scale:
    """What a target says of a camera.

    Attributes
    ----------
    mm_per_px
        Side of the square that a pixel sees, for ``mm_per_px`` of the verdict rules.
    spread
        How much the scale differs over the target, (largest - smallest) / mean: perspective, and pixels not square.
    error_px
        RMS distance of the points from a plane seen in perspective: lens distortion and noise.
    """

    mm_per_px: float
    spread: float
    error_px: float


def scale_from_target(image: Image, target: Target, *, largest_spread: float = 0.02) -> Scale:
    """Measure mm per pixel from one photograph, (H, W) or (H, W, 3) uint8, of a target in the plane of the parts.

    A homography is fitted to the points (Hartley and Zisserman, Multiple View Geometry, 4.1); the scale along both
    axes, taken at every point, gives mean and spread. Raises ``BadInput`` where the target is not found, or where the
    scale differs by more than ``largest_spread``, so that one number would be wrong.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise BadInput(
            f"a photograph of {image.dtype} and shape {image.shape}", mend="give uint8 of shape (H, W) or (H, W, 3)"
        )
    grey = image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    size = (target.columns, target.rows)
    if target.kind == "chessboard":
        found, points = cv2.findChessboardCornersSB(grey, size, flags=cv2.CALIB_CB_ACCURACY)
    else:
        symmetric = target.kind == "circles"
        flag = cv2.CALIB_CB_SYMMETRIC_GRID if symmetric else cv2.CALIB_CB_ASYMMETRIC_GRID
        found, points = cv2.findCirclesGrid(grey, size, flags=flag)
    if not found or points is None:
        raise BadInput(
            f"no {target.kind} of {target.columns}x{target.rows} points in an image of {grey.shape[1]}x{grey.shape[0]}",
            mend="the whole target must be seen, sharp and with a white border; columns and rows count inner corners",
        )
    known = target.points_mm()
    seen = np.asarray(points, np.float64).reshape(-1, 2)
    homography, _ = cv2.findHomography(known, seen)
    projected = cv2.perspectiveTransform(known[None], homography)[0]
    # px per mm at every point along x and y, by central differences a tenth of a pitch wide.
    step = target.pitch_mm / 20
    px_per_mm = np.stack([
        np.linalg.norm(
            cv2.perspectiveTransform((known + shift)[None], homography)[0]
            - cv2.perspectiveTransform((known - shift)[None], homography)[0],
            axis=1,
        )
        / (2 * step)
        for shift in (np.array([step, 0.0]), np.array([0.0, step]))
    ])  # fmt: skip
    mm_per_px = float(1 / px_per_mm.mean())
    spread = float((px_per_mm.max() - px_per_mm.min()) / px_per_mm.mean())
    if spread > largest_spread:
        raise BadInput(
            f"the scale differs by {spread:.1%} over the target, around {mm_per_px:.4g} mm per px",
            mend="set the camera square to the surface, or allow more with largest_spread",
        )
    error_px = float(np.sqrt(((projected - seen) ** 2).sum(axis=1).mean()))
    return Scale(mm_per_px, spread, error_px)
