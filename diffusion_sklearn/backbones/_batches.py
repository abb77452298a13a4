"""Batches: how many rows fit, and fewer where memory runs out."""

import warnings
from dataclasses import dataclass

import torch


@dataclass
class BatchSize:
    """Rows of a forward pass; fewer once they did not fit.

    Attributes
    ----------
    rows : int
        How many at most.
    """

    rows: int


def resolve_batch_size(batch_size, backbone, latent_shape, condition):
    """Network evaluations in a forward pass.

    Parameters
    ----------
    batch_size : "auto" or int
        "auto": fewer the larger the latent, more on a GPU than on a CPU, and no more
        than fit into the free memory of a GPU.
    backbone : Backbone
        Tried with two evaluations on a GPU, to see what memory they take.
    latent_shape : tuple of int
        (channels, height, width).
    condition : Tensor of shape (1, ...)
        One that the network knows.

    Returns
    -------
    batch_size : BatchSize
    """
    if not isinstance(batch_size, str):
        return BatchSize(int(batch_size))
    device = backbone.device
    positions = latent_shape[1] * latent_shape[2]
    budget, most = (2**14, 256) if device.type == "cpu" else (2**18, 1024)
    rows = min(most, budget // positions)
    if device.type == "cuda":
        rows = min(rows, _rows_that_fit(backbone, latent_shape, condition))
    return BatchSize(max(1, rows))


def _rows_that_fit(backbone, latent_shape, condition):
    """Evaluations for which a GPU has memory, with a fifth of it left over."""
    device = backbone.device
    noised = torch.zeros(2, *latent_shape, device=device)
    timesteps = torch.zeros(2, dtype=torch.int64, device=device)
    try:
        with torch.inference_mode():
            # What the first pass takes for good (a workspace) is taken once.
            backbone.predict(noised, timesteps, condition[[0, 0]])
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            backbone.predict(noised, timesteps, condition[[0, 0]])
    except torch.OutOfMemoryError:
        return 1
    taken = torch.cuda.max_memory_allocated(device) - before
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return int(0.8 * free / (taken / 2))


def in_batches(compute, n, size, advice=""):
    """Compute rows batch by batch; where memory runs out, in smaller ones.

    Parameters
    ----------
    compute : callable
        Takes a slice of the rows.
    n : int
        How many rows there are.
    size : BatchSize
        Halved when a batch does not fit, for good.
    advice : str
        Ends the warning; ``{}`` stands for the number of rows that are tried next.

    Yields
    ------
    result : object
        What `compute` returned, for the next rows.

    Raises
    ------
    MemoryError
        If a single row does not fit.
    """
    start = 0
    while start < n:
        rows = slice(start, min(start + size.rows, n))
        try:
            result = compute(rows)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            full = str(error).splitlines()[0] if str(error) else "out of memory"
        else:
            yield result
            start = rows.stop
            continue
        # Out here the traceback no longer holds on to the tensors of the failed pass.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tried = rows.stop - rows.start
        if tried == 1:
            raise MemoryError(
                f"A batch of one row does not fit into memory ({full}); pass a smaller "
                "image_size, dtype='bfloat16' or another device, or free memory that "
                "other models hold (clear_cache())."
            )
        size.rows = tried // 2
        warnings.warn(
            f"A batch of {tried} rows does not fit into memory; going on with "
            f"{size.rows}. {advice.format(size.rows)}",
            RuntimeWarning,
            stacklevel=2,
        )


def _is_out_of_memory(error):
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = "out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED"
    return any(sign in str(error) for sign in signs)
