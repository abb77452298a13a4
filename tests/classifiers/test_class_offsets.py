"""Offsets that make the mean posterior equal the priors."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from diffusion_sklearn import ConditionalDiffusionClassifier, fit_class_offsets

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (12, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def clf(dit_folder):
    # A temperature at which several classes are likely.
    return ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=4, pruning=None, temperature=20
    ).fit(classes=NAMES)


@pytest.mark.parametrize("priors", [None, [0.5, 0.3, 0.2]])
def test_the_mean_posterior_is_the_prior(clf, images, priors):
    before = clf.predict_proba(images).mean(axis=0)
    offsets = fit_class_offsets(clf, images, priors)
    assert offsets.mean() == pytest.approx(0)
    mean = clf.set_params(class_offsets=offsets).predict_proba(images).mean(axis=0)
    expected = [1 / 3] * 3 if priors is None else priors
    np.testing.assert_allclose(mean, expected, atol=1e-4)
    assert np.abs(before - expected).max() > 0.05


def test_the_priors_of_the_classifier_are_those_of_its_predictions(clf, images):
    clf.set_params(priors=[0.6, 0.2, 0.2])
    offsets = fit_class_offsets(clf, images)
    mean = clf.set_params(class_offsets=offsets).predict_proba(images).mean(axis=0)
    np.testing.assert_allclose(mean, [0.6, 0.2, 0.2], atol=1e-4)


def test_offsets_are_added_to_the_log_likelihoods(clf, images):
    before = clf.predict_log_proba(images)
    after = clf.set_params(class_offsets=[1.0, 0.0, -2.0]).predict_log_proba(images)
    shift = after - before
    np.testing.assert_allclose(shift[:, 0] - shift[:, 1], 1, atol=1e-9)
    np.testing.assert_allclose(shift[:, 2] - shift[:, 1], -2, atol=1e-9)


@pytest.mark.parametrize("pruning", [0.6, ((1, 2), (2, 1))])
def test_a_class_is_not_dropped_for_an_error_that_its_offset_outweighs(
    clf, images, pruning
):
    clf.set_params(class_offsets=[0.0, 1e6, 0.0])
    full = clf.predict(images)
    assert set(full) == {"bee"}
    np.testing.assert_array_equal(clf.set_params(pruning=pruning).predict(images), full)


def test_priors_are_seen_by_the_race(clf, images):
    clf.set_params(priors=[1e-300, 1 - 2e-300, 1e-300], temperature=1e4)
    assert set(clf.predict(images)) == {"bee"}
    np.testing.assert_array_equal(
        clf.set_params(pruning=((1, 1),)).predict(images), ["bee"] * len(images)
    )


def test_a_class_of_prior_0_is_not_evaluated(clf, images):
    clf.set_params(priors=[0.5, 0.0, 0.5])
    result = clf.denoising_errors(images[:2])
    assert np.isnan(result.errors[:, 1]).all()
    assert result.n_evaluations.tolist() == [8, 8]
    assert np.isneginf(result.log_proba[:, 1]).all()


def test_what_is_wrong_is_told(clf, images):
    with pytest.raises(ValueError, match=r"class_offsets=.*3 finite numbers"):
        clf.set_params(class_offsets=[1.0, 2.0]).predict(images)
    clf.set_params(class_offsets=None)
    with pytest.raises(ValueError, match="prior of 0"):
        fit_class_offsets(clf, images, [0.5, 0.5, 0.0])
    clf.set_params(priors=[0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="prior of 0"):
        fit_class_offsets(clf, images, [0.4, 0.3, 0.3])
    with pytest.raises(NotFittedError):
        fit_class_offsets(clone(clf), images)
    clf.set_params(priors=None)
    many = np.repeat(images[:1], 40, axis=0)
    with pytest.warns(UserWarning, match="is the prediction for 40 of 40 images"):
        fit_class_offsets(clf, many)
