"""A cheap classifier first: only its best classes are scored."""

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter


def fit_prefilter(prefilter, X, y, classes):
    """Fit a copy of the prefilter on what `fit` was given.

    Parameters
    ----------
    prefilter : classifier
        One that is fitted already comes in a ``FrozenEstimator``.
    X, y
        As the user passed them.
    classes : ndarray of shape (n_classes,)
        The label set, for a prefilter whose `fit` takes it.

    Returns
    -------
    prefilter : classifier
        Fitted.

    Raises
    ------
    ValueError
        If it is no classifier with predict_proba, can't be fitted, or knows none of
        the classes.
    """
    if not hasattr(prefilter, "predict_proba"):
        raise ValueError(
            f"prefilter={prefilter!r} has no predict_proba; pass a classifier that "
            "has, for instance CalibratedClassifierCV(prefilter)."
        )
    named = {"classes": classes} if has_fit_parameter(prefilter, "classes") else {}
    try:
        prefilter = clone(prefilter).fit(X, y, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"prefilter={prefilter!r} can't be fitted on the X and y of fit ({error}); "
            "fit it beforehand and pass FrozenEstimator(prefilter)."
        ) from error
    if not np.isin(prefilter.classes_, classes).any():
        raise ValueError(
            f"prefilter has the classes {prefilter.classes_.tolist()}, none of "
            f"{classes.tolist()}; train it on the same labels."
        )
    return prefilter


def candidates(prefilter, X, classes, n_candidates):
    """Classes worth scoring (Li et al., ICCV 2023, appendix B).

    Parameters
    ----------
    prefilter : classifier
        Fitted; a class that it does not know has probability 0.
    X
        Images, as the user passed them.
    classes : ndarray of shape (n_classes,)
        The sorted labels.
    n_candidates : int
        How many of them stay.

    Returns
    -------
    alive : ndarray of shape (n_images, n_classes), bool
    """
    found = prefilter.predict_proba(X)  # (n, its classes)
    proba = np.zeros((len(found), len(classes)))
    for column, label in enumerate(prefilter.classes_):
        proba[:, classes == label] = found[:, [column]]
    rank = (-proba).argsort(axis=1, kind="stable").argsort(axis=1)
    return rank < n_candidates
