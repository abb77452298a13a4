"""First-order scores, against finite differences of a double loop in float64."""

from unittest.mock import Mock

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import BayesianRidge
from torch import nn

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.backbones._conditions import map_tensors
from diffusion_sklearn.classifiers._evaluate import all_errors
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.engine import _errors as engine_errors
from diffusion_sklearn.engine import _gradients
from diffusion_sklearn.engine._errors import iter_errors
from diffusion_sklearn.engine._gradients import (
    N_GRADIENTS,
    gradient_trials,
    predict_errors,
)
from diffusion_sklearn.engine._trials import Trials
from diffusion_sklearn.testing import tiny_pipelines
from tests.models import slow, tiny_dit

IMAGES = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)
NAMES = ["ant", "bee", "cat", "eel"]
PIPELINES = tiny_pipelines()
STEP = 1e-5
EVERY = np.ones(4, bool)


def in_double(pipeline):
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.double()
    return pipeline


def text(name, **params):
    templates = ["a {}", "one big {}."]
    params = {"prompt_template": templates, "target": "native", **params}
    return ZeroShotDiffusionClassifier(model=in_double(PIPELINES[name]()), **params)


def of_class(name, **params):
    pipeline = tiny_dit() if name == "DiT" else PIPELINES[name]()
    ids = {"class_ids": [0, 1, 2, 4], "target": "native"}
    return ConditionalDiffusionClassifier(model=in_double(pipeline), **ids, **params)


def plain_error(clf, image, trial, target, loss, condition):
    """Error of one image, trial and condition, a mean over the latent."""
    backbone, trials = clf.backbone_, clf.trials_
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / 127.5 - 1)
    latents = backbone.encode(pixels.double())
    noise = torch.from_numpy(trials.noise(latents.shape[1:])[[trial]]).double()
    t = torch.tensor([trials.timesteps[trial]])
    noised = backbone.add_noise(latents, noise, t)
    with torch.no_grad():
        predicted = backbone.predict(noised, t, condition)
    predicted, truth = backbone.prediction_and_target(
        target, predicted, noised, latents, noise, t
    )
    difference = predicted - truth
    return float((difference.abs() if loss == "l1" else difference**2).mean())


def text_slopes(clf, *of_error):
    """Finite differences from the null prompt towards each prompt, (k, n_prompts)."""
    null = clf.backbone_.null_condition()
    prompts = [p for group in clf.prompts_ for p in group]
    slopes = []
    for condition in clf.backbone_.condition(prompts):
        ahead, back = (
            map_tensors(lambda c, n, s=sign: n + s * STEP * (c - n), condition, null)
            for sign in (1, -1)
        )
        ahead, back = (plain_error(clf, *of_error, c) for c in (ahead, back))
        slopes.append((ahead - back) / (2 * STEP))
    return np.array(slopes).reshape(len(clf.prompts_), -1)


def class_slopes(clf, null, *of_error):
    """The same from the row of the null class to that of each class, in all tables."""
    network = clf.backbone_.network
    tables = [m.weight for m in network.modules() if isinstance(m, nn.Embedding)]
    row, slopes = torch.tensor([null]), []
    for class_id in clf.class_ids_:
        errors = []
        for sign in (1, -1):
            with torch.no_grad():
                old = [table[null].clone() for table in tables]
                for table, origin in zip(tables, old, strict=True):
                    table[null] += sign * STEP * (table[class_id] - origin)
                errors.append(plain_error(clf, *of_error, row))
                for table, origin in zip(tables, old, strict=True):
                    table[null] = origin
        slopes.append([(errors[0] - errors[1]) / (2 * STEP)])
    return np.array(slopes)


def combine(of_trials, weights=1):
    """Trials, each divided by its spread over the classes, (m, k) -> (k,)."""
    of_trials = of_trials * np.reshape(weights, (-1, 1))
    spread = of_trials.std(axis=1, keepdims=True)
    return (of_trials / spread).sum(axis=0) / (1 / spread).sum()


CASES = {
    "Stable Diffusion": (text, "Stable Diffusion 1.x, 2.x", {}),
    "pooled embeddings": (text, "Stable Diffusion XL", {"target": "velocity"}),
    "flow": (text, "Stable Diffusion 3, 3.5", {"loss": "l1"}),
    "DiT": (of_class, "DiT", {}),
    "U-Net": (of_class, "U-Net on pixels", {"null_condition": 3}),
}


@pytest.mark.parametrize(
    "case", ["flow", "DiT", *slow("Stable Diffusion", "pooled embeddings", "U-Net")]
)
def test_scores_against_finite_differences(case):
    make, name, params = CASES[case]
    clf = make(
        name,
        timesteps=[150, 400, 700],
        n_trials=3,
        prefilter="gradient",
        timestep_weights=lambda t: 1 + t / 1000,
        **params,
    ).fit(classes=NAMES)
    plan = fitted_plan(clf)
    null = clf.backbone_.encode_null(clf.null_condition)
    scores, _, n_evaluations = predict_errors(plan, list(IMAGES[:2]), null, 2, EVERY)
    assert n_evaluations.tolist() == [2 * 3] * 2  # trials at 400 and 700
    rest = clf.target, clf.loss
    for image, found in zip(IMAGES, scores, strict=False):
        slopes = [
            text_slopes(clf, image, j, *rest)
            if make is text
            else class_slopes(clf, int(null), image, j, *rest)
            for j in (1, 2)
        ]
        expected = combine(np.mean(slopes, axis=2), [1.4, 1.7])
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-9)
        assert expected.std() > 1e-4


@pytest.mark.parametrize("loss", ["huber", "vlb", "l2+vlb"])
def test_guidance_and_other_losses(loss):
    """Against the change of the errors along a short way towards each class."""
    clf = of_class("DiT", timesteps=[500], n_trials=1, loss=loss, guidance_scale=3.0)
    clf.set_params(prefilter="gradient").fit(classes=NAMES)
    network = clf.backbone_.network
    null = clf.backbone_.null_condition()
    scores, *_ = predict_errors(fitted_plan(clf), list(IMAGES[:1]), null, 2, EVERY)
    (table,) = [m.weight for m in network.modules() if isinstance(m, nn.Embedding)]
    rows = table.detach().clone()

    plan = fitted_plan(clf, pruning=None)

    def errors(step):
        with torch.no_grad():
            table.copy_(rows[-1] + step * (rows - rows[-1]))
        ((_, errors, _),) = iter_errors(plan, list(IMAGES[:1]))
        return errors[0, :, 0]

    slopes = (errors(STEP) - errors(-STEP)) / (2 * STEP)
    np.testing.assert_allclose(scores[0], slopes, rtol=1e-3, atol=1e-8)


def test_results_depend_on_neither_batch_nor_order_nor_other_images():
    clf = text("Stable Diffusion 1.x, 2.x", n_trials=6, prefilter="gradient")
    clf.set_params(n_candidates=2).fit(classes=NAMES)
    expected = clf.denoising_errors(IMAGES)
    shuffled = clf.denoising_errors(IMAGES[::-1])
    alone = [clf.set_params(batch_size=1).denoising_errors([one]) for one in IMAGES]
    for log_proba in (
        shuffled.log_proba[::-1],
        np.concatenate([one.log_proba for one in alone]),
    ):
        np.testing.assert_allclose(log_proba, expected.log_proba, atol=1e-6)


@pytest.mark.parametrize("backend", ["threading", *slow("loky")])
def test_workers(backend, dit_folder):
    """Threads share a network, and must not see each other's hooks."""
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=6, prefilter="gradient", n_candidates=2
    ).fit(classes=NAMES)
    images = np.concatenate([IMAGES, 255 - IMAGES])
    expected = clf.denoising_errors(images)
    with joblib.parallel_config(backend, n_jobs=2):
        result = clf.denoising_errors(images)
    np.testing.assert_allclose(result.log_proba, expected.log_proba, atol=1e-4)
    np.testing.assert_array_equal(result.n_evaluations, expected.n_evaluations)


@pytest.mark.parametrize("kind", ["text", "class"])
def test_evaluations_are_rows_of_the_network(kind):
    """A hook counts forward passes; a backward pass counts as two more."""
    clf = (
        text("Stable Diffusion 1.x, 2.x") if kind == "text" else of_class("DiT")
    ).set_params(prefilter="gradient", n_candidates=2, n_trials=6)
    clf.fit(classes=NAMES)
    rows = []
    network = clf.backbone_.network
    hook = network.register_forward_hook(
        lambda m, inputs, out: rows.append(len(inputs[0]))
    )
    result = clf.denoising_errors(IMAGES)
    hook.remove()
    n_gradients = len(gradient_trials(clf.trials_, np.ones(6), 1000))
    assert n_gradients == 4
    assert result.n_evaluations.sum() == sum(rows) + 3 * 2 * n_gradients
    assert not any(m._forward_hooks for m in network.modules())
    # All classes are candidates: no gradient is needed.
    result = clf.set_params(n_candidates=4, pruning=None).denoising_errors(IMAGES)
    assert (result.n_evaluations == 4 * 6 * (2 if kind == "text" else 1)).all()


@pytest.fixture
def small_rounds(monkeypatch):
    """A search among four classes, in three rounds of one."""
    monkeypatch.setattr(_gradients, "MIN_ROUND", 1)


@pytest.mark.parametrize("kind", ["text", "class"])
def test_search(kind, small_rounds):
    """Evaluated classes have their own error, and others its regression."""
    clf = text("Stable Diffusion 1.x, 2.x") if kind == "text" else of_class("DiT")
    clf.set_params(timesteps=[300, 590, 800], n_trials=3, prefilter="gradient")
    clf.set_params(timestep_weights=lambda t: 2.0, n_candidates=1).fit(classes=NAMES)
    plan, null = fitted_plan(clf), clf.backbone_.null_condition()
    errors, searched, n_evaluations = predict_errors(plan, list(IMAGES), null, 1, EVERY)
    n_prompts = 2 if kind == "text" else 1
    assert n_evaluations.tolist() == [3 * 3 + 3 * n_prompts] * 3
    own = all_errors(clf, IMAGES)[:, :, 1]  # at t = 590
    same = np.isclose(searched, own, rtol=1e-6, atol=0)
    assert same.sum(axis=1).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(errors[same], 2 * searched[same])
    assert np.isnan(searched[~same]).all()
    # The first is the best of the first-order scores.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_gradients, "MIN_ROUND", 20)
        scores, *_ = predict_errors(plan, list(IMAGES), null, 1, EVERY)
    assert same[np.arange(3), scores.argmin(axis=1)].all()
    # A class that is not eligible is not evaluated.
    eligible = EVERY.copy()
    eligible[scores[0].argmin()] = False
    _, searched, _ = predict_errors(plan, list(IMAGES[:1]), null, 1, eligible)
    np.testing.assert_array_equal(np.isfinite(searched[0]), eligible)


def test_results_of_a_search_do_not_depend_on_other_images(small_rounds):
    clf = of_class("DiT", n_trials=6, prefilter="gradient", n_candidates=2)
    expected = clf.fit(classes=NAMES).denoising_errors(IMAGES)
    alone = [clf.set_params(batch_size=1).denoising_errors([one]) for one in IMAGES]
    found = np.concatenate([one.log_proba for one in alone])
    np.testing.assert_allclose(found, expected.log_proba, atol=1e-6)
    n_evaluations = np.concatenate([one.n_evaluations for one in alone])
    np.testing.assert_array_equal(n_evaluations, expected.n_evaluations)


@pytest.mark.parametrize("pruning", [0.99, None])
def test_errors_of_the_search_are_not_evaluated_again(
    pruning, small_rounds, monkeypatch
):
    """Whether the race begins with the trial of the search, or comes to it later."""
    evaluate, seen = engine_errors.evaluate, []

    def recorded(plan, latents, triples, *args):
        seen.extend(map(tuple, triples))
        return evaluate(plan, latents, triples, *args)

    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=12, pruning=pruning, n_candidates=3
    ).set_params(prefilter="gradient")
    clf.fit(classes=["bag", "coat", "dress", "shirt", "trouser"])
    photo = load_fashion_photos().images[:1]
    with monkeypatch.context() as patch:
        for module in (engine_errors, _gradients):
            patch.setattr(module, "evaluate", recorded)
        result = clf.denoising_errors(photo)
    assert len(set(seen)) == len(seen) > 3
    errors, done = all_errors(clf, photo), ~np.isnan(result.errors)
    assert done.any(axis=2).sum() == 3  # those of other classes are not shown
    np.testing.assert_allclose(result.errors[done], errors[done], rtol=1e-4)


def test_the_regression_finds_the_best_of_many_classes(monkeypatch):
    """Errors that are linear in the embedding, and scores that say nothing."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 8))
    true = features @ rng.standard_normal((8, 3))  # (k, n)

    def evaluate(plan, latents, triples):
        assert len(set(map(tuple, triples))) == len(triples)  # none of them twice
        return true[triples[:, 2], triples[:, 0]], np.bincount(triples[:, 0])

    monkeypatch.setattr(_gradients, "evaluate", evaluate)
    plan = Mock(n_prompts=np.ones(400, int), weights=np.ones(1), search_trial=0)
    plan.first_conditions = np.arange(400)
    scores = rng.standard_normal((3, 400))
    found, _, n_rows = _gradients._search(
        plan, np.zeros(3), scores, features, np.ones(400, bool), 20, 2
    )
    assert n_rows.tolist() == [40] * 3
    np.testing.assert_array_equal(found.argmin(axis=1), true.argmin(axis=0))


def test_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((300, 40)) * np.linspace(0.2, 1, 40)
    values = inputs @ rng.standard_normal(40) + 5 + 0.5 * rng.standard_normal(300)
    done = np.arange(300) < 60
    found = _gradients._regress(inputs, done, values[done])
    expected = BayesianRidge().fit(inputs[done], values[done]).predict(inputs)
    assert np.abs(found - expected).max() < 0.1 * expected.std()
    one = np.arange(300) < 1  # a single value says nothing about others
    assert (_gradients._regress(inputs, one, values[one]) == values[0]).all()


def test_priors_of_0_are_no_candidates():
    clf = of_class("DiT", n_trials=6, prefilter="gradient", n_candidates=2)
    clf.set_params(priors=[0, 0.5, 0.3, 0.2]).fit(classes=NAMES)
    result = clf.denoising_errors(IMAGES)
    assert (np.exp(result.log_proba)[:, 0] == 0).all()
    assert np.isnan(result.errors[:, 0]).all()
    np.testing.assert_allclose(np.exp(result.log_proba).sum(axis=1), 1)
    # No choice among two: no gradient either.
    clf.set_params(priors=[0, 0.5, 0, 0.5], pruning=None)
    assert (clf.denoising_errors(IMAGES).n_evaluations == 2 * 6).all()


@pytest.mark.parametrize("name", ["class_offsets", "priors"])
def test_priors_and_class_offsets_choose_candidates(name):
    """And count in the probability of the other classes."""
    clf = of_class("DiT", n_trials=6, prefilter="gradient", n_candidates=2)
    clf.set_params(temperature=1e3).fit(classes=NAMES)
    plain = clf.predict_log_proba(IMAGES)
    last = plain.argmin(axis=1)[0]
    log_prior = np.log(np.where(np.arange(4) == last, 0.97, 0.01))
    values = log_prior if name == "class_offsets" else np.exp(log_prior)
    result = clf.set_params(**{name: values}).denoising_errors(IMAGES)
    assert np.isfinite(result.errors[:, last]).any(axis=1).all()
    alone = clone(clf).set_params(prefilter=None).fit(classes=NAMES)
    expected = alone.predict_proba(IMAGES)
    np.testing.assert_allclose(np.exp(result.log_proba), expected, atol=0.02)


def test_which_trials():
    weights = np.ones(100)
    even = Trials(np.arange(5, 1000, 10), 0)
    subset = gradient_trials(even, weights, 1000)
    assert len(subset) == N_GRADIENTS and (np.diff(subset) > 0).all()
    gaps = np.diff(even.timesteps[subset], prepend=200, append=900)
    assert gaps[1:-1].min() >= 80 and gaps.max() <= 90  # in 8 parts of 87
    weights[:85] = 0
    assert gradient_trials(even, weights, 1000).tolist() == list(range(85, 90))
    low = Trials(np.array([50, 3, 50]), 0)
    assert gradient_trials(low, np.ones(3), 1000).tolist() == [1, 0, 2]


def test_models_that_can_not(dit_folder):
    sana = ZeroShotDiffusionClassifier(
        model=PIPELINES["Sana"](), prefilter="gradient", target="native"
    )
    with pytest.raises(ValueError, match=r"'gradient' can't score prompts of Sana"):
        sana.fit(classes=NAMES)
    pixels = ConditionalDiffusionClassifier(
        model=PIPELINES["U-Net on pixels"](), prefilter="gradient", n_candidates=1
    )
    with pytest.raises(ValueError, match=r"no null class; pass null_condition=k"):
        pixels.fit(classes=[0, 1])
    pixels.set_params(null_condition=4).fit(classes=[0, 1])

    class OneHot(nn.Module):
        def forward(self, ids):
            return torch.nn.functional.one_hot(ids, 16).float()

    plan, null = fitted_plan(pixels), pixels.backbone_.encode_null(4)
    pixels.backbone_.network.class_embedding = OneHot()
    with pytest.raises(ValueError, match=r"no nn\.Embedding of its class ids"):
        predict_errors(plan, list(IMAGES), null, 1, np.ones(2, bool))
    dit = ConditionalDiffusionClassifier(model=dit_folder, prefilter="gradients")
    with pytest.raises(ValueError, match="'prefilter'"):
        dit.fit(classes=NAMES)


@pytest.mark.parametrize("kind", ["sd", "dit"])
def test_bfloat16(kind, request):
    """Gradients of a network in half precision, accumulated in float32."""
    folder = request.getfixturevalue(f"{kind}_folder")
    make = {"sd": ZeroShotDiffusionClassifier, "dit": ConditionalDiffusionClassifier}
    scores = {}
    for dtype in ("float32", "bfloat16"):
        clf = make[kind](model=folder, n_trials=8, dtype=dtype).fit(classes=NAMES)
        plan, null = fitted_plan(clf), clf.backbone_.null_condition()
        scores[dtype], *_ = predict_errors(plan, list(IMAGES), null, 2, EVERY)
    spread = scores["float32"].std(axis=1).mean()
    difference = scores["bfloat16"] - scores["float32"]
    difference -= difference.mean(axis=1, keepdims=True)
    assert 0 < np.abs(difference).max() < 0.3 * spread


def test_under_inference_mode():
    clf = of_class("DiT", n_trials=4, prefilter="gradient", n_candidates=2)
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    other = clone(clf).fit(classes=NAMES)
    with torch.inference_mode():
        found = other.predict_proba(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_infinite_gradients_are_an_error():
    clf = of_class("DiT", n_trials=4, prefilter="gradient", n_candidates=2)
    clf.fit(classes=NAMES)
    (table,) = [
        m.weight for m in clf.backbone_.network.modules() if isinstance(m, nn.Embedding)
    ]
    plan, null = fitted_plan(clf), clf.backbone_.null_condition()
    table.data[1] = torch.inf
    with pytest.raises(FloatingPointError, match="as a gradient; pass dtype"):
        predict_errors(plan, list(IMAGES), null, 2, EVERY)
