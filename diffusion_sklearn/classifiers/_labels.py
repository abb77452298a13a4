"""The label set: sorted labels, their names, and what is aligned with them."""

from collections import Counter

import numpy as np
from sklearn.utils.validation import check_consistent_length, column_or_1d

BOM = "\ufeff"


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
        If it is empty, of one class, has duplicates, mixed types or blank names, or if
        `y` has other labels.
    """
    if classes is None:
        labels = np.unique(y)
        _check_names("y", labels.tolist())
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
    if isinstance(classes, dict):
        raise ValueError(
            f"classes={classes!r} is a dict; pass its labels, classes="
            f"{list(classes)!r}, and its values, if they are names, as class_names="
            f"{classes!r}."
        )
    if not hasattr(classes, "__len__"):
        raise ValueError(
            f"classes={classes!r} is of type {type(classes).__name__}; pass a list."
        )
    labels = _as_list(classes)
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
    labels = _without_bom(labels)
    _check_names("classes", labels)
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


def _as_list(classes):
    if hasattr(classes, "__array__"):
        classes = np.asarray(classes, dtype=object).ravel().tolist()
    return list(classes)


def check_labels(y):
    """Raise where a label is missing, or str and other labels are mixed.

    Parameters
    ----------
    y : array-like of shape (n_images,)
        As the user passed it.

    Returns
    -------
    y : array-like of shape (n_images,)
        As an array of one type; what is no collection, as it is.

    Raises
    ------
    ValueError
        With the indices.
    """
    if isinstance(y, (str, dict)) or not hasattr(y, "__len__"):
        return y
    y = np.asarray(y) if hasattr(y, "__array__") else list(y)
    if isinstance(y, np.ndarray) and (y.ndim != 1 or y.dtype.kind not in "OT"):
        return y  # scikit-learn names NaN
    labels = list(y)
    missing = [k for k, label in enumerate(labels) if is_missing(label)]
    if missing:
        raise ValueError(
            f"y has None or NaN at the indices {missing[:5]}"
            f"{', ...' if missing[5:] else ''}; label these images or leave them out."
        )
    kinds = {isinstance(label, str): type(label).__name__ for label in labels}
    if len(kinds) > 1:
        raise ValueError(
            f"y mixes labels of type {kinds[True]} and {kinds[False]}; convert them, "
            "for instance [str(label) for label in y]."
        )
    return np.array([str(x) if isinstance(x, str) else x for x in labels])


def check_known(y, classes, X):
    """Labels of images as an array, which a fitted classifier must know.

    Parameters
    ----------
    y : array-like of shape (n_images,)
    classes : ndarray of shape (n_classes,)
        The sorted labels of the classifier.
    X : list, array-like or Tensor of n_images
        Images, whose number is compared.

    Returns
    -------
    y : ndarray of shape (n_images,)

    Raises
    ------
    ValueError
        If a label is none of `classes`, or the numbers differ.
    """
    y = column_or_1d(y)
    check_consistent_length(X, y)
    unknown_labels = sorted(set(y.tolist()) - set(classes.tolist()), key=str)
    if unknown_labels:
        raise ValueError(
            f"y has {unknown_labels!r}, which are none of "
            f"classes_={classes.tolist()!r}; leave those images out, or fit the "
            "classifier on all classes."
        )
    return y


def is_missing(label):
    """Whether a label is None, NaN or the NA of pandas."""
    if isinstance(label, (float, np.floating)):
        return bool(np.isnan(label))
    return label is None or type(label).__name__ == "NAType"  # of pandas


def align(name, values, labels):
    """Values of a parameter in the order of the sorted labels.

    Parameters
    ----------
    name : str
        The parameter, for error messages.
    values : dict, Series or sequence
        By label (the keys of a dict, the index of a pandas Series), or aligned with
        the sorted labels.
    labels : ndarray of shape (n_classes,)
        The sorted labels.

    Returns
    -------
    values : sequence
        A dict or Series as a list, what is aligned already as it is.

    Raises
    ------
    ValueError
        If a label is no key.
    """
    if not is_keyed(values):
        return values
    by_label = dict(values.items())
    missing = [label for label in labels.tolist() if label not in by_label]
    if missing or len(by_label) < len(values):
        raise ValueError(
            f"{name} has the {'keys' if isinstance(values, dict) else 'index'} "
            f"{list(values.keys())[:10]!r}, which must be unique and have the labels "
            f"{missing[:10]!r}; or pass a list aligned with the sorted labels "
            f"{labels.tolist()!r}, as for meta-estimators, which encode labels."
        )
    return [by_label[label] for label in labels.tolist()]


def is_keyed(values):
    """Whether values are found by label: a dict or a pandas Series.

    Parameters
    ----------
    values : object
        A parameter.

    Returns
    -------
    is_keyed : bool
    """
    return hasattr(values, "keys") and hasattr(values, "items")


def check_sorted(classes, labels, params):
    """Raise if classes are not sorted and a parameter is aligned by position.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        As the user wrote them; the order of a set means nothing.
    labels : ndarray of shape (n_classes,)
        The sorted labels.
    params : dict of str to object
        Parameters that are aligned with the labels.

    Raises
    ------
    ValueError
        With the order that is meant.
    """
    written = _without_bom(_as_list(classes))
    if isinstance(classes, (set, frozenset)) or written == labels.tolist():
        return
    for name, values in params.items():
        if values is not None and not isinstance(values, str) and not is_keyed(values):
            raise ValueError(
                f"classes={written!r} is not sorted, and {name} is aligned with the "
                f"sorted labels {labels.tolist()!r}; sort classes, or pass {name} as a "
                "dict with the labels as keys."
            )


def resolve_names(labels, class_names):
    """The name of each label.

    Parameters
    ----------
    labels : ndarray of shape (n_classes,)
        The sorted labels.
    class_names : array-like of shape (n_classes,), dict, Series or None
        Names aligned with the sorted labels, or by label.

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
    names = _without_bom(align("class_names", class_names, labels))
    if len(names) != len(labels):
        raise ValueError(
            f"class_names has {len(names)} names for the {len(labels)} sorted labels "
            f"{labels.tolist()!r}; pass one name for each, and classes=[...] if y does "
            "not hold every label."
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"class_names has {repeated!r} more than once; names, aligned with the "
            f"sorted labels {labels.tolist()!r}, must differ."
        )
    invalid = [name for name in names if not isinstance(name, str)]
    if invalid:
        raise ValueError(f"class_names has {invalid!r}; every name must be a str.")
    _check_names("class_names", names)
    return names


def _without_bom(names):
    """Names without the byte order mark that a file of names may begin with."""
    return [x.removeprefix(BOM) if isinstance(x, str) else x for x in names]


def _check_names(parameter, names):
    blank = [x for x in names if isinstance(x, str) and not x.strip(BOM).strip()]
    if blank:
        raise ValueError(
            f"{parameter} has {blank!r}, which is blank; every name must be a str with "
            "a visible character."
        )


def check_distinct(embeddings, labels, conditions, tolerance=1e-5):
    """Raise if two classes have the same embedding.

    Parameters
    ----------
    embeddings : ndarray of shape (n_classes, d)
        What the model sees of each class.
    labels : ndarray of shape (n_classes,)
        The sorted labels.
    conditions : list of length n_classes
        Prompts or class ids of each class, for the message.
    tolerance : float, default=1e-5
        Largest distance, relative to the norm, that is rounding.

    Raises
    ------
    ValueError
        With the labels and their conditions.
    """
    direction = np.random.RandomState(0).standard_normal(embeddings.shape[1])
    projected = embeddings @ direction.astype(embeddings.dtype)
    limit = tolerance * np.linalg.norm(embeddings, axis=1).max()
    order = projected.argsort(kind="stable")
    for k, first in enumerate(order):  # the same embedding is projected nearby
        for second in order[k + 1 :]:
            if projected[second] - projected[first] > 10 * limit:
                break
            if np.linalg.norm(embeddings[second] - embeddings[first]) <= limit:
                a, b = sorted([first, second])
                raise ValueError(
                    f"The model can't tell the labels {labels[a]!s} and {labels[b]!s} "
                    f"apart: {conditions[a]!r} and {conditions[b]!r} have the same "
                    "embedding. Leave one of these classes out, or name it otherwise "
                    "(class_names, prompt_template)."
                )
