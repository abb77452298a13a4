"""`n_evaluations` is what a forward hook on the network counts, in every setting."""

import joblib
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.engine._trials import Trials
from tests.models import slow, tiny_dit, tiny_sd

IMAGES = np.random.RandomState(1).randint(0, 256, (4, 8, 8, 3), dtype=np.uint8)
NAMES = ["ant", "bee", "cat", "eel"]
PREFILTER = FrozenEstimator(
    DummyClassifier(strategy="uniform").fit(np.zeros((4, 1)), NAMES)
)


class Rows:
    """Counts the rows that go through a network."""

    def __init__(self, network):
        self.n = 0
        network.register_forward_hook(self.count, with_kwargs=True)

    def count(self, network, args, kwargs, output):
        self.n += len(args[0])


@pytest.mark.parametrize(
    "params",
    [
        {"pruning": None},
        {"pruning": 0.6},
        {"pruning": ((4, 3), (7, 1))},
        {"pruning": 0.6, "guidance_scale": 2.0, "batch_size": 5},
        {"pruning": 0.6, "prefilter": PREFILTER, "n_candidates": 2},
        {"pruning": None, "prefilter": PREFILTER, "n_candidates": 1},
        {"pruning": 0.6, "batch_size": 7, "memory": "kept"},
        *slow({"prompt_template": ["a {}", "one big {}."], "pruning": 0.6}),
        {
            "prompt_template": ["a {}", "one big {}."],
            "guidance_scale": 3.0,
            "pruning": ((5, 2),),
            "batch_size": 4,
        },
    ],
    ids=str,
)
def test_rows_are_counted_as_a_hook_counts_them(params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    is_text = "prompt_template" in params
    backbone = load_backbone(tiny_sd("epsilon") if is_text else tiny_dit())
    cls = ZeroShotDiffusionClassifier if is_text else ConditionalDiffusionClassifier
    clf = cls(model=backbone, n_trials=9, **params).fit(classes=NAMES)
    rows = Rows(backbone.network)
    together = clf.denoising_errors(IMAGES).n_evaluations
    assert together.sum() == rows.n > 0
    rows.n = 0
    alone = [clf.denoising_errors(image[None]).n_evaluations[0] for image in IMAGES]
    assert sum(alone) == rows.n
    if "memory" in params:
        assert rows.n == 0
    else:  # images do not depend on their neighbours, nor does what they cost
        np.testing.assert_array_equal(alone, together)


def test_a_plan_is_made_once_for_a_fit(monkeypatch):
    """Noise is drawn at the first prediction, and again only for other settings."""
    draws, noise = [], Trials.noise

    def counted(self, shape):
        draws.append(shape)
        return noise(self, shape)

    monkeypatch.setattr(Trials, "noise", counted)
    clf = ConditionalDiffusionClassifier(model=tiny_dit(), n_trials=4)
    clf.fit(classes=NAMES)
    for _ in range(3):
        clf.predict(IMAGES)
        clf.denoising_errors(IMAGES[:1])
    assert draws == [(4, 4, 4)]
    clf.set_params(temperature=2.0, n_candidates=3).predict(IMAGES)
    assert len(draws) == 1
    clf.set_params(loss="l1").predict(IMAGES)
    clf.fit(classes=NAMES).predict(IMAGES)
    assert len(draws) == 3


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_each_file_is_decoded_once(n_jobs, tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.png" for k in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    decoded, load = [], PngImageFile.load

    def counted(self):
        if self.tile:  # its pixels were not read yet
            decoded.append(str(self.filename))
        return load(self)

    monkeypatch.setattr(PngImageFile, "load", counted)
    clf = ConditionalDiffusionClassifier(model=tiny_dit(), n_trials=4)
    with joblib.parallel_config(backend="threading"):
        clf.set_params(n_jobs=n_jobs).fit(classes=NAMES).predict(paths)
    assert sorted(decoded) == sorted(map(str, paths))
