"""The model's class of each label."""

import warnings
from difflib import get_close_matches
from itertools import pairwise
from numbers import Integral

import numpy as np

from diffusion_sklearn.classifiers._labels import align


def resolve_class_ids(class_ids, labels, names, model, classes_given):
    """The model's class of each label.

    Parameters
    ----------
    class_ids : array-like of shape (n_classes,), dict, Series, str or None
        The estimator's parameter: aligned with the sorted labels, by label, "order",
        "labels", or None: names are looked up, integers are ids.
    labels : ndarray of shape (n_classes,)
        The sorted labels.
    names : list of length n_classes
        The name of each label.
    model : object
        With ``labels``, a dict from names to class ids, ``shared``, a dict from names
        of several classes to their ids, and ``n_labels``, the number of classes.
    classes_given : bool
        Whether the user gave the classes, rather than `y`.

    Returns
    -------
    ids : list of int

    Raises
    ------
    ValueError
        If there is no such class, two labels share one, or the order of the labels is
        not that of the model's classes.

    Warns
    -----
    UserWarning
        If integers in `y` may be labels that a meta-estimator has encoded.
    """
    if isinstance(class_ids, str):
        ids = list(range(len(labels))) if class_ids == "order" else labels.tolist()
    elif class_ids is not None:
        ids = np.asarray(align("class_ids", class_ids, labels)).ravel().tolist()
        if len(ids) != len(labels):
            raise ValueError(
                f"class_ids has {len(ids)} ids for the {len(labels)} sorted labels "
                f"{labels.tolist()!r}; pass one for each."
            )
    else:
        ids = _look_up(names, model)
    _check_ids(ids, labels.tolist(), model.n_labels)
    if isinstance(class_ids, str) and class_ids == "order":
        _check_order(labels, names, model, classes_given)
    if class_ids is None and not classes_given and _may_be_encoded(names, model):
        by_id = sorted(model.labels.items(), key=lambda item: item[1])
        read = [name for name, i in by_id if i in ids]
        warnings.warn(
            f"y holds the integers {_abbreviate(ids)}, read as the model's own "
            f"classes {_abbreviate(ids)}{f' ({_abbreviate(read)})' if read else ''}. "
            "If they are encoded labels (by LabelEncoder, VotingClassifier, "
            "cross_val_predict with method='predict_proba', ...), pass "
            "class_names=[...] or class_ids=[...] aligned with the sorted labels. If "
            "they are the model's own ids, pass class_ids='labels'.",
            UserWarning,
            stacklevel=4,
        )
    return ids


def _abbreviate(values):
    return f"{values[:10]}"[:-1] + (", ...]" if len(values) > 10 else "]")


def _check_order(labels, names, model, classes_given):
    """Raise if labels or names say that the k-th label is not class k."""
    elsewhere = {
        name: model.labels[name]
        for k, name in enumerate(names)
        if isinstance(name, str) and model.labels.get(name, k) != k
    }
    if elsewhere:
        raise ValueError(
            "class_ids='order' means that the k-th sorted label is class k, but the "
            f"model has these names at other ids: {elsewhere!r}. Pass class_ids=None, "
            "which looks names up, or class_ids=[...] aligned with the sorted labels."
        )
    integers = labels.tolist() if labels.dtype.kind in "iuf" else []
    are_ids = bool(integers) and 0 <= integers[0] and integers[-1] < model.n_labels
    if are_ids and any(b - a != 1 for a, b in pairwise(integers)):
        raise ValueError(
            f"class_ids='order' with the labels {integers!r}, which leave out some of "
            f"0 to {integers[-1]:g}, as a fold does that lacks a class. Pass "
            "classes=[...] with the whole label set, class_ids='labels' if they are "
            "the model's ids, or class_ids=[...] aligned with the sorted labels."
        )
    if not classes_given and are_ids and integers[0] > 0:
        warnings.warn(
            f"class_ids='order' reads the labels {_abbreviate(integers)} as the "
            f"classes 0 to {len(integers) - 1}. If y lacks a class, pass classes=[...] "
            "with the whole label set.",
            UserWarning,
            stacklevel=5,
        )


def _check_ids(ids, labels, n_labels):
    invalid = [
        i
        for i in ids
        if not isinstance(i, Integral) or isinstance(i, bool) or not 0 <= i < n_labels
    ]
    if invalid:
        raise ValueError(
            f"{invalid!r} are no class ids of the model, which are the integers 0 to "
            f"{n_labels - 1}; pass class_ids=[...] or class_names=[...] aligned with "
            f"the sorted labels {labels!r}, or class_ids='order'."
        )
    shared = [label for label, i in zip(labels, ids, strict=True) if ids.count(i) > 1]
    if shared:
        raise ValueError(
            f"The labels {shared!r} share a class of the model, which can't tell them "
            "apart; keep one of them."
        )


def _may_be_encoded(names, model):
    """Whether labels may be what an encoder makes of names.

    They do if they are integers from 0 with few gaps (a fold may lack a class). Where
    they reach the model's last class, they are the same with or without an encoder,
    unless its names are in another order than sorted.
    """
    if names[0] != 0 or not all(isinstance(name, Integral) for name in names):
        return False
    n_encoded = names[-1] + 1
    if 2 * len(names) <= n_encoded:
        return False
    if n_encoded < model.n_labels:
        return True
    # The first of the synonyms of a class.
    first = {i: name for name, i in reversed(model.labels.items())}
    by_id = [first[i] for i in sorted(first)]
    return by_id != sorted(by_id)


def _look_up(names, model):
    """Ids of names; what is no str is an id already."""
    labels, shared = model.labels, model.shared
    unclear = {name: shared[name] for name in names if name in shared}
    if unclear:
        raise ValueError(
            f"Names of several classes of the model: {unclear!r}. Pass class_ids=[...] "
            "aligned with the sorted labels, or their full names."
        )
    unknown = [name for name in names if isinstance(name, str) and name not in labels]
    if unknown and not labels:
        raise ValueError(
            f"The model has no names for its classes, {unknown!r} can't be looked "
            "up; pass class_ids=[...] aligned with the sorted labels."
        )
    if unknown:
        lower = {name.lower(): name for name in labels}
        close = [
            (name, get_close_matches(name.lower(), lower, n=1)) for name in unknown
        ]
        hints = [f"{lower[near[0]]!r} for {name!r}" for name, near in close if near]
        raise ValueError(
            f"The model has no classes named {unknown!r}"
            + (f" (did you mean {', '.join(hints)}?)" if hints else "")
            + f". It knows {len(labels)} names: {', '.join([*labels][:20])}"
            f"{', ...' if len(labels) > 20 else ''}. Use those, "
            "or pass class_names or class_ids aligned with the sorted labels; only "
            "ZeroShotDiffusionClassifier takes classes of any name."
        )
    return [labels[name] if isinstance(name, str) else name for name in names]
