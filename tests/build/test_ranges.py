"""Each method of finding a range against a direct computation on the values themselves."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcnet_edge.build.histogram import BINS, Histogram
from lpcnet_edge.build.ranges import METHODS, SMALLEST_RANGE, Method, all_ranges, divergences, range_of
from lpcnet_edge.errors import UsageError


def observed(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram("t")
    for part in np.array_split(values, 3):
        histogram.update(part)
    return histogram


def activations(kind: str, seed: int = 0, count: int = 60_000) -> NDArray[np.float32]:
    """What tensors of a network look like: behind a ReLU, before one, with a few values far out, nearly even."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(count) * 3
    values = {
        "relu": np.maximum(normal, 0),
        "signed": normal,
        "tailed": np.maximum(rng.laplace(size=count), 0) * np.where(np.arange(count) % 6000 == 5, 20, 1),
        "even": rng.uniform(0, 6, count),
    }[kind]
    return values.astype(np.float32)


KINDS = ("relu", "signed", "tailed", "even")


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_minmax_is_the_largest_magnitude(values: list[float]) -> None:
    largest = max(map(abs, values))
    assert range_of(observed(np.float32(values)), "minmax") == max(largest, SMALLEST_RANGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [100.0, 99.99, 99.0, 90.0])
def test_percentile_is_numpys_to_within_a_bin(kind: str, percentile: float) -> None:
    values = activations(kind)
    histogram = observed(values)
    direct = np.percentile(np.abs(values).astype(np.float64), percentile, method="inverted_cdf")
    assert range_of(histogram, "percentile", percentile=percentile) == pytest.approx(direct, abs=histogram.width)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60), st.floats(0.1, 100))
def test_percentile_is_right_for_any_values(values: list[float], percentile: float) -> None:
    histogram = observed(np.float32(values))
    wanted = np.percentile(np.abs(np.float64(np.float32(values))), percentile, method="inverted_cdf")
    assert abs(range_of(histogram, "percentile", percentile=percentile) - wanted) <= max(
        histogram.width * 1.001, SMALLEST_RANGE
    )


def divergence(values: NDArray[np.float32], threshold_bins: int, width: float) -> float:
    """KL(P || Q) as the description has it, bin by bin: clip into the last bin, join into 128 levels, spread again."""
    bins = np.bincount((np.abs(values[values != 0]).astype(np.float64) / width).astype(int), minlength=BINS)
    p = bins[:threshold_bins].astype(float)
    source = p.copy()
    p[-1] += bins[threshold_bins:].sum()
    q = np.zeros(threshold_bins)
    for level in range(128):
        start, end = level * threshold_bins // 128, (level + 1) * threshold_bins // 128
        filled = source[start:end] > 0
        if filled.any():
            q[start:end][filled] = source[start:end].sum() / filled.sum()
    if (q[p > 0] == 0).any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_has_the_least_divergence_of_a_direct_computation(kind: str) -> None:
    values = activations(kind)
    histogram = observed(values)
    thresholds, found = divergences(histogram)
    used = int(histogram.largest / histogram.width) + 1
    assert (thresholds[0], thresholds[-1]) == (128, used)
    some = np.unique([*range(0, len(thresholds), 9), int(found.argmin()), len(thresholds) - 1])
    direct = [divergence(values, int(thresholds[i]), histogram.width) for i in some]
    np.testing.assert_allclose(found[some], direct, rtol=1e-9, atol=1e-12)
    best = int(thresholds[found.argmin()])
    expected = histogram.largest if best == used else (best + 0.5) * histogram.width
    assert range_of(histogram, "entropy") == min(expected, histogram.largest)


def squared_error(values: NDArray[np.float32], threshold: float) -> float:
    scale = threshold / 127
    return float(np.square(np.clip(np.rint(values / scale), -127, 127) * scale - values.astype(np.float64)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_mse_has_the_least_error_of_a_direct_search(kind: str) -> None:
    values = activations(kind)
    found = range_of(observed(values), "mse")
    searched = min(squared_error(values, t) for t in np.linspace(0.05, 1, 150) * np.abs(values).max())
    assert squared_error(values, found) <= searched * 1.005


def test_far_values_are_clipped_and_even_ones_are_not() -> None:
    tailed, even = all_ranges(observed(activations("tailed"))), all_ranges(observed(activations("even")))
    assert max(tailed["percentile"], tailed["entropy"]) < 0.5 * tailed["minmax"]
    assert tailed["mse"] < 0.9 * tailed["minmax"]  # squares mind the few values far out most
    assert min(even.values()) > 0.98 * even["minmax"]


@pytest.mark.parametrize("method", METHODS)
def test_zeros_do_not_draw_the_threshold_of_entropy_and_mse_down(method: Method) -> None:
    values = activations("relu")
    more = np.concatenate([values, np.zeros(500_000, np.float32)])
    if method == "percentile":  # by its definition
        assert range_of(observed(more), method) < range_of(observed(values), method)
    else:
        assert range_of(observed(more), method) == pytest.approx(range_of(observed(values), method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-30, 0.0], [-1e-45]])
def test_a_dead_tensor_keeps_a_scale_above_zero(method: Method, values: list[float]) -> None:
    assert range_of(observed(np.float32(values)), method) == SMALLEST_RANGE
    assert np.float16(SMALLEST_RANGE / 127) > 0


@pytest.mark.parametrize("method", METHODS)
@given(values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=30))
def test_no_range_exceeds_the_largest_value(method: Method, values: list[float]) -> None:
    found = range_of(observed(np.float32(values)), method)
    assert SMALLEST_RANGE <= found <= max(np.abs(np.float32(values)).max(), SMALLEST_RANGE)


def test_wrong_use() -> None:
    histogram = observed(activations("relu", count=100))
    with pytest.raises(UsageError, match="no method") as error:
        range_of(histogram, "entropie")  # type: ignore[arg-type]
    assert "entropy" in str(error.value.mend)
    with pytest.raises(UsageError, match="percentile is 0"):
        range_of(histogram, "percentile", percentile=0)


def test_sixty_tensors_take_seconds_at_most() -> None:
    histogram = observed(activations("even"))
    start = time.process_time()
    for _ in range(6):
        all_ranges(histogram)
    assert time.process_time() - start < 0.6  # a tenth of sixty tensors; seen to take about a fifth of this
