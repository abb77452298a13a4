"""Images in chunks, to the workers of any joblib backend."""

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from diffusion_sklearn.backbones._loading import get_unchanged
from diffusion_sklearn.engine._cache import ErrorCache
from diffusion_sklearn.engine._errors import iter_errors
from diffusion_sklearn.engine._gradients import predict_errors

CHUNKS_PER_WORKER, MIN_CHUNK, MAX_CHUNK = 4, 16, 1024
WORKER_DEATHS = {"BrokenExecutor", "KilledWorker", "RayActorError", "NodeDiedError"}
"""Errors of loky, Dask and Ray after a worker died more often than they try again."""


def has_workers(n_jobs, n_images):
    """Whether images are evaluated in other processes or threads.

    Parameters
    ----------
    n_jobs : int or None
        For joblib, as is ``joblib.parallel_config``.
    n_images : int
        How many there are.

    Returns
    -------
    has_workers : bool
        True for a cluster of Dask or Ray, even where it has a single worker.
    """
    backend, _ = get_active_backend()
    is_cluster = type(backend).__module__ != "joblib._parallel_backends"
    return is_cluster or min(effective_n_jobs(n_jobs), n_images) > 1


def iter_errors_of_workers(plan, images, offsets, store, n_jobs, searched):
    """Errors of images, as :func:`iter_errors` yields them, computed by workers.

    A plan goes to each worker as a memory map (loky) or once (Dask, scattered); a
    worker loads the model itself, on its own device.

    Parameters
    ----------
    plan, images, offsets
        As in :func:`iter_errors`.
    store : ErrorStore or None
        The kept errors, which each worker opens.
    n_jobs : int or None
        For joblib.
    searched
        As in :func:`iter_errors`.

    Yields
    ------
    place, errors, n_evaluations
        As there, as soon as those of all images before them are done; with Ray, which
        can't return results one by one, all at the end.

    Raises
    ------
    RuntimeError
        If a worker died.
    """

    def task(part, start, end):
        of_part = None if searched is None else searched[start:end]
        return delayed(_errors_of_chunk)(
            plan, part, offsets[start:end], store, start, of_part
        )

    for groups in _iter_chunks(task, images, n_jobs):
        yield from groups


def predict_errors_of_workers(plan, images, null, n_candidates, eligible, n_jobs):
    """Predicted errors of images, computed by workers.

    Parameters
    ----------
    plan, images, null, n_candidates, eligible
        As in :func:`~diffusion_sklearn.engine._gradients.predict_errors`.
    n_jobs : int or None
        For joblib.

    Returns
    -------
    errors, searched, n_evaluations
        As there.
    """

    def task(part, start, end):
        search = plan, part, null, n_candidates, eligible, start
        return delayed(_predict_errors_of_chunk)(*search)

    return map(np.concatenate, zip(*_iter_chunks(task, images, n_jobs), strict=True))


def _iter_chunks(task, images, n_jobs):
    """Results of a task for each chunk of the images, in their order."""
    n_workers = min(effective_n_jobs(n_jobs), len(images))
    tasks = (task(_part(images, a, b), a, b) for a, b in chunks(len(images), n_workers))
    backend, _ = get_active_backend()
    return_as = "generator" if backend.supports_return_generator else "list"
    try:
        yield from Parallel(n_jobs=n_jobs, return_as=return_as)(tasks)
    except Exception as error:
        if WORKER_DEATHS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
            raise
        raise RuntimeError(
            f"One of {n_workers} workers died, perhaps for want of memory "
            f"({type(error).__name__}). Pass a smaller n_jobs or batch_size; with "
            "memory=folder the next run goes on where this one stopped."
        ) from error


def _predict_errors_of_chunk(plan, *args):
    _check_model(plan)
    return predict_errors(plan, *args)


def _check_model(plan):
    if "backbone" not in vars(plan):  # in this process for the first time
        get_unchanged(plan.model)


def _errors_of_chunk(plan, images, offsets, store, first, searched):
    _check_model(plan)
    with ErrorCache.open(store, plan) as cache:
        return list(iter_errors(plan, images, offsets, cache, first, searched))


def _part(images, a, b):
    # A slice of a tensor would be sent with all of its storage.
    part = images[a:b]
    return part.clone() if isinstance(part, torch.Tensor) else part


def chunks(n, n_workers):
    """Where images are cut into chunks, so that no worker waits long for the others.

    Parameters
    ----------
    n : int
        Number of images.
    n_workers : int
        Number of workers.

    Returns
    -------
    bounds : list of (int, int)
    """
    size = -(-n // (CHUNKS_PER_WORKER * n_workers))
    size = min(max(size, min(MIN_CHUNK, -(-n // n_workers))), MAX_CHUNK)
    return [(a, min(a + size, n)) for a in range(0, n, size)]
