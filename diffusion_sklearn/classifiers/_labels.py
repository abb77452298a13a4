"""The label set: sorted labels, their names, and the model's class ids."""

import warnings
from collections import Counter
from difflib import get_close_matches
from numbers import Integral

import numpy as np


def resolve_classes(classes, y):
    """The sorted label set.

    Parameters
    ----------
    classes : array-like of shape (n_classes,) or None
        The label set, if the user named one.
    y : ndarray of shape (n_images,) or None
        Labels seen by `fit`; the label set if `classes` is None.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted and unique.

    Raises
    ------
    ValueError
        If it is empty, of one class, has duplicates or mixed types, or if `y` has
        other labels.
    """
    if classes is None:
        labels = np.unique(y)
        if len(labels) < 2:
            raise ValueError(
                f"y has {len(labels)} class(es), {labels.tolist()!r}; a classifier "
                "needs two or more: pass classes=[...] with the whole label set."
            )
        return labels
    if isinstance(classes, str):
        raise ValueError(
            f"classes={classes!r} is one str; pass a list, of two or more."
        )
    labels = np.asarray(classes, dtype=object).ravel().tolist()
    if len(labels) < 2:
        raise ValueError(
            f"classes={labels!r} has {len(labels)} name(s); a classifier needs two or "
            "more."
        )
    have_one_type = any(
        all(isinstance(label, kind) and not isinstance(label, bool) for label in labels)
        for kind in (str, (int, np.integer))
    )
    if not have_one_type:
        raise ValueError(
            f"classes={labels!r} must be all str, or all int with class_names; convert "
            "them, for instance [str(c) for c in classes]."
        )
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(
            f"classes has {repeated!r} more than once; name each label once."
        )
    labels = np.unique(np.array(labels))
    unknown_labels = set() if y is None else set(y.tolist()) - set(labels.tolist())
    if unknown_labels:
        raise ValueError(
            f"y has the labels {sorted(unknown_labels)!r}, which are none of "
            f"classes={labels.tolist()!r}; add them to classes. Where a meta-estimator "
            "encodes labels, pass class_names in place of classes."
        )
    return labels


def resolve_names(labels, class_names):
    """The name of each label.

    Parameters
    ----------
    labels : ndarray of shape (n_classes,)
        The sorted labels.
    class_names : array-like of shape (n_classes,) or None
        Names aligned with the sorted labels.

    Returns
    -------
    names : list of length n_classes
        `class_names`, or the labels themselves.

    Raises
    ------
    ValueError
        If `class_names` does not fit the labels.
    """
    if class_names is None:
        return labels.tolist()
    if isinstance(class_names, dict):
        raise ValueError(
            "class_names is a dict; pass a list aligned with the sorted labels "
            f"{labels.tolist()!r}: meta-estimators encode labels and lose the keys."
        )
    names = list(class_names)
    if len(names) != len(labels):
        raise ValueError(
            f"class_names has {len(names)} names for the {len(labels)} sorted labels "
            f"{labels.tolist()!r}; pass one name for each, and classes=[...] if y does "
            "not hold every label."
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"class_names has {repeated!r} more than once; names must differ."
        )
    invalid = [n for n in names if not isinstance(n, str) or not n.strip()]
    if invalid:
        raise ValueError(f"class_names has {invalid!r}; every name must be a str.")
    return names


def resolve_class_ids(class_ids, labels, names, model, classes_given):
    """The model's class of each label.

    Parameters
    ----------
    class_ids : array-like of shape (n_classes,), "order" or None
        The estimator's parameter. None: names are looked up, integers are ids.
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
        If there is no such class, or two labels share one.
    """
    if isinstance(class_ids, str):  # "order"
        ids = list(range(len(labels)))
    elif class_ids is not None:
        ids = np.asarray(class_ids).ravel().tolist()
        if len(ids) != len(labels):
            raise ValueError(
                f"class_ids has {len(ids)} ids for the {len(labels)} sorted labels "
                f"{labels.tolist()!r}; pass one for each."
            )
    else:
        ids = _look_up(names, model)
    _check_ids(ids, labels.tolist(), model.n_labels)
    if (
        class_ids is None
        and not classes_given
        and _may_be_encoded(names, model.n_labels)
    ):
        read = [name for name, i in model.labels.items() if i in ids]
        warnings.warn(
            f"y holds the integers 0 to {len(ids) - 1}, read as the model's own "
            f"classes {ids}{f' ({read})' if read else ''}. If they are encoded "
            "labels (by LabelEncoder, VotingClassifier, cross_val_predict with "
            "method='predict_proba', ...), pass class_names=[...] or "
            "class_ids=[...] aligned with the sorted labels.",
            UserWarning,
            stacklevel=4,
        )
    return ids


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


def _may_be_encoded(names, n_labels):
    """Whether labels look like what an encoder makes of a few classes."""
    return names == list(range(len(names))) and len(names) < n_labels


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
