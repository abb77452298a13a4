"""The contract of scikit-learn: its own checks, meta-estimators, cloning, labels."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from tests.models import saved_model, slow, tiny_dit

NAMES = ["ant", "bee", "eel"]
ARRAY = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 3), dtype=np.uint8)
FORMS = {
    "pil": [Image.fromarray(image) for image in ARRAY],
    "array": ARRAY,
    "rows": ARRAY.reshape(12, -1),
}
Y = np.array(NAMES * 4)


@pytest.fixture(params=["text", *slow("class")])
def clf(request, dit_folder, sd_folder):
    """Each estimator, with a tiny model that tells ants, bees and eels apart."""
    common = {"n_trials": 4, "image_shape": (8, 8, 3)}
    if request.param == "text":
        return ZeroShotDiffusionClassifier(model=sd_folder, **common)
    return ConditionalDiffusionClassifier(model=dit_folder, **common)


# scikit-learn's checks ---------------------------------------------------------------

DIT, SD, CLIP = map(saved_model, ("dit", "sd", "clip"))
# The checks make rows of any length, and compare results to 1e-7.
CHECKED = {"dtype": "float64", "image_shape": (1, -1)}


# One check skips itself: check_array_api_input needs SCIPY_ARRAY_API=1 before SciPy is
# imported. The test after this one runs it so.
@parametrize_with_checks(
    [
        ConditionalDiffusionClassifier(
            model=DIT, class_ids="order", n_trials=3, pruning=None, **CHECKED
        ),
        CLIPZeroShotClassifier(model=CLIP, prompt_template="{}", **CHECKED),
    ]
)
def test_estimator_checks(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:
        assert "SCIPY_ARRAY_API is not set" in str(reason)
        raise


@pytest.mark.slow
@parametrize_with_checks(
    [
        ZeroShotDiffusionClassifier(
            model=SD, prompt_template="{}", n_trials=3, pruning=None, **CHECKED
        ),
        ConditionalDiffusionClassifier(
            model=DIT, class_ids="order", n_trials=12, **CHECKED
        ),
    ]
)
def test_estimator_checks_of_prompts_and_of_a_race(estimator, check):
    test_estimator_checks(estimator, check)


@pytest.mark.slow
def test_the_check_that_needs_the_array_api():
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "", __file__, "-k", "test_estimator_checks and array_api"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
    )
    assert "4 passed" in done.stdout and "skipped" not in done.stdout, done.stdout


# Model selection and meta-estimators -------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_gives_the_same(clf, form):
    expected = clf.fit(ARRAY, Y).predict_proba(ARRAY)
    proba = clone(clf).fit(FORMS[form], Y).predict_proba(FORMS[form])
    np.testing.assert_array_equal(proba, expected)
    assert clf.score(FORMS["pil"], Y) == accuracy_score(Y, clf.predict(ARRAY))


@pytest.mark.parametrize("form", ["pil", "array"])
def test_pipeline_with_a_transformer_in_front(clf, form):
    def flip(images):
        return [np.asarray(image)[:, ::-1] for image in images]

    pipeline = make_pipeline(FunctionTransformer(flip), clf).fit(FORMS[form], Y)
    expected = clone(clf).fit(classes=NAMES).predict_proba(ARRAY[:, :, ::-1])
    np.testing.assert_array_equal(pipeline.predict_proba(FORMS[form]), expected)
    assert pipeline.classes_.tolist() == NAMES


@pytest.mark.parametrize("form", ["pil", *slow("array", "rows")])
def test_cross_validation_agrees_with_one_fit(clf, form):
    """Nothing is trained, so the folds make no difference."""
    X = FORMS[form]
    expected = clone(clf).fit(classes=NAMES)
    # It encodes labels, unlike cross_val_score: only class_names survive.
    named = clone(clf).set_params(class_names=NAMES)
    proba = cross_val_predict(named, X, Y, cv=2, method="predict_proba")
    np.testing.assert_allclose(proba, expected.predict_proba(X), rtol=1e-4, atol=1e-6)
    scores = cross_val_score(clf, X, Y, cv=2)
    assert scores.mean() == pytest.approx(expected.score(X, Y))
    results = cross_validate(clf, X, Y, cv=2, scoring=["roc_auc_ovr", "neg_log_loss"])
    auc = [
        roc_auc_score(Y[half], expected.predict_proba(ARRAY[half]), multi_class="ovr")
        for half in (slice(0, 6), slice(6, 12))
    ]
    np.testing.assert_allclose(results["test_roc_auc_ovr"], auc)


@pytest.mark.parametrize(
    "grid",
    [
        *slow({"n_trials": [2, 4], "loss": ["l1", "l2"]}),
        {"pruning": [None, 0.9, ((2, 2),)]},
        {"prompt_template": ["auto", "{}", ["{}", "a {}."]]},
    ],
)
def test_grid_search(clf, grid, loads):
    if "prompt_template" in grid and isinstance(clf, ConditionalDiffusionClassifier):
        grid = {"class_ids": [None, [0, 1, 2], [0, 1, 4]]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(FORMS["pil"], Y)
    best = clone(clf).set_params(**search.best_params_).fit(classes=NAMES)
    np.testing.assert_array_equal(search.predict(ARRAY), best.predict(ARRAY))
    assert search.best_score_ == pytest.approx(best.score(ARRAY, Y))
    assert loads == [clf.model]  # once, whatever the cells and folds


def test_calibration(clf):
    calibrated = CalibratedClassifierCV(clf, cv=2).fit(FORMS["pil"], Y)
    assert calibrated.predict_proba(FORMS["pil"]).shape == (12, 3)
    assert set(calibrated.predict(ARRAY)) <= set(NAMES)

    fitted = clf.fit(classes=NAMES)
    frozen = FrozenEstimator(fitted)
    cooled = CalibratedClassifierCV(frozen, method="temperature", cv=2).fit(ARRAY, Y)
    # One temperature for all: the order of the classes stays.
    np.testing.assert_array_equal(cooled.predict(ARRAY), fitted.predict(ARRAY))
    gaps = np.diff(np.log(cooled.predict_proba(ARRAY)))
    ratio = gaps / np.diff(fitted.predict_log_proba(ARRAY))
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)


@pytest.fixture
def both(dit_folder, sd_folder):
    """Two estimators that keep their names when labels arrive encoded."""
    text = ZeroShotDiffusionClassifier(model=sd_folder, n_trials=4, class_names=NAMES)
    label = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=4, class_names=NAMES
    )
    return [("text", text), ("class", label)]


def test_voting(both):
    each = [clone(clf).fit(classes=NAMES) for _, clf in both]
    soft = VotingClassifier(both, voting="soft").fit(FORMS["pil"], Y)
    mean = np.mean([clf.predict_proba(ARRAY) for clf in each], axis=0)
    np.testing.assert_allclose(soft.predict_proba(FORMS["pil"]), mean)
    assert soft.classes_.tolist() == NAMES
    hard = VotingClassifier(both[:1], voting="hard").fit(ARRAY, Y)
    np.testing.assert_array_equal(hard.predict(ARRAY), each[0].predict(ARRAY))


def test_stacking(both):
    final = LogisticRegression()
    stack = StackingClassifier(both, final_estimator=final, cv=2).fit(FORMS["pil"], Y)
    assert stack.transform(ARRAY).shape == (12, 6)
    each = [clone(clf).fit(classes=NAMES).predict_proba(ARRAY) for _, clf in both]
    np.testing.assert_allclose(stack.transform(ARRAY), np.hstack(each), rtol=1e-5)
    assert set(stack.predict(FORMS["pil"])) <= set(NAMES)


def test_self_training(clf):
    y = np.array([0, 1, 2, *[-1] * 9])
    clf.set_params(class_names=NAMES)
    semi = SelfTrainingClassifier(clf, threshold=0.5).fit(FORMS["rows"], y)
    assert semi.classes_.tolist() == [0, 1, 2]
    expected = clone(clf).fit(classes=[0, 1, 2]).predict(ARRAY)
    np.testing.assert_array_equal(semi.predict(FORMS["rows"]), expected)


def test_classes_are_routed_as_metadata(clf):
    names = [*NAMES, "cat"]
    with config_context(enable_metadata_routing=True):
        clf = clone(clf).set_fit_request(classes=True)
        results = cross_validate(
            clf, ARRAY, Y, cv=2, params={"classes": names}, return_estimator=True
        )
        pipeline = make_pipeline(FunctionTransformer(), clf)
        pipeline.fit(ARRAY, Y, classes=names)
        search = GridSearchCV(clf, {"n_trials": [2, 3]}, cv=2)
        search.fit(ARRAY, Y, classes=names)
    for fitted in (*results["estimator"], pipeline, search):
        assert fitted.classes_.tolist() == sorted(names)


def test_transform_output_does_no_harm(clf):
    expected = clone(clf).fit(FORMS["rows"] / 255, Y).predict(FORMS["rows"] / 255)
    with config_context(transform_output="pandas"):
        scale = MinMaxScaler().set_output(transform="pandas")
        scale.fit(np.array([[0.0] * 192, [255.0] * 192]))
        pipeline = make_pipeline(FrozenEstimator(scale), clf)
        labels = pipeline.fit(FORMS["rows"], Y).predict(FORMS["rows"])
        assert isinstance(pipeline.predict_proba(FORMS["rows"]), np.ndarray)
    np.testing.assert_array_equal(labels, expected)
    assert len(pipeline[-1].feature_names_in_) == 192


# Cloning and loading -----------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda p: p, load_backbone])
def test_clone_shares_the_model(wrap):
    pipeline = tiny_dit()
    model = wrap(pipeline)
    clf = ConditionalDiffusionClassifier(model=model, n_trials=2)
    twin = clone(clf)
    assert twin.model is model
    assert twin.fit(classes=NAMES).backbone_.pipeline is pipeline
    assert clone(twin).fit(classes=NAMES).backbone_.pipeline is pipeline
    assert not hasattr(clone(twin), "classes_")


def test_clone_copies_the_other_parameters():
    state = np.random.RandomState(3)
    clf = ZeroShotDiffusionClassifier(model="x", classes=NAMES, random_state=state)
    twin = clone(clf)
    assert twin.classes == NAMES and twin.classes is not NAMES
    assert twin.random_state is not state
    assert twin.get_params().keys() == clf.get_params().keys()


def test_a_folder_is_loaded_once_a_process(clf, loads):
    for copy in (clf, clone(clf), clone(clf).set_params(n_trials=3)):
        copy.fit(classes=NAMES).predict(ARRAY[:2])
    cross_val_score(clf, ARRAY, Y, cv=3)
    assert loads == [clf.model]


# Labels ------------------------------------------------------------------------------


def test_labels_in_any_order(clf):
    expected = clone(clf).fit(classes=NAMES).predict_proba(ARRAY)
    for classes in (NAMES[::-1], tuple(NAMES), np.array(NAMES), pd.Series(NAMES)):
        fitted = clone(clf).fit(classes=classes)
        assert fitted.classes_.tolist() == NAMES and fitted.n_classes_ == 3
        np.testing.assert_array_equal(fitted.predict_proba(ARRAY), expected)
    for y in (Y[::-1], Y.tolist(), pd.Series(Y), Y.astype(object)):
        fitted = clone(clf).fit(FORMS["pil"], y)
        np.testing.assert_array_equal(fitted.predict_proba(ARRAY), expected)
        assert set(fitted.predict(ARRAY)) <= set(NAMES)


def test_classes_in_fit_and_in_the_constructor(clf):
    in_fit = clone(clf).fit(classes=NAMES)
    in_constructor = clone(clf).set_params(classes=NAMES).fit()
    np.testing.assert_array_equal(
        in_fit.predict_proba(ARRAY), in_constructor.predict_proba(ARRAY)
    )
    # The keyword goes first, and the parameter is left as it was.
    fitted = in_constructor.fit(classes=["cat", "ant"])
    assert fitted.classes_.tolist() == ["ant", "cat"] and fitted.classes == NAMES


def test_integer_labels_with_names(clf):
    expected = clone(clf).fit(classes=NAMES).predict_proba(ARRAY)
    labels, by_label = np.array([30, 10, 20]), {10: "ant", 20: "bee", 30: "eel"}
    named = clone(clf).set_params(class_names=NAMES)
    fitted = named.fit(ARRAY[:3], labels)
    assert fitted.classes_.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(fitted.predict_proba(ARRAY), expected)
    assert fitted.predict(ARRAY).dtype == labels.dtype
    fitted = named.set_params(class_names=by_label).fit(classes=labels)
    np.testing.assert_array_equal(fitted.predict_proba(ARRAY), expected)


def test_y_may_lack_some_of_the_classes(clf):
    full = clone(clf).fit(classes=NAMES)
    fitted = clone(clf).fit(ARRAY[:2], ["bee", "bee"], classes=NAMES)
    np.testing.assert_array_equal(
        full.predict_proba(ARRAY), fitted.predict_proba(ARRAY)
    )


def test_priors_follow_the_sorted_labels(clf):
    flat = clone(clf).fit(classes=NAMES).predict_proba(ARRAY)
    priors = np.array([0.2, 0.5, 0.3])
    fitted = clf.set_params(priors=priors, classes=NAMES).fit()
    expected = flat * priors / (flat * priors).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(ARRAY), expected, rtol=1e-6)
    certain = clf.set_params(priors=[0, 0, 1]).fit()
    assert set(certain.predict(ARRAY)) == {"eel"}


def test_two_classes_have_a_one_dimensional_decision(clf):
    fitted = clf.fit(classes=["bee", "ant"])
    decision = fitted.decision_function(ARRAY)
    assert decision.shape == (12,)
    np.testing.assert_array_equal(
        fitted.predict(ARRAY), np.array(["ant", "bee"])[(decision > 0).astype(int)]
    )
    assert roc_auc_score(Y[Y != "eel"] == "bee", decision[Y != "eel"]) <= 1


def test_integers_without_names_are_warned_about(sd_folder):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, n_trials=2)
    with pytest.warns(
        UserWarning, match=r"labels \[1, 7\] are used as names"
    ) as warned:
        clf.fit(ARRAY[:2], [7, 1])
    assert warned[0].filename == __file__
    assert clf.prompts_ == [["a photo of a 1."], ["a photo of a 7."]]


@pytest.mark.parametrize(
    "class_ids, classes, expected",
    [
        (None, ["eel", "hound"], [4, 3]),
        (None, [4, 0], [0, 4]),
        ([2, 1], ["x", "y"], [2, 1]),
        ({"y": 1, "x": 2}, ["y", "x"], [2, 1]),
        ("labels", [4, 0], [0, 4]),
        ("order", ["q", "p", "r"], [0, 1, 2]),
    ],
)
def test_class_ids(dit_folder, class_ids, classes, expected):
    clf = ConditionalDiffusionClassifier(
        model=dit_folder, n_trials=3, pruning=None, class_ids=class_ids
    )
    proba = clf.fit(classes=classes).predict_proba(ARRAY)
    by_id = ConditionalDiffusionClassifier(model=dit_folder, n_trials=3, pruning=None)
    by_id.fit(classes=expected)
    order = np.argsort(np.argsort(expected))
    np.testing.assert_allclose(proba, by_id.predict_proba(ARRAY)[:, order], rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        "predict",
        "predict_proba",
        "predict_log_proba",
        "decision_function",
        "denoising_errors",
    ],
)
def test_not_fitted(clf, method):
    with pytest.raises(NotFittedError, match=type(clf).__name__):
        getattr(clf, method)(ARRAY)
    with pytest.raises(NotFittedError):
        _ = clf.backbone_
