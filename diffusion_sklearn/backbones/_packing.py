"""Latents as a sequence of tokens, as Flux and its relatives take them."""

import torch
from torch.nn import functional as F


def pack(latents):
    """Latents with four neighbours as one token.

    Parameters
    ----------
    latents : Tensor of shape (b, c, h, w)

    Returns
    -------
    tokens : Tensor of shape (b, h w / 4, 4 c)
    """
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens, height):
    """The reverse of :func:`pack`.

    Parameters
    ----------
    tokens : Tensor of shape (b, h w / 4, 4 c)
    height : int
        h.

    Returns
    -------
    latents : Tensor of shape (b, c, h, w)
    """
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // 2, -1)), 2)


def positions(height, width, like):
    """Zero, row and column of each token of an image.

    Parameters
    ----------
    height, width : int
        Numbers of tokens.
    like : Tensor
        Of the dtype and on the device that is wanted.

    Returns
    -------
    positions : Tensor of shape (height * width, 3)
    """
    axes = (torch.arange(n, device=like.device) for n in (1, height, width))
    return torch.cartesian_prod(*axes).to(like)
