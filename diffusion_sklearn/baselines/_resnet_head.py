"""A small residual network that is trained on feature maps."""

import copy
import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from diffusion_sklearn.backbones._conditions import pack_tensors, unpack_tensors
from diffusion_sklearn.backbones._devices import resolve_device, resolve_dtype
from diffusion_sklearn.baselines._resnet import (
    compute_logits,
    evaluate,
    hold_out,
    make_resnet,
    train_epoch,
)
from diffusion_sklearn.classifiers._parameters import AT_LEAST_1


@dataclass(kw_only=True, eq=False, repr=False)
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
        Number of residual blocks, of two convolutions each.
    learning_rate : float, default=1e-4
        Learning rate of AdamW.
    batch_size : int, default=16
        Feature maps in a step of training, at least 2.
    max_epochs : int, default=100
        Maximum number of passes over the training set.
    validation_fraction : float, default=0.1
        Fraction of the training set, near equal in every class, that is held out for
        early stopping. If that is no sample, the training loss is used.
    patience : int, default=10
        Epochs without a lower loss after which training stops. None: never early.
    device : str or torch.device, default="auto"
        Where the network is trained and run. "auto": a GPU if there is one.
    dtype : str or torch.dtype, default="float32"
        Of the network.
    random_state : int, RandomState or None, default=0
        Seeds the initial weights, the held-out samples and the order of training.
    verbose : int, default=0
        1: a progress bar over epochs, with the losses.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    n_classes_ : int
        Number of classes.
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
        Length of a flat row, if `fit` was given some.

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
        "width": [AT_LEAST_1],
        "n_blocks": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_epochs": [AT_LEAST_1],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [AT_LEAST_1, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    feature_shape: object = None
    width: int = 256
    n_blocks: int = 3
    learning_rate: float = 1e-4
    batch_size: int = 16
    max_epochs: int = 100
    validation_fraction: float = 0.1
    patience: int = 10
    device: object = "auto"
    dtype: str = "float32"
    random_state: int = 0
    verbose: int = 0

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
            X, y = check_X_y(X, y, allow_nd=True, ensure_min_samples=2)
            vars(self).pop("n_features_in_", None)  # of an earlier fit on rows
        else:
            X, y = validate_data(self, X, y, ensure_min_samples=2)
        check_classification_targets(y)
        shape = self._resolve_shape(X)
        X = X.reshape(len(X), *shape)
        classes, targets = np.unique(y, return_inverse=True)
        device = resolve_device(self.device)
        dtype = resolve_dtype(self.dtype, device)
        rng = check_random_state(self.random_state)
        # Leave torch's global generator unchanged.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.randint(2**31)))
            network = make_resnet(shape, len(classes), self.width, self.n_blocks)
        network.to(device, dtype)
        history, best_epoch = self._train(network, X, targets, rng)

        # Set fitted attributes only after success.
        self.classes_, self.n_classes_ = classes, len(classes)
        self.feature_shape_, self.network_ = shape, network.cpu()
        self._sizes = shape, len(classes), self.width, self.n_blocks
        self.history_, self.best_epoch_ = history, best_epoch
        return self

    def _train(self, network, X, targets, rng):
        """Train until the loss stops falling; load the weights of the best epoch."""
        held_out = hold_out(targets, self.validation_fraction, rng)
        train = np.flatnonzero(~held_out)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        history = {"loss": [], "validation_loss": [], "validation_accuracy": []}
        watched = history["validation_loss" if held_out.any() else "loss"]
        best_epoch, best_weights = 0, None
        with tqdm(total=self.max_epochs, unit="epoch", disable=not self.verbose) as bar:
            for epoch in range(self.max_epochs):
                order = rng.permutation(train)
                loss = train_epoch(
                    network, X, targets, order, self.batch_size, optimizer
                )
                validation = evaluate(network, X[held_out], targets[held_out])
                for name, value in zip(history, (loss, *validation), strict=True):
                    history[name].append(value)
                bar.set_postfix({k: v[-1] for k, v in history.items()}, refresh=False)
                bar.update()
                if not math.isfinite(watched[-1]):
                    raise FloatingPointError(
                        f"The loss is {watched[-1]} after {epoch + 1} epoch(s) with "
                        f"learning_rate={self.learning_rate}; pass a lower one."
                    )
                if best_weights is None or watched[epoch] < watched[best_epoch]:
                    best_epoch = epoch
                    best_weights = copy.deepcopy(network.state_dict())
                elif self.patience and epoch - best_epoch >= self.patience:
                    break
        network.load_state_dict(best_weights)
        network.eval().requires_grad_(False)
        return history, best_epoch

    def __getstate__(self):
        state = dict(super().__getstate__())
        if "network_" in state:
            state["network_"] = pack_tensors(self.network_.state_dict())
        return state

    def __setstate__(self, state):
        state = dict(state)
        if "network_" in state:
            with torch.device("meta"):
                network = make_resnet(*state["_sizes"])
            network.load_state_dict(unpack_tensors(state["network_"]), assign=True)
            state["network_"] = network.eval().requires_grad_(False)
        super().__setstate__(state)

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

    def _resolve_shape(self, X):
        """(channels, height, width) of checked features."""
        if self.feature_shape is None:
            return X.shape[1:] if X.ndim == 4 else (X.shape[1], 1, 1)
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
