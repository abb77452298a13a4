"""Loading, fit and predict of classifiers around a checkpoint."""

from abc import abstractmethod
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import log_softmax
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.backbones._devices import resolve_device, resolve_dtype
from diffusion_sklearn.backbones._sources import (
    get_or_load,
    load_pretrained,
    quiet,
    resolve_name,
)
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._image_estimator import BaseImageEstimator
from diffusion_sklearn.classifiers._labels import align
from diffusion_sklearn.classifiers._log_prior import fitted_priors
from diffusion_sklearn.classifiers._parameters import AT_LEAST_1
from diffusion_sklearn.engine._posterior import check_priors, with_priors
from diffusion_sklearn.images._read import read_image

IMAGES_PER_BATCH = 64

LABEL_CONSTRAINTS = {
    "classes": ["array-like", None],
    "class_names": ["array-like", None],
}


@dataclass(kw_only=True, eq=False, repr=False)
class ModelEstimator(BaseImageEstimator):
    """Base class: the parameters that all estimators around a model have."""

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        "image_shape": ["array-like", None],
        "batch_size": [AT_LEAST_1, StrOptions({"auto"})],
        "verbose": ["verbose"],
    }

    model: object
    image_shape: object = None
    batch_size: object = "auto"
    device: object = "auto"
    dtype: object = "auto"
    verbose: int = 0


@dataclass(kw_only=True, eq=False, repr=False)
class CheckpointClassifier(BaseImageClassifier, ModelEstimator):
    """Base class: fit and predict_log_proba of a classifier around a checkpoint.

    A subclass sets ``_bundled``, the models that ship; ``_accepted``, the values of
    `model`; and ``_saved_parts``, the parts that `save_pretrained` has to save.
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        **ModelEstimator._parameter_constraints,
        **LABEL_CONSTRAINTS,
        "priors": ["array-like", None],
        "temperature": [Interval(Real, 0, None, closed="neither")],
    }

    classes: object = None
    class_names: object = None
    priors: object = None
    temperature: float = 1.0

    def fit(self, X=None, y=None, *, classes=None):
        """Resolve the classes and prepare them for the model. Nothing is trained.

        Parameters
        ----------
        X : list, array-like or Tensor, default=None
            Images. Only their number and, for flat rows, their width are used.
        y : array-like of shape (n_images,), default=None
            Labels. Without `classes`, they are the label set.
        classes : array-like of shape (n_classes,), default=None
            The label set; overrides the parameter of the same name.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is invalid, no label set is given, or the model lacks a
            class.
        OSError
            If the model can't be loaded.
        ImportError
            If the model needs open_clip, which is not installed.
        """
        self._validate_params()
        _, labels, names, classes_given = self._resolve_labels(X, y, classes)
        check_priors(align("priors", self.priors, labels), labels)
        checkpoint = self._resolve_checkpoint()
        model = self._load(*checkpoint)
        self._fit_classes(model, labels, names, classes_given)
        # Set fitted attributes only after success.
        self.classes_, self.n_classes_ = labels, len(labels)
        self._checkpoint = checkpoint
        return self

    def predict_log_proba(self, X):
        """Log posterior probability of each class.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes), float64
            Columns in the order of `classes_`.
        """
        check_is_fitted(self, "classes_")
        self._validate_params()
        priors = fitted_priors(self)
        logits = self._class_logits(self._read_images(X))  # (n, k)
        return log_softmax(with_priors(logits, priors), axis=1)

    def _run(self, compute, images):
        """Apply a function of images and the index of their first, in batches."""
        size = IMAGES_PER_BATCH if self.batch_size == "auto" else self.batch_size
        return run_in_batches(
            lambda rows: compute(images[rows], rows.start),
            len(images),
            BatchSize(size),
            self.verbose,
        )

    def _resolve_checkpoint(self):
        """Name, revision, device and dtype of the model."""
        if not isinstance(self.model, (str, Path)):
            raise TypeError(
                f"model is of type {type(self.model).__name__}; pass {self._accepted} "
                f"({', '.join(self._bundled)}). Save a loaded model first, with its "
                f"{self._saved_parts}, by save_pretrained(folder)."
            )
        name, revision = resolve_name(self.model, self._bundled)
        return name, revision, str(self.device), str(self.dtype).removeprefix("torch.")

    @staticmethod
    @abstractmethod
    def _load(name, revision, device, dtype):
        """The model of a checkpoint, loaded at the first call of the process."""

    @abstractmethod
    def _fit_classes(self, model, labels, names, classes_given):
        """Set the fitted attributes that describe the classes."""

    @abstractmethod
    def _class_logits(self, images):
        """Logits of the classes, divided by the temperature, (n, k)."""


def load_checkpoint(read, name, revision, device, dtype, bundled, save_with):
    """Load a checkpoint at the first call of the process.

    Parameters
    ----------
    read : callable
        Takes a folder or Hub id, the arguments for the Hub, device and dtype.
    name : str
        Bundled name, folder or Hub id.
    revision : str or None
        Branch, tag or commit on the Hub.
    device, dtype : str, torch.device or torch.dtype
        The estimator's parameters.
    bundled : dict of str to str
        Models that ship with the package, and the kind of each.
    save_with : str
        How a folder is saved, for the error message.

    Returns
    -------
    model : object
        What `read` returns.

    Raises
    ------
    OSError
        If the model can't be loaded.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)

    def read_quietly(source, hub_options):
        with quiet():
            return read(source, hub_options, device, dtype)

    key = (read.__module__, revision, str(device), dtype)
    return get_or_load(
        name,
        key,
        lambda: load_pretrained(name, revision, read_quietly, bundled, save_with),
    )


def to_picture(image, index):
    """Convert one image to a PIL image.

    Parameters
    ----------
    image : PIL image, path, array or Tensor
        As the classifiers take them.
    index : int
        Position in X, for error messages.

    Returns
    -------
    picture : PIL.Image.Image
        RGB.
    """
    array = read_image(image, index)  # (h, w) or (h, w, 3)
    if array.dtype != np.uint8:
        array = np.rint(array * 255).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def pixels_for(model, processor, images, first=0):
    """Convert images to the input of a model.

    Parameters
    ----------
    model : PreTrainedModel
        Gives the device and the dtype.
    processor : BaseImageProcessor
        That of the model.
    images : sequence
        In any form that the classifiers take.
    first : int, default=0
        Index of the first image, for error messages.

    Returns
    -------
    pixels : Tensor of shape (len(images), 3, height, width)
    """
    pictures = [to_picture(image, first + k) for k, image in enumerate(images)]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    return pixels.to(model.device, model.dtype)


def run_in_batches(compute, n, batch_size, verbose=0, advice=""):
    """Compute rows batch by batch, with a progress bar.

    Parameters
    ----------
    compute : callable
        Takes a slice of the rows; returns an ndarray.
    n : int
        Number of rows.
    batch_size : BatchSize
        Rows in a batch.
    verbose : int, default=0
        1: a progress bar.
    advice : str, default=""
        As in :func:`~diffusion_sklearn.backbones._batches.in_batches`.

    Returns
    -------
    outputs : ndarray of shape (n, ...)
    """
    outputs, start = None, 0
    with tqdm(total=n, unit="image", disable=not verbose) as bar:
        for output in in_batches(compute, n, batch_size, advice):
            if outputs is None:
                outputs = np.empty((n, *output.shape[1:]), output.dtype)
            if output.dtype != outputs.dtype:  # labels of a batch may be longer str
                both = np.promote_types(outputs.dtype, output.dtype)
                outputs = outputs.astype(both)
            outputs[start : start + len(output)] = output
            start += len(output)
            bar.update(len(output))
    return outputs
