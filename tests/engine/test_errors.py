"""The Monte Carlo errors, against a double loop written from the paper's equation 7."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from torch.nn import functional as F

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.engine._pruning import pruning_rounds, stage_ends
from tests.models import slow, tiny_dit, tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)
DISTANCES = {
    "l2": lambda d: np.mean(d**2),
    "l1": lambda d: np.mean(np.abs(d)),
    "huber": lambda d: np.mean(np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 1 / 2)),
}


def alphas_cumprod(scheduler):
    """The schedule from its config, in float64."""
    config = scheduler.config
    ends = config.beta_start, config.beta_end
    if config.beta_schedule == "scaled_linear":
        betas = np.linspace(ends[0] ** 0.5, ends[1] ** 0.5, 1000) ** 2
    else:
        betas = np.linspace(*ends, 1000)
    return np.cumprod(1 - betas)


def double_loop(vae, predict, conditions, scheduler, trials, images, loss):
    """Equation 7 in float64, one image, class and trial at a time, no batches.

    `predict(x_t, t, condition)` calls the network; `conditions` holds a list of
    conditions (one a prompt) for each class.
    """
    abar = alphas_cumprod(scheduler)
    errors = np.zeros((len(images), len(conditions), len(trials.timesteps)))
    for i, image in enumerate(images):
        x = torch.from_numpy(image.transpose(2, 0, 1)[None] / 127.5 - 1).double()
        z = vae.encode(x).latent_dist.mean.numpy()
        z = (z - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
        noise = trials.noise(z.shape[1:])
        for j, t in enumerate(trials.timesteps.tolist()):
            eps = noise[j : j + 1].astype(np.float64)
            xt = np.sqrt(abar[t]) * z + np.sqrt(1 - abar[t]) * eps
            truth = eps
            if scheduler.config.prediction_type == "v_prediction":
                truth = np.sqrt(abar[t]) * eps - np.sqrt(1 - abar[t]) * z
            for k, prompts in enumerate(conditions):
                for condition in prompts:
                    prediction = predict(
                        torch.from_numpy(xt), torch.tensor([t]), condition
                    )
                    errors[i, k, j] += DISTANCES[loss](truth - prediction) / len(
                        prompts
                    )
    return errors


def dit_loop(pipeline, ids, trials, images, loss):
    """The double loop on a DiT, with its learned sigma cut off."""
    vae, dit = pipeline.vae.double().eval(), pipeline.transformer.double().eval()

    def predict(xt, t, label):
        output = dit(xt, timestep=t, class_labels=torch.tensor([label])).sample
        return output[:, : xt.shape[1]].numpy()

    conditions = [[label] for label in ids]
    with torch.no_grad():
        return double_loop(
            vae, predict, conditions, pipeline.scheduler, trials, images, loss
        )


@pytest.mark.parametrize("loss", DISTANCES)
def test_dit_against_double_loop(loss):
    clf = ConditionalDiffusionClassifier(
        model=tiny_dit(), n_trials=6, pruning=None, loss=loss, random_state=3
    ).fit(classes=["eel", "ant", "hound"])
    result = clf.denoising_errors(IMAGES)
    expected = dit_loop(tiny_dit(), [0, 4, 3], clf.trials_, IMAGES, loss)
    assert result.errors.dtype == np.float32
    np.testing.assert_allclose(result.errors, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", *slow("v_prediction")])
@pytest.mark.parametrize("loss", DISTANCES)
def test_stable_diffusion_against_double_loop(prediction_type, loss):
    templates = ["a {}", "one big {}."]
    clf = ZeroShotDiffusionClassifier(
        model=tiny_sd(prediction_type),
        n_trials=6,
        pruning=None,
        loss=loss,
        target="native",
        prompt_template=templates,
    ).fit(classes=["dog", "cat"])
    errors = clf.denoising_errors(IMAGES).errors

    pipeline = tiny_sd(prediction_type)
    vae, unet = pipeline.vae.double().eval(), pipeline.unet.double().eval()
    encoder = pipeline.text_encoder.double().eval()

    def predict(xt, t, prompt):
        ids = pipeline.tokenizer(
            [prompt], padding="max_length", max_length=40, return_tensors="pt"
        ).input_ids
        return unet(xt, t, encoder_hidden_states=encoder(ids)[0]).sample.numpy()

    prompts = [[t.format(name) for t in templates] for name in ("cat", "dog")]
    assert clf.prompts_ == prompts
    with torch.no_grad():
        expected = double_loop(
            vae, predict, prompts, pipeline.scheduler, clf.trials_, IMAGES, loss
        )
    np.testing.assert_allclose(errors, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["vlb", "l2+vlb"])
def test_variational_losses_against_gaussians(loss):
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) of DDPM, by torch.distributions."""
    clf = ConditionalDiffusionClassifier(
        model=tiny_dit(),
        timesteps=[0, 1, 400, 999],
        n_trials=4,
        pruning=None,
        loss=loss,
    ).fit(classes=["ant", "bee"])
    errors = clf.denoising_errors(IMAGES[:1]).errors[0]

    pipeline = tiny_dit()
    vae, dit = pipeline.vae.double().eval(), pipeline.transformer.double().eval()
    abar = np.append(alphas_cumprod(pipeline.scheduler), 1)  # abar[-1] is that before 0
    x = torch.from_numpy(IMAGES[:1].transpose(0, 3, 1, 2) / 127.5 - 1).double()
    with torch.no_grad():
        z = (vae.encode(x).latent_dist.mean - 0.1) * 0.7
        for j, t in enumerate([0, 1, 400, 999]):
            eps = torch.from_numpy(clf.trials_.noise(z.shape[1:])[j]).double()
            alpha, beta = abar[t] / abar[t - 1], 1 - abar[t] / abar[t - 1]
            xt = abar[t] ** 0.5 * z + (1 - abar[t]) ** 0.5 * eps
            lower = beta * (1 - abar[t - 1]) / (1 - abar[t])
            if t == 0:  # DDPM's posterior variance is 0 there; that of t = 1 stands in
                beta_1 = 1 - abar[1] / abar[0]
                lower = beta_1 * (1 - abar[0]) / (1 - abar[1])

            # Mean of q(x_{t-1} | x_t, x_0) = a x_0 + b x_t, DDPM equation 7.
            a = abar[t - 1] ** 0.5 * beta / (1 - abar[t])
            b = alpha**0.5 * (1 - abar[t - 1]) / (1 - abar[t])
            for k in (0, 1):
                label, time = torch.tensor([k]), torch.tensor([t])
                output = dit(xt, timestep=time, class_labels=label).sample
                predicted, share = output.chunk(2, dim=1)
                guess = (xt - (1 - abar[t]) ** 0.5 * predicted) / abar[t] ** 0.5
                share = (share + 1) / 2
                scale = beta ** (share / 2) * lower ** ((1 - share) / 2)
                model = torch.distributions.Normal(a * guess + b * xt, scale)
                true = torch.distributions.Normal(a * z + b * xt, lower**0.5)
                nats = torch.distributions.kl_divergence(true, model)
                if t == 0:  # the bin of 256 in [-1, 1] that x_0 is in, the last open
                    above = model.cdf(z + 1 / 255).masked_fill(z > 0.999, 1)
                    below = model.cdf(z - 1 / 255).masked_fill(z < -0.999, 0)
                    nats = -(above - below).clamp(min=1e-12).log()
                expected = nats.mean() / np.log(2)
                if loss == "l2+vlb":
                    expected += (predicted - eps).square().mean()
                # The pipeline's schedule is float32, and 1 - abar is 1e-4 at t = 0.
                np.testing.assert_allclose(errors[k, j], expected, rtol=1e-3)


def test_variational_losses_need_a_learned_variance(sd_folder):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, loss="vlb")
    with pytest.raises(ValueError, match=r"loss='vlb' needs a model that learns"):
        clf.fit(classes=["a", "b"])


def test_bundled_model_against_double_loop(photos):
    images = np.repeat(photos.images[:2, ..., None], 3, axis=3)
    images = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])  # no resizing
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=4, pruning=None
    ).fit(classes=["ankle boot", "pullover"])
    pipeline = load_backbone("fashion-dit", dtype="float64").pipeline
    expected = dit_loop(pipeline, [9, 2], clf.trials_, images, "l2")
    errors = clf.denoising_errors(images).errors
    np.testing.assert_allclose(errors, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "prediction_type, target",
    [
        ("epsilon", "velocity"),
        ("v_prediction", "epsilon"),
        ("sample", "native"),
        *slow(
            *[("epsilon", target) for target in ("native", "epsilon", "sample")],
            *[("v_prediction", target) for target in ("native", "sample", "velocity")],
            *[("sample", target) for target in ("epsilon", "sample", "velocity")],
        ),
    ],
)
def test_targets_are_weightings_of_each_other(prediction_type, target):
    """For l2, the space of the error is a weighting over t."""
    model = tiny_sd(prediction_type)
    clf = ZeroShotDiffusionClassifier(
        model=model, n_trials=5, pruning=None, dtype="float64", target="native"
    )
    native = clf.fit(classes=["a", "b"]).denoising_errors(IMAGES).errors
    abar = alphas_cumprod(model.scheduler)[clf.trials_.timesteps]
    in_epsilon = {
        "epsilon": 1.0,
        "v_prediction": abar,
        "sample": abar / (1 - abar),
    }[prediction_type] * native
    expected = {
        "native": native,
        "epsilon": in_epsilon,
        "sample": in_epsilon * (1 - abar) / abar,
        "velocity": in_epsilon / abar,
    }[target]
    fitted = clf.set_params(target=target).fit(classes=["a", "b"])
    errors = fitted.denoising_errors(IMAGES).errors
    np.testing.assert_allclose(errors, expected, rtol=1e-4)


@pytest.mark.parametrize("pruning", [None, 0.9, ((3, 3), (5, 2))])
def test_batch_size_order_and_subset_do_not_matter(dit_folder, pruning):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=12, pruning=pruning, dtype="float64"
    ).fit(classes=["ant", "bee", "cat", "eel"])
    images = np.concatenate([IMAGES, 255 - IMAGES])
    expected = clf.set_params(batch_size=64).denoising_errors(images).errors
    log_proba = clf.predict_log_proba(images)
    for batch_size in (1, 7):
        errors = clf.set_params(batch_size=batch_size).denoising_errors(images).errors
        np.testing.assert_allclose(errors, expected, rtol=1e-6)
    order = [4, 0, 5]
    np.testing.assert_allclose(
        clf.predict_log_proba(images[order]), log_proba[order], rtol=1e-6, atol=1e-9
    )


def test_evidence_is_the_error_difference_in_place(dit_folder):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=5, pruning=None
    ).fit(classes=["ant", "bee", "cat"])
    evidence = clf.evidence(IMAGES, "cat", "ant")
    errors = clf.denoising_errors(IMAGES).errors.mean(axis=2)
    assert evidence.shape == (3, 8, 8) and evidence.dtype == np.float32
    # Bilinear upsampling by 2 keeps the mean but for the borders; compare on those
    # that average pooling gives back exactly: a constant map.
    np.testing.assert_allclose(
        clf.evidence(IMAGES, "ant", "cat"), -evidence, rtol=1e-4, atol=1e-6
    )
    pooled = F.avg_pool2d(torch.from_numpy(evidence)[None], 8).ravel().numpy()
    np.testing.assert_allclose(pooled, errors[:, 0] - errors[:, 2], atol=1e-5)
    with pytest.raises(ValueError, match=r"b='dog' is none of classes_"):
        clf.evidence(IMAGES, "ant", "dog")


def test_evaluations_are_counted_and_nan_where_pruned(dit_folder):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=10, pruning=((4, 2), (6, 1))
    ).fit(classes=["ant", "bee", "cat", "eel"])
    result = clf.denoising_errors(IMAGES)
    assert result.errors.shape == (3, 4, 10)
    np.testing.assert_array_equal(result.n_evaluations, 4 * 4 + 2 * 2)
    done = ~np.isnan(result.errors)
    np.testing.assert_array_equal(done.sum(axis=(1, 2)), result.n_evaluations)
    full = clf.set_params(pruning=None).fit(classes=clf.classes_.tolist())
    full = full.denoising_errors(IMAGES)
    np.testing.assert_array_equal(full.timesteps, result.timesteps)
    np.testing.assert_allclose(result.errors[done], full.errors[done], rtol=1e-5)


def test_prompts_of_an_ensemble_count(sd_folder):
    clf = ZeroShotDiffusionClassifier(
        model=sd_folder, n_trials=3, pruning=None, prompt_template=["a {}", "b {}"]
    ).fit(classes=["x", "y", "z"])
    result = clf.denoising_errors(IMAGES[:1])
    assert result.n_evaluations.tolist() == [3 * 3 * 2]


def test_half_precision_sums_in_float32(dit_folder):
    """Errors of a bfloat16 network are not rounded to bfloat16 themselves."""
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=8, pruning=None, dtype="bfloat16"
    ).fit(classes=["ant", "bee"])
    half = clf.denoising_errors(IMAGES).errors
    as_bfloat16 = torch.from_numpy(half).bfloat16().float().numpy()
    assert not np.array_equal(half, as_bfloat16)
    full = clf.set_params(dtype="float32").fit(classes=["ant", "bee"])
    np.testing.assert_allclose(half, full.denoising_errors(IMAGES).errors, rtol=0.1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(dit_folder):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=50, pruning=((5, 2),)
    ).fit(classes=["ant", "bee", "cat", "eel"])
    peaks = []
    for n in (64, 512):
        images = np.resize(IMAGES, (n, 8, 8, 3))
        tracemalloc.start()
        clf.predict_proba(images)
        peaks.append(tracemalloc.get_traced_memory()[1] - 4 * 8 * n)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_image_size(dit_folder):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=2, pruning=None, image_size=16
    ).fit(classes=["ant", "bee"])
    assert clf.predict_proba(IMAGES).shape == (3, 2)
    with pytest.raises(ValueError, match=r"image_size=9.*multiple of 4"):
        clf.set_params(image_size=9).fit(classes=["ant", "bee"])


def test_overflow_is_an_error_not_an_answer():
    pipeline = tiny_dit()
    pipeline.transformer.proj_out_2.bias.data[0] = torch.nan
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=3)
    clf.fit(classes=["ant", "bee"])
    with pytest.raises(
        FloatingPointError, match=r"dtype=.*at timesteps \[166, 500, 83"
    ):
        clf.predict(IMAGES)


@pytest.mark.parametrize("timesteps", ["even", "random", "anytime", [900, 5, 300, 40]])
@pytest.mark.parametrize("pruning", [0.6, ((4, 3), 0.6), ((5, 2), (9, 1))])
def test_pruning_of_the_engine_is_that_of_the_rules(dit_folder, timesteps, pruning):
    """The rules walked by hand over the table of all errors, weights and all."""
    images = np.random.RandomState(1).randint(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    clf = ConditionalDiffusionClassifier(
        model=dit_folder,
        n_trials=12,
        timesteps=timesteps,
        timestep_weights=lambda t: 1 + t / 500,
    )
    names = ["ant", "bee", "cat", "eel"]
    whole = clf.set_params(pruning=None).fit(classes=names).denoising_errors(images)
    result = clf.set_params(pruning=pruning).fit(classes=names).denoising_errors(images)

    trials, errors = clf.trials_, whole.errors.astype(float)
    weighted = errors * (1 + trials.timesteps / 500)
    order = trials.order(stage_ends(pruning))
    kept = np.zeros(errors.shape, bool)
    for i in range(len(images)):
        active, done = np.ones((1, 4), bool), 0
        for end, rules in pruning_rounds(pruning, 12):
            if active.sum() == 1:
                break
            kept[i][np.ix_(active[0], order[done:end])] = True
            seen = order[:end]
            for rule in rules:
                active = rule(
                    weighted[i : i + 1, :, seen], active, trials.timesteps[seen]
                )
            done = end
    np.testing.assert_array_equal(~np.isnan(result.errors), kept)
    np.testing.assert_allclose(result.errors[kept], errors[kept], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(result.n_evaluations, kept.sum(axis=(1, 2)))
    assert not kept.all()


def test_a_race_of_one_candidate_is_over_before_it_starts(dit_folder):
    images = np.random.RandomState(1).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    names = np.array(["ant", "bee", "eel"])
    prefilter = FrozenEstimator(DummyClassifier().fit([[0]] * 3, names))
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=9, prefilter=prefilter, n_candidates=1
    ).fit(classes=names)
    result = clf.denoising_errors(images)
    assert clf.predict(images).tolist() == ["ant"] * 3
    assert (result.n_evaluations <= 4).all()


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_dit, lambda: tiny_sd("epsilon")])
def test_a_compiled_network_gives_the_same_errors(make):
    pipeline = make()
    cls = ConditionalDiffusionClassifier
    if load_backbone(pipeline).kind == "text":
        cls = ZeroShotDiffusionClassifier
    images = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    errors = []
    for how in "plain", "in place", "wrapped":
        network = "unet" if hasattr(pipeline, "unet") else "transformer"
        if how == "in place":
            getattr(pipeline, network).compile(backend="eager")
        if how == "wrapped":
            pipeline = make()
            compiled = torch.compile(getattr(pipeline, network), backend="eager")
            setattr(pipeline, network, compiled)
        clf = cls(model=pipeline, n_trials=3, pruning=None)
        assert load_backbone(pipeline).is_compiled == (how != "plain")
        errors.append(clf.fit(classes=["ant", "bee"]).denoising_errors(images).errors)
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(errors[2], errors[0], rtol=1e-5, atol=1e-6)
