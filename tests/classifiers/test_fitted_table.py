"""What notebooks show of a fitted classifier, and its one progress bar."""

import pickle

import pytest

from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.classifiers import _base, _plans

NAMES = ["bag", "coat", "dress", "shirt"]


def table(clf):
    """The part that is not scikit-learn's."""
    return clf._repr_html_().partition("<caption>After fit</caption>")[2]


def test_state_after_fit():
    clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=20)
    assert table(clf) == "" and "n_trials" in clf._repr_html_()
    shown = table(clf.fit(classes=NAMES))
    for text in (
        "&#x27;fashion-dit&#x27;, device auto",
        "4: bag, coat, dress, ...",
        "4: 8, 4, 3, ...",
        "20, timesteps 25 to 975",
        "auto: known, the model&#x27;s own at fit",
        "at most 80 network evaluations an image",
    ):
        assert text in shown
    clf.set_params(pruning=((5, 2),))
    assert "at most 50 network" in table(clf)  # 5 x 4 + 15 x 2
    assert "none: a race tests means" in table(clf.set_params(trial_covariance=None))


def test_prompts_and_prefilter(sd_folder):
    clf = ZeroShotDiffusionClassifier(
        model=sd_folder,
        n_trials=4,
        prompt_template=["a <{}>", "one {}"],
        prefilter=CLIPZeroShotClassifier(model="fashion-clip"),
        n_candidates=2,
        guidance_scale=2.0,
    ).fit(classes=["red bag", "blue bag", "green bag"])
    shown = table(clf)
    assert "6: a &lt;blue bag&gt;, one blue bag, a &lt;green bag&gt;, ..." in shown
    assert "auto: not known at fit" in shown
    assert "at most 20 network evaluations" in shown  # 4 x 2 x 2, and 4 of guidance


def test_no_model_is_loaded(monkeypatch):
    clf = ConditionalDiffusionClassifier(model="fashion-dit").fit(classes=NAMES)
    shown, again = table(clf), pickle.loads(pickle.dumps(clf))

    def fail(spec):
        raise AssertionError("loaded")

    monkeypatch.setattr(_base, "get_backbone", fail)
    monkeypatch.setattr(_plans, "get_backbone", fail)
    monkeypatch.setattr(_plans, "get_unchanged", fail)
    assert table(again) == shown


@pytest.mark.parametrize("method", ["predict", "denoising_errors"])
def test_one_bar(method, photos, capsys):
    """Also with a prefilter; a bar that ends has a line of its own."""
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=4, prefilter="gradient", n_candidates=2, verbose=1
    ).fit(classes=NAMES)
    getattr(clf, method)(photos.images[:3])
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "3/3" in printed
