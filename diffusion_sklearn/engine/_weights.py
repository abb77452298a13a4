"""Weights of the timesteps: given by the user, or by name."""

import numpy as np

from diffusion_sklearn.backbones._noise_schedule import RectifiedFlow

WEIGHTINGS = ("exponential", "snr", "min-snr", "elbo")
"""Weightings that a model's schedule alone decides."""

MAX_SNR = 5  # of Hang et al.


def named_weights(name, alpha, sigma, is_flow, target):
    r"""Weight of the squared error at each timestep.

    Parameters
    ----------
    name : str
        One of :data:`WEIGHTINGS`.
    alpha, sigma : ndarray of shape (T,), float64
        Weights of the clean latent and of the noise in x_t.
    is_flow : bool
        Whether the velocity is that of a flow.
    target : {"epsilon", "sample", "velocity"}
        The space of the error.

    Returns
    -------
    weights : ndarray of shape (T,), float64

    Notes
    -----
    With :math:`SNR_t = \alpha_t^2 / \sigma_t^2`:

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
    n_timesteps = len(alpha)
    if name == "exponential":
        return np.exp(-7 * np.arange(n_timesteps) / n_timesteps)
    snr = (alpha / sigma) ** 2
    if name == "snr":
        return snr
    if name == "min-snr":
        return np.minimum(snr, MAX_SNR)
    # Posterior variance of t = 1 in DDPM: that of t = 0, which is 0, is replaced by it.
    beta = 1 - (alpha[1] / alpha[0]) ** 2
    decoder = beta * sigma[0] ** 2 / sigma[1] ** 2
    if is_flow:  # not variance-preserving: the same from the SNR alone
        decoder = 1 / snr[0]
    of_sample = np.append(1 / decoder, snr[:-1] - snr[1:]) * n_timesteps / 2
    if target == "sample":
        return of_sample
    if target == "epsilon":
        with np.errstate(divide="ignore", invalid="ignore"):
            return of_sample / snr
    return of_sample * sigma**2


GUESSED_WEIGHTS = (
    "Which timesteps of {} tell classes apart was not measured; by default the weights "
    "are those of a window that was informative for SD 3. Fit some with "
    "fit_timestep_weights(clf, X, y) from labelled images, or pass timestep_weights."
)


def has_guessed_weights(target, timestep_weights, backbone):
    """Whether the default weights are the family's, not measured for this model.

    Parameters
    ----------
    target, timestep_weights
        As in the estimators.
    backbone : Backbone
        The model.

    Returns
    -------
    guessed : bool
    """
    return (
        target == "auto"
        and timestep_weights is None
        and backbone.default_weights() is not None
        and "timestep_weights" not in backbone.classifier_config
    )


def resolve_target(target, backbone):
    """The space of the error, as a prediction type.

    Parameters
    ----------
    target : {"auto", "native", "epsilon", "sample", "velocity"}
        As in the estimators.
    backbone : Backbone
        The model.

    Returns
    -------
    target : {"epsilon", "sample", "velocity"}
    """
    own = {"auto": backbone.default_target, "native": backbone.prediction_type}
    return own.get(target, target)


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


def trial_weights(timestep_weights, trials, backbone, target):
    """Weight of each trial's error.

    Parameters
    ----------
    timestep_weights : array-like of shape (n_timesteps,), callable, str or None
        As in the estimators.
    trials : Trials
        With the timesteps.
    backbone : Backbone
        The model.
    target : str
        The space of the error, as in the estimators.

    Returns
    -------
    weights : ndarray of shape (n_trials,), float64

    Raises
    ------
    ValueError
        Unless they are numbers, finite and not negative, one for each timestep, and
        not all 0.
    """
    if isinstance(timestep_weights, str):
        schedule = backbone.noise_schedule
        timestep_weights = named_weights(
            timestep_weights,
            schedule.alpha_t.cpu().double().numpy(),
            schedule.sigma_t.cpu().double().numpy(),
            isinstance(schedule, RectifiedFlow),
            resolve_target(target, backbone),
        )
    if timestep_weights is None and target == "auto":
        timestep_weights = backbone.default_weights()
    timesteps = trials.timesteps
    if timestep_weights is None:
        return np.ones(len(timesteps))
    if callable(timestep_weights):
        given = [timestep_weights(t) for t in timesteps.tolist()]
        weights = as_numbers("timestep_weights", given)
    else:
        weights = as_numbers("timestep_weights", timestep_weights)
        if weights.shape != (backbone.n_timesteps,):
            raise ValueError(
                f"timestep_weights has shape {weights.shape}; pass one weight for each "
                f"of the model's {backbone.n_timesteps} timesteps, or a callable."
            )
        weights = weights[timesteps]
    if not np.all(np.isfinite(weights)) or not np.all(weights >= 0):
        raise ValueError(
            "timestep_weights must be finite and not negative; they range from "
            f"{weights.min()} to {weights.max()}."
        )
    if not weights.any():
        at = np.unique(timesteps)[:5].tolist()
        raise ValueError(
            f"timestep_weights are 0 at all timesteps of the trials ({at}, ...), which "
            "leaves no error to compare classes by; pass a weight above 0 for some of "
            "them, or other timesteps."
        )
    return weights
