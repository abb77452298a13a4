"""The log prior of each image's classes: priors, class offsets and prefilter."""

import numpy as np

from diffusion_sklearn.classifiers._labels import align, check_known
from diffusion_sklearn.classifiers._prefilter import candidates, prefilter_log_proba
from diffusion_sklearn.engine._gradients import predict_errors
from diffusion_sklearn.engine._weights import as_numbers
from diffusion_sklearn.engine._workers import has_workers, predict_errors_of_workers


def resolve_log_prior(clf, X, images, plan):
    """Log prior of each image's classes, -inf where none is evaluated.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    X : list, array-like or Tensor of n_images
        Images, as the user passed them.
    images : sequence of n_images
        The same, checked.
    plan : Plan
        That of the prediction.

    Returns
    -------
    log_prior : ndarray of shape (n_images, n_classes)
    outside : ndarray of shape (n_images, n_classes)
        The prefilter's probability of the classes outside its candidates.
    n_evaluations : int or ndarray of shape (n_images,)
        Network evaluations that the prefilter took.
    searched : ndarray of shape (n_images, n_classes) or None
        Errors of ``plan.search_trial`` that these found.
    """
    log_prior = fitted_log_prior(clf)
    shape = len(images), clf.n_classes_
    if clf.prefilter_ is None:
        return np.full(shape, log_prior), np.zeros(shape), 0, None
    scores, n_evaluations, searched = _prefilter_scores(clf, X, images, plan, log_prior)
    active, proba = candidates(scores, clf.n_candidates, np.isfinite(log_prior))
    outside = np.where(active, 0, proba)
    if clf.prefilter_weight:
        proba = np.maximum(proba, np.finfo(float).tiny)
        log_prior = log_prior + clf.prefilter_weight * np.log(proba)
    return np.where(active, log_prior, -np.inf), outside, n_evaluations, searched


def _prefilter_scores(clf, X, images, plan, log_prior):
    """The prefilter's log-probabilities, their evaluations, and errors found."""
    eligible = np.isfinite(log_prior)
    if not isinstance(clf.prefilter_, str):
        return prefilter_log_proba(clf.prefilter_, X, clf.classes_), 0, None
    if eligible.sum() <= clf.n_candidates:
        return np.zeros((len(images), clf.n_classes_)), 0, None
    null = plan.backbone.encode_null(clf.null_condition)
    search = plan, images, null, clf.n_candidates, eligible
    if has_workers(clf.n_jobs, len(images)):
        predicted = predict_errors_of_workers(*search, clf.n_jobs)
    else:
        predicted = predict_errors(*search)
    errors, searched, n_evaluations = predicted
    scores = log_prior - errors * plan.n_elements / clf.temperature
    return scores, n_evaluations, searched


def check_priors(priors, classes):
    """Class priors as an array.

    Parameters
    ----------
    priors : array-like of shape (n_classes,), dict, Series or None
        As in the estimators.
    classes : ndarray of shape (n_classes,)
        The sorted labels.

    Returns
    -------
    priors : ndarray of shape (n_classes,), float64, or None

    Raises
    ------
    ValueError
        Unless they are numbers, one for each class, not negative, with sum 1.
    """
    if priors is None:
        return None
    values = as_numbers("priors", align("priors", priors, classes))
    if values.shape != classes.shape:
        raise ValueError(
            f"priors has shape {values.shape}; pass {len(classes)} numbers, aligned "
            f"with the sorted labels {classes.tolist()}."
        )
    if not np.all(values >= 0) or not np.isclose(values.sum(), 1):
        raise ValueError(
            f"priors={values.tolist()} must not be negative and must sum to 1; their "
            f"sum is {values.sum():.6g}."
        )
    return values


def check_class_offsets(class_offsets, classes):
    """Class offsets as an array.

    Parameters
    ----------
    class_offsets : array-like of shape (n_classes,), dict, Series or None
        As in the estimators.
    classes : ndarray of shape (n_classes,)
        The sorted labels.

    Returns
    -------
    class_offsets : ndarray of shape (n_classes,), float64
        Zeros for None.

    Raises
    ------
    ValueError
        Unless they are finite numbers, one for each class.
    """
    if class_offsets is None:
        return np.zeros(len(classes))
    class_offsets = align("class_offsets", class_offsets, classes)
    values = as_numbers("class_offsets", class_offsets)
    if values.shape != classes.shape or not np.isfinite(values).all():
        raise ValueError(
            f"class_offsets={class_offsets!r} must be {len(classes)} finite numbers, "
            f"aligned with the sorted labels {classes.tolist()}; fit_class_offsets("
            "clf, X) gives some."
        )
    return values


def with_priors(log_likelihood, priors):
    """Log-likelihoods plus log priors; a prior of 0 rules a class out.

    Parameters
    ----------
    log_likelihood : ndarray of shape (n_images, n_classes)
        Up to a constant for each image.
    priors : ndarray of shape (n_classes,) or None
        None: uniform, which adds nothing.

    Returns
    -------
    log_joint : ndarray of shape (n_images, n_classes)
    """
    if priors is None:
        return log_likelihood
    with np.errstate(divide="ignore"):
        return log_likelihood + np.log(priors)


def fitted_priors(clf):
    """Priors of the sorted labels; None: uniform."""
    return check_priors(clf.priors, clf.classes_)


def fitted_offsets(clf):
    """Class offsets of the sorted labels."""
    return check_class_offsets(clf.class_offsets, clf.classes_)


def fitted_log_prior(clf):
    """Class offsets plus log priors, (n_classes,); -inf for a prior of 0."""
    return with_priors(fitted_offsets(clf), fitted_priors(clf))


def check_truth(clf, X, y):
    """Index of the true class of each image.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    X : sequence of n_images
        Images, as the user passed them.
    y : array-like of shape (n_images,)
        Labels.

    Returns
    -------
    truth : ndarray of shape (n_images,), int64

    Raises
    ------
    ValueError
        If a label is no class, or one of a prior of 0.
    """
    y, priors = check_known(y, clf.classes_, X), fitted_priors(clf)
    truth = np.searchsorted(clf.classes_, y)
    if priors is not None and not priors[truth].all():
        impossible = np.unique(y[priors[truth] == 0]).tolist()
        raise ValueError(
            f"y has {impossible!r}, to which priors={priors.tolist()} give 0; "
            "leave those images out, or give their classes a prior above 0."
        )
    return truth
