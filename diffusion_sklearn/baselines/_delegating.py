"""Prediction by an estimator that was trained on images of one size."""

from abc import abstractmethod

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.backbones._batches import BatchSize
from diffusion_sklearn.baselines._checkpoints import run_in_batches
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.images._pixels import to_pixels

IMAGES_PER_BATCH = 256


def _estimator_has(method):
    def has(clf):
        # Raises an AttributeError with its cause, as scikit-learn's meta-estimators.
        getattr(getattr(clf, "estimator_", None) or clf._make_estimator(), method)
        return True

    return has


class DelegatingClassifier(BaseImageClassifier):
    """Base class: predict and the other methods of a trained estimator.

    A subclass sets ``estimator_`` and ``_size``, the side of its images in pixels, and
    has the methods below.
    """

    @abstractmethod
    def _make_estimator(self):
        """An unfitted copy of the estimator."""

    @abstractmethod
    def _prepare(self, images):
        """Images (n, s, s, 3), uint8, as the input of the estimator."""

    def predict(self, X):
        """Predict the class of each image with the trained estimator.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images: PIL images, paths, arrays, tensors, or flat rows with
            `image_shape`.

        Returns
        -------
        labels : ndarray of shape (n_images,)
            Taken from `classes_`.
        """
        return self._predict_with("predict", X)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X):
        """Probability of each class, by the trained estimator.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            Columns in the order of `classes_`.
        """
        return self._predict_with("predict_proba", X)

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X):
        """Log probability of each class, by the trained estimator.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns in the order of `classes_`.
        """
        return self._predict_with("predict_log_proba", X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X):
        """Scores of the classes, by the trained estimator.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_classes) or (n_images,)
            With two classes, the score of ``classes_[1]``.
        """
        return self._predict_with("decision_function", X)

    def _predict_with(self, method, X):
        check_is_fitted(self, "classes_")
        images, predict = self._read_images(X), getattr(self.estimator_, method)

        def compute(rows):
            batch = squares(images[rows], self._size, rows.start)
            return np.asarray(predict(self._prepare(batch)))

        return run_in_batches(compute, len(images), BatchSize(IMAGES_PER_BATCH))


def squares(images, image_size, first=0):
    """Bring images to one size.

    Parameters
    ----------
    images : sequence
        Anything that :func:`to_pixels` reads.
    image_size : int
        Side of the result in pixels.
    first : int, default=0
        Index of the first image, for error messages.

    Returns
    -------
    squares : ndarray of shape (len(images), image_size, image_size, 3), uint8
    """
    pixels = to_pixels(images, image_size, first)  # (n, 3, s, s)
    return np.rint((np.moveaxis(pixels, 1, -1) + 1) * 127.5).astype(np.uint8)
