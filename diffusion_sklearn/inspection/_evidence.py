"""Where in an image one class fits better than another, drawn over the image."""

from dataclasses import dataclass

import numpy as np

from diffusion_sklearn.images._pixels import to_pixels
from diffusion_sklearn.inspection._common import (
    as_batch,
    check_classifier,
    figure_and_axes,
    plain,
)

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's mode "L"


@dataclass(eq=False, repr=False)
class EvidenceDisplay:
    """Where in an image one class fits better than another, drawn over the image.

    Positions where class `a` has the smaller error are red, those where class `b` has
    it are blue. The image is drawn below, in gray.

    Parameters
    ----------
    evidence : array-like of shape (height, width)
        Error of `b` minus error of `a`, as of one image in ``clf.evidence(X, a, b)``.
    image : array-like of shape (height, width) or (height, width, 3)
        The image, in [0, 1].
    a, b : label
        The two classes.

    Attributes
    ----------
    im_ : matplotlib AxesImage
        The evidence.
    photo_ : matplotlib AxesImage
        The image.
    colorbar_ : matplotlib Colorbar
        Of the evidence.
    ax_ : matplotlib Axes
        Axes of the images.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> from diffusion_sklearn.inspection import EvidenceDisplay
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=25)
    >>> clf = clf.fit(classes=["ankle boot", "sneaker"])
    >>> display = EvidenceDisplay.from_estimator(
    ...     clf, photos.images[0], "ankle boot", "sneaker"
    ... )
    >>> bool(display.evidence.mean() > 0)  # it is an ankle boot
    True
    """

    evidence: object
    image: object
    a: object
    b: object

    @classmethod
    def from_estimator(cls, clf, image, a, b, *, alpha=0.6, ax=None):
        """Compute the evidence in an image and draw it.

        Takes 2 x n_trials network evaluations.

        Parameters
        ----------
        clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
            Fitted.
        image : PIL.Image.Image, str, Path, ndarray or Tensor
            One image.
        a, b : label
            Two of ``clf.classes_``.
        alpha, ax
            As for :meth:`plot`.

        Returns
        -------
        display : EvidenceDisplay
            Drawn.

        Raises
        ------
        ValueError
            If `a` or `b` is not a class.
        """
        check_classifier(clf)
        X = as_batch(image)
        (evidence,) = clf.evidence(X, a, b)
        pixels = to_pixels(clf._read_images(X), len(evidence))[0]  # (3, h, w)
        photo = (np.moveaxis(pixels, 0, -1) + 1) / 2
        return cls(evidence, photo, a, b).plot(ax, alpha=alpha)

    def plot(self, ax=None, *, alpha=0.6):
        """Draw the evidence over the image.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new figure.
        alpha : float, default=0.6
            Opacity of the colours, from 0 to 1.

        Returns
        -------
        self : EvidenceDisplay
            Itself.
        """
        evidence = np.asarray(self.evidence, np.float64)
        photo = np.asarray(self.image, np.float64)
        gray = photo @ LUMA if photo.ndim == 3 else photo
        limit = np.abs(evidence).max() or 1.0

        self.figure_, self.ax_ = figure_and_axes(ax)
        self.photo_ = self.ax_.imshow(gray, cmap="gray", vmin=0, vmax=1)
        self.im_ = self.ax_.imshow(
            evidence, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=alpha
        )
        self.colorbar_ = self.figure_.colorbar(self.im_, ax=self.ax_)
        self.colorbar_.set_label(
            f"{plain(self.b)}  \N{LEFTWARDS ARROW}  evidence  "
            f"\N{RIGHTWARDS ARROW}  {plain(self.a)}"
        )
        self.ax_.axis("off")
        return self
