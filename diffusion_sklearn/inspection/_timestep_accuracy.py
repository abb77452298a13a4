"""Accuracy with a single timestep, against the timestep."""

from dataclasses import KW_ONLY, dataclass
from numbers import Integral

import numpy as np

from diffusion_sklearn.classifiers._evaluate import all_errors
from diffusion_sklearn.classifiers._labels import check_known
from diffusion_sklearn.inspection._common import (
    check_classifier,
    count_correct,
    figure_and_axes,
)
from diffusion_sklearn.metrics import clopper_pearson


@dataclass(eq=False, repr=False)
class TimestepAccuracyDisplay:
    """Accuracy of a classifier that uses a single timestep, against the timestep.

    At small timesteps the errors depend on texture, at large ones on layout; accuracy
    is highest in between (Figure 3 of [1]_).

    Parameters
    ----------
    timesteps : array-like of shape (n_points,)
        Timestep of each point, or centre of a band of timesteps.
    n_correct : array-like of shape (n_points,), of int
        Number of images that the trials of each point classify correctly.
    n_images : int
        Number of images.
    n_classes : int, default=None
        Draws chance level, 1 / n_classes; None: no line.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The accuracy.
    interval_ : matplotlib PolyCollection
        Its Clopper-Pearson interval, point by point.
    chance_line_ : matplotlib Line2D or None
        Chance level.
    ax_ : matplotlib Axes
        Axes of the lines.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    DenoisingErrorDisplay : Errors of one image at each timestep.
    TrialScalingDisplay : Accuracy against the number of trials.

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

    timesteps: object
    n_correct: object
    n_images: object
    _: KW_ONLY
    n_classes: object = None

    @classmethod
    def from_estimator(cls, clf, X, y, *, n_bands=None, confidence=0.95, ax=None):
        """Score images with all classes and trials, and draw the accuracy.

        Takes n_images x n_classes x n_trials network evaluations, without pruning.

        Parameters
        ----------
        clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
            Fitted. Its trials are used; its pruning, prefilter and `timestep_weights`
            are not.
        X : list, array-like or Tensor of n_images
            Images, as for ``clf.predict``.
        y : array-like of shape (n_images,)
            Labels.
        n_bands : int, default=None
            Number of bands of equal width into which timesteps are grouped; bands
            without trials are left out. None: a point for each timestep.
        confidence, ax
            As for :meth:`plot`.

        Returns
        -------
        display : TimestepAccuracyDisplay
            Drawn.

        Raises
        ------
        ValueError
            If `n_bands` is invalid, or `y` has an unknown label.
        """
        check_classifier(clf)
        n_timesteps, timesteps = clf.backbone_.n_timesteps, clf.trials_.timesteps
        y = check_known(y, clf.classes_, X)
        if n_bands is None:
            points, group = np.unique(timesteps, return_inverse=True)
        elif isinstance(n_bands, Integral) and 1 <= n_bands <= n_timesteps:
            band = timesteps * n_bands // n_timesteps
            bands, group = np.unique(band, return_inverse=True)
            points = (bands + 0.5) * n_timesteps / n_bands
        else:
            raise ValueError(
                f"n_bands={n_bands!r} must be an int from 1 to {n_timesteps}, or None."
            )
        errors = all_errors(clf, X)  # (n, k, m)
        n_correct = [
            count_correct(clf, errors[:, :, group == g], y) for g in range(len(points))
        ]
        display = cls(points, np.array(n_correct), len(y), n_classes=clf.n_classes_)
        return display.plot(ax, confidence=confidence)

    def plot(self, ax=None, *, confidence=0.95):
        """Draw the accuracy and its interval.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new figure.
        confidence : float, default=0.95
            Coverage of the interval of each point, in (0, 1).

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
