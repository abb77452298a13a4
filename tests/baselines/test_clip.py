"""CLIP and SigLIP as classifiers, against plain transformers in float64."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessorPil,
    SiglipImageProcessorPil,
)

from diffusion_sklearn import ZeroShotDiffusionClassifier, clear_cache
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from tests.models import tiny_clip, tiny_sd

NAMES = ["ant", "bee", "eel"]
IMAGES = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 3), dtype=np.uint8)
TALL = np.random.RandomState(1).randint(0, 256, (4, 13, 10, 3), dtype=np.uint8)


@pytest.fixture(params=["clip", "siglip"])
def folder(request):
    return request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture
def clf(folder):
    return CLIPZeroShotClassifier(model=folder)


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that are really read from disk."""
    load, names = AutoModel.from_pretrained, []

    def counting(name, **options):
        names.append(str(name))
        return load(name, **options)

    monkeypatch.setattr(AutoModel, "from_pretrained", counting)
    clear_cache()
    return names


@torch.no_grad()
def plain_outputs(folder, images, texts):
    """What transformers itself makes of images and texts, all in float64."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}
    processor = processor[model.config.model_type].from_pretrained(folder)
    ids = tokenizer(texts, padding="max_length", max_length=40, return_tensors="pt")
    pixels = processor([Image.fromarray(x) for x in images], return_tensors="pt")
    return model(ids.input_ids, pixel_values=pixels.pixel_values.double())


# Posterior ---------------------------------------------------------------------------


@pytest.mark.parametrize("images", [IMAGES, TALL])
def test_posterior_against_plain_transformers(clf, images):
    clf.set_params(dtype="float64").fit(classes=NAMES[::-1])
    prompts = [f"a photo of a {name}." for name in NAMES]
    logits = plain_outputs(clf.model, images, prompts).logits_per_image.numpy()
    expected = softmax(logits, axis=1)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(clf.predict_proba(images), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        clf.predict(images), np.array(NAMES)[expected.argmax(axis=1)]
    )


def test_templates_priors_and_temperature(clf):
    templates, priors = ["a {}", "one big {}."], [0.2, 0.5, 0.3]
    clf.set_params(prompt_template=templates, priors=priors, temperature=2.5)
    clf.set_params(dtype="float64").fit(classes=NAMES)
    prompts = [[t.format(name) for t in templates] for name in NAMES]
    assert clf.prompts_ == prompts

    outputs = plain_outputs(clf.model, IMAGES, [p for one in prompts for p in one])
    texts = outputs.text_embeds.numpy().reshape(3, 2, -1)  # unit vectors
    texts = texts.mean(axis=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    logits = np.exp(2.0) * outputs.image_embeds.numpy() @ texts.T / 2.5
    expected = softmax(logits + np.log(priors), axis=1)
    np.testing.assert_allclose(clf.text_embeddings_, texts, rtol=1e-5)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=1e-5)


def test_fitted_attributes(clf):
    clf.fit(classes=NAMES[::-1])
    assert clf.classes_.tolist() == NAMES and clf.n_classes_ == 3
    assert clf.prompts_ == [[f"a photo of a {name}."] for name in NAMES]
    assert clf.text_embeddings_.shape == (3, 8)
    np.testing.assert_allclose(
        np.linalg.norm(clf.text_embeddings_, axis=1), 1, rtol=1e-6
    )
    assert clf.logit_scale_ == pytest.approx(np.exp(2.0))


def test_a_prior_of_zero_rules_a_class_out(clf):
    clf.set_params(priors=[0.0, 0.5, 0.5]).fit(classes=NAMES)
    proba = clf.predict_proba(IMAGES)
    np.testing.assert_array_equal(proba[:, 0], 0)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert np.isfinite(clf.decision_function(IMAGES)).all()


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
        "paths": [str(path) for path in paths],
        "rows": IMAGES.reshape(len(IMAGES), -1),
    }[form]
    clf.set_params(image_shape=(8, 8, 3)).fit(classes=NAMES)
    np.testing.assert_array_equal(clf.predict_proba(images), clf.predict_proba(IMAGES))


def test_gray_images_are_those_of_three_equal_channels(clf):
    gray = IMAGES[..., 0]
    clf.fit(classes=NAMES)
    np.testing.assert_array_equal(
        clf.predict_proba(gray), clf.predict_proba(np.stack(3 * [gray], axis=-1))
    )


@pytest.mark.parametrize("batch_size", [1, 2, "auto"])
def test_batch_size_does_not_matter(clf, batch_size):
    clf.set_params(dtype="float64").fit(classes=NAMES)
    expected = clf.predict_proba(IMAGES)
    clf.set_params(batch_size=batch_size)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=1e-9)


def test_a_broken_image_of_a_later_batch_is_named(clf, tmp_path):
    clf.set_params(batch_size=2).fit(classes=NAMES)
    images = [*IMAGES[:3], tmp_path / "none.png"]
    with pytest.raises(OSError, match=r"X\[3\] \(.*none.png\) does not exist"):
        clf.predict(images)


# Labels and parameters ---------------------------------------------------------------


def test_integer_labels_with_names(clf):
    expected = clone(clf).fit(classes=NAMES).predict_proba(IMAGES)
    clf.set_params(class_names=NAMES)
    for fitted in (
        clone(clf).fit(IMAGES[:3], [30, 10, 20]),
        clone(clf).fit(classes=[10, 20, 30]),
    ):
        assert fitted.classes_.tolist() == [10, 20, 30]
        np.testing.assert_array_equal(fitted.predict_proba(IMAGES), expected)
        assert set(fitted.predict(IMAGES)) <= {10, 20, 30}


def test_integers_without_names_are_warned_about(clf):
    with pytest.warns(
        UserWarning, match=r"labels \[1, 7\] are used as names"
    ) as warned:
        clf.fit(IMAGES[:2], [7, 1])
    assert warned[0].filename == __file__
    with pytest.raises(ValueError, match=r"classes=\[1, 7\] are no names.*class_names"):
        clf.fit(classes=[7, 1])


@pytest.mark.parametrize(
    "name, value, hint",
    [
        ("prompt_template", "a photo", "{} where the name"),
        ("prompt_template", ["a {}", "a photo"], "{} where the name"),
        ("prompt_template", [], "{} where the name"),
        ("priors", [0.5, 0.5], "3 numbers"),
        ("temperature", 0, r"\(0.0, inf\)"),
        ("batch_size", 0, "'auto'"),
        ("class_names", ["ant", "bee"], "2 names for the 3"),
        ("classes", ["ant"], "two or more"),
        ("device", "nope", "'cpu'"),
        ("dtype", "int8", "'float32'"),
        ("model", None, "of type NoneType; pass a Hub id"),
        ("model", 3, "of type int; pass a Hub id"),
    ],
)
def test_bad_value(clf, name, value, hint):
    classes = None if name == "classes" else NAMES
    clf.set_params(**{name: value})
    with pytest.raises((ValueError, TypeError), match=f"(?s){name}.*{hint}"):
        clf.fit(classes=classes)


def test_a_failed_fit_leaves_the_last_one(clf):
    with pytest.raises(ValueError, match="prompt_template"):
        clf.set_params(prompt_template="a photo").fit(classes=NAMES)
    with pytest.raises(NotFittedError, match="CLIPZeroShotClassifier"):
        clf.predict(IMAGES)
    clf.set_params(prompt_template="auto").fit(classes=NAMES)
    before = dict(vars(clf))
    expected = clf.predict_proba(IMAGES)
    for bad in ({"prompt_template": "a photo"}, {"model": "no/where"}):
        with pytest.raises((ValueError, OSError)):
            clf.set_params(**bad).fit(classes=["cat", "dog"])
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)
    for name in ("classes_", "prompts_", "text_embeddings_", "logit_scale_"):
        assert getattr(clf, name) is before[name]


def test_a_prompt_that_is_cut_is_named(clf):
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    clf.set_params(prompt_template="{}")
    with pytest.warns(UserWarning, match="has 54 tokens.*reads 40: 'mnop.*xyz' was"):
        clf.fit(classes=[alphabet * 2, "b"])


# Where models come from --------------------------------------------------------------


def test_a_model_object_is_to_be_saved_first():
    model, *_ = tiny_clip("clip")
    with pytest.raises(TypeError, match=r"type CLIPModel; .*save_pretrained\(folder\)"):
        CLIPZeroShotClassifier(model=model).fit(classes=NAMES)


def test_a_checkpoint_that_can_not_be_had():
    with pytest.raises(OSError, match="can't be loaded") as error:
        CLIPZeroShotClassifier().fit(classes=NAMES)
    for part in (
        "model='openai/clip-vit-large-patch14'",
        "no bundled name and no local folder",
        "the local cache lacks it",
        "the Hugging Face Hub lacks it",
        "save_pretrained",
        "'fashion-clip'",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name, match",
    [
        ("fashion-clp", r"did you mean 'fashion-clip'\?"),
        ("fashion-dit", r"no bundled name, no local folder.*'fashion-clip'"),
        ("./no/such/folder", r"no local folder.*'fashion-clip'"),
        ("org/name@v2", r"'org/name' at revision 'v2'.*'fashion-clip'"),
    ],
)
def test_a_name_of_nothing(name, match):
    with pytest.raises(OSError, match=match):
        CLIPZeroShotClassifier(model=name).fit(classes=NAMES)


def test_a_diffusers_folder(sd_folder):
    match = r"can't be loaded: the local folder says: .*model_type.*'fashion-clip'"
    with pytest.raises(OSError, match=match):
        CLIPZeroShotClassifier(model=sd_folder).fit(classes=NAMES)


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "of tomorrow"}'),
        ("model.safetensors", None),
        ("model.safetensors", "cut short"),
        ("preprocessor_config.json", None),
        ("tokenizer.json", None),
    ],
)
def test_a_folder_that_lacks_something(folder, tmp_path, name, text):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / name
    file.unlink()
    if text is not None:
        file.write_text(text)
    if name == "tokenizer.json":
        (tmp_path / "copy" / "tokenizer_config.json").unlink()
    with pytest.raises(OSError, match=r"the local folder says: \S.*'fashion-clip'"):
        CLIPZeroShotClassifier(model=tmp_path / "copy").fit(classes=NAMES)


def test_a_model_that_is_not_contrastive(tmp_path):
    tiny_sd("epsilon").text_encoder.save_pretrained(tmp_path)
    match = r"is a CLIPTextModel, no contrastive model; pass a CLIP, OpenCLIP or SigLIP"
    with pytest.raises(ValueError, match=match):
        CLIPZeroShotClassifier(model=tmp_path).fit(classes=NAMES)


def test_loaded_once_for_each_model_and_dtype(clf, loads):
    for twin in (clf, clone(clf), clone(clf).set_params(model=Path(clf.model))):
        twin.fit(classes=NAMES).predict(IMAGES)
        twin.score_pairs(IMAGES, NAMES)
    assert loads == [clf.model]
    clf.set_params(dtype="float64").fit(classes=NAMES)
    assert loads == 2 * [clf.model]
    expected = clf.predict_proba(IMAGES)
    clear_cache()
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)
    assert loads == 3 * [clf.model]


def test_pickles_hold_no_weights(clf):
    unfitted = pickle.loads(pickle.dumps(clf))
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    file = pickle.dumps(clf)
    assert len(file) < 20_000
    clear_cache()
    np.testing.assert_array_equal(pickle.loads(file).predict_proba(IMAGES), expected)
    unfitted.fit(classes=NAMES)
    np.testing.assert_array_equal(unfitted.predict_proba(IMAGES), expected)


def test_clone(clf):
    clf.set_params(prompt_template=["{}", "a {}"], priors=[0.1, 0.4, 0.5])
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    twin = clone(clf)
    assert not hasattr(twin, "classes_")
    assert twin.get_params() == clf.get_params()
    twin.fit(classes=NAMES)
    np.testing.assert_array_equal(twin.predict_proba(IMAGES), expected)


# Beside a diffusion model ------------------------------------------------------------


def scored(clf):
    """Which classes the diffusion model looked at."""
    return ~np.isnan(clf.denoising_errors(IMAGES).errors).any(axis=2)


def best_two(clf):
    rank = (-clf.predict_proba(IMAGES)).argsort(axis=1).argsort(axis=1)
    return rank < 2


def test_prefilter_of_names(clf, sd_folder):
    first = ZeroShotDiffusionClassifier(
        model=sd_folder, n_trials=3, pruning=None, prefilter=clf, n_candidates=2
    )
    first.fit(classes=NAMES)
    np.testing.assert_array_equal(scored(first), best_two(clf.fit(classes=NAMES)))
    assert first.prefilter_ is not clf
    outside = ~scored(first)
    np.testing.assert_allclose(
        first.predict_proba(IMAGES)[outside], clf.predict_proba(IMAGES)[outside]
    )


def test_prefilter_of_integer_labels(clf, sd_folder):
    first = ZeroShotDiffusionClassifier(
        model=sd_folder,
        class_names=NAMES,
        n_trials=3,
        pruning=None,
        prefilter=clone(clf).set_params(class_names=NAMES),
        n_candidates=2,
    )
    expected = best_two(clone(clf).fit(classes=NAMES))
    for fitted in (first.fit(IMAGES[:3], [30, 10, 20]), first.fit(classes=[9, 10, 20])):
        np.testing.assert_array_equal(scored(fitted), expected)
    first.set_params(prefilter=clf)
    with pytest.raises(ValueError, match=r"prefilter=CLIP.*pass class_names="):
        first.fit(classes=[10, 20, 30])


# Pairs -------------------------------------------------------------------------------

CAPTIONS = ["a cat on a dog", "a dog on a cat", "an eel", "a cat on a dog"]


def test_scores_of_pairs_against_plain_transformers(clf):
    """Cosine times scale plus bias, with no fit."""
    clf.set_params(dtype="float64")
    outputs = plain_outputs(clf.model, IMAGES, CAPTIONS)
    bias = -1.5 if "siglip" in clf.model else 0.0
    cosines = (outputs.image_embeds @ outputs.text_embeds.T).numpy()
    flat = clf.score_pairs(IMAGES, CAPTIONS)
    assert flat.dtype == np.float64
    np.testing.assert_allclose(flat, np.exp(2.0) * cosines + bias, rtol=1e-5)
    np.testing.assert_allclose(flat, outputs.logits_per_image.numpy(), rtol=1e-5)
    assert not hasattr(clf, "classes_")

    nested = [CAPTIONS[:2], CAPTIONS[2:]]
    expected = [flat[:2, :2], flat[2:4, 2:]]
    pils = [Image.fromarray(image) for image in IMAGES]
    for groups in (IMAGES[:4].reshape(2, 2, 8, 8, 3), [pils[:2], pils[2:4]]):
        np.testing.assert_allclose(clf.score_pairs(groups, nested), expected, rtol=1e-9)


def test_scores_of_pairs_have_nothing_of_the_fit(clf):
    expected = clf.score_pairs(IMAGES, CAPTIONS)
    clf.set_params(prompt_template="one {}", priors=[0.1, 0.4, 0.5], temperature=3.0)
    clf.fit(classes=NAMES)
    np.testing.assert_array_equal(clf.score_pairs(IMAGES, CAPTIONS), expected)
