"""Pixels -> latents, with the autoencoder of a pipeline."""

import torch

from diffusion_sklearn.backbones._devices import device_of

LUMA = (0.299, 0.587, 0.114)


def pixels_per_latent(vae):
    """Downsampling factor of an autoencoder: pixels a side for each latent position.

    Parameters
    ----------
    vae : AutoencoderKL, AutoencoderTiny, AutoencoderDC or AutoencoderKLQwenImage
        Of diffusers.

    Returns
    -------
    factor : int
    """
    if _is_of_videos(vae):
        return 2 ** len(vae.config.temperal_downsample)
    widths = vae.config.get("block_out_channels")
    return 2 ** (len(widths or vae.config.encoder_block_out_channels) - 1)


def encode_pixels(vae, pixels):
    """Latents of images, scaled and shifted as the network expects.

    Parameters
    ----------
    vae : AutoencoderKL, AutoencoderTiny, AutoencoderDC or AutoencoderKLQwenImage
        Of diffusers. If it returns a distribution, its mean is taken.
    pixels : Tensor of shape (n, 3, size, size)
        In [-1, 1].

    Returns
    -------
    latents : Tensor of shape (n, c, h, w), float32 or float64
    """
    config, latents = vae.config, posterior_mean(vae, pixels)  # (n, c, h, w)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean and std:
        mean, std = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (mean, std))
        return (latents - mean) / std * config.get("scaling_factor", 1.0)
    return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor


def posterior_mean(vae, pixels):
    """What an autoencoder makes of images, neither scaled nor shifted.

    Parameters
    ----------
    vae, pixels
        As for :func:`encode_pixels`.

    Returns
    -------
    latents : Tensor of shape (n, c, h, w), float32 or float64
    """
    pixels, is_of_videos = pixels.to(device_of(vae), vae.dtype), _is_of_videos(vae)
    latents = vae.encode(pixels.unsqueeze(2) if is_of_videos else pixels)[0]
    if not isinstance(latents, torch.Tensor):  # a distribution
        latents = latents.mean
    latents = latents.squeeze(2) if is_of_videos else latents  # of one frame
    return latents.to(torch.promote_types(latents.dtype, torch.float32))


def _is_of_videos(vae):
    """Whether an autoencoder takes videos, of which an image is one frame."""
    return "temperal_downsample" in vae.config


def as_channels(pixels, n_channels):
    """Pixels with the number of channels of a network without an autoencoder.

    Parameters
    ----------
    pixels : Tensor of shape (n, 3, size, size)
        In [-1, 1].
    n_channels : int
        1: the luminance.

    Returns
    -------
    pixels : Tensor of shape (n, n_channels, size, size)
    """
    if n_channels != 1:
        return pixels
    weights = pixels.new_tensor(LUMA).view(1, 3, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True)
