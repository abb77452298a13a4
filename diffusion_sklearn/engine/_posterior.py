"""Errors -> log posterior, by Bayes' rule."""

import numpy as np
from scipy.special import log_softmax


def log_posterior(
    errors, n_elements, log_prior=0.0, temperature=1.0, coefficients=None
):
    """Log posterior of the classes, from the errors of paired trials.

    The log-likelihood of a class is minus its mean error over trials, summed over the
    latent's elements (Li et al., ICCV 2023, equations 4 and 6). A class that was
    pruned is compared with the best one over the trials that both have (equation 8),
    and is never likelier than it.

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_trials)
        Mean error over the latent's elements, weighted if wanted; NaN where a class
        was pruned. A class with no trial at all gets probability 0.
    n_elements : int
        Number of elements of a latent, to turn means into sums.
    log_prior : float or ndarray that broadcasts to (n_images, n_classes), default=0
        Up to a constant. A class at minus infinity gets probability 0.
    temperature : float, default=1.0
        Divides the log-likelihoods.
    coefficients : ndarray of shape (n_trials + 1, n_trials), default=None
        Weight of each trial in the mean of a class, by the number of trials that it
        has. None: all trials that ran weigh the same.

    Returns
    -------
    log_proba : ndarray of shape (n_images, n_classes), float64
        Normalised: its exponentials sum to 1.
    """
    errors = np.asarray(errors, np.float64)  # (n, k, m)
    done = ~np.isnan(errors)
    n_done = done.sum(axis=2)  # (n, k)
    if coefficients is None:
        weight = done / np.maximum(n_done, 1)[:, :, None]
    else:
        weight = coefficients[n_done]  # (n, k, m)
    scale = n_elements / temperature
    log_joint = log_prior - scale * (np.where(done, errors, 0) * weight).sum(axis=2)
    leading = n_done == n_done.max(axis=1, keepdims=True)
    best = np.where(leading, log_joint, -np.inf).argmax(axis=1)[:, None]  # (n, 1)

    # The best class has every trial that another has.
    best_errors = np.take_along_axis(errors, best[..., None], axis=1)  # (n, 1, m)
    gap = (np.where(done, errors - best_errors, 0) * weight).sum(axis=2)
    log_prior = np.broadcast_to(log_prior, gap.shape)
    log_odds = log_prior - np.take_along_axis(log_prior, best, axis=1) - scale * gap
    log_odds = np.where(n_done > 0, log_odds, -np.inf)
    # A pruned class is never likelier than the best one.
    log_odds = np.minimum(log_odds, np.where(leading, np.inf, -1e-9))
    return log_softmax(log_odds, axis=1)
