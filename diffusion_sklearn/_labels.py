"""From what the user says of the label set to sorted labels and their names."""

from collections import Counter

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
        labels beside it.
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
    of_one_kind = any(
        all(isinstance(label, kind) and not isinstance(label, bool) for label in labels)
        for kind in (str, (int, np.integer))
    )
    if not of_one_kind:
        raise ValueError(
            f"classes={labels!r} must be all str, or all int with class_names; convert "
            "them, for instance [str(c) for c in classes]."
        )
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"classes has {twice!r} more than once; name each label once.")
    labels = np.unique(np.array(labels))
    strangers = set() if y is None else set(y.tolist()) - set(labels.tolist())
    if strangers:
        raise ValueError(
            f"y has the labels {sorted(strangers)!r}, which are none of "
            f"classes={labels.tolist()!r}; add them to classes. Where a meta-estimator "
            "encodes labels, pass class_names in place of classes."
        )
    return labels


def names_of(labels, class_names):
    """What each label is called.

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
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"class_names has {twice!r} more than once; names must differ."
        )
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise ValueError(f"class_names has {wrong!r}; every name must be a str.")
    return names
