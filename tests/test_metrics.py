"""Intervals against the binomial distribution and published values."""

import numpy as np
import pytest
from scipy.stats import binom

from diffusion_sklearn.metrics import clopper_pearson


@pytest.mark.parametrize("n_correct, n", [(1, 10), (9, 10), (50, 100), (880, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_bounds_invert_the_binomial_tails(n_correct, n, confidence):
    low, high = clopper_pearson(n_correct, n, confidence)
    tail = (1 - confidence) / 2
    np.testing.assert_allclose(binom.sf(n_correct - 1, n, low), tail)
    np.testing.assert_allclose(binom.cdf(n_correct, n, high), tail)


def test_at_the_ends():
    assert clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1))


@pytest.mark.parametrize("bad", [(11, 10), (-1, 10), (1, 0), (0.5, 10), (1, 10, 1.0)])
def test_impossible_counts(bad):
    with pytest.raises(ValueError, match=r"n_correct=|n=|confidence="):
        clopper_pearson(*bad)
