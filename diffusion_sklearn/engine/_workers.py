"""Images in chunks to the workers of any joblib backend."""

import numpy as np
import torch
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

CHUNKS_PER_WORKER, FEWEST, MOST = 4, 16, 1024
DEATHS = {"BrokenExecutor", "KilledWorker", "RayActorError", "NodeDiedError"}
"""What loky, Dask and Ray call it when a worker died, once too often to try again."""


def map_chunks(function, images, how, n_workers, n_jobs):
    """Call a function on chunks of images, in parallel, and chain what it returns.

    Parameters
    ----------
    function : callable
        Called as ``function(*chunks, first, *how)``; returns a list.
    images : tuple of sequence
        Cut into chunks, all in the same places.
    how : tuple
        The same for all chunks. Large arrays go to each worker once, where the
        backend has a way for that: memory maps of loky, scattering of Dask.
    n_workers : int
        How many workers there are.
    n_jobs : int
        For joblib, which also hears of ``joblib.parallel_config``.

    Yields
    ------
    result : object
        Items of the returned lists, in the order of the images, as soon as they and
        all before them are there; all at the end with Ray's backend, which can't.

    Raises
    ------
    RuntimeError
        If a worker died.
    """
    n = len(images[0])
    tasks = (
        delayed(function)(*(_part(x, a, b) for x in images), a, *how)
        for a, b in chunks(n, n_workers)
    )
    backend, _ = get_active_backend()
    return_as = "generator" if backend.supports_return_generator else "list"
    try:
        for results in Parallel(n_jobs=n_jobs, return_as=return_as)(tasks):
            yield from results
    except Exception as error:
        if DEATHS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
            raise
        raise RuntimeError(
            f"One of {n_workers} workers died, perhaps for want of memory "
            f"({type(error).__name__}). Pass a smaller n_jobs or batch_size; with "
            "memory=folder the next run goes on where this one stopped."
        ) from error


def _part(x, a, b):
    # A slice of a tensor would be sent with all of its storage.
    return x[a:b].clone() if isinstance(x, torch.Tensor) else x[a:b]


def is_cluster():
    """Whether joblib's backend is one of somebody else's, such as Dask or Ray.

    Returns
    -------
    cluster : bool
        Work is sent there even where it has a single worker.
    """
    backend, _ = get_active_backend()
    return type(backend).__module__ != "joblib._parallel_backends"


def chunks(n, n_workers):
    """Places at which images are cut, so that no worker waits long for the others.

    Parameters
    ----------
    n : int
        Number of images.
    n_workers : int
        How many workers there are.

    Returns
    -------
    bounds : list of (int, int)
    """
    size = -(-n // (CHUNKS_PER_WORKER * n_workers))
    size = min(max(size, min(FEWEST, -(-n // n_workers))), MOST)
    return [(a, min(a + size, n)) for a in range(0, n, size)]


def to_numpy(tensor):
    """A tensor as an array that workers can share; half precision becomes float32.

    Parameters
    ----------
    tensor : Tensor

    Returns
    -------
    array : ndarray
        Of the same values.
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.cpu().numpy())
