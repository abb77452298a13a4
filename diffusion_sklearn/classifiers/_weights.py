"""Weights of the timesteps: those that have a name, and those fitted to labels."""

import copy

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from diffusion_sklearn.backbones._process import RectifiedFlow
from diffusion_sklearn.engine._posterior import with_priors
from diffusion_sklearn.engine._trials import check_weights

WEIGHTINGS = ("exponential", "snr", "min-snr", "elbo")
"""Weightings that a model's schedule alone decides."""

MOST_SNR = 5  # of Hang et al.
N_BINS = 10


def named_weights(name, signal, spread, is_flow, space):
    r"""Weight of the squared error at each timestep.

    Parameters
    ----------
    name : str
        One of :data:`WEIGHTINGS`.
    signal, spread : ndarray of shape (T,), float64
        Weights of the clean latent and of the noise in x_t.
    is_flow : bool
        Whether the velocity is that of a flow.
    space : {"epsilon", "sample", "velocity"}
        The space of the error.

    Returns
    -------
    weights : ndarray of shape (T,), float64

    Notes
    -----
    With :math:`SNR_t = signal_t^2 / spread_t^2`:

    - "exponential": :math:`e^{-7 t / T}`, made for the error of the sample [1]_.
    - "snr": :math:`SNR_t`, which makes the error of the sample that of epsilon.
    - "min-snr": :math:`\min(SNR_t, 5)` [2]_, made for the error of the sample.
    - "elbo": what makes the mean over t the variational bound in nats for an element,
      :math:`T (SNR_{t-1} - SNR_t) / 2` for the error of the sample [3]_; at t = 0 the
      Gaussian decoder of variance :math:`\tilde\beta_1`. In another space it is
      divided by what turns that error into the error of the sample.

    References
    ----------
    .. [1] Clark and Jaini, "Text-to-Image Diffusion Models are Zero-Shot Classifiers",
       NeurIPS 2023.
    .. [2] Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy",
       ICCV 2023.
    .. [3] Kingma, Salimans, Poole and Ho, "Variational Diffusion Models", NeurIPS 2021.
    """
    n_timesteps = len(signal)
    if name == "exponential":
        return np.exp(-7 * np.arange(n_timesteps) / n_timesteps)
    snr = (signal / spread) ** 2
    if name == "snr":
        return snr
    if name == "min-snr":
        return np.minimum(snr, MOST_SNR)
    # Posterior variance of t = 1 in DDPM: that of t = 0, which is 0, is replaced by it.
    beta = 1 - (signal[1] / signal[0]) ** 2
    decoder = beta * spread[0] ** 2 / spread[1] ** 2
    if is_flow:  # not variance-preserving: the same from the SNR alone
        decoder = 1 / snr[0]
    of_sample = np.append(1 / decoder, snr[:-1] - snr[1:]) * n_timesteps / 2
    if space == "sample":
        return of_sample
    if space == "epsilon":
        with np.errstate(divide="ignore", invalid="ignore"):
            return of_sample / snr
    return of_sample * spread**2


def resolve_weights(given, timesteps, backbone, target):
    """Weight of each trial's error, whether it has a name or not.

    Parameters
    ----------
    given : ndarray of shape (n_trials,) or str
        Weights, or one of :data:`WEIGHTINGS`.
    timesteps : ndarray of shape (n_trials,), int64
        Timestep of each trial.
    backbone : Backbone
        The model.
    target : str
        The space of the error, as in the estimators.

    Returns
    -------
    weights : ndarray of shape (n_trials,), float64
    """
    if not isinstance(given, str):
        return given
    weights = named_weights(
        given,
        backbone.process.signal.cpu().double().numpy(),
        backbone.process.spread.cpu().double().numpy(),
        isinstance(backbone.process, RectifiedFlow),
        backbone.native if target == "native" else target,
    )
    return check_weights(weights, timesteps, backbone.n_timesteps)


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
    strangers = sorted(set(y.tolist()) - set(clf.classes_.tolist()))
    if strangers:
        raise ValueError(
            f"y has {strangers!r}, which are none of classes_={clf.classes_.tolist()}."
        )
    truth = np.searchsorted(clf.classes_, y)
    # A copy, since clf may be in use with its own pruning.
    full = copy.copy(clf).set_params(pruning=None)
    full.prefilter_ = None
    errors = full.denoising_errors(X).errors.astype(np.float64)  # (n, k, m)
    if len(errors) != len(y):
        raise ValueError(f"X has {len(errors)} images and y {len(y)} labels.")
    n_timesteps = full.backbone_.n_timesteps
    centres = (np.arange(N_BINS) + 0.5) * n_timesteps / N_BINS
    grid = np.arange(n_timesteps)
    # Weight of each band at each timestep, by linear interpolation.
    bands = np.stack([np.interp(grid, centres, row) for row in np.eye(N_BINS)])
    share = bands[:, full.trials_.timesteps]  # (b, m)
    # Log-likelihoods are linear in the weights; (n, k, b).
    parts = -errors @ share.T / errors.shape[2] * full._n_elements()
    parts = parts - parts[np.arange(len(y)), truth][:, None]

    def loss(weights):
        scores = parts @ weights / full.temperature  # (n, k)
        log_proba = log_softmax(with_priors(scores, full._priors), axis=1)
        gap = np.exp(log_proba)
        gap[np.arange(len(y)), truth] -= 1
        gradient = np.einsum("nk,nkb->b", gap, parts) / full.temperature
        nats = -log_proba[np.arange(len(y)), truth].mean()
        return nats, gradient / len(y)

    penalty = alpha / len(y)

    def uniform(log_scale):
        scale = np.exp(log_scale[0])
        nats, gradient = loss(np.full(N_BINS, scale))
        gradient = gradient.sum() * scale + 2 * penalty * log_scale
        return nats + penalty * log_scale[0] ** 2, gradient

    # Where all images are told apart, a larger scale is always better: hence bounds.
    found = minimize(uniform, [0.0], jac=True, bounds=[(-10, 10)])
    scale = np.exp(found.x[0])

    def objective(relative):
        nats, gradient = loss(relative * scale)
        off = relative - 1
        return nats + penalty * off @ off, gradient * scale + 2 * penalty * off

    bounds = [(0, None)] * N_BINS
    found = minimize(objective, np.ones(N_BINS), jac=True, bounds=bounds)
    return found.x @ bands * scale
