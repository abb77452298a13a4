"""Effective robustness against lines that are known in logit space."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, logit

from diffusion_sklearn.metrics import effective_robustness

KNOWN = np.array([0.3, 0.45, 0.6, 0.7, 0.78, 0.84])


def straight(accuracy):
    return expit(1.3 * logit(accuracy) - 2)


def bent(accuracy, knot=0.7):
    x = logit(accuracy)
    return expit(0.2 * x - 4 + 2.5 * np.maximum(0, x - logit(knot)))


def test_on_the_line_is_0():
    result = effective_robustness(
        0.65, straight(0.65), KNOWN, straight(KNOWN), knot=None
    )
    assert_allclose(
        [result.robustness, result.predicted], [0, straight(0.65)], atol=1e-9
    )
    assert result.knot is None and type(result.robustness) is float


@pytest.mark.parametrize("knot", ["best", 0.7])
def test_the_bend_is_found(knot):
    models = np.array([0.5, 0.7, 0.775, 0.9])  # the last is extrapolated
    gains = np.array([0, 0.15, 0.25, -0.01])
    result = effective_robustness(
        models, bent(models) + gains, KNOWN, bent(KNOWN), knot=knot
    )
    assert_allclose(result.robustness, gains, atol=1e-9)
    assert_allclose(result.knot, 0.7)
    ends = np.array([0.3, 0.7, 0.84])
    assert_allclose(result.line, np.stack([ends, bent(ends)], axis=1))
    # Straight between its corners on logit axes.
    middle = expit(logit(ends[:2]).mean())
    assert_allclose(logit(result.predict(middle)), logit(result.line[:2, 1]).mean())
    again = pickle.loads(pickle.dumps(result))
    assert_allclose(again.predict(models), result.predicted)


def test_least_squares_in_logit_space():
    """Against the normal equations, with points that are on no line."""
    away = np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.2])
    shifted = expit(logit(straight(KNOWN)) + away)
    result = effective_robustness(0.8, 0.5, KNOWN, shifted, knot=0.6)
    x, y = logit(KNOWN), logit(shifted)
    terms = np.stack([x**0, x, np.maximum(0, x - logit(0.6))], axis=1)
    slopes = np.linalg.solve(terms.T @ terms, terms.T @ y)
    x = logit(0.8)
    predicted = expit(slopes @ [1, x, x - logit(0.6)])
    assert_allclose(result.predicted, predicted)
    assert_allclose(result.robustness, 0.5 - predicted)

    # "best" leaves no more than any baseline with two on either side.
    def left(knot):
        fit = effective_robustness(0.8, 0.5, KNOWN, shifted, knot=knot)
        return ((logit(fit.predict(KNOWN)) - y) ** 2).sum()

    assert_allclose(left("best"), min(left(0.6), left(0.7)))


def test_papers_models():
    """DiT-XL/2 of tables 4 and 5 lies far above the models of table 4."""
    accuracy = [0.703, 0.738, 0.777, 0.779]
    shifted = [0.011, 0.019, 0.047, 0.119]
    result = effective_robustness(
        [0.775, 0.791], [0.2, 0.302], accuracy, shifted, knot=None
    )
    assert (result.robustness > 0.1).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"accuracy": 77.5}, "accuracy has .77.5.; pass proportions above 0"),
        ({"shifted_accuracy": 1.5}, "shifted_accuracy has .1.5.; pass proportions"),
        ({"shifted_accuracy": [0.5, 0.5]}, "shape \\(2,\\) and accuracy \\(\\)"),
        ({"baseline_shifted": [0.0, *KNOWN[1:]]}, "count half an image"),
        ({"baseline_shifted": KNOWN[1:]}, "shape \\(5,\\) and baseline_accuracy"),
        ({"baseline_accuracy": [0.5] * 6}, "1 different values; a line needs two"),
        ({"baseline_accuracy": [0.4, 0.5, 0.6, 0.7] * 2}, "baseline_shifted has shape"),
        ({"knot": "mean"}, "knot='mean' is not understood; pass an accuracy"),
        ({"knot": 0.9}, "knot=0.9 must lie between the baselines' accuracies"),
    ],
)
def test_errors_name_the_parameter(change, message):
    given = {
        "accuracy": 0.7,
        "shifted_accuracy": 0.3,
        "baseline_accuracy": KNOWN,
        "baseline_shifted": straight(KNOWN),
    }
    with pytest.raises(ValueError, match=message):
        effective_robustness(**given | change)


def test_too_few_for_a_bend():
    with pytest.raises(ValueError, match="knot='best' needs 5 or more"):
        effective_robustness(0.5, 0.5, KNOWN[:4], straight(KNOWN[:4]))
