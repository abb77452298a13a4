"""The prefilter: a cheap classifier chooses the classes to evaluate."""

import numpy as np
from scipy.special import softmax
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
        If it is no classifier with predict_proba, can't be fitted, or has none of
        the classes.
    """
    if not hasattr(prefilter, "predict_proba"):
        raise ValueError(
            f"prefilter={prefilter!r} has no predict_proba; pass a classifier that "
            "has, for instance CalibratedClassifierCV(prefilter)."
        )
    params = {"classes": classes} if has_fit_parameter(prefilter, "classes") else {}
    try:
        prefilter = clone(prefilter).fit(X, y, **params)
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


def prefilter_log_proba(prefilter, X, classes):
    """Log-probabilities of our classes by a prefilter.

    Parameters
    ----------
    prefilter : classifier
        Fitted; a class that it lacks has probability 0.
    X
        Images, as the user passed them.
    classes : ndarray of shape (n_classes,)
        The sorted labels.

    Returns
    -------
    log_proba : ndarray of shape (n_images, n_classes), float64
        Not normalised where the prefilter has other classes too.

    Raises
    ------
    ValueError
        If a probability is NaN or negative.
    """
    given = prefilter.predict_proba(X)  # (n, its classes)
    proba = np.zeros((len(given), len(classes)))
    for column, label in enumerate(prefilter.classes_):
        proba[:, classes == label] = given[:, [column]]
    impossible = np.flatnonzero(~(proba >= 0).all(axis=1))
    if len(impossible):
        raise ValueError(
            f"prefilter={prefilter!r} gave NaN or less than 0 as a probability, first "
            f"for X[{impossible[0]}]; pass one that is trained well, or None."
        )
    with np.errstate(divide="ignore"):
        return np.log(proba)


def candidates(log_proba, n_candidates, eligible):
    """Classes worth evaluating (Li et al., ICCV 2023, appendix B).

    Parameters
    ----------
    log_proba : ndarray of shape (n_images, n_classes)
        Log-probabilities by the prefilter, up to a constant for each image.
    n_candidates : int
        How many classes are evaluated.
    eligible : ndarray of shape (n_classes,), bool
        Classes whose prior is not 0.

    Returns
    -------
    active : ndarray of shape (n_images, n_classes), bool
        The candidates.
    proba : ndarray of shape (n_images, n_classes), float64
        The prefilter's probability of every class.
    """
    # A class of probability 0 still comes before those that are not eligible.
    log_proba = np.maximum(log_proba, np.finfo(float).min)
    log_proba = np.where(eligible, log_proba, -np.inf)
    rank = (-log_proba).argsort(axis=1, kind="stable").argsort(axis=1)
    return eligible & (rank < n_candidates), softmax(log_proba, axis=1)


def combine_with_prefilter(log_proba, outside):
    r"""Divide the probability between the candidates and the other classes.

    The prefilter gives the probability of the candidates S together, and of each class
    outside; the diffusion model that of each candidate,

    .. math:: p(c) = p_\text{prefilter}(c \in S) \; p_\text{diffusion}(c | c \in S).

    So one candidate is the prefilter, and all classes are the diffusion model alone. No
    class outside S comes first, since the best of S has at least its average.

    Parameters
    ----------
    log_proba : ndarray of shape (n_images, n_classes)
        Log posterior among the candidates.
    outside : ndarray of shape (n_images, n_classes)
        The prefilter's probability of the other classes, 0 for the candidates.

    Returns
    -------
    log_proba : ndarray of shape (n_images, n_classes), float64
        Log posterior of all classes.
    """
    log_proba = log_proba + np.log1p(-outside.sum(axis=1, keepdims=True))
    limit = log_proba.max(axis=1, keepdims=True) - 1e-9
    with np.errstate(divide="ignore"):
        return np.maximum(log_proba, np.minimum(np.log(outside), limit))
