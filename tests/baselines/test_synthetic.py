"""A classifier of drawn images: what is drawn, what is kept, what is trained."""

import json
import pickle
from inspect import signature
from unittest import SkipTest

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from diffusion_sklearn import clear_cache, load_backbone
from diffusion_sklearn.baselines._drawing import Sampler, plan_draws, squares
from diffusion_sklearn.baselines._synthetic import SyntheticDataClassifier
from diffusion_sklearn.testing import tiny_pipelines
from tests.models import saved_model, tiny_sd

NAMES = ["ant", "bee", "eel"]
IDS = [0, 1, 4]
IMAGES = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 3), dtype=np.uint8)
FEW = {"n_images_per_class": 2, "num_inference_steps": 2, "dtype": "float64"}

DIT, SD = saved_model("dit"), saved_model("sd")
# The checks make rows of any length, and compare results to 1e-7.
CHECKED = {**FEW, "image_shape": (1, -1)}


class Remember(ClassifierMixin, BaseEstimator):
    """Keeps what it was trained on; knows only to predict the first class."""

    def fit(self, X, y):
        self.X_, self.y_, self.classes_ = X, y, np.unique(y)
        return self

    def predict(self, X):
        self.seen_ = X
        return np.repeat(self.classes_[:1], len(X))


class BrightIsElephant(ClassifierMixin, BaseEstimator):
    """Gives its labels as an array of the str of this batch alone."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.array(["elephant" if x.mean() > 127 else "ant" for x in X])


@pytest.fixture(params=["text", "class"])
def clf(request):
    model = SD if request.param == "text" else DIT
    return SyntheticDataClassifier(model=model, estimator=Remember(), **FEW)


def before_each_call(monkeypatch, run):
    """Run a function of the number of images before each batch is drawn."""
    draw = Sampler.draw

    def counted(self, draws):
        run(len(draws))
        return draw(self, draws)

    monkeypatch.setattr(Sampler, "draw", counted)


@pytest.fixture
def calls(monkeypatch):
    """How many images each call of a pipeline drew."""
    counts = []
    before_each_call(monkeypatch, counts.append)
    return counts


@pytest.mark.slow
@parametrize_with_checks(
    [
        SyntheticDataClassifier(model=SD, prompt_template="{}", **CHECKED),
        SyntheticDataClassifier(model=DIT, class_ids="order", **CHECKED),
    ]
)
def test_estimator_checks(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:
        assert "SCIPY_ARRAY_API is not set" in str(reason)
        raise


# What is drawn -----------------------------------------------------------------------


def by_hand(clf, conditions, seeds, **options):
    """What the pipeline itself draws, one image a call."""
    kind = "prompt" if clf.model == SD else "class_labels"
    pipeline = load_backbone(clf.model, dtype="float64").pipeline
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            **{kind: [condition]},
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=2,
            **options,
        ).images[0]
        for condition, seed in zip(conditions, seeds, strict=True)
    ]
    return np.stack(images)


# A DiTPipeline that is guided has the null class of ImageNet: see below.
@pytest.mark.parametrize(
    "model, guidance_scale", [(SD, None), (SD, 1.0), (SD, 3.0), (DIT, 1.0)]
)
def test_images_are_those_of_the_pipeline(model, guidance_scale):
    clf = SyntheticDataClassifier(
        model=model,
        estimator=Remember(),
        guidance_scale=guidance_scale,
        random_state=7,
        **FEW,
    ).fit(classes=NAMES)
    keys = NAMES if clf.model == SD else IDS
    shown = [f"a photo of a {name}." for name in NAMES] if clf.model == SD else IDS
    draws = plan_draws(keys, [[one] for one in shown], 2, seed=7)
    options = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    conditions = [one for one in shown for _ in range(2)]
    expected = by_hand(clf, conditions, [draw.seed for draw in draws], **options)
    drawn = clf.estimator_.X_
    assert drawn.dtype == np.uint8 and drawn.shape == (6, 8, 8, 3)
    assert len({image.tobytes() for image in drawn}) == 6
    np.testing.assert_array_equal(drawn, expected)
    assert clf.estimator_.y_.tolist() == ["ant"] * 2 + ["bee"] * 2 + ["eel"] * 2
    assert clf.n_drawn_ == 6 and clf.cache_ is None
    if clf.model == SD:
        assert clf.prompts_ == [[prompt] for prompt in shown]
    else:
        assert clf.class_ids_.tolist() == IDS


@torch.no_grad()
def test_guidance_of_a_dit_leads_away_from_its_own_null_class():
    """DDIM in closed form, with class 5 of 5 as the null class."""
    clf = SyntheticDataClassifier(
        model=DIT, estimator=Remember(), guidance_scale=3.0, **FEW
    )
    clf.fit(classes=NAMES)
    pipeline = load_backbone(DIT, dtype="float64").pipeline
    abar = pipeline.scheduler.alphas_cumprod.double()
    network, vae = pipeline.transformer, pipeline.vae
    expected = []
    for draw in plan_draws(IDS, [[i] for i in IDS], 2, seed=0):
        generator = torch.Generator().manual_seed(draw.seed)
        x = torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64)
        for t, after in ((500, 0), (0, None)):
            now, then = abar[t], torch.ones(()) if after is None else abar[after]
            both = torch.tensor([draw.condition, 5])
            output = network(
                x.repeat(2, 1, 1, 1), torch.tensor([t, t]), class_labels=both
            )
            eps, null = output.sample[:, :4].chunk(2)
            eps = null + 3.0 * (eps - null)
            clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
            x = then.sqrt() * clean + (1 - then).sqrt() * eps
        pixels = vae.decode(x / vae.config.scaling_factor).sample
        expected.append((pixels[0] / 2 + 0.5).clamp(0, 1).movedim(0, -1).numpy())
    drawn = clf.estimator_.X_.astype(int)
    assert np.abs(drawn - np.array(expected) * 255).max() < 0.51  # rounding
    assert not network._forward_pre_hooks  # as it was


@pytest.mark.parametrize(
    "name",
    ["Stable Diffusion XL", "Stable Diffusion 3, 3.5", "Flux", "PixArt-Sigma"],
)
# Of some samplers in diffusers.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_other_families(name):
    pipeline = tiny_pipelines()[name]()
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    clf = SyntheticDataClassifier(
        model=pipeline,
        estimator=Remember(),
        n_images_per_class=1,
        num_inference_steps=2,
        batch_size=1,
    )
    drawn = clf.fit(classes=["bee", "cat"]).estimator_.X_
    binned = "use_resolution_binning" in signature(type(pipeline).__call__).parameters
    options = {"height": drawn.shape[1], "width": drawn.shape[2]}
    options |= {"use_resolution_binning": False} if binned else {}
    draws = plan_draws(["bee", "cat"], clf.prompts_, 1, seed=0)
    for draw, image in zip(draws, drawn, strict=True):
        generator = torch.Generator().manual_seed(draw.seed)
        expected = pipeline(
            draw.condition, generator=generator, num_inference_steps=2, **options
        ).images[0]
        np.testing.assert_array_equal(image, expected)


def test_templates_are_drawn_at_random():
    templates = ["a {}", "one {}.", "my {}"]
    prompts = [[t.format(name) for t in templates] for name in NAMES]
    draws = plan_draws(NAMES, prompts, 300, seed=0)
    counts = {}
    for draw in draws:
        counts[draw.condition] = counts.get(draw.condition, 0) + 1
    assert set(counts) == {prompt for one in prompts for prompt in one}
    assert all(60 < count < 140 for count in counts.values())  # 100 +- 8
    assert len({draw.seed for draw in draws}) == len({d.file for d in draws}) == 900


def test_more_images_and_classes_keep_the_earlier_ones(clf):
    few = clone(clf).fit(classes=NAMES).estimator_.X_.reshape(3, 2, 8, 8, 3)
    clf.set_params(n_images_per_class=3, batch_size=2).fit(classes=["cat", *NAMES])
    more = clf.estimator_.X_.reshape(4, 3, 8, 8, 3)
    order = [clf.classes_.tolist().index(name) for name in NAMES]
    np.testing.assert_array_equal(more[order, :2], few)
    other = clone(clf).set_params(random_state=1).fit(classes=NAMES)
    assert (
        (other.estimator_.X_.reshape(3, 3, 8, 8, 3)[:, :2] != few).any((2, 3, 4)).all()
    )


def test_the_pipeline_is_left_as_it_was():
    pipeline = tiny_sd("epsilon")
    before = pipeline.scheduler.timesteps.clone()
    config = dict(pipeline.config)
    clf = SyntheticDataClassifier(model=pipeline, **{**FEW, "dtype": "auto"})
    clf.fit(classes=NAMES)
    assert torch.equal(pipeline.scheduler.timesteps, before)
    assert dict(pipeline.config) == config
    assert not hasattr(pipeline, "_progress_bar_config")


# What is kept ------------------------------------------------------------------------


def test_what_is_there_is_not_drawn_again(clf, calls, tmp_path):
    clf.set_params(cache=tmp_path / "drawn", batch_size=4)
    expected = clf.fit(classes=NAMES).estimator_.X_
    assert calls == [4, 2] and clf.n_drawn_ == 6
    files = sorted(clf.cache_.glob("*/*"))
    assert [file.name for file in files] == ["00000.png", "00001.png"] * 3
    again = clone(clf).fit(classes=NAMES[::-1])
    np.testing.assert_array_equal(again.estimator_.X_, expected)
    assert calls == [4, 2] and again.n_drawn_ == 0

    files[1].write_bytes(files[1].read_bytes()[:-40])  # killed while writing
    files[2].write_bytes(b"")
    files[4].unlink()
    again = clone(clf).fit(classes=NAMES)
    np.testing.assert_array_equal(again.estimator_.X_, expected)
    assert calls == [4, 2, 3] and again.n_drawn_ == 3

    clone(clf).set_params(n_images_per_class=3).fit(classes=[*NAMES, "cat"])
    assert calls == [4, 2, 3, 4, 2]  # 3 of the new class, 1 of each other
    assert len(list(clf.cache_.rglob("*"))) == 1 + 4 + 12  # nothing left over


def test_a_run_that_is_cut_off_goes_on(clf, calls, tmp_path, monkeypatch):
    clf.set_params(cache=tmp_path, batch_size=2)

    def cut_off(n_images):
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_each_call(patch, cut_off)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(classes=NAMES)
    assert not hasattr(clf, "classes_")
    assert clf.fit(classes=NAMES).n_drawn_ == 2 and calls == [2, 2, 2]


def test_files_say_what_they_are(clf, tmp_path):
    clf.set_params(cache=tmp_path, random_state=3).fit(classes=NAMES)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["model"] == clf.model and settings["seed"] == 3
    assert settings["num_inference_steps"] == 2 and settings["dtype"] == "float64"
    assert settings["guidance_scale"] == (7.5 if clf.model == SD else 4.0)
    templates = ["a photo of a {}."] if clf.model == SD else None
    assert settings["prompt_template"] == templates
    conditions = set()
    for file, expected in zip(
        sorted(tmp_path.glob("*/*")), clf.estimator_.X_, strict=True
    ):
        with Image.open(file) as image:
            conditions.add(image.text["condition"])
            np.testing.assert_array_equal(np.asarray(image), expected)
    shown = {f"a photo of a {name}." for name in NAMES}
    assert conditions == (shown if clf.model == SD else {"0", "1", "4"})


@pytest.mark.parametrize(
    "model, name, value, told",
    [
        (SD, "num_inference_steps", 3, r"num_inference_steps=2 \(now 3\)"),
        (DIT, "guidance_scale", 1.5, r"guidance_scale=4.0 \(now 1.5\)"),
        (SD, "random_state", 1, r"seed=0 \(now 1\)"),
        (DIT, "dtype", "float32", r"dtype='float64' \(now 'float32'\)"),
        (SD, "prompt_template", ["{}", "a {}"], r"prompt_template=\['a photo of a"),
        (DIT, "model", SD, "fingerprint=.*pipeline='DiTPipeline'"),
    ],
)
def test_other_settings_in_the_cache(tmp_path, model, name, value, told):
    clf = SyntheticDataClassifier(
        model=model, estimator=Remember(), cache=tmp_path, **FEW
    ).fit(classes=NAMES)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=f"cache=.*other settings.*{told}.*folder"):
        clone(clf).set_params(**{name: value}).fit(classes=NAMES)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_settings_that_can_not_be_read(clf, tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"cache=.*settings.json that can't be read"):
        clf.set_params(cache=tmp_path).fit(classes=NAMES)


def test_names_that_a_folder_may_not_have(tmp_path):
    clf = SyntheticDataClassifier(model=SD, cache=tmp_path, estimator=Remember(), **FEW)
    clf.fit(classes=["a/b", "a-b", "..", "."])
    folders = [file for file in tmp_path.iterdir() if file.is_dir()]
    assert len(folders) == 4 and clf.n_drawn_ == 8
    assert not (tmp_path.parent / "00000.png").exists()


# What is trained ---------------------------------------------------------------------


def test_fashion_dit_tells_photos_apart(photos, tmp_path):
    names = ["bag", "sneaker", "trouser"]
    labels = photos.target_names[photos.target]
    kept = np.isin(labels, names)
    images, labels = photos.images[kept], labels[kept]
    clf = SyntheticDataClassifier(
        model="fashion-dit",
        n_images_per_class=10,
        num_inference_steps=5,
        guidance_scale=1.0,
        cache=tmp_path,
    )
    assert clf.fit(classes=names).score(images, labels) > 0.9
    assert clf.prompts_ if hasattr(clf, "prompts_") else True
    near = clone(clf).set_params(estimator=KNeighborsClassifier(3), flatten=True)
    assert near.fit(classes=names).score(images, labels) > 0.7
    assert near.n_drawn_ == 0
    proba = near.predict_proba(images)
    assert set(np.unique(np.rint(proba * 3))) <= {0, 1, 2, 3}


def test_what_the_estimator_is_given(clf):
    arrays = clone(clf).fit(classes=NAMES)
    arrays.predict(IMAGES)
    np.testing.assert_array_equal(arrays.estimator_.seen_, IMAGES)
    rows = clf.set_params(flatten=True).fit(classes=NAMES)
    rows.predict(IMAGES)
    np.testing.assert_array_equal(rows.estimator_.seen_, IMAGES.reshape(5, -1) / 255)
    np.testing.assert_array_equal(
        rows.estimator_.X_, arrays.estimator_.X_.reshape(6, -1) / 255
    )
    small = clf.set_params(flatten=False, image_size=4).fit(classes=NAMES)
    assert small.estimator_.X_.shape == (6, 4, 4, 3)
    small.predict(IMAGES)
    expected = [Image.fromarray(x).resize((4, 4), Image.BICUBIC) for x in IMAGES]
    np.testing.assert_array_equal(small.estimator_.seen_, np.stack(expected))


def test_no_label_is_cut_to_the_length_of_the_first_batch(clf):
    clf.set_params(estimator=BrightIsElephant(), class_ids=None)
    if clf.model is DIT:
        clf.set_params(class_ids=[0, 1])
    clf.fit(classes=["ant", "elephant"])
    images = np.zeros((300, 8, 8, 3), np.uint8)
    images[260:] = 255  # of the second batch
    assert clf.predict(images).tolist() == ["ant"] * 260 + ["elephant"] * 40


def test_squares_keep_every_value():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(squares(every, 16), every)


def test_methods_are_those_of_the_estimator(clf):
    assert not hasattr(clf, "predict_proba")
    assert not hasattr(clf.fit(classes=NAMES), "decision_function")
    clf.set_params(estimator=LinearSVC(), flatten=True)
    clf.fit(classes=NAMES)
    assert hasattr(clf, "decision_function") and not hasattr(clf, "predict_proba")
    scores = clf.decision_function(IMAGES)
    np.testing.assert_array_equal(
        clf.predict(IMAGES), np.array(NAMES)[scores.argmax(1)]
    )
    clf.set_params(estimator=None).fit(classes=["eel", "ant"])
    np.testing.assert_allclose(clf.predict_proba(IMAGES).sum(axis=1), 1)
    np.testing.assert_allclose(
        np.exp(clf.predict_log_proba(IMAGES)), clf.predict_proba(IMAGES)
    )
    assert clf.decision_function(IMAGES).shape == (5,)


def test_integer_labels_with_names(clf):
    expected = clone(clf).fit(classes=NAMES).estimator_.X_.reshape(3, 2, -1)
    clf.set_params(class_names=NAMES).fit(IMAGES[:3], [30, 10, 20])
    assert clf.classes_.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(clf.estimator_.X_.reshape(3, 2, -1), expected)
    assert clf.predict(IMAGES).tolist() == [10] * 5


@pytest.mark.parametrize(
    "model, name, value, match",
    [
        (SD, "class_ids", [0, 1, 2], "conditioned on text; pass class_names"),
        (DIT, "prompt_template", "a {}", "conditioned on class ids"),
        (DIT, "class_ids", [0, 1, 9], r"\[9\] are no class ids"),
        (SD, "prompt_template", "a photo", "{} where the name"),
        (SD, "n_images_per_class", 0, "n_images_per_class"),
        (SD, "num_inference_steps", 0, "num_inference_steps"),
        (SD, "guidance_scale", -1, "guidance_scale"),
        (SD, "estimator", "svm", "estimator"),
        ("fashion-scenes", "class_names", ["ant", "bee", "eel"], "unknown to this"),
    ],
)
def test_bad_value(calls, model, name, value, match):
    clf = SyntheticDataClassifier(model=model, **{**FEW, name: value})
    with pytest.raises(ValueError, match=match):
        clf.fit(classes=NAMES)
    assert not calls


def test_a_pipeline_that_needs_an_image():
    pipeline = StableDiffusionImg2ImgPipeline(
        **tiny_sd("epsilon").components, requires_safety_checker=False
    )
    match = r"StableDiffusionImg2ImgPipeline does not draw.*\*\*pipeline.components"
    with pytest.raises(ValueError, match=match):
        SyntheticDataClassifier(model=pipeline).fit(classes=NAMES)


def test_a_failed_fit_leaves_the_last_one(clf):
    with pytest.raises(NotFittedError, match="SyntheticDataClassifier"):
        clf.predict(IMAGES)
    fitted = dict(vars(clf.fit(classes=NAMES)))
    with pytest.raises(ValueError, match="two or more"):
        clf.fit(classes=["ant"])
    assert all(vars(clf)[name] is value for name, value in fitted.items())


def test_pickles_hold_no_weights(clf):
    clf.set_params(estimator=None, model=load_backbone(clf.model).pipeline)
    clf.set_params(dtype="auto")
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    file = pickle.dumps(clf)
    assert len(file) < 20_000
    clear_cache()
    np.testing.assert_array_equal(pickle.loads(file).predict_proba(IMAGES), expected)


def test_progress(clf, capsys, tmp_path):
    clf.set_params(verbose=1, cache=tmp_path).fit(classes=NAMES)
    assert "6/6" in capsys.readouterr().err
    clf.set_params(verbose=0, n_images_per_class=3).fit(classes=NAMES)
    assert capsys.readouterr().err == ""
