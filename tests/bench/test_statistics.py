"""Figures against numpy and scipy on known input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lpcnet_edge.bench.statistics import drift, latency_summary, paired_ratio, rates_over_time, t975, unpaired_ratio


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(1).gamma(3.0, 2.0, 5000)
    found = latency_summary(values.tolist())
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        assert found[name] == pytest.approx(np.quantile(values, share))
    assert found["count"] == 5000
    assert found["largest"] == pytest.approx(values.max())
    assert found["mean"] == pytest.approx(values.mean())


@pytest.mark.parametrize(
    ("count", "told"), [(0, ""), (2, "p50"), (10, "p50 p90"), (100, "p50 p90 p99"), (99, "p50 p90")]
)
def test_a_percentile_takes_enough_values(count: int, told: str) -> None:
    found = latency_summary([1.0] * count)
    assert [name for name in ("p50", "p90", "p99", "p999") if found[name] is not None] == told.split()


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 30, 31, 60, 1000])
def test_students_t(freedom: int) -> None:
    assert t975(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-4)


def test_the_paired_interval_is_students_on_logarithms() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.uniform(90, 110, 8)
    ours = 1.2 * theirs * np.exp(rng.normal(0, 0.02, 8))
    found = paired_ratio(ours.tolist(), theirs.tolist())
    logs = np.log(ours / theirs)
    low, high = stats.t.interval(0.95, 7, logs.mean(), stats.sem(logs))
    assert found.value == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-4)
    assert found.differs


def test_the_unpaired_interval_is_welchs() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = np.exp(rng.normal(4.0, 0.05, 9)), np.exp(rng.normal(4.01, 0.02, 9))
    found = unpaired_ratio(ours.tolist(), theirs.tolist())
    exact = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.95)
    assert found.low is not None
    assert found.low <= math.exp(exact.low) * 1.0001  # whole degrees of freedom: never narrower
    assert (found.low, found.high) == pytest.approx((math.exp(exact.low), math.exp(exact.high)), rel=0.01)
    assert found.differs is False


def test_one_round_says_nothing_about_noise() -> None:
    for found in (paired_ratio([3.0], [2.0]), unpaired_ratio([3.0], [2.0, 2.1])):
        assert (found.low, found.high, found.differs) == (None, None, None)


@given(st.floats(0.5, 2.0), st.integers(9, 200))
def test_drift_is_seen(change: float, pieces: int) -> None:
    """Throughput that goes from 1 to ``change`` in the middle of the run."""
    steps = [1.0] * (pieces // 2) + [1 / change] * (pieces - pieces // 2)
    rates = [rate for _, rate in rates_over_time(np.cumsum([0.0, *steps]).tolist(), 1)]
    found = drift(rates)
    assert found == pytest.approx(change - 1, abs=1e-6)


def test_too_little_is_no_drift() -> None:
    assert drift([1.0, 2.0]) is None
    assert rates_over_time([0.0, 1.0, 2.0], 1) == []
