"""Labels, and what is aligned with them: by label, in order, or an error."""

from collections import deque

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.model_selection import cross_val_predict

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.baselines import (
    CLIPZeroShotClassifier,
    PretrainedImageClassifier,
    SyntheticDataClassifier,
)
from diffusion_sklearn.classifiers._class_ids import resolve_class_ids
from diffusion_sklearn.classifiers._labels import check_distinct
from diffusion_sklearn.datasets._load import read_table
from tests.models import tiny_dit, tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (10, 8, 8, 3), dtype=np.uint8)
NAMES = ["ant", "bee", "eel"]
BOM = "\ufeff"


@pytest.fixture
def dit(dit_folder):
    return ConditionalDiffusionClassifier(model=dit_folder, n_trials=2, pruning=None)


@pytest.fixture(params=["text", "class", "clip"])
def clf(request, dit, sd_folder, clip_folder):
    if request.param == "text":
        return ZeroShotDiffusionClassifier(model=sd_folder, n_trials=2, pruning=None)
    return (
        dit if request.param == "class" else CLIPZeroShotClassifier(model=clip_folder)
    )


@pytest.fixture
def fashion():
    """A model whose names are in another order than sorted."""
    return ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=1, pruning=None, image_shape=(28, 28)
    )


# Encoded labels ----------------------------------------------------------------------


def ten(photos):
    first = [list(photos.names).index(name) for name in photos.target_names]
    twice = np.repeat(first, 3)
    return photos.images[twice], photos.names[twice]


def encoders(clf):
    return [
        lambda X, y: cross_val_predict(clf, X, y, cv=3, method="predict_proba"),
        lambda X, y: VotingClassifier([("a", clf)], voting="soft").fit(X, y),
        lambda X, y: BaggingClassifier(clf, 1, random_state=0).fit(
            X.reshape(len(X), -1), y
        ),
    ]


@pytest.mark.parametrize("k", range(3))
def test_encoded_names_of_all_classes_are_warned_about(fashion, photos, k):
    X, y = ten(photos)
    with pytest.warns(UserWarning, match=r"(?s)y holds the integers.*class_ids='lab"):
        encoders(fashion)[k](X, y)


def test_class_ids_labels_says_that_integers_are_ids(fashion, photos):
    y = np.arange(10)
    fashion.set_params(class_ids="labels").fit(photos.images[:10], y)
    assert fashion.class_ids_.tolist() == y.tolist()
    with pytest.raises(ValueError, match=r"\['bag', 'coat'\] are no class ids"):
        fashion.fit(classes=["bag", "coat"])


class Model:
    def __init__(self, names, n_labels=None):
        self.labels = {name: k for k, name in enumerate(names)}
        self.shared, self.n_labels = {}, n_labels or len(names)


SORTED, UNSORTED = Model(list("abcdef")), Model(list("bacdef"))


@pytest.mark.parametrize(
    "model, y, is_ambiguous",
    [
        (SORTED, range(6), False),  # the encoder changes nothing
        (SORTED, [0, 1, 2, 4, 5], False),
        (SORTED, [0, 1, 2], True),  # of "d", "e", "f", perhaps
        (UNSORTED, range(6), True),
        (UNSORTED, [0, 1, 2, 4, 5], True),  # a fold without "d"
        (UNSORTED, [1, 2], False),
        (UNSORTED, [0, 5], False),
        (Model([], 6), range(6), False),  # no names to encode
        (Model([], 6), range(3), True),
        (Model("ba", 1000), [0, 207, 281], False),
    ],
)
def test_which_integers_may_be_encoded(model, y, is_ambiguous, recwarn):
    labels = np.array(y)
    ids = resolve_class_ids(None, labels, labels.tolist(), model, False)
    assert ids == labels.tolist()
    assert bool(recwarn) == is_ambiguous
    resolve_class_ids(None, labels, labels.tolist(), model, True)  # classes=[...]
    resolve_class_ids("labels", labels, labels.tolist(), model, False)
    assert len(recwarn) == is_ambiguous


def test_order_with_a_gap(dit):
    dit.set_params(class_ids="order")
    for y in ([0, 1, 3], [0.0, 1.0, 3.0], [1, 2, 4], [0, 4]):
        with pytest.raises(ValueError, match=r"leave out some.*class_ids='labels'"):
            dit.fit(IMAGES[: len(y)], y)
    with pytest.raises(ValueError, match="leave out"):
        dit.fit(classes=[0, 2])
    with pytest.warns(UserWarning, match=r"labels \[1, 2\] as the classes 0 to 1"):
        dit.fit(IMAGES[:2], [1, 2])
    for y in ([0, 1, 2], [-1, 1], [10, 20, 30], ["x", "y", "z"]):
        fitted = clone(dit).fit(IMAGES[: len(y)], y)
        assert fitted.class_ids_.tolist() == list(range(len(y)))


def test_order_with_names_that_the_model_has_elsewhere(dit):
    dit.set_params(class_ids="order")
    assert dit.fit(classes=["ant", "bee"]).class_ids_.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"at other ids: \{'eel': 4\}"):
        dit.fit(classes=NAMES)
    with pytest.raises(ValueError, match=r"at other ids: \{'bee': 1, 'ant': 0\}"):
        dit.set_params(class_names=["bee", "ant"]).fit(classes=[0, 1])
    resnet = PretrainedImageClassifier(model="fashion-resnet-tiny", class_ids="order")
    with pytest.raises(ValueError, match="at other ids"):
        resnet.fit(classes=["bag", "coat"])


# Parameters that are aligned with the labels ------------------------------------------


@pytest.mark.parametrize("make", [dict, pd.Series])
def test_dict_and_series_are_aligned_by_label(clf, make):
    expected = clone(clf).fit(classes=NAMES)
    names = make({30: "eel", 10: "ant", 20: "bee", 40: "cat"})
    fitted = clone(clf).set_params(class_names=names).fit(classes=[30, 10, 20])
    proba = expected.predict_proba(IMAGES)
    np.testing.assert_array_equal(fitted.predict_proba(IMAGES), proba)

    by_position = clone(clf).set_params(priors=[0.2, 0.5, 0.3]).fit(classes=NAMES)
    priors = make({"eel": 0.3, "bee": 0.5, "ant": 0.2})
    for fitted in (
        clone(clf).set_params(priors=priors).fit(classes=NAMES[::-1]),
        clone(clf).fit(classes=NAMES[::-1]).set_params(priors=priors),
    ):
        np.testing.assert_array_equal(
            fitted.predict_proba(IMAGES), by_position.predict_proba(IMAGES)
        )


def test_class_ids_by_label(dit):
    with pytest.raises(ValueError, match="is not sorted, and class_ids is aligned"):
        dit.set_params(class_ids=[4, 2]).fit(classes=["y", "x"])
    for ids in ({"x": 4, "y": 2}, pd.Series([2, 4], index=["y", "x"])):
        fitted = dit.set_params(class_ids=ids).fit(classes=["y", "x"])
        assert fitted.class_ids_.tolist() == [4, 2]
    resnet = PretrainedImageClassifier(model="fashion-resnet-tiny")
    resnet.set_params(class_ids={"top": [0, 2], "shoe": 5})
    assert resnet.fit(classes=["shoe", "top"]).class_ids_ == [[5], [0, 2]]


@pytest.mark.parametrize(
    "names",
    [
        {"ant": "an ant", "bee": "a bee"},
        pd.Series(["a", "b", "c"]),  # its index says 0, 1, 2
        pd.Series(["a", "b", "c", "d"], index=["ant", "bee", "eel", "eel"]),
    ],
)
def test_keys_that_are_not_the_labels(clf, names):
    match = r"class_names has the (keys|index) .*unique.*aligned with the sorted"
    with pytest.raises(ValueError, match=match):
        clf.set_params(class_names=names).fit(classes=NAMES)


@pytest.mark.parametrize(
    "name, value",
    [
        ("class_names", ["bee", "cat", "eel"]),
        ("class_names", np.array(["bee", "cat", "eel"])),
        ("priors", (0.2, 0.3, 0.5)),
    ],
)
def test_unsorted_classes_beside_what_is_aligned_by_position(clf, name, value):
    clf.set_params(**{name: value})
    for classes in (["eel", "ant", "bee"], pd.Series(NAMES[::-1]), deque(NAMES[::-1])):
        with pytest.raises(ValueError, match=rf"is not sorted, and {name} is.*dict"):
            clf.fit(classes=classes)
    for classes in (NAMES, set(NAMES), np.array(NAMES), dict.fromkeys(NAMES).keys()):
        assert clf.fit(classes=classes).classes_.tolist() == NAMES


# Names -------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", " ", "\t\n", BOM, f"{BOM} "])
def test_blank_names_are_errors(clf, blank):
    with pytest.raises(ValueError, match=r"classes has .* blank"):
        clf.fit(classes=["ant", blank])
    with pytest.raises(ValueError, match=r"y has .* blank"):
        clf.fit(IMAGES[:2], ["ant", blank])
    with pytest.raises(ValueError, match=r"class_names has .* blank"):
        clf.set_params(class_names=["ant", blank]).fit(classes=[0, 1])


def test_a_byte_order_mark_is_stripped(clf, tmp_path):
    expected = clone(clf).fit(classes=NAMES).predict_proba(IMAGES)
    fitted = clone(clf).fit(classes=[f"{BOM}ant", "bee", "eel"])
    assert fitted.classes_.tolist() == NAMES
    np.testing.assert_array_equal(fitted.predict_proba(IMAGES), expected)
    clf.set_params(class_names=[f"{BOM}ant", "bee", "eel"]).fit(classes=[1, 2, 3])
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)
    path = tmp_path / "names.tsv"
    path.write_text("a\tant\nb\tbee\n", "utf-8-sig")
    assert read_table(path) == {"a": "ant", "b": "bee"}


def test_prompts_that_the_model_can_not_tell_apart(clip_folder):
    same = ["Red Bag", "red bag"], ["red bag", "red bag "]
    for clf in (
        ZeroShotDiffusionClassifier(model="fashion-scenes", n_trials=1),
        CLIPZeroShotClassifier(model="fashion-clip"),
        SyntheticDataClassifier(model="fashion-scenes", n_images_per_class=1),
    ):
        for pair in same:
            match = "can't tell the labels .* apart: .*same embedding"
            with pytest.raises(ValueError, match=match):
                clf.fit(classes=[*pair, "purple pullover"])
    clf.fit(classes=["red bag", "red bag above a shirt"])


def test_a_text_encoder_that_ignores_the_prompt():
    pipeline = tiny_sd("epsilon")
    for parameter in pipeline.text_encoder.parameters():
        parameter.data.zero_()
    clf = ZeroShotDiffusionClassifier(model=pipeline, n_trials=1)
    with pytest.raises(ValueError, match="labels ant and bee apart"):
        clf.fit(classes=NAMES)


def test_classes_of_the_same_embedding():
    pipeline = tiny_dit()
    for module in pipeline.transformer.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.data[4] = module.weight.data[0]
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=1)
    with pytest.raises(ValueError, match=r"labels ant and eel apart: \[0\] and \[4\]"):
        clf.fit(classes=NAMES)
    clf.fit(classes=["ant", "bee"])


def test_twins_among_many_classes():
    rows = np.random.RandomState(0).standard_normal((500, 40)).astype(np.float32)
    labels = np.arange(500)
    check_distinct(rows, labels, labels)
    rows[321] = rows[7] * (1 + 1e-7)
    with pytest.raises(ValueError, match="labels 7 and 321 apart"):
        check_distinct(rows, labels, labels)


# What y and classes may be -----------------------------------------------------------


@pytest.mark.parametrize("missing", [None, np.nan, float("nan"), pd.NA])
def test_missing_labels_are_named(clf, missing):
    for make in (list, pd.Series, deque, lambda y: np.array(y, object)):
        with pytest.raises(ValueError, match=r"y has None or NaN at the indices \[1"):
            clf.fit(IMAGES[:3], make(["ant", missing, "bee"]))


@pytest.mark.parametrize("y", [["ant", 1, "bee"], ["ant", True, "bee"]])
def test_mixed_labels_are_named(clf, y):
    for make in (list, lambda y: np.array(y, object)):
        with pytest.raises(ValueError, match="y mixes labels of type str and"):
            clf.fit(IMAGES[:3], make(y))


def test_collections_of_labels(clf):
    y = ["ant", "eel", "bee"]
    column = datasets.Dataset.from_dict({"label": y})["label"]
    for labels in (deque(y), dict(enumerate(y)).values(), column):
        assert clf.fit(IMAGES[:3], labels).classes_.tolist() == NAMES
    strings = np.array(y, np.dtypes.StringDType())
    for labels in (strings, pd.Series(y, dtype="string")):
        assert clf.fit(IMAGES[:3], labels).classes_.tolist() == NAMES


@pytest.mark.parametrize(
    "classes, match",
    [
        ({0: "bag", 1: "coat"}, r"is a dict; pass .*classes=\[0, 1\].*class_names="),
        ((name for name in NAMES), "classes=.* is of type generator; pass a list"),
        (3, "classes=3 is of type int; pass a list"),
        ({"ant"}, "two or more"),
    ],
)
def test_classes_of_other_types(clf, classes, match):
    with pytest.raises(ValueError, match=match):
        clf.fit(classes=classes)
