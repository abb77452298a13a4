"""Scores of images with captions, against a double loop written out in float64."""

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_sklearn import ZeroShotDiffusionClassifier
from diffusion_sklearn.backbones._stable_diffusion import StableDiffusionBackbone
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.classifiers._pairs import read_pairs
from diffusion_sklearn.metrics import winoground_scores
from tests.models import tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3), dtype=np.uint8)
CAPTIONS = ["a cat on a dog", "a dog on a cat", "an eel"]
PAIRS = [CAPTIONS[:2], CAPTIONS[1:]]  # for groups of two images
PILS = [Image.fromarray(image) for image in IMAGES]
GROUPS = np.empty((2, 2), object)
GROUPS[0, 0], GROUPS[0, 1], GROUPS[1, 0], GROUPS[1, 1] = PILS
FORMS = {
    "array": IMAGES.reshape(2, 2, 8, 8, 3),
    "lists": [PILS[:2], PILS[2:]],
    "arrays": [IMAGES[:2], IMAGES[2:]],
    "tensor": torch.from_numpy(IMAGES).movedim(-1, 1).reshape(2, 2, 3, 8, 8),
    "objects": GROUPS,
    "opened": np.array([PILS[:2], PILS[2:]], dtype=object),  # NumPy reads the pixels
}


@pytest.fixture
def clf(sd_folder):
    return ZeroShotDiffusionClassifier(model=sd_folder, n_trials=4, dtype="float64")


@pytest.fixture
def evaluated(monkeypatch):
    """How many pairs of a latent and a prompt each forward pass had."""
    predict, sizes = StableDiffusionBackbone.predict, []

    def counting(self, noised, *args):
        sizes.append(len(noised))
        return predict(self, noised, *args)

    monkeypatch.setattr(StableDiffusionBackbone, "predict", counting)
    return sizes


# Layout ------------------------------------------------------------------------------


def test_flat_captions_go_with_every_image():
    images, texts, asked, shape = read_pairs(IMAGES, ["b", "a", "b"], list)
    np.testing.assert_array_equal(images, IMAGES)
    assert texts == ["b", "a"]
    np.testing.assert_array_equal(asked, 4 * [[0, 1, 0]])
    assert shape == (4, 3)


@pytest.mark.parametrize("captions", [PAIRS, tuple(map(tuple, PAIRS)), np.array(PAIRS)])
def test_nested_captions_go_with_their_group(captions):
    images, texts, asked, shape = read_pairs(FORMS["array"], captions, list)
    np.testing.assert_array_equal(images, IMAGES)
    assert texts == CAPTIONS and all(type(text) in (str, np.str_) for text in texts)
    np.testing.assert_array_equal(asked, [[0, 1], [0, 1], [1, 2], [1, 2]])
    assert shape == (2, 2, 2)


def test_paths_in_groups():
    paths = [["a.png", "b.png"], ["c.png", "d.png"]]
    for images in (paths, np.array(paths)):
        assert list(read_pairs(images, PAIRS, list)[0]) == [*paths[0], *paths[1]]


@pytest.mark.parametrize(
    "images, captions, match",
    [
        (IMAGES, "a cat", r"captions='a cat' is no list of str"),
        (IMAGES, None, r"captions=None is no list of str"),
        (IMAGES, [], r"captions=\[\] is no list of str"),
        (IMAGES, [[["a"]]], r"captions=.* is no list of str"),
        (FORMS["array"], [["a"], ["b", "c"]], r"lists of equal length"),
        (IMAGES, ["a", 3], r"captions has 3; every caption must be a str"),
        (FORMS["array"], [["a"], [None]], r"captions has None"),
        (FORMS["array"], 3 * [["a"]], r"images has 2 groups and captions 3"),
        (PILS[:2], PAIRS, r"images holds no groups"),
        (["a.png", "b.png"], PAIRS, r"images holds no groups"),
        (IMAGES[:2, ..., 0], PAIRS, r"images holds no groups"),
        (list(IMAGES[:2, ..., 0]), PAIRS, r"images holds no groups"),
        (list(IMAGES[:2]), PAIRS, r"images holds no groups"),
        (torch.zeros(2, 3, 8, 8), PAIRS, r"images holds no groups"),
        ([PILS[:1], PILS[1:]], PAIRS, r"images has groups of different sizes"),
    ],
)
def test_what_does_not_fit(images, captions, match):
    with pytest.raises(ValueError, match=match):
        read_pairs(images, captions, list)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_groups_gives_the_same(clf, form):
    expected = clf.score_pairs(FORMS["array"], PAIRS)
    np.testing.assert_array_equal(clf.score_pairs(FORMS[form], PAIRS), expected)


# Scores ------------------------------------------------------------------------------


@torch.no_grad()
def plain_scores(prediction_type, captions, trials):
    """Minus the squared error of each image and caption, a mean over the trials."""
    pipeline = tiny_sd(prediction_type)
    vae, unet = pipeline.vae.double().eval(), pipeline.unet.double().eval()
    encoder = pipeline.text_encoder.double().eval()
    config = pipeline.scheduler.config
    ends = config.beta_start**0.5, config.beta_end**0.5
    abar = np.cumprod(1 - np.linspace(*ends, 1000) ** 2)
    scores = np.zeros((len(IMAGES), len(captions)))
    for i, image in enumerate(IMAGES):
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / 127.5 - 1)
        z = (vae.encode(pixels).latent_dist.mean - 0.1) * 0.7
        for k, caption in enumerate(captions):
            ids = pipeline.tokenizer(
                [caption], padding="max_length", max_length=40, return_tensors="pt"
            ).input_ids
            for t, eps in zip(trials.timesteps, trials.noise((4, 4, 4)), strict=True):
                eps, a = torch.from_numpy(eps[None]).double(), abar[t]
                noised = a**0.5 * z + (1 - a) ** 0.5 * eps
                truth = eps
                if prediction_type == "v_prediction":
                    truth = a**0.5 * eps - (1 - a) ** 0.5 * z
                output = unet(noised, int(t), encoder_hidden_states=encoder(ids)[0])
                scores[i, k] -= (output.sample - truth).square().sum() / len(trials)
    return scores


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_scores_against_double_loop(prediction_type, clf):
    clf.set_params(model=tiny_sd(prediction_type), random_state=3, target="native")
    trials = clf.fit(classes=["x", "y"]).trials_
    expected = plain_scores(prediction_type, [*CAPTIONS, ""], trials)
    scores = clf.score_pairs(IMAGES, CAPTIONS)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected[:, :3], rtol=1e-5)
    gain = clf.score_pairs(IMAGES, CAPTIONS, subtract_unconditional=True)
    np.testing.assert_allclose(gain, expected[:, :3] - expected[:, 3:], atol=1e-4)
    assert np.ptp(gain) > 0.1  # those 1e-4 are little


@pytest.mark.parametrize("subtract", [False, True])
def test_nested_scores_are_those_of_the_flat_table(clf, subtract, evaluated):
    flat = clf.score_pairs(IMAGES, CAPTIONS, subtract_unconditional=subtract)
    assert flat.shape == (4, 3)
    evaluated.clear()
    scores = clf.score_pairs(FORMS["array"], PAIRS, subtract_unconditional=subtract)
    expected = [flat[:2, :2], flat[2:, 1:]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)
    # Nothing beside the pairs asked for: 4 images, 2 captions, 4 trials.
    assert sum(evaluated) == 4 * (2 + subtract) * 4
    assert winoground_scores(scores).n == 2


def test_a_caption_twice_is_scored_once(clf, evaluated):
    scores = clf.score_pairs(IMAGES, ["a cat", "an eel", "a cat"])
    np.testing.assert_array_equal(scores[:, 0], scores[:, 2])
    assert sum(evaluated) == 4 * 2 * 4


def test_the_empty_caption_gains_nothing(clf):
    gain = clf.score_pairs(IMAGES, ["", "an eel"], subtract_unconditional=True)
    np.testing.assert_array_equal(gain[:, 0], 0)
    assert gain[:, 1].all()


def test_needs_no_fit_and_leaves_none(clf):
    scores = clf.score_pairs(IMAGES, CAPTIONS)
    assert not hasattr(clf, "trials_") and not hasattr(clf, "classes_")
    fitted = clf.fit(classes=["x", "y"])
    np.testing.assert_array_equal(fitted.score_pairs(IMAGES, CAPTIONS), scores)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"pruning": ((2, 1),)},
        {"pruning": None},
        {"prompt_template": "one big {}"},
        {"priors": [0.9, 0.1]},
        {"temperature": 5.0},
        {"prefilter": "clip", "n_candidates": 1},
    ],
)
def test_what_plays_no_part(clf, clip_folder, change, fitted):
    expected = clf.score_pairs(IMAGES, CAPTIONS)
    if "prefilter" in change:
        change = {**change, "prefilter": CLIPZeroShotClassifier(model=clip_folder)}
    clf.set_params(**change)
    if fitted:
        clf.fit(classes=["x", "y"])
    scores = clf.score_pairs(IMAGES, CAPTIONS)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"timestep_weights": lambda t: t / 1000}, {"loss": "l1"}, {"target": "sample"}],
)
def test_scores_follow_from_the_denoising_errors(clf, change):
    clf.set_params(prompt_template="{}", pruning=None, **change)
    errors = clf.fit(classes=CAPTIONS).denoising_errors(IMAGES).errors  # (4, 3, 4)
    weights = 1.0
    if "timestep_weights" in change:
        weights = clf.trials_.timesteps / 1000
    expected = -4 * 4 * 4 * (errors * weights).mean(axis=2)
    scores = clf.score_pairs(IMAGES, clf.classes_)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_kept_errors_are_not_evaluated_again(clf, tmp_path, evaluated):
    expected = clf.score_pairs(FORMS["array"], PAIRS, subtract_unconditional=True)
    clf.set_params(memory=tmp_path)
    scores = clf.score_pairs(FORMS["array"], PAIRS, subtract_unconditional=True)
    np.testing.assert_array_equal(scores, expected)
    evaluated.clear()
    again = clf.score_pairs(FORMS["array"], PAIRS, subtract_unconditional=True)
    np.testing.assert_array_equal(again, expected)
    assert sum(evaluated) == 0
    # Pairs that the groups left out are new.
    clf.score_pairs(IMAGES, CAPTIONS)
    assert sum(evaluated) == 4 * 1 * 4


def test_workers_give_the_same(clf):
    expected = clf.score_pairs(FORMS["array"], PAIRS)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        scores = clf.score_pairs(FORMS["array"], PAIRS)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
