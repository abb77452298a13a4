"""How a prediction is compared with its target."""

import math

import torch
from torch.nn import functional as F

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.huber_loss}
VARIATIONAL = ("vlb", "l2+vlb")
"""Losses of a model that learns its variance."""

TERMS = (*LOSSES, "vlb")
"""A loss is one of these terms, or the sum of two; one forward pass gives them all."""


def loss_terms(loss):
    """The terms that a `loss` is the sum of.

    Parameters
    ----------
    loss : str
        One of :data:`LOSSES` or :data:`VARIATIONAL`.

    Returns
    -------
    terms : list of str
        Of :data:`TERMS`.
    """
    return loss.split("+")


def check_loss(loss, backbone):
    """Raise unless the model can compute this loss.

    Parameters
    ----------
    loss : str
        As in the estimators.
    backbone : Backbone
        The model.

    Raises
    ------
    ValueError
        If the loss needs a variance that the model does not learn.
    """
    if loss in VARIATIONAL and not backbone.learns_variance:
        raise ValueError(
            f"loss={loss!r} needs a model that learns its variance, such as DiT; pass "
            f"one of {', '.join(repr(name) for name in LOSSES)}."
        )


def variational_terms(
    eps, log_variance_fraction, latents, noised, timesteps, alphas_cumprod
):
    """Terms of the variational bound, in bits for each element of the latent.

    For t > 0 the divergence of the model's step from the true one,
    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), two Gaussians; for t = 0 the
    negative log probability of x_0 among the 256 values that a pixel in [-1, 1] has
    (Nichol and Dhariwal, 2021, equations 4 to 6). Latents are treated as pixels are
    there, as DiT's code does.

    Parameters
    ----------
    eps : Tensor of shape (b, c, h, w)
        Predicted noise.
    log_variance_fraction : Tensor of shape (b, c, h, w)
        The network's second output v: it interpolates the log variance between that
        of the true step (-1) and beta (1), equation 15 there.
    latents, noised : Tensor of shape (b, c, h, w)
        x_0 and x_t.
    timesteps : Tensor of shape (b,), int64
        t.
    alphas_cumprod : Tensor of shape (T,)
        The schedule.

    Returns
    -------
    terms : Tensor of shape (b, c, h, w)
    """
    previous = torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    betas = 1 - alphas_cumprod / previous
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    variance = torch.cat([variance[1:2], variance[1:]])  # that of t = 0 is 0
    weight = betas * previous.sqrt() / (1 - alphas_cumprod)

    def at(values):
        return values[timesteps].view(-1, 1, 1, 1)

    abar = at(alphas_cumprod)
    predicted_latents = (noised - (1 - abar).sqrt() * eps) / abar.sqrt()
    # The means share their term in x_t, so x_0 and its prediction make the difference.
    gap = at(weight) * (latents - predicted_latents)
    true_log, beta_log = at(variance).log(), at(betas).log()
    fraction = (log_variance_fraction + 1) / 2
    model_log = true_log + fraction * (beta_log - true_log)
    distance = gap.square() * (-model_log).exp()
    divergence = (
        model_log - true_log - 1 + (true_log - model_log).exp() + distance
    ) / 2
    decoded = _decoder(latents, latents - gap, model_log)
    nats = torch.where((timesteps > 0).view(-1, 1, 1, 1), divergence, decoded)
    return nats / math.log(2)


def _decoder(latents, mean, log_variance):
    """Negative log probability of the bin that x_0 is in; the outermost are open."""
    half, scale = 1 / 255, (-log_variance / 2).exp()
    upper, lower = scale * (latents - mean + half), scale * (latents - mean - half)
    # In the upper tail both probabilities are near 1: subtract those of the lower tail.
    flip = lower > 0
    a, b = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    inside = torch.special.ndtr(a) - torch.special.ndtr(b)
    inside = torch.where(latents < -0.999, torch.special.ndtr(upper), inside)
    inside = torch.where(latents > 0.999, torch.special.ndtr(-lower), inside)
    return -inside.clamp(min=1e-12).log()
