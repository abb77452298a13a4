"""Denoising error of one image against the timestep, class by class."""

from dataclasses import KW_ONLY, dataclass
from numbers import Integral

import numpy as np

from diffusion_sklearn.classifiers._evaluate import all_errors
from diffusion_sklearn.engine._trials import Trials, thin
from diffusion_sklearn.inspection._common import (
    as_batch,
    check_classifier,
    figure_and_axes,
    plain,
)

CENTERS = {"noise": 0, "timestep": (0, 1), None: ()}
"""Axes of (classes, noises, timesteps) over which the mean is subtracted."""


@dataclass(eq=False, repr=False)
class DenoisingErrorDisplay:
    """Denoising error of one image against the timestep, for each class.

    A thin line is one noise sample at all timesteps, a thick line the mean over noise
    samples. Errors differ far more between noise samples than between classes with the
    same noise, which is why the trials are paired (Figure 2 of [1]_).

    Parameters
    ----------
    errors : array-like of shape (n_classes, n_noises, n_timesteps)
        Error of each class with each noise at each timestep.
    timesteps : array-like of shape (n_timesteps,)
        The timesteps.
    classes : array-like of shape (n_classes,), default=None
        Labels for the legend; None: 0, 1, ...

    Attributes
    ----------
    lines_ : ndarray of shape (n_classes, n_noises), of matplotlib Line2D
        A line for each class and noise.
    mean_lines_ : list of matplotlib Line2D
        A line for each class: the mean over noises.
    ax_ : matplotlib Axes
        Axes of the lines.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    TimestepAccuracyDisplay : Accuracy of each timestep.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> from diffusion_sklearn.inspection import DenoisingErrorDisplay
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit")
    >>> clf = clf.fit(classes=["ankle boot", "sneaker"])
    >>> display = DenoisingErrorDisplay.from_estimator(
    ...     clf, photos.images[0], n_noises=2, timesteps=10
    ... )
    >>> display.errors.shape
    (2, 2, 10)
    """

    errors: object
    timesteps: object
    _: KW_ONLY
    classes: object = None

    @classmethod
    def from_estimator(
        cls, clf, image, *, n_noises=4, timesteps=50, center="noise", ax=None
    ):
        """Compute the errors of an image and draw them.

        Takes n_classes x n_noises x n_timesteps network evaluations.

        Parameters
        ----------
        clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
            Fitted. Its `loss` and `target` are used; its trials, pruning, prefilter
            and memory are not.
        image : PIL.Image.Image, str, Path, ndarray or Tensor
            One image.
        n_noises : int, default=4
            Number of noise samples, those of the classifier's first trials.
        timesteps : int or array-like of int, default=50
            Number of evenly spaced timesteps, or the timesteps.
        center, ax
            As for :meth:`plot`.

        Returns
        -------
        display : DenoisingErrorDisplay
            Drawn.

        Raises
        ------
        ValueError
            If `n_noises` or `timesteps` is invalid.
        """
        if not isinstance(n_noises, Integral) or n_noises < 1:
            raise ValueError(f"n_noises={n_noises!r} must be an int of at least 1.")
        check_classifier(clf)
        timesteps = _resolve_timesteps(timesteps, clf.backbone_.n_timesteps)
        trial_timesteps = np.repeat(timesteps, n_noises)
        trials = _RepeatedNoise(trial_timesteps, clf.trials_.seed, n_noises=n_noises)
        errors = all_errors(clf, as_batch(image), trials)  # (1, k, t * m)
        errors = errors.reshape(-1, len(timesteps), n_noises).swapaxes(1, 2)
        return cls(errors, timesteps, classes=clf.classes_).plot(ax, center=center)

    def plot(self, ax=None, *, center="noise"):
        """Draw the errors.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new figure.
        center : {"noise", "timestep"} or None, default="noise"
            The mean to subtract from the errors. "noise": the mean over classes for
            each noise and timestep, which leaves the paired differences. "timestep":
            the mean over classes and noises for each timestep, as in the paper. None:
            no mean.

        Returns
        -------
        self : DenoisingErrorDisplay
            Itself.

        Raises
        ------
        ValueError
            If `center` or a shape is invalid.
        """
        if center not in CENTERS:
            raise ValueError(f"center={center!r} must be 'noise', 'timestep' or None.")
        errors = np.asarray(self.errors, np.float64)  # (k, m, t)
        if errors.ndim != 3 or errors.shape[2] != len(self.timesteps):
            raise ValueError(
                f"errors has shape {errors.shape}; pass (n_classes, n_noises, "
                f"n_timesteps) with {len(self.timesteps)} timesteps."
            )
        if center is not None:
            errors = errors - errors.mean(axis=CENTERS[center], keepdims=True)
        classes = range(len(errors)) if self.classes is None else self.classes

        self.figure_, self.ax_ = figure_and_axes(ax)
        self.lines_ = np.empty(errors.shape[:2], object)
        self.mean_lines_ = []
        for k, (label, curves) in enumerate(zip(classes, errors, strict=True)):
            color = f"C{k}"
            self.lines_[k] = self.ax_.plot(
                self.timesteps, curves.T, color=color, alpha=0.4, linewidth=0.8
            )
            self.mean_lines_ += self.ax_.plot(
                self.timesteps, curves.mean(axis=0), color=color, label=plain(label)
            )
        suffix = "" if center is None else f", from the mean of each {center}"
        self.ax_.set(xlabel="timestep", ylabel=f"denoising error{suffix}")
        self.ax_.legend()
        return self


@dataclass(frozen=True, eq=False)
class _RepeatedNoise(Trials):
    """Trials that use the same few noise samples at every timestep."""

    n_noises: int = 1

    def noise(self, shape):
        noise = Trials(self.timesteps[: self.n_noises], self.seed).noise(shape)
        return np.tile(noise, (len(self) // self.n_noises, 1, 1, 1))


def _resolve_timesteps(timesteps, n_timesteps):
    """The timesteps, sorted: as many as asked for, evenly spaced, or those listed."""
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
