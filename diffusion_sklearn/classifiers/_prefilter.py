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


def candidates(prefilter, X, classes, n_candidates, priors=None):
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
    priors : ndarray of shape (n_classes,), default=None
        Class priors. A class of prior 0 is none; the others weigh only those that
        stay, later.

    Returns
    -------
    alive : ndarray of shape (n_images, n_classes), bool
        Who stays.
    rest : ndarray of shape (n_images, n_classes), float64
        The prefilter's probability of those that do not stay, 0 for those that do.
    """
    found = prefilter.predict_proba(X)  # (n, its classes)
    proba = np.zeros((len(found), len(classes)))
    for column, label in enumerate(prefilter.classes_):
        proba[:, classes == label] = found[:, [column]]
    if priors is not None:
        proba[:, priors == 0] = 0
    rank = (-proba).argsort(axis=1, kind="stable").argsort(axis=1)
    alive = rank < n_candidates
    known = np.maximum(proba.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return alive, np.where(alive, 0, proba / known)


def add_the_rest(log_proba, alive, rest):
    r"""Share the probability between the candidates and the other classes.

    The prefilter says whether the class is among the candidates S, and which of the
    others it is; the diffusion model says which of the candidates,

    .. math:: p(c) = p_\text{prefilter}(c \in S) \; p_\text{diffusion}(c | c \in S).

    So one candidate is the prefilter, and all classes are the diffusion model alone. No
    class outside S comes first, since the best of S has at least its average.

    Parameters
    ----------
    log_proba : ndarray of shape (n_images, n_classes)
        Log posterior among the candidates.
    alive, rest : ndarray of shape (n_images, n_classes)
        From :func:`candidates`.

    Returns
    -------
    log_proba : ndarray of shape (n_images, n_classes), float64
        Log posterior of all classes.
    """
    log_proba = log_proba + np.log1p(-rest.sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        outside = np.minimum(np.log(rest), log_proba.max(axis=1, keepdims=True) - 1e-9)
    return np.where(alive, log_proba, outside)


def groups_with_the_rest(groups, alive, rest):
    """Scored groups of images, with :func:`add_the_rest` on their log posterior.

    Parameters
    ----------
    groups : iterator
        Of (number of images, evaluations, what is kept of them: their evaluations,
        log posterior, and more).
    alive, rest : ndarray of shape (n_images, n_classes)
        From :func:`candidates`, of all images.

    Yields
    ------
    group : tuple
        As it came, but for the log posterior.
    """
    start = 0
    for n_images, n_evaluations, (costs, log_proba, *more) in groups:
        rows = slice(start, start + n_images)
        log_proba = add_the_rest(log_proba, alive[rows], rest[rows])
        yield n_images, n_evaluations, (costs, log_proba, *more)
        start = rows.stop
