"""The log prior of each image's classes: priors, class offsets and prefilter."""

import numpy as np

from diffusion_sklearn.classifiers._labels import align
from diffusion_sklearn.classifiers._prefilter import candidates, prefilter_log_proba
from diffusion_sklearn.engine._gradients import predict_errors
from diffusion_sklearn.engine._posterior import check_class_offsets, with_priors
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

    Raises
    ------
    ValueError
        If no class of an image is left.
    """
    priors = clf._priors()
    offsets = align("class_offsets", clf.class_offsets, clf.classes_)
    log_prior = with_priors(check_class_offsets(offsets, clf.classes_), priors)
    shape = len(images), clf.n_classes_
    active, outside, n_evaluations = np.ones(shape, bool), np.zeros(shape), 0
    if clf.prefilter_ is not None:
        eligible = np.isfinite(log_prior)
        log_proba, n_evaluations = _prefilter_scores(clf, X, images, plan, eligible)
        active, proba = candidates(log_proba, clf.n_candidates, eligible)
        outside = np.where(active, 0, proba)
        if clf.prefilter_weight:
            proba = np.maximum(proba, np.finfo(float).tiny)
            log_prior = log_prior + clf.prefilter_weight * np.log(proba)
    log_prior = np.where(active, log_prior, -np.inf)
    if np.isneginf(log_prior).all(axis=1).any():
        raise ValueError(
            f"priors={priors.tolist()} rule out every class that is left for an "
            "image; raise n_candidates or give each class a prior above 0."
        )
    return log_prior, outside, n_evaluations


def _prefilter_scores(clf, X, images, plan, eligible):
    """The prefilter's log-probabilities, and the evaluations that they took."""
    if not isinstance(clf.prefilter_, str):
        return prefilter_log_proba(clf.prefilter_, X, clf.classes_), 0
    if eligible.sum() <= clf.n_candidates:
        return np.zeros((len(images), clf.n_classes_)), 0
    null = plan.backbone.encode_null(clf.null_condition)
    search = plan, images, null, clf.n_candidates, eligible
    if has_workers(clf.n_jobs, len(images)):
        errors, n_evaluations = predict_errors_of_workers(*search, clf.n_jobs)
    else:
        errors, n_evaluations = predict_errors(*search)
    return -errors * plan.n_elements / clf.temperature, n_evaluations
