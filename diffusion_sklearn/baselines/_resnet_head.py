"""A small residual network that is trained on feature maps."""

import copy
import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from diffusion_sklearn.backbones._devices import resolve_device, resolve_dtype
from diffusion_sklearn.baselines._resnet import (
    compute_logits,
    hold_out,
    make_resnet,
    train,
)


class ResNetHead(ClassifierMixin, BaseEstimator):
    """A residual network on feature maps, trained on labels.

    A few residual blocks with batch normalization, the mean over positions and a linear
    layer, trained with cross-entropy. On the flat features of
    :class:`~diffusion_sklearn.baselines.DiffusionFeatures` it is the "SD Features"
    baseline of [1]_, which has the training setting of the defaults.

    Parameters
    ----------
    feature_shape : tuple of int, default=None
        (channels, height, width) of a feature map given as a flat row. None: a row of d
        values is a map of d channels and one position.
    width : int, default=256
        Channels of the residual blocks.
    n_blocks : int, default=3
        How many there are, of two convolutions each.
    learning_rate : float, default=1e-4
        Of AdamW.
    batch_size : int, default=16
        Feature maps in a step of training, at least 2.
    max_epochs : int, default=100
        Passes over the training set at most.
    validation_fraction : float, default=0.1
        Part of the training set that is held out, with near its share of every class,
        to see when to stop. Where that is no sample at all, the loss of training says.
    patience : int, default=10
        Epochs without a lower loss after which training stops. None: never early.
    device : str or torch.device, default="auto"
        Where the network is trained and run. "auto": a GPU if there is one.
    dtype : str or torch.dtype, default="float32"
        Of the network.
    random_state : int, RandomState or None, default=0
        Seeds the first weights, what is held out and the order of the samples.
    verbose : int, default=0
        1: a progress bar over epochs, with the losses.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    n_classes_ : int
        How many there are.
    feature_shape_ : tuple of int
        (channels, height, width) of a feature map.
    network_ : torch.nn.Module
        The trained network on the CPU, with the weights of the best epoch.
    history_ : dict of str to list of float
        "loss", "validation_loss" and "validation_accuracy" of each epoch; the latter
        two are NaN where nothing is held out.
    best_epoch_ : int
        Index in `history_` of the epoch of the lowest loss.
    n_features_in_ : int
        Length of a flat row, if `fit` saw some.

    See Also
    --------
    DiffusionFeatures : Feature maps inside a diffusion model.

    Notes
    -----
    On a CPU the same `random_state` gives the same weights. A pickle holds them. In
    [1]_ images are cropped and flipped at random before their features are computed;
    here features are computed once.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from diffusion_sklearn.baselines import DiffusionFeatures, ResNetHead
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> clf = make_pipeline(
    ...     DiffusionFeatures(model="fashion-dit", output="flat"),
    ...     ResNetHead(feature_shape=(192, 4, 4), width=32, max_epochs=5),
    ... )
    >>> _ = clf.fit(photos.images[:200], photos.names[:200])
    >>> clf.predict_proba(photos.images[200:203]).shape
    (3, 10)
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        "feature_shape": ["array-like", None],
        "width": [Interval(Integral, 1, None, closed="left")],
        "n_blocks": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "device": "no_validation",
        "dtype": "no_validation",
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        feature_shape=None,
        width=256,
        n_blocks=3,
        learning_rate=1e-4,
        batch_size=16,
        max_epochs=100,
        validation_fraction=0.1,
        patience=10,
        device="auto",
        dtype="float32",
        random_state=0,
        verbose=0,
    ):
        self.feature_shape = feature_shape
        self.width = width
        self.n_blocks = n_blocks
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y):
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n, d) or ndarray of shape (n, channels, height, width)
            Feature maps, those of shape (n, d) flat.
        y : array-like of shape (n,)
            Labels.

        Returns
        -------
        self : object
            The fitted classifier.

        Raises
        ------
        ValueError
            If the features have no such shape, or are of one sample.
        """
        self._validate_params()
        if getattr(X, "ndim", 2) == 4:
            X = check_array(X, allow_nd=True, ensure_min_samples=2)
            y = column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, ensure_min_samples=2)
        check_classification_targets(y)
        shape = self._shape_of(X)
        classes, targets = np.unique(y, return_inverse=True)
        device = resolve_device(self.device)
        dtype = resolve_dtype(self.dtype, device)
        rng = check_random_state(self.random_state)
        # The global generator of torch stays where it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.randint(2**31)))
            network = make_resnet(shape, len(classes), self.width, self.n_blocks)
        network.to(device, dtype)
        held_out = hold_out(targets, self.validation_fraction, rng)
        history, best_epoch = train(
            network,
            X.reshape(len(X), *shape),
            targets,
            held_out,
            rng,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            patience=self.patience,
            verbose=self.verbose,
        )

        # All has gone well: what was fitted before goes now.
        self.classes_, self.n_classes_ = classes, len(classes)
        self.feature_shape_, self.network_ = shape, network.cpu()
        self.history_, self.best_epoch_ = history, best_epoch
        return self

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like of shape (n, d) or ndarray of shape (n, channels, height, width)
            Feature maps.

        Returns
        -------
        proba : ndarray of shape (n, n_classes), float64
            Columns in the order of `classes_`.

        Raises
        ------
        ValueError
            If the features are of another shape than those of `fit`.
        """
        check_is_fitted(self, "network_")
        if getattr(X, "ndim", 2) == 4:
            X = check_array(X, allow_nd=True)
        else:
            X = validate_data(self, X, reset=False)
        if not _fits(self.feature_shape_, X):
            raise ValueError(
                f"X has features of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"trained on {self.feature_shape_}; pass these, or flat rows of them."
            )
        device, network = resolve_device(self.device), self.network_
        if device.type != "cpu":
            network = copy.deepcopy(network).to(device)
        X = X.reshape(len(X), *self.feature_shape_)
        return compute_logits(network, X).softmax(dim=1).numpy()

    def predict(self, X):
        """Predict the most probable class.

        Parameters
        ----------
        X : array-like of shape (n, d) or ndarray of shape (n, channels, height, width)
            Feature maps.

        Returns
        -------
        labels : ndarray of shape (n,)
            Taken from `classes_`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def _shape_of(self, X):
        """(channels, height, width) of checked features."""
        own = X.shape[1:] if X.ndim == 4 else (X.shape[1], 1, 1)
        if self.feature_shape is None:
            return own
        shape = tuple(int(side) for side in self.feature_shape)
        if len(shape) != 3 or min(shape) < 1 or not _fits(shape, X):
            raise ValueError(
                f"feature_shape={self.feature_shape!r} does not fit X of shape "
                f"{X.shape}; pass (channels, height, width), the `feature_shape_` of "
                "DiffusionFeatures, or None for rows that are no maps."
            )
        return shape


def _fits(shape, X):
    """Whether X holds feature maps of this shape, flat or not."""
    return X.shape[1:] == (shape if X.ndim == 4 else (math.prod(shape),))
