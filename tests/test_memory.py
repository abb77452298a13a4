"""Kept errors: the same answers, with no evaluation done twice."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import tiny_dit
from sklearn.base import clone

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)

IMAGES = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def clf(dit_folder, tmp_path):
    return ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=12, pruning=None, memory=tmp_path / "kept"
    )


@pytest.mark.parametrize("pruning", [None, 0.9, ((4, 2),)])
def test_same_answers_and_nothing_twice(clf, pruning):
    clf.set_params(pruning=pruning, classes=["ant", "bee", "cat"])
    plain = clone(clf).set_params(memory=None).fit().denoising_errors(IMAGES)
    for _ in range(2):
        found = clf.fit().denoising_errors(IMAGES)
        np.testing.assert_array_equal(found.errors, plain.errors)
        np.testing.assert_array_equal(found.log_proba, plain.log_proba)


def test_evaluations_are_only_those_that_are_new(clf):
    first = clf.fit(classes=["ant", "bee"]).denoising_errors(IMAGES[:3])
    assert first.n_evaluations.tolist() == [24, 24, 24]
    # One more image, one more class: only their errors are computed.
    both = clf.fit(classes=["ant", "bee", "eel"]).denoising_errors(IMAGES)
    assert both.n_evaluations.tolist() == [12, 12, 12, 36]
    plain = clf.set_params(memory=None).fit(classes=["ant", "bee", "eel"])
    np.testing.assert_allclose(
        both.errors, plain.denoising_errors(IMAGES).errors, rtol=1e-6
    )


def test_budgets_nest_with_anytime_timesteps(clf):
    clf.set_params(timesteps="anytime", n_trials=5, classes=["ant", "bee"])
    assert clf.fit().denoising_errors(IMAGES).n_evaluations.tolist() == [10] * 4
    clf.set_params(n_trials=8)
    assert clf.fit().denoising_errors(IMAGES).n_evaluations.tolist() == [6] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "l1"},
        {"target": "sample"},
        {"random_state": 1},
        {"dtype": "float64"},
        {"image_size": 16},
        {"timesteps": [3, 500]},
    ],
)
def test_other_settings_are_other_errors(clf, change):
    clf.set_params(classes=["ant", "bee"]).fit().predict(IMAGES[:1])
    found = clf.set_params(**change).fit().denoising_errors(IMAGES[:1])
    assert found.n_evaluations.tolist() == [24]


def test_other_weights_are_other_errors_and_names_do_not_matter(clf):
    clf.set_params(classes=["ant", "bee"]).fit().predict(IMAGES[:1])
    same = clf.set_params(model=tiny_dit()).fit().denoising_errors(IMAGES[:1])
    assert same.n_evaluations.tolist() == [0]
    other = tiny_dit()
    other.transformer.proj_out_2.bias.data += 1e-3
    found = clf.set_params(model=other).fit().denoising_errors(IMAGES[:1])
    assert found.n_evaluations.tolist() == [24]


def test_kept_across_processes(clf, dit_folder):
    code = (
        "import sys, numpy as np\n"
        "from diffusion_sklearn import ConditionalDiffusionClassifier\n"
        "images = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3), 'uint8')\n"
        "ConditionalDiffusionClassifier(model=sys.argv[1], n_trials=12, pruning=None,\n"
        "    memory=sys.argv[2]).fit(classes=['ant', 'bee']).predict(images)\n"
    )
    subprocess.run([sys.executable, "-c", code, dit_folder, clf.memory], check=True)
    found = clf.fit(classes=["ant", "bee"]).denoising_errors(IMAGES)
    assert found.n_evaluations.tolist() == [0] * 4


def test_what_was_computed_before_a_failure_is_kept(clf, monkeypatch):
    clf.set_params(batch_size=1, n_trials=2).fit(classes=["ant", "bee"])
    cls = type(clf.backbone_)
    predict, calls = cls.predict, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("power cut")
        return predict(self, *args)

    monkeypatch.setattr(cls, "predict", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        clf.predict(IMAGES)
    monkeypatch.setattr(cls, "predict", predict)
    found = clf.denoising_errors(IMAGES)
    assert found.n_evaluations.tolist() == [0, 4, 4, 4]


def test_prompts_are_part_of_the_key(sd_folder, tmp_path):
    clf = ZeroShotDiffusionClassifier(
        model=sd_folder, n_trials=3, pruning=None, memory=str(tmp_path)
    )
    clf.fit(classes=["a", "b"]).predict(IMAGES[:1])
    clf.set_params(prompt_template=["a photo of a {}.", "{}"])
    found = clf.fit(classes=["a", "b"]).denoising_errors(IMAGES[:1])
    assert found.n_evaluations.tolist() == [12]


def test_changed_weights_and_configs_are_noticed(clf):
    pipeline = tiny_dit()
    clf.set_params(model=load_backbone(pipeline), classes=["ant", "bee"])
    clf.fit().predict(IMAGES[:1])
    assert clf.denoising_errors(IMAGES[:1]).n_evaluations.tolist() == [0]
    pipeline.transformer.proj_out_2.bias.data.mul_(0.5)
    assert clf.denoising_errors(IMAGES[:1]).n_evaluations.tolist() == [24]
    pipeline.vae.register_to_config(scaling_factor=0.18)
    assert clf.denoising_errors(IMAGES[:1]).n_evaluations.tolist() == [24]


def test_a_file_cut_short_is_written_anew(clf):
    clf.fit(classes=["ant", "bee"]).predict(IMAGES[:1])
    (path,) = clf.memory.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:50])
    for expected in (24, 0):
        found = clf.denoising_errors(IMAGES[:1])
        assert found.n_evaluations.tolist() == [expected]
