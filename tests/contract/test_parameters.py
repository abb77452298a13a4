"""Impossible values: the message names the parameter, the value and what to do."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)

NAMES = ["ant", "bee", "eel"]
IMAGES = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(params=["text", "class"])
def clf(request, dit_folder, sd_folder):
    """Each estimator, with a tiny model."""
    if request.param == "text":
        return ZeroShotDiffusionClassifier(model=sd_folder, n_trials=10)
    return ConditionalDiffusionClassifier(model=dit_folder, n_trials=10)


BAD = [
    # name, value, what else the message says
    ("n_trials", 0, r"\[1, inf\)"),
    ("n_trials", -1, r"\[1, inf\)"),
    ("n_trials", 2.5, "must be an int"),
    ("n_trials", "x", "must be an int"),
    ("pruning", 1.5, "0.99"),
    ("pruning", "fast", r"\(\(25, 5\),\)"),
    ("pruning", ((25,),), r"\(\(25, 5\),\)"),
    ("pruning", ((5, 3), (4, 2)), "must rise"),
    ("pruning", ((4, 2), (5, 3)), "must fall"),
    ("pruning", ((10**6, 2),), "more than n_trials=10"),
    ("pruning", True, "0.99"),
    ("pruning", 1, "0.99"),
    ("pruning", (), "0.99"),
    ("loss", "l3", "'l2'"),
    ("loss", None, "'l2'"),
    ("target", "noise", "'epsilon'"),
    ("timesteps", "odd", "'even'"),
    ("timesteps", [0, 1000], "0 to 999"),
    ("timesteps", [-1], "0 to 999"),
    ("timesteps", [], "list of int"),
    ("timesteps", [0.5], "list of int"),
    ("timesteps", [[1, 2]], "list of int"),
    ("timesteps", 500, "'even'"),
    ("timestep_weights", [1.0, 2.0], "1000 timesteps"),
    ("timestep_weights", ["a"] * 1000, "numbers"),
    ("timestep_weights", [-1.0] * 1000, "not negative"),
    ("timestep_weights", lambda t: np.nan, "finite"),
    ("priors", [0.5, 0.5], "3 numbers"),
    ("priors", [0.5, 0.5, 0.5], "sum to 1"),
    ("priors", [1.5, -0.5, 0.0], "not be negative"),
    ("priors", [0.5, 0.5, np.nan], "sum to 1"),
    ("priors", ["a", "b", "c"], "numbers"),
    ("priors", "uniform", "array-like"),
    ("temperature", 0, r"\(0.0, inf\)"),
    ("temperature", -1.0, r"\(0.0, inf\)"),
    ("temperature", "hot", r"\(0.0, inf\)"),
    ("image_size", 0, r"\[1, inf\)"),
    ("image_size", 9, "multiple of 4"),
    ("image_shape", 192, "array-like"),
    ("batch_size", 0, "'auto'"),
    ("batch_size", "big", "'auto'"),
    ("device", "nope", "'cpu'"),
    ("dtype", "int8", "'float32'"),
    ("dtype", "foo", "'float32'"),
    ("dtype", torch.int64, "'float32'"),
    ("random_state", "lucky", "RandomState"),
    ("n_jobs", 1.5, "int"),
    ("verbose", "loud", "int"),
    ("model", 3, "Hub id"),
    ("model", None, "Hub id"),
    ("classes", "ant", "array-like"),
    ("classes", [], "two or more"),
    ("classes", ["ant"], "two or more"),
    ("classes", ["ant", "bee", "ant"], "'ant'.*once"),
    ("classes", ["ant", 1], "all str"),
    ("classes", ["ant", None], "all str"),
    ("classes", [None, None], "all str"),
    ("classes", [1.0, 2.0], "all str"),
    ("classes", [True, False], "all str"),
    ("class_names", ["ant", "bee"], r"2 names for the 3.*\['ant', 'bee', 'eel'\]"),
    ("class_names", ["ant", "bee", 3], "every name must be a str"),
    ("class_names", ["ant", "bee", " "], "every name must be a str"),
    ("class_names", dict.fromkeys(NAMES, "x"), "aligned with the sorted labels"),
    ("class_names", {0: "x", 1: "y", 2: "z"}, "keys.*the labels.*'ant'.*encode labels"),
    ("class_names", ["ant", "bee", ""], "every name must be a str"),
    ("priors", {"ant": 0.5, "bee": 0.5}, r"the labels \['eel'\]"),
    ("class_names", "ant", "array-like"),
]


def ident(value):
    """A short test id for any value."""
    return getattr(value, "__name__", str(value)[:30])


@pytest.mark.parametrize("name, value, hint", BAD, ids=ident)
def test_bad_value(clf, name, value, hint):
    classes = None if name == "classes" else NAMES
    clf.set_params(**{name: value})
    with pytest.raises((ValueError, TypeError), match=f"(?s){name}.*{hint}"):
        clf.fit(classes=classes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_cuda_here(clf):
    with pytest.raises(ValueError, match=r"device='cuda' can't be used here.*'auto'"):
        clf.set_params(device="cuda").fit(classes=NAMES)


@pytest.mark.parametrize("classes", ["ant", [], ["ant"], ["ant", "ant"], ["ant", 2.0]])
def test_bad_classes_in_fit(clf, classes):
    with pytest.raises(ValueError, match="classes"):
        clf.fit(classes=classes)


@pytest.mark.parametrize(
    "template", ["a photo", [], ["a {}", "a photo"], ["a {}", 3], 3, None]
)
def test_bad_prompt_template(sd_folder, template):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, prompt_template=template)
    with pytest.raises(ValueError, match="prompt_template"):
        clf.fit(classes=NAMES)


@pytest.mark.parametrize("how", ["constructor", "fit"])
def test_listed_integers_need_names_in_prompts(sd_folder, how):
    clf = ZeroShotDiffusionClassifier(model=sd_folder)
    with pytest.raises(ValueError, match=r"classes=\[1, 2\] are no names.*class_names"):
        if how == "fit":
            clf.fit(classes=[1, 2])
        else:
            clf.set_params(classes=[1, 2]).fit()


@pytest.mark.parametrize(
    "class_ids, hint",
    [
        ([0, 1], "class_ids has 2 ids for the 3"),
        ([0, 1, 5], r"\[5\] are no class ids.*0 to 4"),
        ([0, 1, -1], r"\[-1\] are no class ids.*class_ids='order'"),
        ([0, 1, 1], r"labels \['bee', 'eel'\] share a class"),
        ([0, 1, 1.5], "are no class ids.*class_ids"),
        (["ant", "bee", "eel"], "are no class ids.*class_ids"),
        ("sorted", "class_ids.*'order'"),
        (3, "class_ids.*'order'"),
    ],
)
def test_bad_class_ids(dit_folder, class_ids, hint):
    clf = ConditionalDiffusionClassifier(model=dit_folder, class_ids=class_ids)
    with pytest.raises(ValueError, match=hint):
        clf.fit(classes=NAMES)


def test_labels_that_are_no_class_ids(dit_folder):
    clf = ConditionalDiffusionClassifier(model=dit_folder)
    with pytest.raises(ValueError, match=r"\[10, 20\] are no class ids.*class_ids="):
        clf.fit(IMAGES, [10, 20, 0])
    clf.set_params(class_ids="order", classes=list("abcdef"))
    with pytest.raises(ValueError, match=r"\[5\] are no class ids.*0 to 4"):
        clf.fit()


def test_unknown_names_and_those_near_to_them(dit_folder):
    clf = ConditionalDiffusionClassifier(model=dit_folder)
    with pytest.raises(ValueError, match=r"no classes named \['bees'\]") as error:
        clf.fit(classes=["ant", "bees"])
    assert "did you mean 'bee' for 'bees'?" in str(error.value)
    assert "class_names or class_ids" in str(error.value)
    with pytest.raises(ValueError, match=r"no classes named \['wyvern'\]") as error:
        clf.set_params(class_names=["ant", "wyvern"]).fit(classes=[0, 1])
    assert "near" not in str(error.value)
    assert "hound" in str(error.value)


def test_the_other_estimator_is_named(dit_folder, sd_folder):
    match = r"model=.*ZeroShotDiffusionClassifier instead"
    with pytest.raises(ValueError, match=match):
        ConditionalDiffusionClassifier(model=sd_folder).fit(classes=NAMES)
    match = r"model=.*ConditionalDiffusionClassifier instead"
    with pytest.raises(ValueError, match=match):
        ZeroShotDiffusionClassifier(model=dit_folder).fit(classes=NAMES)


@pytest.mark.parametrize(
    "X, y, match",
    [
        (None, None, r"classes=None.*fit\(classes="),
        (IMAGES, None, r"requires y.*fit\(classes="),
        (IMAGES, ["ant"] * 3, r"y has 1 class.*classes=\[...\]"),
        ([], [], r"y has 0 class.*classes=\[...\]"),
        (IMAGES, ["ant", "bee"], r"samples: \[3, 2\]"),
        (list(IMAGES), ["ant", "bee"], r"samples: \[3, 2\]"),
        (IMAGES, [0.5, 1.5, 2.5], "Unknown label type"),
        (IMAGES, [None, "ant", "bee"], "y|label"),
        (IMAGES, [["ant"], ["ant", "bee"], []], "y|inhomogeneous"),
    ],
)
def test_bad_training_data(clf, X, y, match):
    with pytest.raises(ValueError, match=f"(?s){match}"):
        clf.fit(X, y)


@pytest.mark.parametrize("y", [["ant", "cat", "bee"], [0, 1, 2]])
def test_labels_beside_the_classes(clf, y):
    match = r"(?s)y has the labels \[.*none of classes=\['ant', 'bee'\].*class_names"
    with pytest.raises(ValueError, match=match):
        clf.fit(IMAGES, y, classes=["ant", "bee"])


@pytest.mark.parametrize(
    "name, value",
    [
        ("pruning", "fast"),
        ("pruning", ((11, 2),)),
        ("loss", "l3"),
        ("temperature", 0),
        ("batch_size", 0),
        ("image_size", 9),
    ],
)
def test_bad_values_set_after_fit(clf, name, value):
    clf.fit(classes=NAMES).set_params(**{name: value})
    with pytest.raises(ValueError, match=name):
        clf.predict(IMAGES)


def test_integers_that_may_be_encoded_labels(dit_folder):
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=2)
    with pytest.warns(
        UserWarning, match=r"classes \[0, 1\] \(\['ant', 'bee'\]\).*Voting"
    ):
        clf.fit(IMAGES, [0, 1, 0])
    assert clf.class_ids_.tolist() == [0, 1]
    # No doubt where they are listed, named, given, all there, or not counted from 0.
    clf.fit(classes=[0, 1])
    clf.fit(IMAGES, [1, 2, 1])
    clf.set_params(class_ids=[4, 2]).fit(IMAGES, [0, 1, 0])
    assert clf.class_ids_.tolist() == [4, 2]
    clf.set_params(class_ids=None, class_names=["eel", "cat"]).fit(IMAGES, [0, 1, 0])
    assert clf.class_ids_.tolist() == [4, 2]


def test_booleans_are_no_class_ids(dit_folder):
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=2)
    with pytest.raises(ValueError, match=r"\[False, True\] are no class ids"):
        clf.fit(IMAGES, [False, True, True])


def test_class_names_must_differ(clf):
    with pytest.raises(ValueError, match=r"class_names has \['ant'\] more than once"):
        clf.set_params(class_names=["ant", "ant"]).fit(classes=["x", "y"])


def test_a_failed_fit_leaves_the_last_one(clf):
    with pytest.raises(ValueError, match="image_size"):
        clf.set_params(image_size=9).fit(classes=NAMES)
    with pytest.raises(NotFittedError):
        clf.predict(IMAGES)
    clf.set_params(image_size=None).fit(classes=NAMES)
    expected = clf.predict_proba(IMAGES)
    with pytest.raises(ValueError, match="timestep_weights"):
        clf.set_params(timestep_weights=[1.0]).fit(classes=["ant", "cat"])
    clf.set_params(timestep_weights=None)
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)
    assert clf.classes_.tolist() == NAMES


def test_decision_is_finite_where_a_class_is_ruled_out(clf):
    clf.set_params(priors=[1.0, 0.0]).fit(classes=["ant", "bee"])
    assert np.isfinite(clf.decision_function(IMAGES)).all()
    assert clf.predict(IMAGES).tolist() == ["ant"] * 3
