"""Bayes' rule against closed forms."""

import numpy as np
import pytest

from diffusion_sklearn.engine._posterior import log_posterior


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def test_equation_6():
    errors = np.random.RandomState(0).rand(1, 3, 7)
    posterior = np.exp(log_posterior(errors, 48))
    np.testing.assert_allclose(posterior[0], softmax(-48 * errors[0].mean(axis=1)))


def test_priors_and_temperature():
    errors = np.random.RandomState(1).rand(1, 3, 7)
    priors = np.array([0.7, 0.2, 0.1])
    posterior = np.exp(log_posterior(errors, 48, np.log(priors), temperature=5.0))
    expected = softmax(-48 / 5 * errors[0].mean(axis=1) + np.log(priors))
    np.testing.assert_allclose(posterior[0], expected)
    with np.errstate(all="raise"):
        sure = log_posterior(errors, 48, np.array([0, -np.inf, -np.inf]))
    np.testing.assert_array_equal(np.exp(sure), [[1, 0, 0]])


def test_a_pruned_class_is_compared_over_common_trials():
    errors = np.array([[[1.0, 2.0, 3.0, 4.0], [1.1, 2.1, np.nan, np.nan]]])
    posterior = log_posterior(errors, 10)
    assert posterior[0, 0] - posterior[0, 1] == pytest.approx(10 * 0.1)
    # By its own mean, 1.6 against 2.5, the pruned class would have won.
    assert posterior[0].argmax() == 0


def test_a_class_that_was_never_tried_is_impossible():
    errors = np.array([[[1.0, 2.0], [np.nan, np.nan], [1.5, 2.5]]])
    posterior = np.exp(log_posterior(errors, 2))
    assert posterior[0, 1] == 0
    np.testing.assert_allclose(posterior[0, [0, 2]], softmax(np.array([0.0, -1.0])))


def test_large_differences_do_not_overflow():
    errors = np.array([[[0.0], [1e6], [2e6]]])
    posterior = log_posterior(errors, 4096)
    np.testing.assert_array_equal(np.exp(posterior), [[1, 0, 0]])
    assert np.isfinite(posterior).all()


def test_a_pruned_class_is_never_likelier_than_the_best():
    """X was dropped against Y, early; Z, the winner, started worse than X."""
    x = [1.0, 1.0, np.nan, np.nan]
    z = [1.2, 1.2, 0.2, 0.2]
    posterior = log_posterior(np.array([[x, z]]), 10)
    assert posterior[0].argmax() == 1
    np.testing.assert_allclose(np.exp(posterior), [[0.5, 0.5]], rtol=1e-6)
