"""One contract for every backend: what the pipeline relies on.

A test file gives it a class with a fixture ``backend``, opened on a bundle of ``local_bundle``.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from local_bundle import LIMIT, SIDE, frame_of, heat_of
from numpy.typing import NDArray

from lpcnet_edge.backends.base import ALIGNMENT, Backend, Slot


def filled(backend: Backend, tiles: NDArray[np.uint8]) -> Slot:
    slot = backend.make_slot(len(tiles))
    slot.pixels[: len(tiles)] = tiles
    return slot


def some_tiles(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([frame_of(seed + n, defects=n % 3) for n in range(count)])


def check_picked(slot: Slot, tiles: NDArray[np.uint8], picked: NDArray[np.int32]) -> None:
    heat = heat_of(tiles[picked]).repeat(16, axis=1).repeat(16, axis=2)
    np.testing.assert_array_equal(slot.classes[: len(picked)], tiles[picked] > LIMIT)
    np.testing.assert_array_equal(slot.confidence[: len(picked)], np.rint(255 * heat))


class Contract:
    """What holds for each."""

    def test_a_slot_is_aligned_and_large_enough(self, backend: Backend) -> None:
        slot = backend.make_slot(5)
        assert slot.capacity >= 5
        assert slot.pixels.shape[1:] == (SIDE, SIDE)
        for array in (slot.pixels, slot.score, slot.classes, slot.confidence):
            assert len(array) == slot.capacity
            assert array.ctypes.data % ALIGNMENT == 0
            assert array.flags.c_contiguous

    @pytest.mark.parametrize("count", [1, 3, 4, 11])
    def test_stage_1(self, backend: Backend, count: int) -> None:
        tiles = some_tiles(11)
        slot = filled(backend, tiles)
        backend.submit(slot, count)
        assert backend.collect(slot)
        np.testing.assert_allclose(slot.score[:count], heat_of(tiles[:count]).max(axis=(1, 2)), rtol=1e-6)

    @pytest.mark.parametrize(
        "picked",
        [[0], [10], [0, 1, 2], [2, 3, 4, 5, 6, 7], [1, 3, 5, 7, 9, 10], [0, 1, 2, 5, 6, 9, 10], list(range(11)), []],
        ids=str,
    )
    def test_stage_2_in_the_order_of_the_picked(self, backend: Backend, picked: list[int]) -> None:
        tiles = some_tiles(11)
        slot = filled(backend, tiles)
        backend.submit(slot, 11)
        backend.collect(slot)
        for _ in range(2):  # slots are used again
            backend.submit_picked(slot, np.array(picked, np.int32))
            assert backend.collect_picked(slot)
            check_picked(slot, tiles, np.array(picked, np.int32))

    def test_slots_in_flight_keep_apart(self, backend: Backend) -> None:
        tiles = [some_tiles(6, seed) for seed in (0, 100, 200)]
        slots = [filled(backend, each) for each in tiles]
        picked = np.array([0, 2, 3, 5], np.int32)
        for slot in slots:
            backend.submit(slot, 6)
        for slot in slots:
            assert backend.collect(slot)
            backend.submit_picked(slot, picked)
        for slot, each in zip(reversed(slots), reversed(tiles), strict=True):
            assert backend.collect_picked(slot)
            check_picked(slot, each, picked)

    def test_a_slot_is_refilled(self, backend: Backend) -> None:
        slot = backend.make_slot(4)
        for seed in range(3):
            tiles = some_tiles(4, 10 * seed)
            slot.pixels[:4] = tiles
            backend.submit(slot, 4)
            backend.collect(slot)
            np.testing.assert_allclose(slot.score[:4], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)

    def test_a_short_wait_says_that_it_still_runs(self, backend: Backend) -> None:
        tiles = some_tiles(64)
        slot = filled(backend, tiles)
        backend.submit(slot, 64)
        until_s = time.monotonic() + 10
        while not backend.collect(slot, 0.0):
            assert time.monotonic() < until_s
        np.testing.assert_allclose(slot.score[:64], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)

    def test_submitting_twice_is_a_fault_of_the_caller(self, backend: Backend) -> None:
        slot = backend.make_slot(4)
        backend.submit(slot, 4)
        with pytest.raises(RuntimeError, match="still at work"):
            backend.submit(slot, 4)
        assert backend.collect(slot)
