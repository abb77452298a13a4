"""The race by prediction as the estimators run it."""

import os
import shutil
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from sklearn.base import clone

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    TrialCovariance,
    ZeroShotDiffusionClassifier,
    fit_trial_covariance,
)
from diffusion_sklearn.datasets import load_fashion_photos, make_fashion_scenes

BUNDLED = files("diffusion_sklearn.bundled")
PHOTOS = load_fashion_photos()
IMAGES = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3), dtype=np.uint8)
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def dit():
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=40)
    return clf.fit(classes=PHOTOS.target_names)


@pytest.fixture(scope="module")
def full(dit):
    dit.set_params(pruning=None)
    result = dit.denoising_errors(PHOTOS.images[:5])
    dit.set_params(pruning=0.99)
    return result


def test_bundled_models_have_one(dit, full):
    """Half of the evaluations of the race by a test, and the full budget's labels."""
    images = PHOTOS.images[:5]
    predicted = dit.denoising_errors(images)
    tested = dit.set_params(trial_covariance=None).denoising_errors(images)
    dit.set_params(trial_covariance="auto")
    assert predicted.n_evaluations.mean() < 0.7 * tested.n_evaluations.mean()
    best = full.log_proba.argmax(axis=1)
    np.testing.assert_array_equal(predicted.log_proba.argmax(axis=1), best)
    scenes = make_fashion_scenes(2, split="test", n_items=1)
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes", n_trials=20)
    clf.fit(classes=["blue bag", "purple pullover", "red bag"])
    one_look = clf.denoising_errors(scenes.images).n_evaluations
    assert (one_look < 3 * 4).any()  # fewer than the first look of a test takes


def test_counts_and_errors_are_those_of_the_full_budget(dit, full):
    """Each class has a prefix of the trials, and a hook counts the same rows."""
    rows = []
    network = dit.backbone_.network
    hook = network.register_forward_hook(
        lambda module, inputs, output: rows.append(len(output.sample))
    )
    result = dit.denoising_errors(PHOTOS.images[:5])
    hook.remove()
    assert result.n_evaluations.sum() == sum(rows)
    done = ~np.isnan(result.errors)
    assert done.sum() == sum(rows)
    np.testing.assert_allclose(result.errors[done], full.errors[done], rtol=1e-4)


def test_a_dropped_class_is_compared_by_its_prediction(dit):
    """Bayes' rule with the best linear prediction, in plain loops."""
    result = dit.denoising_errors(PHOTOS.images[:3])
    covariance = TrialCovariance.load(
        BUNDLED / "fashion-dit" / "trial_covariance_l2.npz"
    )
    C = covariance.matrix(result.timesteps)
    n_elements = dit.backbone_.latent_channels * 64
    for errors, log_proba in zip(result.errors, result.log_proba, strict=True):
        done = ~np.isnan(errors)
        best = log_proba.argmax()
        log_odds = []
        for k in range(10):
            S = np.flatnonzero(done[k])
            g = np.linalg.solve(C[np.ix_(S, S)], C[S].mean(axis=1))
            gap = g @ (errors[k, S].astype(float) - errors[best, S])
            log_odds.append(-gap * n_elements)
        expected = np.array(log_odds) - np.logaddexp.reduce(log_odds)
        np.testing.assert_allclose(log_proba, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("trial_covariance", "pruning"), [(None, 0.99), ("auto", ((5, 2), 0.99))]
)
def test_priors_and_a_window_of_timesteps(trial_covariance, pruning):
    """The first looks are at trials outside the window, of weight 0."""
    window = np.zeros(1000)
    window[430:570] = 1
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit",
        n_trials=30,
        timestep_weights=window,
        priors=[0.5, 0.3, 0.2],
        trial_covariance=trial_covariance,
        pruning=pruning,
    ).fit(classes=["bag", "sandal", "trouser"])
    assert clf.predict(PHOTOS.images[2:4]).tolist() == ["trouser", "trouser"]


def test_neither_batch_nor_order_nor_other_images_count(dit):
    images = PHOTOS.images[:6]
    expected = dit.denoising_errors(images)
    turned = dit.set_params(batch_size=7).denoising_errors(images[::-1])
    dit.set_params(batch_size="auto")
    np.testing.assert_array_equal(turned.n_evaluations[::-1], expected.n_evaluations)
    np.testing.assert_allclose(turned.log_proba[::-1], expected.log_proba, atol=1e-3)


def test_it_is_read_at_prediction(dit_folder, tmp_path):
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=8, pruning=0.6)
    clf.fit(classes=NAMES)
    covariance = fit_trial_covariance(clf, IMAGES)
    assert (covariance.loss, covariance.target) == ("l2", "epsilon")
    covariance.save(tmp_path / "covariance.npz")
    after = clf.set_params(trial_covariance=covariance).denoising_errors(IMAGES)
    for given in (covariance, tmp_path / "covariance.npz"):
        before = ConditionalDiffusionClassifier(
            model=dit_folder, n_trials=8, pruning=0.6, trial_covariance=given
        ).fit(classes=NAMES)
        result = before.denoising_errors(IMAGES)
        np.testing.assert_array_equal(result.errors, after.errors)
        np.testing.assert_array_equal(result.log_proba, after.log_proba)
    staged = list(clf.staged_predict_proba(IMAGES))
    np.testing.assert_allclose(staged[-1], np.exp(after.log_proba))
    assert len(staged) > 1
    for proba in staged:
        np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_a_file_written_anew_is_read_anew(dit_folder, tmp_path):
    file = tmp_path / "covariance.npz"
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=8, pruning=0.6)
    covariance = fit_trial_covariance(clf.fit(classes=NAMES), IMAGES)
    covariance.save(file)
    clf.set_params(trial_covariance=file, classes=NAMES).fit()
    old = clf.denoising_errors(IMAGES).n_evaluations
    replace(covariance, nugget=100 * covariance.nugget).save(file)
    os.utime(file, ns=(1, 1))  # another time of writing, however coarse the clock
    new = clf.denoising_errors(IMAGES).n_evaluations
    expected = clone(clf).fit().denoising_errors(IMAGES).n_evaluations
    np.testing.assert_array_equal(new, expected)
    assert (new != old).any()


def test_auto_is_for_the_model_as_it_was_learned(tmp_path):
    """The file of a folder; a pipeline object only while it is unchanged."""
    shutil.copytree(BUNDLED / "fashion-dit", tmp_path / "model")
    images, names = PHOTOS.images[:3], ["bag", "sandal", "trouser"]

    def uses_it(model, **params):
        clf = ConditionalDiffusionClassifier(model=model, n_trials=20, **params)
        result = clf.fit(classes=names).denoising_errors(images)
        return bool((result.n_evaluations < 3 * 4).any())

    assert uses_it(tmp_path / "model")
    pipeline = DiTPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert uses_it(pipeline)
    assert not uses_it(pipeline, guidance_scale=2.0)
    pipeline.transformer.proj_out_1.weight.data *= 1.001
    assert not uses_it(pipeline)


def test_what_does_not_fit_is_an_error(dit_folder, tmp_path):
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=4)
    clf.fit(classes=NAMES)
    covariance = fit_trial_covariance(clf, IMAGES[:2])
    other = ConditionalDiffusionClassifier(
        model="fashion-dit", trial_covariance=covariance
    )
    with pytest.raises(ValueError, match="learned with another model"):
        other.fit(classes=["bag", "sandal"])
    with pytest.raises(ValueError, match="does not fit loss='l1'"):
        clf.set_params(trial_covariance=covariance, loss="l1").predict(IMAGES)
    clf.set_params(trial_covariance=tmp_path / "absent.npz", loss="l2")
    with pytest.raises(OSError, match="absent"):
        clf.predict(IMAGES)
