"""Errors kept chunk by chunk, and races replayed on them."""

import joblib
import numpy as np

CHUNK = 50  # images


def compute_in_chunks(compute, inputs, folder=None, name=""):
    """Rows of images, of which finished chunks are kept in a folder.

    Parameters
    ----------
    compute : callable
        Takes a chunk of each input, returns its rows.
    inputs : list of ndarray of shape (n_images, ...)
        The images and what else the rows depend on. A chunk is read from the folder
        only where all of these are the same.
    folder : Path, default=None
        Where chunks are kept; None: nowhere.
    name : str
        Of the files, for the settings of `compute`.

    Returns
    -------
    rows : ndarray
    """
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for start in range(0, len(inputs[0]), CHUNK):
        chunk = [values[start : start + CHUNK] for values in inputs]
        path = folder and folder / f"{name}-{start}-{joblib.hash(chunk)}.npy"
        if path and path.exists():
            chunks.append(np.load(path))
            continue
        chunks.append(compute(*chunk))
        if path:
            np.save(path, chunks[-1])
    return np.concatenate(chunks)


def errors_in_chunks(clf, images, folder, name):
    """Errors of all classes and trials, (n_images, n_classes, n_trials), float64."""
    errors = compute_in_chunks(
        lambda chunk: clf.denoising_errors(chunk).errors, [images], folder, name
    )
    return errors.astype(float)


def choices_in_chunks(clf, images, folder, name):
    """Index of the chosen class and evaluations of each image, (n_images,) each."""

    def choose(chunk):
        result = clf.denoising_errors(chunk)
        choice = result.log_proba.argmax(axis=1)
        return np.column_stack([choice, result.n_evaluations])

    return compute_in_chunks(choose, [images], folder, name).T


def replay_rounds(errors, rounds, order, timesteps, weights, coefficients=None):
    """Choice and evaluations of each image in a race, from the table of all errors.

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_trials)
    rounds : list of (int, list of callable)
        As of :func:`~diffusion_sklearn.engine._pruning.pruning_rounds`.
    order : ndarray of shape (n_trials,), int64
        Order in which the trials run.
    timesteps, weights : ndarray of shape (n_trials,)
        Of each trial.
    coefficients : ndarray of shape (n_trials + 1, n_trials), default=None
        What a class is judged by after each round; None: the mean so far.

    Returns
    -------
    choice, cost : ndarray of shape (n_images,), int64
    """
    n, k, n_trials = errors.shape
    active, done = np.ones((n, k), bool), 0
    choice, cost = np.zeros(n, int), np.zeros(n, int)
    for end, rules in rounds:
        undecided, so_far = active.any(axis=1), order[:end]
        cost += active.sum(axis=1) * (end - done)
        done = end
        weighted = errors[:, :, so_far] * weights[so_far]
        for rule in rules:
            active = rule(weighted, active, timesteps[so_far])
        if coefficients is None or end == n_trials:
            mean = weighted.mean(axis=2)
        else:
            mean = weighted @ coefficients[end, so_far]
        best = np.where(active, mean, np.inf).argmin(axis=1)
        choice[undecided] = best[undecided]
        if rules:
            active = active & (active.sum(axis=1, keepdims=True) > 1)
    return choice, cost
