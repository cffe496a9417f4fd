"""Drawn defects: the picture changes where the mask is and hardly elsewhere, and repeats from its generator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcnet_edge.network.drawn import KINDS, draw


def free_tile(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A machined surface: vertical marks under uneven light."""
    rng = np.random.default_rng(seed)
    marks = rng.normal(0, 6, shape[1])[None, :] + rng.normal(0, 3, shape[:2])
    light = np.linspace(90, 140, shape[0])[:, None]
    grey = np.clip(light + marks, 0, 255)
    return (grey if len(shape) == 2 else np.repeat(grey[..., None], 3, 2)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), shape=st.sampled_from([(96, 96), (128, 96), (96, 96, 3)]))
def test_a_drawn_defect_is_where_its_mask_is(kind: str, seed: int, shape: tuple[int, ...]) -> None:
    image, other = free_tile(1, shape), free_tile(2, shape)
    drawn, mask = draw(kind, image, other, np.random.default_rng(seed))
    assert drawn.shape == image.shape
    assert drawn.dtype == mask.dtype == np.uint8
    assert mask.shape == shape[:2]
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.any()
    change = np.abs(drawn.astype(int) - image.astype(int)).reshape(*shape[:2], -1).max(axis=2)
    far = np.pad(mask, 8)  # feathered edges and light at a rim reach a few pixels beyond the mask
    near = np.lib.stride_tricks.sliding_window_view(far, (17, 17)).max(axis=(2, 3))
    assert not change[near == 0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_defects_can_be_seen_and_repeat(kind: str) -> None:
    image, other = free_tile(1, (128, 128)), free_tile(2, (128, 128))
    seen = 0
    for seed in range(30):
        drawn, mask = draw(kind, image, other, np.random.default_rng(seed))
        again, _ = draw(kind, image, other, np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn, again)
        seen += int(np.abs(drawn.astype(int) - image)[mask > 0].mean() > 4)
    assert seen >= 20
