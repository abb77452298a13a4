"""Weights of the timesteps, fitted to a few labels."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.classifiers._evaluate import all_errors
from diffusion_sklearn.classifiers._log_prior import (
    check_truth,
    fitted_offsets,
    fitted_priors,
    with_priors,
)
from diffusion_sklearn.classifiers._plans import fitted_plan

DEGREE = 2


def fit_timestep_weights(clf, X, y, *, alpha=0.3):
    r"""Timestep weights that tell a few labelled images best.

    The logarithm of the weight is a polynomial of degree 2 in t, whose coefficients
    make the posterior of the true labels as high as it gets,

    .. math:: \min_c -\frac1n \sum_i \log p_w(y_i | x_i) + \frac{\alpha}{n} |c|^2,
        \qquad w(t) = e^{c_0 + c_1 u + c_2 u^2},

    with u from -1 at the first timestep to 1 at the last. So their scale is fitted too,
    to how sure the posterior should be at the temperature of `clf`. About 20 labels are
    enough to correct weights that are far from the best; 5 are too few for the scale
    (``benchmarks/accuracy/weights_from_few.py``).

    Parameters
    ----------
    clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
        Fitted. Every class gets all of its trials, whatever its `pruning`.
    X : list, array-like or Tensor of n_images
        Images, as for ``clf.predict``.
    y : array-like of shape (n_images,)
        Their labels, of ``clf.classes_``.
    alpha : float, default=0.3
        How strongly weights are drawn to 1. 0: not at all.

    Returns
    -------
    weights : ndarray of shape (n_timesteps,), float64
        For the parameter `timestep_weights` of an estimator that differs in nothing
        else.

    Raises
    ------
    ValueError
        If a label is none of the classifier's or of prior 0, the numbers of images and
        labels differ, or `alpha` is negative.

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : Fits a temperature alone.

    Examples
    --------
    >>> from diffusion_sklearn import (
    ...     ConditionalDiffusionClassifier,
    ...     fit_timestep_weights,
    ... )
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=20)
    >>> clf = clf.fit(classes=["bag", "sandal", "trouser"])
    >>> import numpy as np
    >>> few = np.isin(photos.names, clf.classes_)[:40]
    >>> X, y = photos.images[:40][few], photos.names[:40][few]
    >>> weights = fit_timestep_weights(clf, X, y)
    >>> weights.shape
    (1000,)
    >>> clf = clf.set_params(timestep_weights=weights).fit(classes=clf.classes_)
    """
    check_is_fitted(clf, "classes_")
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha!r} must be 0 or more.")
    truth = check_truth(clf, X, y)
    return weights_of_errors(clf, all_errors(clf, X), truth, alpha)


def weights_of_errors(clf, errors, truth, alpha=0.3):
    """Weights of all timesteps, from errors of labelled images.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    errors : ndarray of shape (n_images, n_classes, n_trials)
        Of all classes and trials.
    truth : ndarray of shape (n_images,), int64
        Index of the true class.
    alpha : float
        As in :func:`fit_timestep_weights`.

    Returns
    -------
    weights : ndarray of shape (n_timesteps,), float64
    """
    powers = (
        np.linspace(-1, 1, clf.backbone_.n_timesteps) ** np.arange(DEGREE + 1)[:, None]
    )
    scores = -errors * (fitted_plan(clf).n_elements / clf.temperature)
    basis = powers[:, clf.trials_.timesteps]
    priors, offsets = fitted_priors(clf), fitted_offsets(clf)
    c = fit_log_weights(scores, truth, priors, basis, alpha, offsets)
    return np.exp(c @ powers)


def fit_log_weights(scores, truth, priors, basis, alpha, offsets=0.0):
    """Coefficients of log weights, by penalized likelihood.

    Parameters
    ----------
    scores : ndarray of shape (n, k, m)
        Log-likelihood of each image and class by each trial.
    truth : ndarray of shape (n,), int64
        Index of the true class.
    priors : ndarray of shape (k,) or None
        None: uniform.
    basis : ndarray of shape (b, m)
        Log weights are combinations of its rows.
    alpha : float
        Of the squared coefficients.
    offsets : float or ndarray of shape (k,), default=0
        Added to the log-likelihood of each class.

    Returns
    -------
    coefficients : ndarray of shape (b,)
    """
    rows = np.arange(len(truth))
    parts = (scores - scores[rows, truth][:, None]) / scores.shape[2]

    def objective(c):
        weighted = parts * np.exp(c @ basis)
        log_joint = with_priors(weighted.sum(axis=2) + offsets, priors)
        log_proba = log_softmax(log_joint, axis=1)
        gap = np.exp(log_proba)
        gap[rows, truth] -= 1
        gradient = basis @ np.einsum("nk,nkm->m", gap, weighted) + 2 * alpha * c
        loss = alpha * c @ c - log_proba[rows, truth].sum()
        return loss / len(rows), gradient / len(rows)

    # Where all images are told apart, a larger scale is always better: hence bounds.
    bounds = [(-10, 10)] * len(basis)
    return minimize(objective, np.zeros(len(basis)), jac=True, bounds=bounds).x
