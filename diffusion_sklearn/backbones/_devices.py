"""Device and dtype: what "auto" means, and what is not possible."""

import multiprocessing
import os
import tempfile
import threading
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
