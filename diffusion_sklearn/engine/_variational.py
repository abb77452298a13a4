"""The variational bound of a model that learns its variance."""

import math

import torch


def variational_terms(eps, share, clean, noised, timesteps, alphas_cumprod):
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
    share : Tensor of shape (b, c, h, w)
        The network's second output v: it interpolates the log variance between that
        of the true step (-1) and beta (1), equation 15 there.
    clean, noised : Tensor of shape (b, c, h, w)
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
    guess = (noised - (1 - abar).sqrt() * eps) / abar.sqrt()
    # The means share their term in x_t, so that x_0 and its guess make the difference.
    gap = at(weight) * (clean - guess)
    true_log, beta_log = at(variance).log(), at(betas).log()
    model_log = true_log + (share + 1) / 2 * (beta_log - true_log)
    distance = gap.square() * (-model_log).exp()
    divergence = (
        model_log - true_log - 1 + (true_log - model_log).exp() + distance
    ) / 2
    decoded = _decoder(clean, clean - gap, model_log)
    nats = torch.where((timesteps > 0).view(-1, 1, 1, 1), divergence, decoded)
    return nats / math.log(2)


def _decoder(clean, mean, log_variance):
    """Negative log probability of the bin that x_0 is in; the outermost are open."""
    half, scale = 1 / 255, (-log_variance / 2).exp()
    above = torch.special.ndtr(scale * (clean - mean + half))
    below = torch.special.ndtr(scale * (clean - mean - half))
    inside = torch.where(clean < -0.999, above, above - below)
    inside = torch.where(clean > 0.999, 1 - below, inside)
    return -inside.clamp(min=1e-12).log()
