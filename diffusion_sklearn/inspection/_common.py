"""Axes, errors and checks for all displays."""

from diffusion_sklearn._versions import import_optional
from diffusion_sklearn.classifiers._base import BaseDiffusionClassifier
from diffusion_sklearn.classifiers._log_prior import fitted_log_prior
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.engine._posterior import log_posterior


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
