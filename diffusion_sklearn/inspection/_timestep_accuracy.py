"""Accuracy from one timestep alone, against the timestep."""

from numbers import Integral

import numpy as np

from diffusion_sklearn.inspection._common import (
    check_labels,
    count_correct,
    figure_and_axes,
    unpruned,
)
from diffusion_sklearn.metrics import clopper_pearson


class TimestepAccuracyDisplay:
    """Accuracy of a classifier that uses one timestep alone, against the timestep.

    Timesteps of little noise tell the classes apart by texture and those of much noise
    by layout, or not at all; in between lies what they say best (Figure 3 of [1]_).

    Parameters
    ----------
    timesteps : array-like of shape (n_points,)
        Timestep of each point, or centre of a band of them.
    n_correct : array-like of shape (n_points,), of int
        Number of images classified rightly from those trials alone.
    n_images : int
        Number of images.
    n_classes : int, default=None
        For a line at chance, 1 / n_classes; None: no line.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The accuracy.
    interval_ : matplotlib PolyCollection
        Its Clopper-Pearson interval, point by point.
    chance_line_ : matplotlib Line2D or None
        The accuracy of guesses.
    ax_ : matplotlib Axes
        Where they are drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    DenoisingErrorDisplay : The errors behind it, for one image.
    TrialScalingDisplay : Which timesteps are worth more trials.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> from diffusion_sklearn.inspection import TimestepAccuracyDisplay
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=10)
    >>> clf = clf.fit(classes=photos.target_names)
    >>> display = TimestepAccuracyDisplay.from_estimator(
    ...     clf, photos.images[:20], photos.names[:20]
    ... )
    >>> display.timesteps
    array([ 50, 150, 250, 350, 450, 550, 650, 750, 850, 950])
    """

    def __init__(self, timesteps, n_correct, n_images, *, n_classes=None):
        self.timesteps = timesteps
        self.n_correct = n_correct
        self.n_images = n_images
        self.n_classes = n_classes

    @classmethod
    def from_estimator(cls, clf, X, y, *, n_bands=None, confidence=0.95, ax=None):
        """Score images with all classes and trials, and draw the accuracy.

        All points are read off one table of errors, without pruning: n_images x
        n_classes x n_trials network evaluations.

        Parameters
        ----------
        clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
            Fitted. Its trials say which timesteps are drawn and how often each is
            tried; its `timestep_weights` play no part, as this is to choose them by.
        X : list, array-like or Tensor of n_images
            Images, as for ``clf.predict``.
        y : array-like of shape (n_images,)
            Labels.
        n_bands : int, default=None
            Number of bands of equal width that the timesteps are put together in; a
            band without a trial is left out. None: a point for each timestep.
        confidence, ax
            As for :meth:`plot`.

        Returns
        -------
        display : TimestepAccuracyDisplay
            Drawn.

        Raises
        ------
        ValueError
            If `n_bands` is not possible, or `y` has a label that is no class.
        """
        twin = unpruned(clf)
        y = check_labels(X, y, twin.classes_)
        n_timesteps = twin.backbone_.n_timesteps
        timesteps = twin.trials_.timesteps
        if n_bands is None:
            points, group = np.unique(timesteps, return_inverse=True)
        elif isinstance(n_bands, Integral) and 1 <= n_bands <= n_timesteps:
            band, group = np.unique(
                timesteps * n_bands // n_timesteps, return_inverse=True
            )
            points = (band + 0.5) * n_timesteps / n_bands
        else:
            raise ValueError(
                f"n_bands={n_bands!r} must be an int from 1 to {n_timesteps}, or None."
            )
        errors = twin.denoising_errors(X).errors  # (n, k, m)
        n_correct = [
            count_correct(twin, errors[:, :, group == g], y) for g in range(len(points))
        ]
        display = cls(
            points, np.array(n_correct), len(errors), n_classes=twin.n_classes_
        )
        return display.plot(ax, confidence=confidence)

    def plot(self, ax=None, *, confidence=0.95):
        """Draw the accuracy and its interval.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.
        confidence : float, default=0.95
            Coverage of the interval of each point, in (0, 1), over other images.

        Returns
        -------
        self : TimestepAccuracyDisplay
            Itself.
        """
        n = self.n_images
        accuracy = np.asarray(self.n_correct) / n
        bounds = [clopper_pearson(int(c), n, confidence) for c in self.n_correct]
        low, high = np.transpose(bounds)

        self.figure_, self.ax_ = figure_and_axes(ax)
        (self.line_,) = self.ax_.plot(self.timesteps, accuracy, marker=".")
        self.interval_ = self.ax_.fill_between(
            self.timesteps,
            low,
            high,
            color=self.line_.get_color(),
            alpha=0.2,
            linewidth=0,
            label=f"{confidence:.3g} confidence",
        )
        self.chance_line_ = None
        if self.n_classes is not None:
            self.chance_line_ = self.ax_.axhline(
                1 / self.n_classes, color="gray", linestyle=":", label="chance"
            )
        self.ax_.set(
            xlabel="timestep", ylabel=f"accuracy on {n} images", ylim=(0, 1.02)
        )
        self.ax_.legend()
        return self
