"""Prompts -> embeddings, a few at a time."""

import torch

from diffusion_sklearn.backbones._prompts import check_prompts

AT_ONCE = 64


def keys_and_values(blocks):
    """Projections of the prompt in cross-attention, which see nothing else.

    Parameters
    ----------
    blocks : iterable of Module
        With a cross-attention ``attn2``, or None in its place.

    Returns
    -------
    modules : list of Module
    """
    crossings = [block.attn2 for block in blocks if block.attn2 is not None]
    return [part for attn in crossings for part in (attn.to_k, attn.to_v)]


def join_pooled(pooled, tokens):
    """Pooled embeddings and token embeddings as rows.

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


def embed_with_mask(backbone, names, length, instead, **options):
    """Token embeddings of a pipeline with their mask as a last channel.

    Parameters
    ----------
    backbone : Backbone
        Its pipeline's ``encode_prompt`` returns tokens and mask first.
    names : list of str
        Prompts.
    length : int
        Tokens that the network reads.
    instead : str
        As in :func:`~diffusion_sklearn.backbones._prompts.check_prompts`.
    **options : object
        For ``encode_prompt``.

    Returns
    -------
    conditions : Tensor of shape (len(names), length, d + 1)
    """
    pipeline, names = backbone.pipeline, list(names)
    check_prompts(names, pipeline.tokenizer, length, instead)

    def embed(rows):
        tokens, mask, _, _ = pipeline.encode_prompt(
            names[rows],
            do_classifier_free_guidance=False,
            device=backbone.device,
            max_sequence_length=length,
            **options,
        )
        return torch.cat([tokens, mask[..., None].to(tokens.dtype)], dim=-1)

    return embed_in_batches(embed, len(names), backbone.dtype)


def embed_in_batches(embed, n, dtype):
    """Embed many prompts.

    Parameters
    ----------
    embed : callable
        Takes a slice of the prompts; returns a Tensor of shape (n_slice, ...).
    n : int
        How many prompts there are.
    dtype : torch.dtype
        Of the network that they are for.

    Returns
    -------
    conditions : Tensor of shape (n, ...)
        On the CPU.

    Raises
    ------
    FloatingPointError
        If a text encoder overflowed, as one in float16 may.
    """
    batches = [slice(start, start + AT_ONCE) for start in range(0, n, AT_ONCE)]
    parts = [embed(batch).cpu() for batch in batches]
    conditions = torch.cat(parts).to(dtype)
    if not conditions.isfinite().all():
        raise FloatingPointError(
            f"The text encoder gave NaN or infinity in {parts[0].dtype}; pass "
            "dtype='bfloat16' or 'float32'."
        )
    return conditions
