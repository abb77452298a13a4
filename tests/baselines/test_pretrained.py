"""Image classifiers of transformers, against the model called by hand in float64."""

import pickle
import re
import shutil
from importlib.resources import files
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from diffusion_sklearn import ConditionalDiffusionClassifier, clear_cache
from diffusion_sklearn.baselines._pretrained import PretrainedImageClassifier
from diffusion_sklearn.datasets import load_fashion_photos
from tests.models import save_tiny_clip, saved, slow

LABELS = ["ant", "bee", "crane", "dog, hound", "crane, bird", "eel"]
NAMES = ["ant", "eel", "hound"]
IDS = [0, 5, 3]
IMAGES = np.random.RandomState(0).randint(0, 256, (5, 32, 32, 3), dtype=np.uint8)
TALL = np.random.RandomState(1).randint(0, 256, (4, 53, 40, 3), dtype=np.uint8)
KINDS = {
    "resnet": (ResNetForImageClassification, ConvNextImageProcessorPil),
    "vit": (ViTForImageClassification, ViTImageProcessorPil),
}


def save_tiny_classifier(folder, kind):
    torch.manual_seed(5)
    if kind == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        processor = ConvNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_pct=0.875
        )
    else:
        config = ViTConfig(
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        )
        processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {name: k for k, name in enumerate(LABELS)}
    model = KINDS[kind][0](config)
    for p in model.parameters():
        if p.ndim > 1:  # all but biases and norms
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


FOLDERS = {
    kind: saved(kind, lambda folder, kind=kind: save_tiny_classifier(folder, kind))
    for kind in KINDS
}


@pytest.fixture(params=KINDS)
def folder(request):
    return FOLDERS[request.param]


@pytest.fixture
def clf(folder):
    return PretrainedImageClassifier(model=folder, dtype="float64")


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that are really read from disk."""
    load, names = AutoModelForImageClassification.from_pretrained, []

    def counting(name, **options):
        names.append(str(name))
        return load(name, **options)

    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", counting)
    clear_cache()
    return names


@torch.no_grad()
def plain_logits(folder, images):
    """What transformers itself makes of images, in float64."""
    network, processor = KINDS[Path(folder).name]
    model = network.from_pretrained(folder, dtype=torch.float64).eval()
    processor = processor.from_pretrained(folder)
    pixels = processor([Image.fromarray(x) for x in images], return_tensors="pt")
    return model(pixels.pixel_values.double()).logits.numpy()  # (n, 6)


# The checks make rows of any length, and compare results to 1e-7.
@pytest.mark.slow
@parametrize_with_checks(
    [
        PretrainedImageClassifier(
            model=FOLDERS[kind],
            class_ids="order",
            dtype="float64",
            image_shape=(1, -1),
        )
        for kind in KINDS
    ]
)
def test_estimator_checks(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:
        assert "SCIPY_ARRAY_API is not set" in str(reason)
        raise


# Posterior ---------------------------------------------------------------------------


@pytest.mark.parametrize("images", [IMAGES, TALL])
def test_posterior_against_plain_transformers(clf, images):
    clf.fit(classes=NAMES[::-1])
    logits = plain_logits(clf.model, images)[:, IDS]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert np.ptp(np.exp(expected)) > 0.05
    log_proba = clf.predict_log_proba(images)
    assert log_proba.dtype == np.float64
    np.testing.assert_allclose(log_proba, expected, rtol=1e-6)
    np.testing.assert_array_equal(
        clf.predict(images), np.array(NAMES)[expected.argmax(axis=1)]
    )
    assert clf.classes_.tolist() == NAMES and clf.n_classes_ == 3
    assert clf.class_ids_ == [[0], [5], [3]]


def test_all_classes_are_the_models_own_softmax(clf):
    clf.set_params(class_ids="order").fit(classes=range(6))
    expected = softmax(plain_logits(clf.model, IMAGES), axis=1)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=1e-6)
    # Restricted to some, the probabilities are divided by their sum.
    clf.set_params(class_ids=None).fit(classes=NAMES)
    some = expected[:, IDS] / expected[:, IDS].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), some, rtol=1e-6)


def test_probabilities_of_several_ids_add_up(clf):
    clf.set_params(class_ids=[[2, 4], 0, [1, 3, 5]]).fit(classes=["a", "b", "c"])
    every = softmax(plain_logits(clf.model, IMAGES), axis=1)
    expected = [every[:, ids].sum(axis=1) for ids in ([2, 4], [0], [1, 3, 5])]
    np.testing.assert_allclose(
        clf.predict_proba(IMAGES), np.stack(expected, axis=1), rtol=1e-6
    )
    assert clf.class_ids_ == [[2, 4], [0], [1, 3, 5]]


def test_priors_and_temperature(clf):
    priors = np.array([0.2, 0.5, 0.3])
    clf.set_params(priors=priors, temperature=2.5, class_ids=[0, [5, 1], 3])
    clf.fit(classes=NAMES)
    powers = np.exp(plain_logits(clf.model, IMAGES) / 2.5)
    sums = np.stack([powers[:, 0], powers[:, 5] + powers[:, 1], powers[:, 3]], axis=1)
    expected = priors * sums / (priors * sums).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=1e-6)
    clf.set_params(priors=[0, 0.5, 0.5]).fit(classes=NAMES)
    np.testing.assert_array_equal(clf.predict_proba(IMAGES)[:, 0], 0)
    assert np.isfinite(clf.decision_function(IMAGES)).all()


def test_two_classes_have_a_one_dimensional_decision(clf):
    clf.fit(classes=["eel", "ant"])
    logits = plain_logits(clf.model, IMAGES)
    np.testing.assert_allclose(
        clf.decision_function(IMAGES), logits[:, 5] - logits[:, 0], rtol=1e-6
    )


@pytest.mark.parametrize("form", ["pil", "list", "floats", "tensor", "paths", "rows"])
def test_every_form_of_images_gives_the_same(clf, form, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(len(IMAGES))]
    for image, path in zip(IMAGES, paths, strict=True):
        Image.fromarray(image).save(path)
    images = {
        "pil": [Image.fromarray(image) for image in IMAGES],
        "list": list(IMAGES),
        "floats": IMAGES / 255,
        "tensor": torch.from_numpy(IMAGES).movedim(-1, 1),
        "paths": pd.Series([str(path) for path in paths]),
        "rows": IMAGES.reshape(len(IMAGES), -1),
    }[form]
    clf.set_params(image_shape=(32, 32, 3)).fit(classes=NAMES)
    np.testing.assert_array_equal(clf.predict_proba(images), clf.predict_proba(IMAGES))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_size_does_not_matter(clf, batch_size):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    clf.set_params(batch_size=batch_size)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=1e-9)


def test_a_broken_image_of_a_later_batch_is_named(clf, tmp_path):
    clf.set_params(batch_size=2).fit(classes=NAMES)
    with pytest.raises(OSError, match=r"X\[3\] \(.*none.png\) does not exist"):
        clf.predict([*IMAGES[:3], tmp_path / "none.png"])


def test_progress(clf, capsys):
    clf.set_params(verbose=1).fit(classes=NAMES).predict(IMAGES)
    assert "5/5" in capsys.readouterr().err


# Labels and parameters ---------------------------------------------------------------


@pytest.mark.parametrize(
    "classes, match",
    [
        (["ant", "heel"], r"named \['heel'\] \(did you mean 'eel' for 'heel'\?\).*ant"),
        (["ant", "Hound"], "did you mean 'hound' for 'Hound'"),
        (["ant", "crane"], r"several classes.*'crane': \[2, 4\].*class_ids"),
        (["dog", "hound"], r"\['dog', 'hound'\] share a class"),
        ([1, 6], r"\[6\] are no class ids.*0 to 5"),
        (["ant"], "two or more"),
    ],
)
def test_classes_that_the_model_has_not(clf, classes, match):
    with pytest.raises(ValueError, match=match):
        clf.fit(classes=classes)


@pytest.mark.parametrize("name", ["dog, hound", "dog", "hound"])
def test_a_name_and_its_parts(clf, name):
    assert clf.fit(classes=["ant", name]).class_ids_ == [[0], [3]]


def test_integers_are_ids_or_have_names(clf):
    assert clf.fit(classes=[5, 2]).class_ids_ == [[2], [5]]
    clf.set_params(class_names=NAMES)
    expected = clone(clf).set_params(class_names=None).fit(classes=NAMES)
    fitted = clf.fit(IMAGES[:3], [30, 10, 20])
    assert fitted.classes_.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(
        fitted.predict_proba(IMAGES), expected.predict_proba(IMAGES)
    )
    clf.set_params(class_names=None)
    with pytest.warns(UserWarning, match="If they are encoded") as warned:
        clf.fit(IMAGES[:2], [0, 1])
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "name, value, hint",
    [
        ("class_ids", [0, 1], "for each of the 3 sorted labels"),
        ("class_ids", [0, [], 1], "for each of the 3 sorted labels"),
        ("class_ids", [0, [1, 9], 2], r"\[9\] are no class ids.*0 to 5"),
        ("class_ids", [0, [1, 2], 2], r"The labels \['eel', 'hound'\] share a class"),
        ("class_ids", "ordered", "'order'"),
        ("priors", [0.5, 0.5], "3 numbers"),
        ("temperature", 0, r"\(0.0, inf\)"),
        ("batch_size", 0, "'auto'"),
        ("class_names", ["ant", "bee"], "2 names for the 3"),
        ("device", "nope", "'cpu'"),
        ("dtype", "int8", "'float32'"),
        ("model", None, "of type NoneType; pass a Hub id"),
    ],
)
def test_bad_value(clf, name, value, hint):
    clf.set_params(**{name: value})
    with pytest.raises((ValueError, TypeError), match=f"(?s){name}.*{hint}|^{hint}"):
        clf.fit(classes=NAMES)


def test_a_failed_fit_leaves_the_last_one(clf):
    with pytest.raises(NotFittedError, match="PretrainedImageClassifier"):
        clf.predict(IMAGES)
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    with pytest.raises(ValueError, match="no classes named"):
        clf.fit(classes=["ant", "bat"])
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)


# Where models come from --------------------------------------------------------------


def test_a_checkpoint_that_can_not_be_had():
    match = r"'microsoft/resnet-50' can't be loaded.*cache lacks it.*save_pretrained"
    with pytest.raises(OSError, match=match):
        PretrainedImageClassifier().fit(classes=NAMES)


def test_a_model_object_is_to_be_saved_first():
    model = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8], depths=[1]))
    with pytest.raises(TypeError, match=r"ResNetFor.*save_pretrained\(folder\)"):
        PretrainedImageClassifier(model=model).fit(classes=NAMES)


def test_a_model_without_a_trained_head(tmp_path):
    save_tiny_clip(tmp_path, "clip")
    match = r"lacks weights of a classifier \(classifier.bias, classifier.weight\)"
    with pytest.raises(ValueError, match=match):
        PretrainedImageClassifier(model=tmp_path).fit(classes=NAMES)


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", "{"),
        ("model.safetensors", None),
        ("model.safetensors", "cut short"),
        ("preprocessor_config.json", None),
    ],
)
def test_a_folder_that_lacks_something(folder, tmp_path, name, text):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    with pytest.raises(OSError, match=r"the local folder says: \S"):
        PretrainedImageClassifier(model=copy).fit(classes=NAMES)


def test_loaded_once_for_each_model_and_dtype(clf, loads):
    for twin in (clf, clone(clf), clone(clf).set_params(model=Path(clf.model))):
        twin.fit(classes=NAMES).predict(IMAGES)
    assert loads == [clf.model]
    clf.set_params(dtype="float32").fit(classes=NAMES)
    assert loads == 2 * [clf.model]


def test_pickles_hold_no_weights(clf):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    file = pickle.dumps(clf)
    assert len(file) < 2_000
    clear_cache()
    np.testing.assert_array_equal(pickle.loads(file).predict_proba(IMAGES), expected)


def test_as_a_prefilter(clf, dit_folder):
    clf.set_params(class_names=["ant", "bee", "eel"])
    first = ConditionalDiffusionClassifier(
        model=dit_folder,
        class_names=["ant", "bee", "eel"],
        n_trials=3,
        pruning=None,
        prefilter=clf,
        n_candidates=2,
    )
    first.fit(classes=[10, 20, 30])
    scored = ~np.isnan(first.denoising_errors(IMAGES).errors).any(axis=2)
    rank = (-clf.fit(classes=[10, 20, 30]).predict_proba(IMAGES)).argsort(axis=1)
    np.testing.assert_array_equal(scored, rank.argsort(axis=1) < 2)


@pytest.mark.parametrize(
    "model",
    [
        *("fashion-resnet-tiny", "fashion-vit-tiny"),
        *slow("fashion-resnet", "fashion-resnet-small"),
        *slow("fashion-vit", "fashion-vit-small"),
    ],
)
def test_bundled_networks_know_photos_they_were_not_trained_on(model):
    photos = load_fashion_photos()
    clf = PretrainedImageClassifier(model=model).fit(classes=photos.target_names)
    card = files("diffusion_sklearn.bundled") / model / "README.md"
    said = re.search(r"photos that ship \| ([\d.]+) %", card.read_text("utf-8"))
    score = clf.score(photos.images, photos.names)
    assert score == pytest.approx(float(said[1]) / 100, abs=0.002)
