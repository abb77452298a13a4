"""How noise is added, and how the spaces of the error follow from each other."""

import torch

SPACES = ("epsilon", "sample", "velocity")


class Process:
    """A weighted sum of a clean latent and of noise, x_t = signal_t x + spread_t eps.

    Parameters
    ----------
    signal, spread : Tensor of shape (T,), float32 or float64
        The weights.

    Attributes
    ----------
    n_timesteps : int
        T.
    """

    def __init__(self, signal, spread):
        self.signal, self.spread = signal, spread
        self.n_timesteps = len(signal)

    def signal_and_spread(self, timesteps):
        """Weights of the clean latent and of the noise, each (b, 1, 1, 1)."""
        return tuple(
            weights[timesteps].view(-1, 1, 1, 1)
            for weights in (self.signal, self.spread)
        )

    def network_time(self, timesteps):
        """The timesteps as the network takes them."""
        return timesteps

    def view(self, space, clean, eps, timesteps):
        """What stands in a space of the error for a clean latent and noise."""
        if space == "velocity":
            return self._velocity(clean, eps, *self.signal_and_spread(timesteps))
        return eps if space == "epsilon" else clean

    def explain(self, space, predicted, noised, timesteps):
        """Clean latent and noise that a prediction in a space stands for.

        Parameters
        ----------
        space : {"epsilon", "sample", "velocity"}
            Of the prediction.
        predicted, noised : Tensor of shape (b, c, h, w)
            The prediction, and x_t.
        timesteps : Tensor of shape (b,), int64
            t.

        Returns
        -------
        clean, eps : Tensor of shape (b, c, h, w)
        """
        signal, spread = self.signal_and_spread(timesteps)
        if space == "velocity":
            return self._from_velocity(predicted, noised, signal, spread)
        if space == "epsilon":
            return (noised - spread * predicted) / signal, predicted
        return predicted, (noised - signal * predicted) / spread


class VariancePreserving(Process):
    """x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (Ho et al., 2020).

    Its velocity is sqrt(abar_t) eps - sqrt(1 - abar_t) x (Salimans and Ho, 2022).

    Parameters
    ----------
    alphas_cumprod : Tensor of shape (T,), float32 or float64
        abar. Never in half precision, where it rounds to 1 at small t.
    """

    def __init__(self, alphas_cumprod):
        super().__init__(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())
        self.alphas_cumprod = alphas_cumprod

    def _velocity(self, clean, eps, signal, spread):
        return signal * eps - spread * clean

    def _from_velocity(self, velocity, noised, signal, spread):
        return signal * noised - spread * velocity, spread * noised + signal * velocity


class RectifiedFlow(Process):
    """x_t = (1 - sigma) x + sigma eps, with velocity eps - x (Liu et al., 2023).

    Timestep t of 0 to T - 1 stands for sigma = (t + 1) / T: evenly spaced timesteps
    are evenly spaced sigmas. A sampler's shift of the schedule plays no part.

    Parameters
    ----------
    n_timesteps : int
        T.
    device, dtype
        Of the latents.
    """

    def __init__(self, n_timesteps, device, dtype):
        sigmas = torch.arange(1, n_timesteps + 1, device=device, dtype=dtype)
        sigmas = sigmas / n_timesteps
        super().__init__(1 - sigmas, sigmas)

    def network_time(self, timesteps):
        """The timesteps as the network takes them: T sigma."""
        return (timesteps + 1).to(self.spread.dtype)

    def _velocity(self, clean, eps, signal, spread):
        return eps - clean

    def _from_velocity(self, velocity, noised, signal, spread):
        return noised - spread * velocity, noised + signal * velocity


def read_process(scheduler, device, dtype):
    """The process that a model was trained with, from its scheduler's config.

    Parameters
    ----------
    scheduler : diffusers.SchedulerMixin
        Of the pipeline; its own ``add_noise`` is not used, since that of a sampler may
        be another process.
    device, dtype
        Of the latents.

    Returns
    -------
    process : VariancePreserving or RectifiedFlow
    native : {"epsilon", "sample", "velocity"}
        What the network predicts.

    Raises
    ------
    ValueError
        If it is neither of the two.
    """
    config, name = scheduler.config, type(scheduler).__name__
    predicts = config.get("prediction_type", "epsilon")
    flows = config.get("use_flow_sigmas") and predicts == "flow_prediction"
    if name.startswith("FlowMatch") or flows:
        return RectifiedFlow(config.num_train_timesteps, device, dtype), "velocity"
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"The scheduler {name} has no alphas_cumprod and is no flow: only models "
            "trained with a discrete noise schedule or by flow matching are supported. "
            "Give the pipeline the scheduler that its model was trained with, such as "
            "DDPMScheduler or FlowMatchEulerDiscreteScheduler."
        )
    native = "velocity" if predicts == "v_prediction" else predicts
    if native not in SPACES:
        raise ValueError(
            f"The scheduler's prediction_type={predicts!r} is not supported; pass "
            "a model with 'epsilon', 'v_prediction' or 'sample'."
        )
    return VariancePreserving(scheduler.alphas_cumprod.to(device, dtype)), native
