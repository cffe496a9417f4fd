"""Augmentation keeps picture and mask together and repeats from its generator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lpcnet_edge.network import augment
from lpcnet_edge.network.augment import AugmentSettings

STILL = AugmentSettings(gain=1.0, gamma=1.0, offset=0.0, shading=0.0, noise=0.0, blur_probability=0.0, tint=1.0)


def marked(shape: tuple[int, ...] = (96, 96)) -> tuple[np.ndarray, np.ndarray]:
    image = np.full(shape, 100, dtype=np.uint8)
    mask = np.zeros(shape[:2], dtype=np.uint8)
    image[40:60, 30:55] = 220
    mask[40:60, 30:55] = 2
    return image, mask


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_crop_moves_picture_and_mask_alike(seed: int) -> None:
    image, mask = marked()
    pixels, labels = augment.crop(image, mask, 64, AugmentSettings(), np.random.default_rng(seed), (50.0, 42.0))
    assert pixels.shape == labels.shape == (64, 64)
    assert set(np.unique(labels)) <= {0, 2}
    assert ((pixels > 160) == (labels == 2)).mean() > 0.97


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 95), st.integers(0, 95), st.sampled_from([0.0, 8.0, 45.0]))
@example(3, 0, 0, 45.0)
def test_crop_holds_its_focus(seed: int, y: int, x: int, rotation: float) -> None:
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 1
    turned = AugmentSettings(rotation_deg=rotation)
    _, labels = augment.crop(mask, mask, 64, turned, np.random.default_rng(seed), (float(y), float(x)))
    assert labels.any()


def test_light_without_range_changes_nothing() -> None:
    image, _ = marked()
    np.testing.assert_array_equal(augment.light(image, STILL, np.random.default_rng(0)), image)


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 3)])
def test_light_keeps_shape_and_repeats(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    first, second = (augment.light(image, AugmentSettings(), np.random.default_rng(7)) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == shape
    np.testing.assert_array_equal(first, second)
    assert (first != image).any()


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 3)])
def test_a_lifted_defect_pasted_in_place_looks_like_itself(shape: tuple[int, ...]) -> None:
    image, mask = marked(shape)
    patch = augment.lift(image, mask)
    assert patch is not None
    free = np.full(shape, 60, dtype=np.uint8)
    pasted, labels = augment.paste(free, np.zeros_like(mask), patch, np.random.default_rng(0), keep_place=True)
    inside = pasted[labels == 2].astype(float)
    outside = pasted[labels == 0].astype(float)
    assert 0.5 < (labels == 2).sum() / (mask == 2).sum() < 1.6
    assert inside.mean() > 1.5 * 60  # 100 -> 220 is a factor of 2.2 on the first tile
    assert abs(np.median(outside) - 60) <= 1


def test_nothing_to_lift_from_a_free_tile() -> None:
    assert augment.lift(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)) is None


def test_nothing_to_lift_where_no_surface_is_left_to_tell_the_defect_from() -> None:
    """What was lifted would change nothing, and a free tile that it is pasted on would be labelled as defective."""
    image, mask = np.full((64, 64), 60, np.uint8), np.ones((64, 64), np.uint8)
    image[62:], mask[62:] = 120, 0
    assert augment.lift(image, mask) is None
