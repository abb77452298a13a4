"""Device, dtype and batch size: what "auto" means, and what is not possible."""

import multiprocessing
import os
import tempfile
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

_own_gpu, _claims, _lock = None, [], threading.Lock()


def own_gpu():
    """The GPU that "auto" stands for in this process.

    Worker processes (of loky, Dask, multiprocessing) each get one that no other worker
    has: the claim is a locked file, which the system unlocks when the process ends,
    however it ends. More workers than GPUs share them. Where the scheduler shows each
    worker a single GPU, as Ray and dask-cuda do, that one it is.

    Returns
    -------
    index : int
    """
    global _own_gpu
    count = torch.cuda.device_count()
    if count == 1 or multiprocessing.current_process().name == "MainProcess":
        return torch.cuda.current_device()
    with _lock:
        if _own_gpu is None:
            _own_gpu = _claim_gpu(count)
        return _own_gpu


def _claim_gpu(count):
    """The first GPU that no other worker holds, or else any."""
    for index in range(count):
        uuid = torch.cuda.get_device_properties(index).uuid
        path = Path(tempfile.gettempdir()) / f"diffusion-sklearn-{uuid}.lock"
        claim = FileLock(path, mode=0o666)
        try:
            claim.acquire(timeout=0)
        except Timeout:
            continue
        _claims.append(claim)  # for as long as the process lives
        return index
    return os.getpid() % count


def resolve_device(device):
    """Turn a `device` parameter into a torch device that is there.

    Parameters
    ----------
    device : "auto", str or torch.device
        "auto": the first of CUDA, MPS and CPU that is available.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.empty(1, device=f"cuda:{own_gpu()}").device
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        resolved = torch.empty(1, device=resolved).device  # "cuda" is "cuda:0"
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        reason = "no such device" if reason.startswith("Expected one of") else reason
        raise ValueError(
            f"device={device!r} can't be used here ({reason}); pass 'cpu', another "
            "torch device, or 'auto' for the best one there is."
        ) from error
    return resolved


def resolve_dtype(dtype, device):
    """Turn a `dtype` parameter into a torch floating-point dtype.

    Parameters
    ----------
    dtype : "auto", str or torch.dtype
        "auto": float32 on a CPU, bfloat16 on a GPU that has it, else float16.
    device : torch.device
        Where the model will run.

    Returns
    -------
    dtype : torch.dtype

    Raises
    ------
    ValueError
        If it is no floating-point dtype of torch.
    """
    if isinstance(dtype, str) and dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    name = str(dtype).removeprefix("torch.")
    for candidate in known:
        if str(candidate) == f"torch.{name}":
            return candidate
    raise ValueError(
        f"dtype={dtype!r} is no floating-point type for a model; pass 'auto', "
        "'float32', 'bfloat16', 'float16' or 'float64'."
    )


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
    noised = torch.zeros(2, *latent_shape, device=backbone.device)
    timesteps = torch.zeros(2, dtype=torch.int64, device=backbone.device)
    device = backbone.device
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


def to_device(array, device):
    """An array on a device; to a GPU without waiting until it is there.

    Parameters
    ----------
    array : ndarray
        Of any shape.
    device : torch.device
        Where it is wanted.

    Returns
    -------
    tensor : Tensor
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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
        rows, full = slice(start, min(start + size.rows, n)), None
        try:
            result = compute(rows)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            full = str(error).splitlines()[0] if str(error) else "out of memory"
        if full is None:
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
