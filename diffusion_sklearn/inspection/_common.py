"""Axes, errors and checks for all displays."""

import numpy as np

from diffusion_sklearn._versions import import_optional
from diffusion_sklearn.classifiers._base import BaseDiffusionClassifier
from diffusion_sklearn.classifiers._log_prior import fitted_log_prior
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.engine._posterior import log_posterior
from diffusion_sklearn.engine._trials import thin


def figure_and_axes(ax):
    """Axes and figure to draw on.

    Parameters
    ----------
    ax : matplotlib Axes or None
        None: a new figure.

    Returns
    -------
    figure : matplotlib Figure
    ax : matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    plt = import_optional("matplotlib.pyplot", "plot")
    if ax is None:
        return plt.subplots()
    return ax.figure, ax


def plain(label):
    """A label as text for matplotlib, which reads formulas between dollar signs.

    Parameters
    ----------
    label : object

    Returns
    -------
    text : str
    """
    return str(label).replace("$", r"\$")


def check_classifier(clf):
    """Raise unless an estimator is a diffusion classifier.

    Parameters
    ----------
    clf : estimator

    Raises
    ------
    TypeError
        If it is not.
    """
    if not isinstance(clf, BaseDiffusionClassifier):
        raise TypeError(
            f"clf={clf!r} has no denoising errors to show; pass a "
            "ZeroShotDiffusionClassifier or a ConditionalDiffusionClassifier (of a "
            "pipeline or a search, the one inside)."
        )


def count_correct(clf, errors, y):
    """Number of images that the errors of some trials classify correctly.

    Parameters
    ----------
    clf : estimator
        Fitted; gives priors, class offsets, temperature and the size of a latent.
    errors : ndarray of shape (n_images, n_classes, n_trials)
        With or without weights.
    y : ndarray of shape (n_images,)
        Labels.

    Returns
    -------
    n_correct : int
    """
    n_elements, log_prior = fitted_plan(clf).n_elements, fitted_log_prior(clf)
    log_proba = log_posterior(errors, n_elements, log_prior, clf.temperature)
    return int((clf.classes_[log_proba.argmax(axis=1)] == y).sum())


def as_batch(image):
    """Wrap one image as a collection of images.

    Parameters
    ----------
    image : PIL.Image.Image, str, Path, ndarray or Tensor
        In any of the forms that the classifiers take, or a flat row.

    Returns
    -------
    X : list, ndarray or Tensor of 1 image
    """
    if hasattr(image, "ndim") and not isinstance(image, str):  # nor a path of NumPy
        return image[None]
    return [image]


def resolve_timesteps(timesteps, n_timesteps):
    """Resolve a number or list of timesteps.

    Parameters
    ----------
    timesteps : int or array-like of int
        Number of evenly spaced timesteps, or the timesteps.
    n_timesteps : int
        T, the number of timesteps the model was trained with.

    Returns
    -------
    timesteps : ndarray of int64
        Sorted, without repetition.

    Raises
    ------
    ValueError
        If there are none, or one is outside 0 to T - 1.
    """
    values = np.asarray(timesteps)
    if values.dtype.kind in "iu" and values.size:
        if values.ndim == 0 and 0 < values <= n_timesteps:
            return thin(np.arange(n_timesteps), int(values))
        if values.ndim == 1 and values.min() >= 0 and values.max() < n_timesteps:
            return np.unique(values).astype(np.int64)
    raise ValueError(
        f"timesteps={timesteps!r} must be a number of timesteps from 1 to "
        f"{n_timesteps}, or a list of timesteps from 0 to {n_timesteps - 1}, such as "
        "[100, 500]."
    )
