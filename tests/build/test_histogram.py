"""The streaming histogram against the values themselves, and what it holds in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from lpcnet_edge.build.histogram import BINS, Histogram
from lpcnet_edge.errors import BadData, UsageError

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(arrays(np.float32, st.integers(1, 50), elements=finite), min_size=1, max_size=6)


def observed(*values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram("stage2/encoder/2/relu")
    for batch in values:
        histogram.update(batch)
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    h = histogram
    return h.counts.tolist(), h.count, h.zeros, h.limit, h.minimum, h.maximum


@given(batches)
def test_it_equals_numpys_histogram(values: list[NDArray[np.float32]]) -> None:
    histogram, everything = observed(*values), np.concatenate(values)
    assert (histogram.count, histogram.zeros) == (everything.size, int((everything == 0).sum()))
    assert (histogram.minimum, histogram.maximum) == (everything.min(), everything.max())
    assert histogram.largest == np.abs(everything).max()
    if histogram.largest:
        assert histogram.limit / 2 <= histogram.largest < histogram.limit
        magnitudes = np.abs(everything[everything != 0]).astype(np.float64)
        edges = np.arange(BINS + 1) * (histogram.limit / BINS)
        # Bins are half open; numpy's last one is closed, and nothing lies on its upper edge.
        assert histogram.counts.tolist() == np.histogram(magnitudes, edges)[0].tolist()
    else:
        assert not histogram.counts.any()


@given(batches, st.randoms())
def test_the_order_of_updates_and_merges_does_not_matter(values: list[NDArray[np.float32]], random: object) -> None:
    together = observed(np.concatenate(values))
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    merged = Histogram(together.name)
    for batch in shuffled:
        merged.merge(observed(batch))
    assert state(observed(*shuffled)) == state(together) == state(merged)


def test_any_shape_and_no_values() -> None:
    values = np.arange(24, dtype=np.float32)
    assert state(observed(values)) == state(observed(values.reshape(2, 3, 4), np.zeros((0, 5), np.float32)))
    assert observed().largest == 0.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_with_the_tensors_name(wrong: float) -> None:
    histogram = observed(np.ones(4, np.float32))
    before = state(histogram)
    with pytest.raises(BadData, match=r"stage2/encoder/2/relu has 2 of 7 values that are NaN or infinite"):
        histogram.update(np.float32([1, wrong, 3, wrong, 0, -5, 9]))
    assert state(histogram) == before


def test_another_tensor_is_not_merged() -> None:
    with pytest.raises(UsageError, match="cannot be merged"):
        observed().merge(Histogram("stage1/stem"))


def test_memory_is_bounded() -> None:
    histogram = Histogram("t")
    batch = np.random.default_rng(0).standard_normal(1 << 14, dtype=np.float32)
    histogram.update(batch)
    tracemalloc.start()
    for number in range(10_000):
        histogram.update(batch[: 256 + number % 64])
    held, peak = tracemalloc.get_traced_memory()
    assert held < 100_000
    assert peak < 300_000
    # One large batch: its temporaries do not grow with it.
    large = np.random.default_rng(1).standard_normal(1 << 22, dtype=np.float32)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    histogram.update(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < large.nbytes / 8
    assert histogram.counts.nbytes == BINS * 8
