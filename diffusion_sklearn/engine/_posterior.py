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


def as_numbers(name, values):
    """Values of a parameter as an array of floats.

    Parameters
    ----------
    name : str
        The parameter, for the error message.
    values : array-like

    Returns
    -------
    values : ndarray, float64

    Raises
    ------
    ValueError
        Unless they are numbers.
    """
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={values!r} must hold numbers only.") from error


def check_priors(priors, classes):
    """Class priors as an array.

    Parameters
    ----------
    priors : array-like of shape (n_classes,) or None
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
    values = as_numbers("priors", priors)
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
    class_offsets : array-like of shape (n_classes,) or None
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
    values = as_numbers("class_offsets", class_offsets)
    if values.shape != classes.shape or not np.isfinite(values).all():
        raise ValueError(
            f"class_offsets={class_offsets!r} must be {len(classes)} finite numbers, "
            f"aligned with the sorted labels {classes.tolist()}; fit_class_offsets("
            "clf, X) gives some."
        )
    return values
