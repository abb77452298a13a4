"""Weights of timesteps, guidance, and the unconditional error, against closed forms."""

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, roc_auc_score

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    fit_timestep_weights,
    load_backbone,
)
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.classifiers._timestep_weights import fit_log_weights
from diffusion_sklearn.metrics import expected_calibration_error
from diffusion_sklearn.testing._transformers import flux
from tests.backbones.test_families import classifier, stable_diffusion_3
from tests.engine.test_errors import IMAGES, alphas_cumprod
from tests.models import slow, tiny_dit, tiny_sd

MAKERS = {
    "epsilon": lambda: tiny_sd("epsilon"),
    "velocity": lambda: tiny_sd("v_prediction"),
    "flow": stable_diffusion_3,
}


def log_odds(make, **params):
    return classifier(make(), dtype="float64", **params).decision_function(IMAGES)


def snr_of(make, timesteps):
    if make is stable_diffusion_3:
        spread = (timesteps + 1) / 1000
        return (1 - spread) ** 2 / spread**2
    abar = alphas_cumprod(make().scheduler)[timesteps]
    return abar / (1 - abar)


@pytest.mark.parametrize("model", ["epsilon", *slow("velocity", "flow")])
def test_snr_makes_the_error_of_the_sample_that_of_epsilon(model):
    make = MAKERS[model]
    odds = log_odds(make, target="sample", timestep_weights="snr")
    np.testing.assert_allclose(odds, log_odds(make, target="epsilon"), rtol=1e-4)


@pytest.mark.parametrize("model", ["flow", *slow("epsilon", "velocity")])
def test_the_bound_is_the_same_in_every_space(model):
    make = MAKERS[model]
    of = {
        target: log_odds(make, target=target, timestep_weights="elbo")
        for target in ("native", "epsilon", "sample", "velocity")
    }
    for target in of:
        np.testing.assert_allclose(of[target], of["native"], rtol=1e-4)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("name", ["exponential", "min-snr"])
def test_named_weights(make, name):
    clf = classifier(make(), target="sample", timestep_weights=name)
    t = clf.trials_.timesteps
    expected = np.exp(-7 * t / 1000)
    if name == "min-snr":
        expected = np.minimum(snr_of(make, t), 5)
    errors = clf.denoising_errors(IMAGES).errors
    n_elements = np.prod(clf.backbone_.latent_shape(8))
    scores = -(errors * expected).mean(axis=2) * n_elements
    np.testing.assert_allclose(
        clf.predict_log_proba(IMAGES), log_softmax(scores, axis=1), atol=1e-4
    )


def test_weights_of_the_bound_are_those_of_ddpm():
    """beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t)), their equation 12, times T."""
    clf = classifier(tiny_sd("epsilon"), timestep_weights="elbo", n_trials=1000)
    abar = alphas_cumprod(clf.backbone_.pipeline.scheduler)
    alpha = abar[1:] / abar[:-1]
    beta, before = 1 - alpha, abar[:-1]
    variance = beta * (1 - before) / (1 - abar[1:])
    expected = 1000 * beta**2 / (2 * variance * alpha * (1 - abar[1:]))
    np.testing.assert_allclose(fitted_plan(clf).weights[1:], expected, rtol=1e-2)
    # A Gaussian decoder at t = 0, of the variance of t = 1.
    decoder = 1000 / (2 * variance[0]) * (1 - abar[0]) / abar[0]
    np.testing.assert_allclose(fitted_plan(clf).weights[0], decoder, rtol=1e-2)


def test_the_bound_follows_a_change_of_target():
    clf = classifier(tiny_sd("epsilon"), timestep_weights="elbo", dtype="float64")
    before = clf.predict_log_proba(IMAGES)
    clf.set_params(target="velocity")
    np.testing.assert_allclose(clf.predict_log_proba(IMAGES), before, rtol=1e-4)


def test_a_weighting_that_there_is_not():
    with pytest.raises(ValueError, match=r"'timestep_weights'.*'elbo'.*Got 'elbow'"):
        classifier(tiny_dit(), timestep_weights="elbow")


# Guidance and the null condition.


@pytest.mark.filterwarnings("ignore:guidance_scale=0 predicts")
@pytest.mark.parametrize("make", [tiny_dit, lambda: tiny_sd("v_prediction")])
@pytest.mark.parametrize("scale", [*slow(0.0), 4.0])
def test_guidance_against_one_pass_after_the_other(make, scale):
    clf = classifier(make(), guidance_scale=scale, dtype="float64", batch_size=5)
    backbone = clf.backbone_
    result = clf.denoising_errors(IMAGES)
    assert result.n_evaluations.tolist() == [4 * 3] * 3  # two classes, and none

    classes = (
        [1, 2]
        if backbone.kind == "class"
        else ["a photo of a bee.", "a photo of a cat."]
    )
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1)
    latents = backbone.encode(x)
    noise = torch.from_numpy(clf.trials_.noise(latents.shape[1:])).double()
    empty = 5 if backbone.kind == "class" else ""
    abar = alphas_cumprod(backbone.pipeline.scheduler)
    for i, z in enumerate(latents):
        for j, t in enumerate(clf.trials_.timesteps.tolist()):
            xt = (abar[t] ** 0.5 * z + (1 - abar[t]) ** 0.5 * noise[j])[None]
            truth = noise[j]
            if backbone.prediction_type == "velocity":
                truth = abar[t] ** 0.5 * noise[j] - (1 - abar[t]) ** 0.5 * z
            with torch.no_grad():
                null, *given = (
                    backbone.predict(xt, torch.tensor([t]), backbone.condition([c]))
                    for c in (empty, *classes)
                )
            for k, one in enumerate(given):
                led = (1 - scale) * null + scale * one
                expected = (led - truth).square().mean()
                np.testing.assert_allclose(result.errors[i, k, j], expected, rtol=1e-4)


def test_no_guidance_is_the_default(dit_folder):
    plain = classifier(dit_folder).denoising_errors(IMAGES)
    one = classifier(dit_folder, guidance_scale=1).denoising_errors(IMAGES)
    np.testing.assert_array_equal(one.errors, plain.errors)
    np.testing.assert_array_equal(one.n_evaluations, plain.n_evaluations)


def test_a_change_of_guidance_takes_effect_at_once(dit_folder):
    clf = classifier(dit_folder)
    plain = clf.denoising_errors(IMAGES).errors
    clf.set_params(guidance_scale=3.0)
    guided = clf.denoising_errors(IMAGES).errors
    assert not np.allclose(guided, plain)
    refitted = clf.fit(classes=[1, 2]).denoising_errors(IMAGES).errors
    np.testing.assert_array_equal(guided, refitted)


def test_a_guidance_that_makes_all_classes_the_same(dit_folder):
    """As diffusers' pipelines of some families spell no guidance."""
    message = "guidance_scale=0 .*pass 1 for no guidance"
    with pytest.warns(UserWarning, match=message):
        classifier(dit_folder, guidance_scale=0)
    clf = classifier(dit_folder).set_params(guidance_scale=0.0)
    with pytest.warns(UserWarning, match=message):
        proba = clf.predict_proba(IMAGES)
    np.testing.assert_allclose(proba, 1 / len(clf.classes_))


def test_another_null_condition(sd_folder, dit_folder):
    errors = [
        classifier(sd_folder, guidance_scale=3.0, null_condition=null)
        .denoising_errors(IMAGES)
        .errors
        for null in (None, "", "blurred")
    ]
    np.testing.assert_array_equal(errors[0], errors[1])
    assert not np.allclose(errors[2], errors[0])
    with pytest.raises(ValueError, match=r"null_condition=3 is no prompt"):
        classifier(sd_folder, guidance_scale=3.0, null_condition=3)
    with pytest.raises(ValueError, match=r"null_condition=9 is no class id.*0 to 4"):
        classifier(dit_folder, guidance_scale=3.0, null_condition=9)


def test_memory_keeps_guidances_apart(dit_folder, tmp_path):
    memory, counts = str(tmp_path), []
    for scale, null in ((1.0, None), (2.0, None), (2.0, 4), (3.0, None), (2.0, None)):
        clf = classifier(
            dit_folder, memory=memory, guidance_scale=scale, null_condition=null
        )
        counts.append(clf.denoising_errors(IMAGES).n_evaluations.sum())
    assert counts == [24, 36, 36, 36, 0]


@pytest.mark.slow
def test_workers_know_of_guidance(dit_folder):
    clf = classifier(dit_folder, guidance_scale=2.0)
    expected = clf.predict_log_proba(IMAGES)
    clf.set_params(n_jobs=2)
    log_proba = clf.predict_log_proba(IMAGES)
    np.testing.assert_allclose(log_proba, expected, rtol=1e-4, atol=1e-9)


def test_unconditional_error(dit_folder):
    clf = classifier(dit_folder)
    scores = clf.score_samples(IMAGES)
    null = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=4, pruning=None, image_size=8
    )
    backbone = load_backbone(dit_folder)
    latents = backbone.encode(
        torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    )
    noise = torch.from_numpy(clf.trials_.noise(latents.shape[1:]))
    t = torch.from_numpy(clf.trials_.timesteps)
    for z, one in zip(latents, scores, strict=True):
        clean = z.expand_as(noise)
        with torch.no_grad():
            eps = backbone.predict(
                backbone.add_noise(clean, noise, t), t, torch.full((4,), 5)
            )
        total = (eps - noise).square().sum(dim=(1, 2, 3)).mean()
        np.testing.assert_allclose(one, -total, rtol=1e-4)
    # Without a fit, the same trials are drawn.
    np.testing.assert_allclose(null.score_samples(IMAGES), scores, rtol=1e-6)
    assert not hasattr(null, "trials_")


def test_noise_and_other_pictures_are_outliers(photos):
    rng = np.random.RandomState(0)
    images = photos.images[:20]
    odd = rng.randint(0, 256, images.shape, dtype=np.uint8)
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=20)
    scores = clf.score_samples(np.concatenate([images, odd]))
    assert roc_auc_score([1] * 20 + [0] * 20, scores) == 1.0


def test_score_pairs_takes_another_null_condition(sd_folder):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, n_trials=3)
    plain = clf.score_pairs(IMAGES, ["a cat", "a dog"])
    for null in ("", "blurred"):
        clf.set_params(null_condition=null)
        gain = clf.score_pairs(IMAGES, ["a cat", "a dog"], subtract_unconditional=True)
        expected = plain - clf.score_samples(IMAGES)[:, None]
        np.testing.assert_allclose(gain, expected, rtol=1e-3, atol=1e-4)


# Weights fitted to labels.


@pytest.mark.slow
def test_fitted_weights_are_the_optimum(photos):
    few = np.isin(photos.names, ["pullover", "coat", "shirt"])
    X, y = photos.images[few][:90], photos.names[few][:90]
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=20, pruning=0.9, image_size=32
    ).fit(classes=["coat", "pullover", "shirt"])
    weights = fit_timestep_weights(clf, X[:45], y[:45])
    assert weights.shape == (1000,) and (weights >= 0).all()
    assert clf.pruning == 0.9

    clf.set_params(pruning=None).fit(classes=clf.classes_)
    errors = clf.denoising_errors(X).errors.astype(float)
    n_elements = np.prod(clf.backbone_.latent_shape(32))
    t = clf.trials_.timesteps

    def nats(weights, part):
        scores = -(errors[part] * weights[t]).mean(axis=2) * n_elements
        return log_loss(y[part], np.exp(log_softmax(scores, axis=1)))

    seen, unseen = slice(0, 45), slice(45, 90)
    best = min(nats(np.full(1000, 10.0**k), seen) for k in np.linspace(-4, 1, 101))
    assert nats(weights, seen) <= best + 1e-3
    assert nats(weights, unseen) < nats(np.ones(1000), unseen)
    # In use they give the posterior that they were chosen for.
    proba = clf.set_params(timestep_weights=weights).fit(classes=clf.classes_)
    proba = proba.predict_proba(X[seen])
    np.testing.assert_allclose(log_loss(y[seen], proba), nats(weights, seen), rtol=1e-3)
    # With a strong pull they are all the same.
    even = fit_timestep_weights(clf, X[:45], y[:45], alpha=1e6)
    np.testing.assert_allclose(even, even[0], rtol=1e-2)


def test_fitted_log_weights_prefer_the_trials_that_tell_and_are_the_optimum():
    rng = np.random.default_rng(0)
    u = np.linspace(-1, 1, 40)
    truth = rng.integers(3, size=200)
    scores = rng.normal(size=(200, 3, 40)) * 40
    scores[np.arange(200), truth] += 40 * (u > 0)  # the later half tells
    basis = u ** np.arange(3)[:, None]
    priors = np.array([0.5, 0.3, 0.2])
    c = fit_log_weights(scores, truth, priors, basis, 0.3)
    weights = np.exp(c @ basis)
    assert weights[-10:].mean() > 2 * weights[:10].mean()

    def objective(c):
        log_proba = log_softmax(
            (scores * np.exp(c @ basis)).mean(axis=2) + np.log(priors), axis=1
        )
        return 0.3 * c @ c - log_proba[np.arange(200), truth].sum()

    for step in (*np.eye(3), *-np.eye(3)):
        assert objective(c) < objective(c + 0.05 * step)


def test_fitting_weights_to_images_that_are_all_right_stays_finite(photos):
    """Nothing bounds the scale but what draws it to 1; a prefilter plays no part."""
    few = np.isin(photos.names, ["bag", "trouser"])
    X, y = photos.images[few][:16], photos.names[few][:16]
    names = np.unique(y)
    prefilter = FrozenEstimator(DummyClassifier().fit([[0], [0]], names))
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=10, prefilter=prefilter, n_candidates=1
    ).fit(classes=names)
    weights = fit_timestep_weights(clf, X, y)
    assert 0.5 < weights.mean() < 20
    assert clf.prefilter_ is not None
    with_one = clf.set_params(prefilter=None).fit(classes=names)
    np.testing.assert_array_equal(fit_timestep_weights(with_one, X, y), weights)


def test_fitted_weights_are_for_the_classifier_with_its_offsets():
    """Offsets that outweigh all errors leave nothing to change the weights for."""
    rng = np.random.default_rng(0)
    truth = np.zeros(30, int)
    scores = rng.normal(size=(30, 3, 20)) * 5
    basis = np.linspace(-1, 1, 20) ** np.arange(3)[:, None]
    offsets = np.array([1e4, 0, 0])
    c = fit_log_weights(scores, truth, None, basis, 0.3, offsets)
    np.testing.assert_allclose(c, 0, atol=1e-6)
    assert np.abs(fit_log_weights(scores, truth, None, basis, 0.3)).max() > 0.1


def test_fitting_weights_reads_the_offsets(dit_folder):
    clf = classifier(dit_folder)
    y = np.repeat(clf.classes_[0], 3)
    clf.set_params(class_offsets=1e6 * np.eye(len(clf.classes_))[0])
    np.testing.assert_allclose(fit_timestep_weights(clf, IMAGES, y), 1, rtol=1e-6)


def test_fitting_weights_needs_labels_that_fit(dit_folder):
    clf = classifier(dit_folder)
    with pytest.raises(NotFittedError):
        fit_timestep_weights(clone(clf), IMAGES, [1, 2, 2])
    with pytest.raises(ValueError, match=r"y has \[3\], which are none of classes_"):
        fit_timestep_weights(clf, IMAGES, [1, 2, 3])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 2\]"):
        fit_timestep_weights(clf, IMAGES, [1, 2])
    with pytest.raises(ValueError, match=r"alpha=-1 must be 0 or more"):
        fit_timestep_weights(clf, IMAGES, [1, 2, 2], alpha=-1)
    clf.set_params(priors=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"y has \[1\], to which priors=.* give 0"):
        fit_timestep_weights(clf, IMAGES, [1, 2, 2])


# Calibration.


def test_calibration_error_in_closed_form():
    # Two bins: sure by 0.9 and right 1 of 2; sure by 0.6 and right 2 of 2.
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    truth = ["a", "b", "b", "a"]
    error = expected_calibration_error(truth, proba, n_bins=10)
    np.testing.assert_allclose(error, 0.5 * 0.4 + 0.5 * 0.4)
    # In one bin the gaps cancel: right 3 of 4, sure by 0.75.
    assert expected_calibration_error(truth, proba, n_bins=1) == pytest.approx(0)
    assert expected_calibration_error([0, 1], np.eye(2)) == 0


def test_calibration_error_of_labels_drawn_from_the_probabilities():
    rng = np.random.RandomState(0)
    proba = rng.dirichlet(np.ones(3), size=20000)
    truth = (proba.cumsum(axis=1) < rng.rand(20000, 1)).sum(axis=1)
    assert expected_calibration_error(truth, proba) < 0.02
    sharper = proba**3 / (proba**3).sum(axis=1, keepdims=True)
    assert expected_calibration_error(truth, sharper) > 0.1


@pytest.mark.parametrize(
    "truth, params, message",
    [
        ([0, 1, 2], {}, r"y_proba has shape \(2, 2\)"),
        ([0, 1], {"classes": [0, 1, 2]}, r"a column for each of the 3"),
        ([0, 7], {"classes": [0, 1]}, r"y_true has \[7\]"),
        ([0, 1], {"n_bins": 0}, "n_bins=0 must"),
    ],
)
def test_calibration_error_of_bad_input(truth, params, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(truth, np.eye(2), **params)


@pytest.mark.parametrize("values", [[-0.1, -2.3], [np.nan, 0.5], [40, 60]])
def test_calibration_error_of_what_is_no_probability(values):
    with pytest.raises(ValueError, match=r"y_proba has values from .* predict_proba"):
        expected_calibration_error([0, 1], [values, values])
    rounded = [[1 + 1e-9, -1e-9], [0, 1]]
    assert expected_calibration_error([0, 1], rounded) < 1e-6


def test_auto_is_the_target_of_the_family_or_of_the_model(tmp_path, sd_folder):
    """Epsilon for Stable Diffusion, whatever it predicts; its config goes before."""
    pipeline = tiny_sd("v_prediction")
    params = {"n_trials": 4, "pruning": None}
    auto = ZeroShotDiffusionClassifier(model=pipeline, **params)
    auto = auto.fit(classes=["bee", "cat"]).denoising_errors(IMAGES).errors
    by_name = {
        target: ZeroShotDiffusionClassifier(model=pipeline, target=target, **params)
        .fit(classes=["bee", "cat"])
        .denoising_errors(IMAGES)
        for target in ("epsilon", "native")
    }
    np.testing.assert_array_equal(auto, by_name["epsilon"].errors)

    pipeline.save_pretrained(tmp_path)
    config = {"timesteps": [0, 999], "weights": [1.0, 0.0]}
    config = {"target": "velocity", "timestep_weights": config}
    (tmp_path / "classifier_config.json").write_text(json.dumps(config))
    clf = ZeroShotDiffusionClassifier(model=tmp_path, **params)
    result = clf.fit(classes=["bee", "cat"]).denoising_errors(IMAGES)
    np.testing.assert_allclose(result.errors, by_name["native"].errors, rtol=1e-5)
    weights = 1 - result.timesteps / 999
    scores = -(result.errors.astype(float) * weights).mean(axis=2)
    scores = scores * clf.backbone_.latent_channels * 16  # a latent of 4 x 4
    np.testing.assert_allclose(
        result.log_proba[:, 0] - result.log_proba[:, 1],
        scores[:, 0] - scores[:, 1],
        rtol=1e-4,
    )
    # Its weights belong to its target.
    plain = clf.set_params(target="velocity").predict_log_proba(IMAGES)
    np.testing.assert_allclose(plain, by_name["native"].log_proba, rtol=1e-4)


def test_a_flow_is_weighted_in_a_window_and_says_so():
    clf = ZeroShotDiffusionClassifier(
        model=flux(), n_trials=10, pruning=None, image_size=8
    )
    with pytest.warns(UserWarning, match=r"was not measured.*fit_timestep_weights"):
        clf.fit(classes=["bee", "cat"])
    weights = clf.backbone_.default_weights()
    sigma = clf.backbone_.noise_schedule.sigma_t.numpy()
    np.testing.assert_allclose(weights, np.exp(-50 * (sigma - 0.83) ** 2), rtol=1e-4)
    weighted = clf.predict_log_proba(IMAGES)
    clf.set_params(target="native", timestep_weights=weights)
    np.testing.assert_array_equal(clf.predict_log_proba(IMAGES), weighted)
