"""Weights of the timesteps, fitted to a few labels."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from diffusion_sklearn.engine._posterior import with_priors

N_BANDS = 10


def fit_timestep_weights(clf, X, y, *, alpha=1.0):
    r"""Timestep weights that tell a few labelled images best.

    Weights of ten bands of timesteps are chosen so that the posterior of the true
    labels is as high as it gets,

    .. math:: \min_{w \ge 0} -\frac1n \sum_i \log p_w(y_i | x_i)
        + \frac{\alpha}{n} \sum_b (w_b / w_0 - 1)^2,

    where :math:`w_0` is the best weight that is the same everywhere, drawn to 1 by
    :math:`\frac{\alpha}{n} \log^2 w_0`. So their scale is fitted too, to how sure the
    posterior should be at the temperature of `clf`.

    Parameters
    ----------
    clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
        Fitted. Every class gets all of its trials, whatever its `pruning`.
    X : list, array-like or Tensor of n_images
        Images, as for ``clf.predict``.
    y : array-like of shape (n_images,)
        Their labels, of ``clf.classes_``.
    alpha : float, default=1.0
        How strongly weights are drawn to each other, and all of them to 1. 0: not at
        all.

    Returns
    -------
    weights : ndarray of shape (n_timesteps,), float64
        For the parameter `timestep_weights` of an estimator that differs in nothing
        else. Between the centres of the bands they are interpolated.

    Raises
    ------
    ValueError
        If a label is none of the classifier's, or `alpha` is negative.

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
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha!r} must be 0 or more.")
    y = np.asarray(y)
    unknown_labels = sorted(set(y.tolist()) - set(clf.classes_.tolist()))
    if unknown_labels:
        raise ValueError(
            f"y has {unknown_labels!r}, which are none of "
            f"classes_={clf.classes_.tolist()}."
        )
    truth = np.searchsorted(clf.classes_, y)
    priors = clf._priors()
    errors = clf._all_errors(X)  # (n, k, m)
    if len(errors) != len(y):
        raise ValueError(f"X has {len(errors)} images and y {len(y)} labels.")
    n_timesteps = clf.backbone_.n_timesteps
    centres = (np.arange(N_BANDS) + 0.5) * n_timesteps / N_BANDS
    grid = np.arange(n_timesteps)
    # Weight of each band at each timestep, by linear interpolation.
    bands = np.stack([np.interp(grid, centres, row) for row in np.eye(N_BANDS)])
    weight_of_band = bands[:, clf.trials_.timesteps]  # (b, m)
    # Log-likelihoods are linear in the weights; (n, k, b).
    n_elements = clf._fitted_plan().n_elements
    parts = -errors @ weight_of_band.T / errors.shape[2] * n_elements
    parts = parts - parts[np.arange(len(y)), truth][:, None]

    def loss(weights):
        scores = parts @ weights / clf.temperature  # (n, k)
        log_proba = log_softmax(with_priors(scores, priors), axis=1)
        gap = np.exp(log_proba)
        gap[np.arange(len(y)), truth] -= 1
        gradient = np.einsum("nk,nkb->b", gap, parts) / clf.temperature
        nats = -log_proba[np.arange(len(y)), truth].mean()
        return nats, gradient / len(y)

    penalty = alpha / len(y)

    def uniform(log_scale):
        scale = np.exp(log_scale[0])
        nats, gradient = loss(np.full(N_BANDS, scale))
        gradient = gradient.sum() * scale + 2 * penalty * log_scale
        return nats + penalty * log_scale[0] ** 2, gradient

    # Where all images are told apart, a larger scale is always better: hence bounds.
    optimum = minimize(uniform, [0.0], jac=True, bounds=[(-10, 10)])
    scale = np.exp(optimum.x[0])

    def objective(relative):
        nats, gradient = loss(relative * scale)
        off = relative - 1
        return nats + penalty * off @ off, gradient * scale + 2 * penalty * off

    bounds = [(0, None)] * N_BANDS
    optimum = minimize(objective, np.ones(N_BANDS), jac=True, bounds=bounds)
    return optimum.x @ bands * scale
