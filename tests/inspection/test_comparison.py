"""Paired comparisons against counts by hand and published values."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from diffusion_sklearn.inspection import (
    ClassifierComparisonDisplay,
    compare_classifiers,
)


class Fixed(DummyClassifier):
    """Predicts what it is given."""

    def __init__(self, labels):
        self.labels = np.asarray(labels)

    def predict(self, X):
        return self.labels


def classifiers():
    truth = np.zeros(100, int)
    first, second = truth.copy(), truth.copy()
    first[:9] = 1  # wrong on 9, of which 4 are wrong in both
    second[5:26] = 1  # wrong on 21
    return {"first": Fixed(first), "second": Fixed(second)}, truth


def test_counts_by_hand():
    models, truth = classifiers()
    result = compare_classifiers(models, truth[:, None], truth)
    np.testing.assert_allclose(result.accuracy, [0.91, 0.79])
    assert result.difference[0, 1] == pytest.approx((17 - 5) / 100)
    # McNemar's exact test: 5 or fewer of 22, two-sided.
    assert result.p_value[0, 1] == pytest.approx(0.016901, abs=1e-6)
    assert result.p_value[1, 0] == result.p_value[0, 1]
    center, n = 12 / 102, 102
    half = 1.959964 * np.sqrt((23 / n - center**2) / n)
    np.testing.assert_allclose(
        result.interval[0, 1], [center - half, center + half], rtol=1e-6
    )
    np.testing.assert_allclose(result.interval[1, 0], -result.interval[0, 1][::-1])
    np.testing.assert_array_equal(np.diag(result.p_value), 1)


def test_what_has_no_names():
    models, truth = classifiers()
    for wrong in (list(models.values()), {"first": models["first"]}):
        with pytest.raises(ValueError, match="must name two or more; pass a dict"):
            compare_classifiers(wrong, truth[:, None], truth)


def test_labels_of_another_kind_are_no_wrong_answers():
    models, truth = classifiers()
    with pytest.raises(ValueError, match=r"classifiers\['first'\] predicts .* y has"):
        compare_classifiers(models, truth[:, None], truth.astype(str))


def test_the_same_answers_do_not_differ():
    models, truth = classifiers()
    same = {"a": models["first"], "b": models["first"]}
    result = compare_classifiers(same, truth[:, None], truth)
    assert result.p_value[0, 1] == 1
    low, high = result.interval[0, 1]
    assert low < 0 < high


def test_the_display():
    pytest.importorskip("matplotlib").use("agg")
    models, truth = classifiers()
    display = ClassifierComparisonDisplay.from_estimators(models, truth[:, None], truth)
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == ["second"]
    np.testing.assert_allclose(display.ax_.lines[0].get_xdata(), [-12])


def test_errors():
    models, truth = classifiers()
    with pytest.raises(ValueError, match="two or more"):
        compare_classifiers({"first": models["first"]}, truth, truth)
    with pytest.raises(ValueError, match="100 images and y 99 labels"):
        compare_classifiers(models, truth, truth[1:])
