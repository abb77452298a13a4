"""What the displays share: axes to draw on, and checks of what they are given."""

import copy

import numpy as np
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from diffusion_sklearn.classifiers._base import BaseDiffusionClassifier
from diffusion_sklearn.engine._posterior import check_priors, log_posterior
from diffusion_sklearn.engine._trials import thin


def figure_and_axes(ax):
    """The axes to draw on, and their figure.

    Parameters
    ----------
    ax : matplotlib Axes or None
        As the user passed them; None: new ones.

    Returns
    -------
    figure : matplotlib Figure
    ax : matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "A display needs matplotlib to plot; install it with "
            '`pip install "diffusion-sklearn[plot]"`.'
        ) from error
    if ax is None:
        return plt.subplots()
    return ax.figure, ax


def check_classifier(clf):
    """Raise unless it is a classifier that denoises.

    Parameters
    ----------
    clf : estimator
        As the user passed it.

    Raises
    ------
    TypeError
        If it is of another kind.
    """
    if not isinstance(clf, BaseDiffusionClassifier):
        raise TypeError(
            f"clf={clf!r} has no denoising errors to show; pass a "
            "ZeroShotDiffusionClassifier or a ConditionalDiffusionClassifier (of a "
            "pipeline or a search, the one inside)."
        )


def unpruned(clf):
    """A copy of a fitted classifier that gives all classes all trials.

    Parameters
    ----------
    clf : estimator
        Fitted; left as it is.

    Returns
    -------
    twin : estimator
        With the same classes, trials and model.
    """
    check_classifier(clf)
    check_is_fitted(clf, "classes_")
    return copy.copy(clf).set_params(pruning=None)


def check_labels(X, y, classes):
    """Labels as an array, one for each image.

    Parameters
    ----------
    X : list, array-like or Tensor of n_images
        Images.
    y : array-like of shape (n_images,)
        Labels.
    classes : ndarray of shape (n_classes,)
        Those that a classifier knows.

    Returns
    -------
    y : ndarray of shape (n_images,)

    Raises
    ------
    ValueError
        If the lengths differ, or a label is none of `classes`.
    """
    y = column_or_1d(y)
    check_consistent_length(X, y)
    strangers = sorted(set(y.tolist()) - set(classes.tolist()), key=str)
    if strangers:
        raise ValueError(
            f"y has {strangers!r}, none of the classes {classes.tolist()!r}; leave "
            "those images out, or fit the classifier on all classes."
        )
    return y


def count_correct(clf, errors, y):
    """How many images are classified rightly, from the errors of some trials.

    Parameters
    ----------
    clf : estimator
        Fitted; has the priors, the temperature and the size of a latent.
    errors : ndarray of shape (n_images, n_classes, n_trials)
        Weighted if wanted; NaN for classes that its prefilter rules out.
    y : ndarray of shape (n_images,)
        Labels.

    Returns
    -------
    n_correct : int
    """
    priors = check_priors(clf.priors, clf.classes_)
    n_elements = clf._fitted_plan().n_elements
    log_proba = log_posterior(errors, n_elements, priors, clf.temperature)  # (n, k)
    return int((clf.classes_[log_proba.argmax(axis=1)] == y).sum())


def as_batch(image):
    """A collection of one image.

    Parameters
    ----------
    image : PIL.Image.Image, str, Path, ndarray or Tensor
        In any of the forms that the classifiers take, or a flat row.

    Returns
    -------
    X : list, ndarray or Tensor of 1 image
    """
    if hasattr(image, "ndim"):  # an array or a tensor
        return image[None]
    return [image]


def spread_timesteps(timesteps, n_timesteps):
    """The timesteps that were asked for.

    Parameters
    ----------
    timesteps : int or array-like of int
        How many, evenly spaced, or which.
    n_timesteps : int
        T, the number of timesteps the model was trained with.

    Returns
    -------
    timesteps : ndarray of int64
        Sorted, without repetition.

    Raises
    ------
    ValueError
        If one is none of the model's, or there are none.
    """
    listed = np.asarray(timesteps)
    if listed.ndim == 0 and listed.dtype.kind in "iu" and 0 < listed <= n_timesteps:
        return thin(np.arange(n_timesteps), int(listed))
    if listed.ndim != 1 or listed.size == 0 or listed.dtype.kind not in "iu":
        raise ValueError(
            f"timesteps={timesteps!r} must be a number of timesteps from 1 to "
            f"{n_timesteps}, or a list of them such as [100, 500]."
        )
    if listed.min() < 0 or listed.max() >= n_timesteps:
        raise ValueError(
            f"timesteps={timesteps!r} must lie in 0 to {n_timesteps - 1}, those that "
            "the model was trained with."
        )
    return np.unique(listed).astype(np.int64)
