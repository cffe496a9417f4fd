"""From a woven sheet to the bytes of a camera: projection, colour, harmless marks, defects, light and noise."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.datasets.fabric_defects import MAKERS
from lpcnet_edge.datasets.fabric_plan import FabricSettings, PlannedDefect, plan_frame, random_stream
from lpcnet_edge.datasets.fabric_threads import Picture, fill_pinholes
from lpcnet_edge.datasets.fabric_weave import TRACERS, Fabric, make_lighting, weave_fabric
from lpcnet_edge.types import ClassMap, Image

# Harmless marks per megapixel: dust, and soft stains of resin.
_SPECKS_PER_MPX, _STAINS_PER_MPX = 30.0, 12.0

# Fabric between the strands, fibres, openings or creases of one defect belongs to it up to this width.
WIDEST_GAP_PX = 12

# Rows that are given noise at a time: what they need stays in the processor's cache.
_BAND_ROWS = 32


def render(settings: FabricSettings, seed: int, index: int) -> tuple[Image, ClassMap]:
    """Draw frame ``index`` of ``seed``: a pure function of its arguments.

    Returns
    -------
    image
        (height_px, width_px, 3) uint8 BGR.
    mask
        (height_px, width_px) uint8, index into ``CLASSES``.

    Raises
    ------
    BadConfig
        The seed or the index is negative.
    """
    plan = plan_frame(settings, seed, index)
    rng = random_stream(seed, index, "light")
    lighting = make_lighting(plan.light, rng)
    tracers = bool(rng.random() < settings.tracer_share)
    dye = np.array(TRACERS[int(rng.choice(len(TRACERS), p=[share for _, share in TRACERS]))][0], np.float32)
    tint = np.array([rng.uniform(0.86, 0.97), 1.0, rng.uniform(1.0, 1.09)], np.float32)
    fabric = weave_fabric(
        plan, lighting, settings.height_px, settings.width_px, tracers, random_stream(seed, index, "weave")
    )
    mean_lum = float(fabric.lum.mean())
    defects = random_stream(seed, index, "defects")
    finishes = [MAKERS[planned.kind](planned, fabric, defects) for planned in plan.defects]
    picture = Picture(*_project(fabric, tint, dye), tint, lighting.main)
    _sprinkle(picture, random_stream(seed, index, "specks"))
    for planned, finish in zip(plan.defects, finishes, strict=True):
        finish(picture)
        _close_gaps(picture.mask, planned)
    return _expose(picture.image, mean_lum, rng, random_stream(seed, index, "sensor")), picture.mask


def _project(
    fabric: Fabric, tint: NDArray[np.float32], dye: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ClassMap]:
    """See the sheet through the frame: (H, W, 3) float32 radiance, (H, W) uint8 mask of what is in the sheet."""
    where = (fabric.map_x, fabric.map_y, cv2.INTER_LINEAR)
    lum = cv2.remap(fabric.lum, *where)
    tracer = cv2.remap(fabric.tracer, *where)
    image = np.empty((*lum.shape, 3), np.float32)
    for channel in range(3):
        np.multiply(lum, tint[channel], out=image[..., channel])
        image[..., channel] += tracer * (tint[channel] * (dye[channel] - 1))
    mask = np.zeros(lum.shape, np.uint8)
    for kind, cover in fabric.covers.items():
        covered = cv2.remap(cover, *where) > 127
        mask[~fill_pinholes(~covered)] = kind
    return image, mask


def _close_gaps(mask: ClassMap, planned: PlannedDefect) -> None:
    """Give the gaps within one defect to it: what lies between two strands is faulty, though intact weave shows."""
    reach = planned.extent_px + 2 * WIDEST_GAP_PX
    rows, cols = (slice(max(0, int(at - reach)), int(at + reach) + 1) for at in (planned.y_px, planned.x_px))
    window = mask[rows, cols]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (WIDEST_GAP_PX + 1, WIDEST_GAP_PX + 1))
    closed = cv2.morphologyEx((window == planned.kind).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    window[(closed > 0) & (window == 0)] = planned.kind


def _sprinkle(picture: Picture, rng: np.random.Generator) -> None:
    """Marks that are no defect: specks of dust a pixel or two wide, and stains no sharper than a tow."""
    height, width = picture.mask.shape
    area_mpx = height * width / 1e6
    for _ in range(int(rng.poisson(_SPECKS_PER_MPX * area_mpx))):
        change = np.float32(rng.choice((-0.7, 1.0, 2.0)) * rng.uniform(0.5, 1.0))
        _mark(picture, rng, rng.uniform(0.6, 1.2), change)
    for _ in range(int(rng.poisson(_STAINS_PER_MPX * area_mpx))):
        _mark(picture, rng, rng.uniform(9, 28), np.float32(rng.uniform(-0.25, 0.3)))


def _mark(picture: Picture, rng: np.random.Generator, sigma_px: float, change: np.float32) -> None:
    height, width = picture.mask.shape
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    reach = int(3 * sigma_px) + 1
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    patch = picture.image[top : int(y) + reach, left : int(x) + reach]
    down = np.exp(-(((np.arange(patch.shape[0]) + top - y) / sigma_px) ** 2) / 2)
    right = np.exp(-(((np.arange(patch.shape[1]) + left - x) / sigma_px) ** 2) / 2)
    patch *= (1 + change * np.outer(down, right))[..., None].astype(np.float32)


def _expose(
    image: NDArray[np.float32], mean_lum: float, rng: np.random.Generator, sensor: np.random.Generator
) -> Image:
    """Uneven light, the lens, the sensor: (H, W, 3) float32 radiance to uint8. Changes ``image``.

    ``mean_lum`` is that of the fabric without its defects, so that a defect does not change the frame around it.
    """
    height, width = image.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    slope_x, slope_y = rng.uniform(-0.22, 0.22, 2).astype(np.float32)
    corner = np.float32(rng.uniform(0.0, 0.12))
    # Someone set the exposure for this fabric, but not exactly: most of a dark weave's darkness is made up for.
    gain = np.float32(255 * rng.uniform(0.48, 0.90) * (0.33 / mean_lum) ** 0.6)
    light = (slope_x * x - corner * x * x) + (slope_y * y - corner * y * y)
    image *= (light + np.float32(1)) * gain
    image = np.asarray(cv2.GaussianBlur(image, (5, 5), float(rng.uniform(0.45, 0.8))), dtype=np.float32)

    # One run of noise serves the three channels, each from another place: a third of the cost, unseen.
    skip = 4099
    noise = sensor.standard_normal(height * width + 2 * skip, dtype=np.float32)
    read, shot = np.float32(rng.uniform(1.0, 2.6)), np.float32(rng.uniform(0.008, 0.022))
    planes = [noise[channel * skip :][: height * width].reshape(height, width) for channel in range(3)]
    for top in range(0, height, _BAND_ROWS):
        band = image[top : top + _BAND_ROWS]
        grain = band * shot
        grain += read
        for channel, plane in enumerate(planes):
            grain[..., channel] *= plane[top : top + _BAND_ROWS]
        band += grain
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0, out=image)), dtype=np.uint8)
