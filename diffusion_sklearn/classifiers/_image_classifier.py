"""Base class of classifiers of images: label checks and predictions."""

from abc import abstractmethod

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from diffusion_sklearn.classifiers._image_estimator import BaseImageEstimator
from diffusion_sklearn.classifiers._labels import (
    check_labels,
    check_sorted,
    resolve_classes,
    resolve_names,
)
from diffusion_sklearn.images._pixels import holds_rows


class BaseImageClassifier(ClassifierMixin, BaseImageEstimator):
    """Base class: label checks, predict, predict_proba.

    A subclass has the parameters `model`, `classes`, `class_names` and `image_shape`,
    sets `classes_` and `n_classes_`, and implements :meth:`predict_log_proba`.
    """

    @abstractmethod
    def predict_log_proba(self, X):
        """Log posterior probability of each class."""

    def predict(self, X):
        """Predict the class of highest posterior.

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
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X):
        """Posterior probability of each class.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes), float64
            Columns in the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def decision_function(self, X):
        """Log posterior, up to a constant for each image.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_classes) or (n_images,), float64
            With two classes, the log odds of ``classes_[1]``.
        """
        # Finite where a prior or the prefilter rules a class out.
        log_proba = np.maximum(self.predict_log_proba(X), np.finfo(np.float32).min)
        if self.n_classes_ == 2:
            return log_proba[:, 1] - log_proba[:, 0]
        return log_proba

    def _resolve_labels(self, X, y, classes):
        """The label set from the arguments of `fit`.

        Returns
        -------
        y : ndarray of shape (n_images,) or None
            The checked labels.
        labels : ndarray of shape (n_classes,)
            The sorted label set.
        names : list of length n_classes
            The name of each label.
        classes_given : bool
            Whether the user gave the classes, rather than `y`.
        """
        classes = self.classes if classes is None else classes
        y = self._check_training_data(X, y, classes)
        labels = resolve_classes(classes, y)
        if classes is not None:
            aligned = ("class_names", "class_ids", "priors", "class_offsets")
            params = {name: getattr(self, name, None) for name in aligned}
            check_sorted(classes, labels, params)
        return y, labels, resolve_names(labels, self.class_names), classes is not None

    def _check_training_data(self, X, y, classes):
        if y is None:
            if classes is None:
                raise ValueError(
                    f"{type(self).__name__} requires y to be passed, but the target y "
                    "is None and classes=None; name the label set, for instance "
                    "fit(classes=['cat', 'dog'])."
                )
            if holds_rows(X):
                validate_data(self, X)
            return None
        y = check_labels(y)
        if holds_rows(X):
            _, y = validate_data(self, X, y)
        else:
            y = column_or_1d(y, warn=True)
            check_consistent_length(X, y)  # X may be None
        check_classification_targets(y)
        return y

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.classes is None
        # Nothing is learned from tabular data.
        tags.classifier_tags.poor_score = True
        return tags
