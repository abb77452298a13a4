"""Prompts -> embeddings, in batches."""

import torch

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.backbones._modes import evaluation_mode
from diffusion_sklearn.backbones._tokens import check_prompts

BATCH_SIZE = 64  # prompts


def join_pooled(pooled, tokens):
    """Concatenate pooled embeddings and token embeddings.

    Parameters
    ----------
    pooled : Tensor of shape (n, p)
    tokens : Tensor of shape (n, n_tokens, d)

    Returns
    -------
    conditions : Tensor of shape (n, p + n_tokens * d)
    """
    return torch.cat([pooled, tokens.flatten(1)], dim=1)


def split_pooled(conditions, n_pooled, width):
    """The reverse of :func:`join_pooled`.

    Parameters
    ----------
    conditions : Tensor of shape (n, p + n_tokens * d)
    n_pooled, width : int
        p and d.

    Returns
    -------
    pooled : Tensor of shape (n, p)
    tokens : Tensor of shape (n, n_tokens, d)
    """
    tokens = conditions[:, n_pooled:].unflatten(1, (-1, width))
    return conditions[:, :n_pooled], tokens


def embed_with_mask(backbone, prompts, length, instead, **options):
    """Token embeddings of prompts, with the attention mask as a last channel.

    Parameters
    ----------
    backbone : Backbone
        Its pipeline's ``encode_prompt`` returns tokens and mask first.
    prompts : list of str
        The prompts.
    length : int
        Number of tokens that the network takes.
    instead : str
        As in :func:`~diffusion_sklearn.backbones._tokens.check_prompts`.
    **options : object
        For ``encode_prompt``.

    Returns
    -------
    conditions : Tensor of shape (len(prompts), length, d + 1)
    """
    pipeline, prompts = backbone.pipeline, list(prompts)
    check_prompts(prompts, pipeline.tokenizer, length, instead)

    def embed(prompts):
        tokens, mask, _, _ = pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=backbone.device,
            max_sequence_length=length,
            **options,
        )
        return torch.cat([tokens, mask[..., None].to(tokens.dtype)], dim=-1)

    return embed_in_batches(backbone, prompts, embed)


def embed_in_batches(backbone, prompts, embed):
    """Embed prompts in batches, with the text encoders in evaluation mode.

    Parameters
    ----------
    backbone : Backbone
        Its pipeline has the text encoders.
    prompts : list of str
        The prompts.
    embed : callable
        Takes a batch of prompts, returns a Tensor of shape (n_batch, ...).

    Returns
    -------
    conditions : Tensor of shape (len(prompts), ...)
        On the CPU, in the network's dtype.

    Raises
    ------
    FloatingPointError
        If a text encoder overflowed, as in float16.
    """
    encoders = [
        part
        for name, part in backbone.pipeline.components.items()
        if name.startswith("text_encoder") and part is not None
    ]

    def embed_batch(rows):
        return embed(prompts[rows]).cpu()

    with torch.no_grad(), evaluation_mode(*encoders):
        batches = list(in_batches(embed_batch, len(prompts), BatchSize(BATCH_SIZE)))
    conditions = torch.cat(batches).to(backbone.dtype)
    if not conditions.isfinite().all():
        raise FloatingPointError(
            f"The text encoder gave NaN or infinity in {batches[0].dtype}; pass "
            "dtype='bfloat16' or 'float32'."
        )
    return conditions
