"""Prompts -> embeddings, a few at a time."""

import torch

AT_ONCE = 64


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
    parts = [embed(slice(start, start + AT_ONCE)) for start in range(0, n, AT_ONCE)]
    conditions = torch.cat([part.cpu() for part in parts]).to(dtype)
    if not conditions.isfinite().all():
        raise FloatingPointError(
            f"The text encoder gave NaN or infinity in {parts[0].dtype}; pass "
            "dtype='bfloat16' or 'float32'."
        )
    return conditions
