"""Errors of images, by a plan with an estimator's parameters."""

from contextlib import contextmanager

import numpy as np

from diffusion_sklearn.backbones._loading import get_unchanged
from diffusion_sklearn.classifiers._log_prior import fitted_priors, with_priors
from diffusion_sklearn.classifiers._plans import fitted_plan, make_plan
from diffusion_sklearn.engine._cache import ErrorCache
from diffusion_sklearn.engine._errors import iter_errors
from diffusion_sklearn.engine._progress import ProgressBar
from diffusion_sklearn.engine._store import ErrorStore
from diffusion_sklearn.engine._workers import has_workers, iter_errors_of_workers


@contextmanager
def open_errors(clf, plan, images, log_prior=None, searched=None, use_memory=True):
    """Errors of groups of images, computed here or by workers, with a progress bar.

    Parameters
    ----------
    clf : estimator
        Gives `memory`, `n_jobs`, `temperature` and `verbose`.
    plan : Plan
        That of the prediction.
    images : sequence of n_images
        Checked.
    log_prior : ndarray of shape (n_images, n_classes), default=None
        Log prior; -inf: the class is not evaluated. None: 0.
    searched : ndarray of shape (n_images, n_classes), default=None
        As in :func:`~diffusion_sklearn.engine._errors.iter_errors`.
    use_memory : bool, default=True
        Whether errors are read from `memory` and kept there.

    Yields
    ------
    groups : iterator
        As :func:`~diffusion_sklearn.engine._errors.iter_errors` yields them.
    """
    if log_prior is None:
        log_prior = np.zeros((len(images), plan.n_classes))
    offsets = -log_prior * clf.temperature / plan.n_elements
    store = ErrorStore.of(clf.memory) if use_memory else None
    with (
        ErrorCache.open(store, plan) as cache,
        ProgressBar(len(images), clf.verbose) as bar,
    ):
        if has_workers(clf.n_jobs, len(images)):
            groups = iter_errors_of_workers(
                plan, images, offsets, store, clf.n_jobs, searched
            )
        else:
            groups = iter_errors(plan, images, offsets, cache, searched=searched)

        def advance_bar(group):
            bar.update(group[2])
            return group

        yield map(advance_bar, groups)


def errors_of(clf, plan, images, log_prior=None, use_memory=True):
    """Errors of all images at once.

    Parameters
    ----------
    clf, plan, images, log_prior, use_memory
        As in :func:`open_errors`.

    Returns
    -------
    errors : ndarray of shape (n_images, n_classes, n_trials), float64
    """
    opened = open_errors(clf, plan, images, log_prior, use_memory=use_memory)
    with opened as groups:
        return np.concatenate([errors for _, errors, _ in groups])


def all_errors(clf, X, trials=None):
    """Errors of all classes and trials, whatever the pruning and the prefilter.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    X : list, array-like or Tensor of n_images
        Images, as for :meth:`predict`.
    trials : Trials, default=None
        Other trials, whose errors are not kept in `memory`; None: those of `fit`.

    Returns
    -------
    errors : ndarray of shape (n_images, n_classes, n_trials), float64
    """
    images = clf._check_images(X)
    if trials is None:
        return errors_of(clf, fitted_plan(clf, pruning=None), images)
    get_unchanged(clf._spec)
    plan = make_plan(
        clf, clf._spec, trials, clf._conditions, clf._n_prompts, pruning=None
    )
    return errors_of(clf, plan, images, use_memory=False)


def log_joint(clf, errors):
    """Log probability of images and classes by all trials, without class offsets.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    errors : ndarray of shape (n_images, n_classes, n_trials)
        As :func:`all_errors` returns them.

    Returns
    -------
    log_joint : ndarray of shape (n_images, n_classes), float64
    """
    plan = fitted_plan(clf, pruning=None)
    means = (errors * plan.weights).mean(axis=2)
    return with_priors(-means * plan.n_elements / clf.temperature, fitted_priors(clf))


def mean_errors(clf, spec, trials, images, conditions, active=None, **changes):
    """Weighted mean error of each condition, summed over the latent.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier; need not be fitted.
    spec, trials, conditions, **changes
        As in :func:`~diffusion_sklearn.classifiers._plans.make_plan`.
    images : sequence of n_images
        Checked.
    active : ndarray of shape (n_images, n_conditions), bool, default=None
        Conditions that are evaluated; None: all.

    Returns
    -------
    errors : ndarray of shape (n_images, n_conditions), float64
        NaN where `active` is False.
    """
    n_prompts = np.ones(len(conditions), int)
    plan = make_plan(clf, spec, trials, conditions, n_prompts, pruning=None, **changes)
    log_prior = None if active is None else np.where(active, 0, -np.inf)
    with open_errors(clf, plan, images, log_prior) as groups:
        means = [(errors * plan.weights).mean(axis=2) for _, errors, _ in groups]
    return np.concatenate(means) * plan.n_elements
