"""Pickles without weights, other processes, workers, and the same result each time."""

import copy
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from diffusers import DiTPipeline
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    clear_cache,
    load_backbone,
)
from diffusion_sklearn.baselines import (
    CLIPZeroShotClassifier,
    DiffusionFeatures,
    PretrainedImageClassifier,
    ResNetHead,
    SyntheticDataClassifier,
)
from tests.models import slow, tiny_dit

NAMES = ["ant", "bee", "eel"]
IMAGES = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 3), dtype=np.uint8)
PREDICT = """
import joblib, sys
import numpy as np
images, *files = sys.argv[1:]
for file in files:
    np.save(file + ".npy", joblib.load(file).predict_proba(np.load(images)))
"""


@pytest.fixture(params=[*slow("text"), "class"])
def clf(request, dit_folder, sd_folder):
    """Each estimator, with a tiny model in a folder."""
    if request.param == "text":
        return ZeroShotDiffusionClassifier(model=sd_folder, n_trials=12)
    return ConditionalDiffusionClassifier(model=dit_folder, n_trials=12)


def predict_elsewhere(folder, *files):
    """Probabilities of pickled estimators in a new process."""
    np.save(folder / "images.npy", IMAGES)
    subprocess.run(
        [sys.executable, "-c", PREDICT, folder / "images.npy", *files],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
    )
    return [np.load(f"{file}.npy") for file in files]


def from_folder(folder):
    return DiTPipeline.from_pretrained(folder)


# Files -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_process_predicts_the_same(sd_folder, dit_folder, tmp_path):
    """Models given as a folder, a pipeline loaded from one, and a backbone."""
    estimators = [
        ZeroShotDiffusionClassifier(model=sd_folder, n_trials=12),
        *(
            ConditionalDiffusionClassifier(model=model, n_trials=12)
            for model in (
                dit_folder,
                from_folder(dit_folder),
                load_backbone(dit_folder),
            )
        ),
    ]
    files, expected = [], []
    for k, clf in enumerate(estimators):
        expected += 2 * [clf.fit(classes=NAMES).predict_proba(IMAGES)]
        files += [tmp_path / f"{k}.pkl", tmp_path / f"{k}.joblib"]
        files[-2].write_bytes(pickle.dumps(clf))
        joblib.dump(clf, files[-1])
    proba = predict_elsewhere(tmp_path, *files)
    np.testing.assert_array_equal(proba, expected)


def from_backbone(folder):
    return load_backbone(folder)


@pytest.mark.parametrize("model", [str, from_backbone, from_folder])
def test_no_weights_in_a_pickle(model):
    """The bundled model, whose weights are megabytes."""
    folder = load_backbone("fashion-dit").pipeline.name_or_path
    clf = ConditionalDiffusionClassifier(model=model(folder))
    clf.fit(classes=["bag", "sandal"]).predict(IMAGES[:1])
    assert len(pickle.dumps(clf)) < 2**15
    assert len(pickle.dumps(clf.backbone_)) < 2**12
    assert len(pickle.dumps(clone(clf))) < 2**12


def test_only_the_embeddings_make_a_pickle_large(sd_folder):
    clf = ZeroShotDiffusionClassifier(model=sd_folder).fit(classes=NAMES)
    embeddings = clf.backbone_.condition(["a", "b", "c"]).numpy().nbytes
    assert len(pickle.dumps(clf)) < embeddings + 2**15


@pytest.mark.parametrize(
    "again", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy]
)
@pytest.mark.parametrize("model", [lambda _: tiny_dit(), from_folder, from_backbone])
def test_copies_in_this_process_share_the_model(dit_folder, model, again):
    clf = ConditionalDiffusionClassifier(model=model(dit_folder), n_trials=5)
    unfitted = again(clf)
    assert unfitted.model is clf.model
    twin = again(clf.fit(classes=NAMES))
    assert twin.backbone_.pipeline is clf.backbone_.pipeline
    np.testing.assert_array_equal(twin.predict_proba(IMAGES), clf.predict_proba(IMAGES))
    np.testing.assert_array_equal(
        unfitted.fit(classes=NAMES).predict(IMAGES), clf.predict(IMAGES)
    )


@pytest.mark.slow
def test_a_pipeline_built_in_memory_is_not_in_the_pickle(tmp_path):
    clf = ConditionalDiffusionClassifier(model=tiny_dit(), n_trials=5)
    joblib.dump(clf.fit(classes=NAMES), tmp_path / "clf")
    with pytest.raises(subprocess.CalledProcessError) as error:
        predict_elsewhere(tmp_path, tmp_path / "clf")
    assert "OSError: The diffusers pipeline of this" in error.value.stderr
    assert "save_pretrained(folder, safe_serialization=True)" in error.value.stderr


@pytest.mark.slow
def test_a_pipeline_changed_after_loading_is_not_mistaken(dit_folder, tmp_path):
    pipeline = from_folder(dit_folder)
    pipeline.transformer.proj_out_2.weight.data *= 1.5
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=5)
    joblib.dump(clf.fit(classes=NAMES), tmp_path / "clf")
    with pytest.raises(subprocess.CalledProcessError) as error:
        predict_elsewhere(tmp_path, tmp_path / "clf")
    assert "differs from what is found there (transformer:" in error.value.stderr


def test_a_deep_copy_of_a_pipeline_is_another_model():
    first = tiny_dit()
    clf = ConditionalDiffusionClassifier(model=first, n_trials=5).fit(classes=NAMES)
    expected = clf.predict_proba(IMAGES)
    second = copy.deepcopy(first)
    for p in second.transformer.parameters():
        p.data.mul_(0.5)
    other = ConditionalDiffusionClassifier(model=second, n_trials=5)
    assert (
        np.abs(other.fit(classes=NAMES).predict_proba(IMAGES) - expected).max() > 0.01
    )
    for twin in (clf, pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(twin.predict_proba(IMAGES), expected)


def test_after_clear_cache_the_model_is_loaded_again(clf):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    clear_cache()
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)


# The same again ----------------------------------------------------------------------


def test_fitted_twice(clf):
    first = clf.fit(classes=NAMES).predict_proba(IMAGES)
    np.testing.assert_array_equal(clf.fit(classes=NAMES).predict_proba(IMAGES), first)
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), first)


def test_random_state(clf):
    def fit(random_state):
        return clone(clf).set_params(random_state=random_state).fit(classes=NAMES)

    def noise(fitted):
        return fitted.trials_.noise((4, 4, 4))

    np.testing.assert_array_equal(noise(fit(7)), noise(fit(7)))
    np.testing.assert_array_equal(noise(fit(7)), noise(fit(np.random.RandomState(7))))
    assert not np.array_equal(noise(fit(7)), noise(fit(8)))
    free = fit(None)
    assert not np.array_equal(noise(free), noise(fit(None)))
    # Drawn at fit: predictions of one fit agree whatever the seed was.
    first = free.predict_proba(IMAGES)
    np.testing.assert_array_equal(free.predict_proba(IMAGES), first)
    copied = pickle.loads(pickle.dumps(free))
    np.testing.assert_array_equal(copied.predict_proba(IMAGES), first)


def test_parameters_that_fit_resolves_wait_for_the_next_fit(clf):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    clf.set_params(
        model="nowhere/to-be-found",
        classes=["x", "y"],
        class_names=["x", "y"],
        n_trials=3,
        timesteps="random",
        random_state=5,
        dtype="float64",
    )
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)


CHANGES = [
    {"temperature": 3.0, "loss": "l1", "target": "sample", "batch_size": 1},
    {"pruning": ((4, 2), (7, 1))},
    {"pruning": 0.6, "timestep_weights": "snr"},
    {"priors": [0.2, 0.3, 0.5], "guidance_scale": 2.0},
    {"image_size": 16, "timestep_weights": lambda t: 1 + t},
]


def test_parameters_of_prediction_take_effect_at_once(clf):
    clf.set_params(pruning=None).fit(classes=NAMES)
    for changes in CHANGES:
        now = clone(clf).fit(classes=NAMES).set_params(**changes)
        refitted = clone(clf).set_params(**changes).fit(classes=NAMES)
        a, b = now.denoising_errors(IMAGES), refitted.denoising_errors(IMAGES)
        np.testing.assert_array_equal(a.errors, b.errors)
        np.testing.assert_array_equal(a.log_proba, b.log_proba)
        np.testing.assert_array_equal(a.n_evaluations, b.n_evaluations)
    staged = clf.set_params(pruning=((4, 1),)).denoising_errors(IMAGES)
    assert staged.n_evaluations.tolist() == [12] * 5


def test_a_pipeline_that_was_replaced_still_predicts():
    clf = ConditionalDiffusionClassifier(model=tiny_dit(), n_trials=5)
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    clf.set_params(model="nowhere/to-be-found")
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)


# Workers -----------------------------------------------------------------------------


@pytest.mark.slow  # processes; the fast lane has threads
def test_workers_give_the_same(clf):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    errors = clf.denoising_errors(IMAGES)
    many = clf.set_params(n_jobs=2)
    np.testing.assert_allclose(many.predict_proba(IMAGES), expected, rtol=1e-4)
    result = many.denoising_errors(IMAGES)
    np.testing.assert_allclose(result.errors, errors.errors, rtol=1e-4)
    np.testing.assert_array_equal(result.n_evaluations, errors.n_evaluations)


def test_joblib_is_configured_from_outside(clf, monkeypatch):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    parts, backbone = [], type(clf.backbone_)
    encode = backbone.encode

    def counting(self, pixels):
        parts.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(backbone, "encode", counting)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        proba = clf.predict_proba(IMAGES)
    assert sorted(parts) == [2, 3]
    np.testing.assert_allclose(proba, expected, rtol=1e-4)


# skops -------------------------------------------------------------------------------


def skops_estimators(dit_folder, sd_folder, sd3_folder):
    pipeline, backbone = from_folder(dit_folder), load_backbone(sd_folder)
    return [
        ConditionalDiffusionClassifier(model=dit_folder, n_trials=3),
        ConditionalDiffusionClassifier(model=pipeline, n_trials=3),
        ZeroShotDiffusionClassifier(model=backbone, n_trials=3),
        ZeroShotDiffusionClassifier(model=sd_folder, n_trials=3, dtype="bfloat16"),
        ZeroShotDiffusionClassifier(model=sd3_folder, n_trials=3, target="native"),
        CLIPZeroShotClassifier(model="fashion-clip"),
        PretrainedImageClassifier(model="fashion-resnet-tiny"),
        SyntheticDataClassifier(
            model="fashion-dit", n_images_per_class=2, num_inference_steps=2
        ),
    ]


@pytest.mark.parametrize("k", [0, *slow(1), 2, *slow(3, 4), 5, *slow(6, 7)])
def test_skops_stores_and_loads_classifiers(
    dit_folder, sd_folder, sd3_folder, k, tmp_path
):
    clf = skops_estimators(dit_folder, sd_folder, sd3_folder)[k]
    fitted = clf.fit(classes=["bag", "coat"] if k > 4 else NAMES)
    loaded = reload_with_skops(fitted, tmp_path)
    np.testing.assert_array_equal(
        loaded.predict_proba(IMAGES), fitted.predict_proba(IMAGES)
    )
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    assert (tmp_path / "model.skops").stat().st_size < 2**18  # no weights


def test_skops_stores_and_loads_features(dit_folder, tmp_path):
    for dtype in ("auto", "bfloat16"):
        features = DiffusionFeatures(model=dit_folder, dtype=dtype)
        head = ResNetHead(width=8, n_blocks=1, max_epochs=1)
        pipeline = make_pipeline(features, head).fit(IMAGES, [0, 1, 0, 1, 0])
        head.set_params(width=16)  # takes effect at the next fit
        loaded = reload_with_skops(pipeline, tmp_path)
        np.testing.assert_array_equal(
            loaded.predict_proba(IMAGES), pipeline.predict_proba(IMAGES)
        )


def reload_with_skops(estimator, folder):
    import skops.io as sio  # takes a second

    path = folder / "model.skops"
    sio.dump(estimator, path)
    trusted = sio.get_untrusted_types(file=path)
    assert all(name.startswith(("diffusion_sklearn.", "pathlib.")) for name in trusted)
    return sio.load(path, trusted=trusted)
