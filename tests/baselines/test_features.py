"""Features inside a diffusion model, and the residual network trained on them."""

import pickle
import threading
from unittest import SkipTest

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from diffusion_sklearn import ImageError, load_backbone
from diffusion_sklearn.baselines import DiffusionFeatures, ResNetHead
from diffusion_sklearn.baselines._activations import find_layer, layer_output
from diffusion_sklearn.baselines._resnet import compute_logits, hold_out
from tests.backbones.test_families import (
    CALLS,
    FAMILIES,
    FLOWS,
    IMAGES,
    images_of,
    in_float64,
    latents_of,
    pixels,
    sigma,
)
from tests.models import (
    COMMON,
    saved_model,
    slow,
    tiny_dit,
    tiny_sd,
)

PHOTOS = np.random.RandomState(1).randint(0, 256, (7, 8, 8, 3), dtype=np.uint8)


# scikit-learn's checks ---------------------------------------------------------------

DIT, SD = saved_model("dit"), saved_model("sd")
# The checks make rows of any length, and compare results to 1e-7.
CHECKED = {"dtype": "float64", "image_shape": (1, -1)}
QUICK = {"width": 8, "n_blocks": 1, "learning_rate": 0.03, "batch_size": 64}


@pytest.mark.slow
@parametrize_with_checks(
    [
        DiffusionFeatures(model=DIT, **CHECKED),
        DiffusionFeatures(model=SD, output="flat", **CHECKED),
        ResNetHead(dtype="float64", max_epochs=20, **QUICK),
    ]
)
def test_estimator_checks(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:
        assert "SCIPY_ARRAY_API is not set" in str(reason)
        raise


# Features against a hook set by hand, in float64 --------------------------------------

LAYERS = {
    "Stable Diffusion 1.x, 2.x": ["auto", 0, "up_blocks.0.resnets.1"],
    "Flux": ["auto", -1],
    "DiT": ["auto", "transformer_blocks.0.attn1"],
    "HiDream": ["x_embedder"],
    "Z-Image": ["noise_refiner.0"],
    "Lumina 2": ["noise_refiner.0"],
}
NAMED = {
    "Stable Diffusion 1.x, 2.x": [
        "mid_block",
        "down_blocks.0",
        "up_blocks.0.resnets.1",
    ],
    "LCM": ["mid_block"],
    "Kolors": ["mid_block"],
    "Flux": ["transformer_blocks.0", "single_transformer_blocks.0"],
    "DiT": ["transformer_blocks.0", "transformer_blocks.0.attn1"],
    "HunyuanDiT": ["blocks.1"],
    "DeepFloyd IF": ["mid_block"],
    "HiDream": ["x_embedder"],
    "Z-Image": ["noise_refiner.0"],
    "Lumina 2": ["noise_refiner.0"],
    "AuraFlow": ["joint_transformer_blocks.0"],
}
# The null of SDXL is zeros, and those of Sana and Lumina 2 lack an instruction.
NULLS = {
    "U-Net on pixels": 4,
    "Stable Diffusion XL": "",
    "Sana": "a bee.",
    "SANA-Sprint": "a bee.",
    "Lumina 2": "a bee.",
}
CASES = [
    pytest.param(name, layer, named, marks=() if name in COMMON else pytest.mark.slow)
    for name in FAMILIES
    for layer, named in zip(
        LAYERS.get(name, ["auto"]),
        NAMED.get(
            name,
            [
                "mid_block"
                if "XL" in name or "U-Net" in name
                else "transformer_blocks.0"
            ],
        ),
        strict=True,
    )
]


def by_hand(name, layer, timestep, null):
    """Activations of each image, (d, positions), from the pipeline's own modules."""
    pipeline, outputs = in_float64(FAMILIES[name]()), []
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    if name in ("Sana", "SANA-Sprint"):
        pipeline.tokenizer.padding_side = "right"  # as its pipeline does
    seed = np.random.RandomState(0).randint(2**31)
    network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    for image in images_of(name):
        x = latents_of(name, pipeline, image)
        draw = np.random.default_rng([seed, 0]).standard_normal(x.shape[1:], np.float32)
        eps, t = torch.from_numpy(draw)[None].double(), torch.tensor([timestep])
        if name in FLOWS:
            xt = (1 - sigma(t)) * x + sigma(t) * eps
        else:
            abar = pipeline.scheduler.alphas_cumprod[timestep].double()
            xt = abar.sqrt() * x + (1 - abar).sqrt() * eps
        CALLS[name](pipeline, xt, t, null)
    maps = []
    for output in outputs:
        if layer.startswith("down_blocks"):  # residuals come second
            output = output[0]
        elif isinstance(output, tuple):  # text comes first
            output = output[1]
        tokens = output[0] if output.ndim == 3 else output[0].flatten(1).T
        maps.append(tokens.T.numpy())
    return np.stack(maps)


@pytest.mark.parametrize("name, layer, named", CASES)
def test_against_a_hook_by_hand(name, layer, named):
    model, kind = load_backbone(FAMILIES[name]()), NULLS.get(name)
    null = kind
    if null is None:
        null = model.n_labels if model.kind == "class" else ""
    images = images_of(name)
    common = {"model": model, "layer": layer, "timestep": 300}
    common["image_size"] = images.shape[1]
    flat = DiffusionFeatures(**common, output="flat", null_condition=kind).fit()
    assert flat.layer_ == named
    with torch.no_grad():
        expected = by_hand(name, named, 300, null)  # (n, d, positions)
    d, h, w = flat.feature_shape_
    assert (d, h * w) == expected.shape[1:] and h == w
    activations, scale = flat.transform(images), np.abs(expected).mean()
    assert np.isfinite(scale)
    assert activations.dtype == np.float32
    expected = expected / scale
    np.testing.assert_allclose(activations / scale, expected.reshape(3, -1), atol=3e-5)
    pooled = flat.set_params(output="pooled").transform(images)
    np.testing.assert_allclose(pooled / scale, expected.mean(axis=2), atol=3e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the image matters


# Independence, forms, memory ----------------------------------------------------------


@pytest.fixture(params=["text", "class"])
def features(request, dit_folder, sd_folder):
    """Flat features of either kind of tiny model."""
    model = sd_folder if request.param == "text" else dit_folder
    return DiffusionFeatures(model=model, output="flat")


def test_neither_batch_size_nor_order_nor_company_matters(features):
    expected = features.fit().transform(PHOTOS)
    order = np.random.RandomState(2).permutation(7)
    for batch_size in (1, 3, 7):
        again = clone(features).set_params(batch_size=batch_size).fit()
        activations = again.transform(PHOTOS[order])
        np.testing.assert_allclose(activations, expected[order], rtol=1e-4, atol=1e-5)
    alone = features.transform(PHOTOS[3:4])
    np.testing.assert_allclose(alone, expected[3:4], rtol=1e-4, atol=1e-5)


def test_every_form_of_images_gives_the_same(features, tmp_path):
    expected = features.fit_transform(PHOTOS)
    paths = [tmp_path / f"{k}.png" for k in range(7)]
    for path, image in zip(paths, PHOTOS, strict=True):
        Image.fromarray(image).save(path)
    tensor = torch.from_numpy(PHOTOS.transpose(0, 3, 1, 2))
    for form in (paths, [Image.open(path) for path in paths], tensor):
        np.testing.assert_array_equal(features.transform(form), expected)
    rows = clone(features).set_params(image_shape=(8, 8, 3))
    np.testing.assert_array_equal(rows.fit_transform(PHOTOS.reshape(7, -1)), expected)
    with pytest.raises(ImageError, match=r"X\[1\].*does not exist"):
        features.transform([paths[0], tmp_path / "none.png"])


def test_no_more_images_than_a_batch_are_open(features, monkeypatch):
    sizes = []
    features.set_params(batch_size=3).fit(PHOTOS)
    backbone = type(features.backbone_)
    encode = backbone.encode

    def counting(self, pixels):
        sizes.append((sum(n for _, n in sizes), len(pixels)))
        return encode(self, pixels)

    monkeypatch.setattr(backbone, "encode", counting)
    features.transform(PHOTOS)
    assert sizes == [(0, 3), (3, 3), (6, 1)]


def test_noise_is_seeded_and_grows_with_the_timestep(features):
    early, late = (
        clone(features).set_params(timestep=t).fit_transform(PHOTOS) for t in (0, 999)
    )
    other = clone(features).set_params(timestep=999, random_state=1)
    assert np.abs(other.fit_transform(PHOTOS) - late).max() > 1e-2
    # At the end all images look the same.
    assert late.std(axis=0).mean() < 0.2 * early.std(axis=0).mean()


def test_bfloat16_is_near(features):
    full = features.fit_transform(PHOTOS)
    half = clone(features).set_params(dtype="bfloat16").fit_transform(PHOTOS)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).mean() < 0.05 * np.abs(full).mean()


def test_names_and_data_frames(features):
    features.set_params(output="pooled").set_output(transform="pandas")
    frame = features.fit(PHOTOS).transform(list(PHOTOS))
    names = [f"diffusionfeatures{k}" for k in range(8)]
    assert frame.columns.tolist() == names and len(frame) == 7
    assert features.get_feature_names_out().tolist() == names


def test_another_size_of_images_is_for_the_next_fit(features):
    """As are the shape and the names of the features that depend on it."""
    features.set_params(output="flat").fit()
    before = features.transform(PHOTOS)
    features.set_params(image_size=16)
    np.testing.assert_array_equal(features.transform(PHOTOS), before)
    larger = features.fit().transform(PHOTOS)
    assert larger.shape[1] == len(features.get_feature_names_out()) > before.shape[1]


# Hooks --------------------------------------------------------------------------------


def n_hooks(backbone):
    return sum(len(module._forward_hooks) for module in backbone.network.modules())


def test_the_rest_of_the_network_is_not_run(dit_folder, sd_folder):
    for model, layer, last in (
        (sd_folder, "auto", "conv_out"),
        (dit_folder, "pos_embed", "transformer_blocks.0"),
    ):
        features = DiffusionFeatures(model=model, layer=layer).fit()
        seen = []
        network = features.backbone_.network
        hook = network.get_submodule(last).register_forward_hook(
            lambda *_, seen=seen: seen.append(1)
        )
        try:
            features.transform(PHOTOS)
        finally:
            hook.remove()
        assert not seen and n_hooks(features.backbone_) == 0


def test_no_hook_stays_after_an_error(sd_folder):
    features = DiffusionFeatures(model=sd_folder)
    with pytest.raises(ValueError, match=r"layer='up_blocks' gives NoneType.*is run"):
        features.set_params(layer="up_blocks").fit()  # a list of modules
    with pytest.raises(ValueError, match=r"time_embedding' gives a tensor of shape"):
        features.set_params(layer="time_embedding").fit()
    features.set_params(layer="conv_out").fit()
    features._null = features._null[..., :-1]  # the network fails before conv_out
    with pytest.raises(RuntimeError):
        features.transform(PHOTOS)
    assert n_hooks(features.backbone_) == 0


def test_another_thread_may_use_the_same_network():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    mine, others, outputs = torch.ones(1, 2), torch.zeros(1, 2), []

    def run():
        thread = threading.Thread(target=lambda: outputs.append(network(others)))
        thread.start()
        thread.join()
        network(mine)

    caught = layer_output(network[0], run)
    torch.testing.assert_close(caught, network[0](mine))
    torch.testing.assert_close(outputs, [network(others)])


def test_a_compiled_network_has_the_same_features(dit_folder):
    plain = DiffusionFeatures(model=dit_folder)
    pipeline = tiny_dit()
    pipeline.transformer.compile(backend="eager")
    compiled = DiffusionFeatures(model=pipeline)
    np.testing.assert_allclose(
        compiled.fit_transform(PHOTOS), plain.fit_transform(PHOTOS), atol=1e-5
    )


# Parameters ---------------------------------------------------------------------------


def test_the_middle_block():
    dit = load_backbone("fashion-dit").network  # six blocks: after three of them
    assert find_layer(dit, "auto") == "transformer_blocks.2"
    assert find_layer(dit, 5) == find_layer(dit, -1) == "transformer_blocks.5"
    unet = tiny_sd("epsilon").unet
    assert [find_layer(unet, k) for k in range(5)] == [
        "down_blocks.0",
        "down_blocks.1",
        "mid_block",
        "up_blocks.0",
        "up_blocks.1",
    ]
    with pytest.raises(ValueError, match=r"layer=6, but DiT.*has blocks transformer"):
        find_layer(dit, 6)
    with pytest.raises(ValueError, match=r"layer='mid_blok'.*did you mean 'mid_block'"):
        find_layer(unet, "mid_blok")
    with pytest.raises(ValueError, match="layer='auto', but Linear has no blocks"):
        find_layer(torch.nn.Linear(1, 1), "auto")


@pytest.mark.parametrize(
    "params, message",
    [
        ({"timestep": 1000}, r"timestep=1000, but .* timesteps 0 to 999"),
        ({"timestep": -1}, "'timestep' parameter"),
        ({"output": "mean"}, "'output' parameter"),
        ({"image_size": 7}, "image_size=7 does not suit"),
        ({"model": SD, "null_condition": 3}, "null_condition=3 is no prompt"),
        ({"null_condition": "a"}, "null_condition='a' is no class id"),
        ({"null_condition": 6}, "null_condition=6 is no class id.* 0 to 4"),
    ],
)
def test_impossible_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        DiffusionFeatures(**{"model": DIT, **params}).fit()


def test_a_model_without_a_null_class_needs_one():
    features = DiffusionFeatures(model=pixels())
    with pytest.raises(ValueError, match=r"no null class; pass null_condition=k"):
        features.fit()
    assert features.set_params(null_condition=0).fit_transform(IMAGES).shape == (3, 8)


def test_overflow_is_an_error():
    pipeline = tiny_sd("epsilon")
    pipeline.unet.conv_in.weight.data.mul_(1e38)
    features = DiffusionFeatures(model=pipeline, layer="down_blocks.0").fit()
    with pytest.raises(FloatingPointError, match="NaN or infinity in layer 'down"):
        features.transform(PHOTOS)


# Cloning and pickling -----------------------------------------------------------------


def test_clones_share_the_model_and_pickles_hold_its_name():
    pipeline = tiny_dit()
    features = DiffusionFeatures(model=pipeline).fit()
    assert clone(features).model is pipeline
    assert clone(features).fit().backbone_.pipeline is pipeline

    features = DiffusionFeatures(model="fashion-dit").fit()  # megabytes of weights
    pickled = pickle.dumps(features)
    assert len(pickled) < 2**12
    activations = pickle.loads(pickled).transform(PHOTOS)
    np.testing.assert_array_equal(activations, features.transform(PHOTOS))


# The residual network -----------------------------------------------------------------


def separable(n, shape, seed=0):
    """Maps whose class is the channel of the larger mean, in noise."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    X = rng.standard_normal((n, *shape)).astype(np.float32)
    X[np.arange(n), y] += 2
    return X, np.array(["left", "right"])[y]


HEAD = {"width": 8, "n_blocks": 1, "learning_rate": 0.01, "max_epochs": 30}


def test_the_head_learns_and_stops_early():
    X, y = separable(200, (3, 2, 2))
    head = ResNetHead(**{**HEAD, "max_epochs": 200}, patience=3).fit(X, y)
    assert head.score(*separable(200, (3, 2, 2), seed=1)) > 0.95
    losses = head.history_["validation_loss"]
    # It stopped three epochs after the best, and went back to it.
    assert len(losses) == head.best_epoch_ + 4 < 200
    assert head.best_epoch_ == np.argmin(losses)
    assert head.history_["loss"][-1] < 0.5 * head.history_["loss"][0]
    rng = np.random.RandomState(0)
    rng.randint(2**31)  # the seed of the first weights
    held_out = hold_out((y == "right").astype(int), 0.1, rng)
    assert held_out.sum() == 20
    proba = head.predict_proba(X[held_out])
    right = proba[np.arange(20), (y[held_out] == "right").astype(int)]
    assert -np.log(right).mean() == pytest.approx(min(losses), rel=1e-5)
    accuracy = (head.predict(X[held_out]) == y[held_out]).mean()
    assert accuracy == head.history_["validation_accuracy"][head.best_epoch_]


def test_without_a_held_out_sample_the_loss_of_training_says():
    X, y = separable(40, (3, 1, 1))
    head = ResNetHead(**HEAD, validation_fraction=0, patience=None).fit(X, y)
    assert len(head.history_["loss"]) == 30
    assert np.isnan(head.history_["validation_loss"]).all()
    assert head.best_epoch_ == np.argmin(head.history_["loss"])
    assert head.score(X, y) > 0.9


def test_the_same_seed_gives_the_same_weights():
    X, y = separable(60, (3, 2, 2))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = ResNetHead(**HEAD, random_state=1).fit(X, y)
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = ResNetHead(**HEAD, random_state=1).fit(X, y)
    other = ResNetHead(**HEAD, random_state=2).fit(X, y)
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    assert one.history_ == two.history_ != other.history_


def test_rows_are_maps():
    X, y = separable(60, (3, 2, 4))
    maps = ResNetHead(**HEAD).fit(X, y)
    assert not hasattr(maps, "n_features_in_")
    rows = ResNetHead(feature_shape=(3, 2, 4), **HEAD).fit(X.reshape(60, -1), y)
    assert rows.n_features_in_ == 24
    expected = maps.predict_proba(X)
    for head in (maps, rows):
        assert head.feature_shape_ == (3, 2, 4)
        for form in (X, X.reshape(60, -1)):
            np.testing.assert_array_equal(head.predict_proba(form), expected)
    assert ResNetHead(**HEAD).fit(X[:, :, 0, 0], y).feature_shape_ == (3, 1, 1)
    rows.set_params(feature_shape=None).fit(X[:, :2], y)  # forgets the rows before
    assert rows.predict(X[:, :2].reshape(60, -1)).shape == (60,)


def test_the_network_is_what_it_is_said_to_be():
    """One block on vectors, in NumPy."""
    X, y = separable(50, (4, 1, 1))
    head = ResNetHead(dtype="float64", **{**HEAD, "max_epochs": 3}).fit(X, y)
    weights = {k: v.numpy() for k, v in head.network_.state_dict().items()}

    def norm(x, name):
        mean, var = (weights[f"{name}.running_{part}"] for part in ("mean", "var"))
        x = (x - mean) / np.sqrt(var + 1e-5)
        return x * weights.get(f"{name}.weight", 1) + weights.get(f"{name}.bias", 0)

    def conv(x, name):
        return x @ weights[f"{name}.weight"][:, :, 0, 0].T

    x = conv(norm(X[:, :, 0, 0].astype(float), "0"), "1")
    inner = conv(np.maximum(norm(x, "2.layers.0"), 0), "2.layers.2")
    x = x + conv(np.maximum(norm(inner, "2.layers.3"), 0), "2.layers.5")
    logits = np.maximum(norm(x, "3"), 0) @ weights["7.weight"].T + weights["7.bias"]
    network_logits = compute_logits(head.network_, X)
    np.testing.assert_allclose(network_logits, logits, rtol=1e-9)
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X), proba, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 17])
def test_no_batch_is_of_one_sample(n):
    X, _ = separable(n, (3, 1, 1))
    head = ResNetHead(
        **{**HEAD, "max_epochs": 2}, batch_size=2, validation_fraction=0.4
    )
    head.fit(X, np.arange(n) % 2)
    np.testing.assert_allclose(head.predict_proba(X).sum(axis=1), 1)


def test_held_out_samples_are_spread_over_the_classes():
    targets = np.repeat([0, 1, 2], [50, 30, 20])
    mask = hold_out(targets, 0.2, np.random.RandomState(0))
    assert np.bincount(targets[mask]).tolist() == [10, 6, 4]
    another = hold_out(targets, 0.2, np.random.RandomState(1))
    assert (mask != another).any()


def test_a_pickle_of_the_head_holds_its_weights():
    X, y = separable(60, (3, 2, 2))
    head = ResNetHead(**HEAD).fit(X, y)
    again = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    assert not hasattr(clone(head), "network_")


def test_features_that_do_not_fit():
    X, y = separable(20, (3, 2, 2))
    with pytest.raises(ValueError, match=r"feature_shape=\(3, 4\) does not fit X"):
        ResNetHead(feature_shape=(3, 4), **HEAD).fit(X.reshape(20, -1), y)
    with pytest.raises(ValueError, match=r"feature_shape=\(3, 4, 1\) does not fit X"):
        ResNetHead(feature_shape=(3, 4, 1), **HEAD).fit(X, y)
    head = ResNetHead(**{**HEAD, "max_epochs": 1}).fit(X, y)
    for wrong in (X[:, :, :1], X[:, 0, 0]):
        with pytest.raises(ValueError, match=r"was trained on \(3, 2, 2\)"):
            head.predict(wrong)


def test_training_that_diverges_is_an_error():
    X, y = separable(40, (3, 1, 1))
    head = ResNetHead(**{**HEAD, "learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"learning_rate=1e\+30; pass a lower"):
        head.fit(X, y)


# Both on photos -----------------------------------------------------------------------


@pytest.mark.parametrize("head", [LogisticRegression(max_iter=1000), *slow("resnet")])
def test_photos_are_told_apart(photos, head):
    names = ["bag", "sandal", "t-shirt"]
    rows = np.concatenate([np.flatnonzero(photos.names == n)[:20] for n in names])
    output, X, y = "pooled", photos.images[rows], photos.names[rows]
    if head == "resnet":
        output = "flat"
        head = ResNetHead(
            feature_shape=(192, 4, 4), width=16, learning_rate=1e-3, max_epochs=10
        )
    features = DiffusionFeatures(model="fashion-dit", output=output)
    scores = cross_val_score(make_pipeline(features, head), X, y, cv=3)
    assert scores.mean() > 0.8  # chance: 0.33
