"""The log prior of each image's classes: priors, class offsets and prefilter."""

import numpy as np

from diffusion_sklearn.classifiers._prefilter import candidates, prefilter_log_proba
from diffusion_sklearn.engine._gradients import predict_errors
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
    """
    log_prior = clf._log_prior()
    shape = len(images), clf.n_classes_
    active, outside, n_evaluations = np.ones(shape, bool), np.zeros(shape), 0
    if clf.prefilter_ is not None:
        scores, n_evaluations = _prefilter_scores(clf, X, images, plan, log_prior)
        eligible = np.isfinite(log_prior)
        active, proba = candidates(scores, clf.n_candidates, eligible)
        outside = np.where(active, 0, proba)
        if clf.prefilter_weight:
            proba = np.maximum(proba, np.finfo(float).tiny)
            log_prior = log_prior + clf.prefilter_weight * np.log(proba)
    return np.where(active, log_prior, -np.inf), outside, n_evaluations


def _prefilter_scores(clf, X, images, plan, log_prior):
    """The prefilter's log-probabilities, and the evaluations that they took."""
    eligible = np.isfinite(log_prior)
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
    scores = log_prior - errors * plan.n_elements / clf.temperature
    return scores, n_evaluations
