"""The noise schedule, and how the prediction types follow from each other."""

import numpy as np
import torch

PREDICTION_TYPES = ("epsilon", "sample", "velocity")


class NoiseSchedule:
    """A noised latent is a weighted sum, x_t = alpha_t x + sigma_t eps.

    Parameters
    ----------
    alpha_t, sigma_t : Tensor of shape (n_timesteps,), float32 or float64
        Weights of the clean latent and of the noise at each timestep.

    Attributes
    ----------
    n_timesteps : int
        Number of timesteps that the model was trained with.
    """

    def __init__(self, alpha_t, sigma_t):
        self.alpha_t, self.sigma_t = alpha_t, sigma_t
        self.n_timesteps = len(alpha_t)

    def coefficients(self, timesteps):
        """Both weights at some timesteps, each (b, 1, 1, 1)."""
        alpha = self.alpha_t[timesteps].view(-1, 1, 1, 1)
        return alpha, self.sigma_t[timesteps].view(-1, 1, 1, 1)

    def add_noise(self, latents, noise, timesteps):
        """Noised latents, alpha_t x + sigma_t eps, of shape (b, c, h, w)."""
        alpha, sigma = self.coefficients(timesteps)
        return alpha * latents + sigma * noise

    def network_time(self, timesteps):
        """The timesteps in the form that the network takes."""
        return timesteps

    def target(self, prediction_type, latents, noise, timesteps):
        """What a network of this prediction type is trained to predict.

        Parameters
        ----------
        prediction_type : {"epsilon", "sample", "velocity"}
        latents, noise : Tensor of shape (b, c, h, w)
            Clean latents and the noise added to them.
        timesteps : Tensor of shape (b,), int64

        Returns
        -------
        target : Tensor of shape (b, c, h, w)
        """
        if prediction_type == "velocity":
            return self._velocity(latents, noise, *self.coefficients(timesteps))
        return noise if prediction_type == "epsilon" else latents

    def latents_and_noise(self, prediction_type, predicted, noised, timesteps):
        """The clean latents and the noise that a prediction implies.

        Parameters
        ----------
        prediction_type : {"epsilon", "sample", "velocity"}
            Of the prediction.
        predicted, noised : Tensor of shape (b, c, h, w)
            The prediction, and x_t.
        timesteps : Tensor of shape (b,), int64

        Returns
        -------
        latents, noise : Tensor of shape (b, c, h, w)
        """
        alpha, sigma = self.coefficients(timesteps)
        if prediction_type == "velocity":
            return self._from_velocity(predicted, noised, alpha, sigma)
        if prediction_type == "epsilon":
            return (noised - sigma * predicted) / alpha, predicted
        return predicted, (noised - alpha * predicted) / sigma


class VariancePreserving(NoiseSchedule):
    """x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (Ho et al., 2020).

    Its velocity is sqrt(abar_t) eps - sqrt(1 - abar_t) x (Salimans and Ho, 2022).

    Parameters
    ----------
    alphas_cumprod : Tensor of shape (n_timesteps,), float32 or float64
        abar. Never in half precision, where it rounds to 1 at small t.
    """

    def __init__(self, alphas_cumprod):
        super().__init__(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())
        self.alphas_cumprod = alphas_cumprod

    def _velocity(self, latents, noise, alpha, sigma):
        return alpha * noise - sigma * latents

    def _from_velocity(self, velocity, noised, alpha, sigma):
        return alpha * noised - sigma * velocity, sigma * noised + alpha * velocity


class RectifiedFlow(NoiseSchedule):
    """x_t = (1 - sigma) x + sigma eps, with velocity eps - x (Liu et al., 2023).

    Timestep t of 0 to T - 1 stands for sigma = (t + 1) / T: evenly spaced timesteps
    are evenly spaced sigmas. The shift of a sampler's schedule is not applied.

    Parameters
    ----------
    n_timesteps : int
        T.
    device, dtype
        Of the latents.
    """

    def __init__(self, n_timesteps, device, dtype):
        sigma = torch.arange(1, n_timesteps + 1, device=device, dtype=dtype)
        sigma = sigma / n_timesteps
        super().__init__(1 - sigma, sigma)

    def network_time(self, timesteps):
        """The timesteps in the form that the network takes: T sigma."""
        return (timesteps + 1).to(self.sigma_t.dtype)

    def _velocity(self, latents, noise, alpha, sigma):
        return noise - latents

    def _from_velocity(self, velocity, noised, alpha, sigma):
        return noised - sigma * velocity, noised + alpha * velocity


def flow_weights(sigma):
    r"""Weights of the timesteps of a flow that has none of its own.

    Timesteps of sigma from about 0.73 to 0.93 tell most of SD 3, and most others
    little ("Diffusion Classifiers Understand Compositionality, but Conditions Apply",
    NeurIPS 2025). The weights are a normal curve around 0.83,

    .. math:: w(\sigma) = \exp(-(\sigma - 0.83)^2 / (2 \cdot 0.1^2)).

    Parameters
    ----------
    sigma : ndarray of shape (n_timesteps,)
        Weight of the noise at each timestep.

    Returns
    -------
    weights : ndarray of shape (n_timesteps,), float64
    """
    return np.exp(-(((sigma - 0.83) / 0.1) ** 2) / 2)


def read_noise_schedule(scheduler, device, dtype, must_be_flow):
    """The noise schedule that a model was trained with, from its scheduler's config.

    Parameters
    ----------
    scheduler : diffusers.SchedulerMixin
        Of the pipeline. Its ``add_noise`` is not used: a sampler may scale differently.
    device, dtype
        Of the latents.
    must_be_flow : bool
        Whether all models of the family are trained by flow matching.

    Returns
    -------
    schedule : VariancePreserving or RectifiedFlow
    prediction_type : {"epsilon", "sample", "velocity"}
        What the network predicts.

    Raises
    ------
    ValueError
        If the scheduler is of neither kind, or not of the family's.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction_type = config.get("prediction_type", "epsilon")
    is_flow = prediction_type == "flow_prediction"
    is_flow &= bool(config.get("use_flow_sigmas"))
    is_flow |= prediction_type == "trigflow"  # a flow, in other variables
    if name.startswith("FlowMatch") or is_flow:
        return RectifiedFlow(config.num_train_timesteps, device, dtype), "velocity"
    if must_be_flow:
        raise ValueError(
            f"The model is trained by flow matching, and its scheduler {name} has "
            f"use_flow_sigmas={config.get('use_flow_sigmas')!r} and prediction_type="
            f"{prediction_type!r}; give the pipeline its own scheduler, or one with "
            "use_flow_sigmas=True and prediction_type='flow_prediction', such as "
            "FlowMatchEulerDiscreteScheduler."
        )
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"The scheduler {name} has no alphas_cumprod and is no flow: only models "
            "trained with a discrete noise schedule or by flow matching are supported. "
            "Give the pipeline the scheduler that its model was trained with, such as "
            "DDPMScheduler or FlowMatchEulerDiscreteScheduler."
        )
    if prediction_type == "v_prediction":
        prediction_type = "velocity"
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"The scheduler's prediction_type={prediction_type!r} is not supported; "
            "pass a model with 'epsilon', 'v_prediction' or 'sample'."
        )
    schedule = VariancePreserving(scheduler.alphas_cumprod.to(device, dtype))
    return schedule, prediction_type
