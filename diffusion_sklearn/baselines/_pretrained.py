"""Image classifiers of transformers, restricted to the classes at hand."""

from numbers import Integral, Real

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from transformers import AutoImageProcessor, AutoModelForImageClassification

from diffusion_sklearn.backbones._class_names import index_names
from diffusion_sklearn.backbones._devices import resolve_device, resolve_dtype
from diffusion_sklearn.backbones._sources import get_or_load, load_pretrained, quiet
from diffusion_sklearn.baselines._checkpoints import (
    describe_checkpoint,
    pixels_for,
    read_part,
    run_in_parts,
)
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._labels import resolve_class_ids
from diffusion_sklearn.engine._posterior import check_priors, with_priors

HUB_MODEL = "microsoft/resnet-50"
BUNDLED = {
    "fashion-resnet": "ResNet",
    "fashion-resnet-small": "ResNet",
    "fashion-resnet-tiny": "ResNet",
    "fashion-vit": "ViT",
    "fashion-vit-small": "ViT",
    "fashion-vit-tiny": "ViT",
}
"""Models that ship with the package, and what each is."""


class PretrainedImageClassifier(BaseImageClassifier):
    r"""Classify images with a classifier that was trained on many classes.

    The logits z of the classes at hand alone make the posterior, as where a classifier
    of ImageNet's 1,000 classes is tested on 100 of them [1]_:

    .. math:: p(c_i \mid x) \propto p(c_i) \sum_{k \in c_i} \exp z_k(x)

    It has the manners of :class:`~diffusion_sklearn.ConditionalDiffusionClassifier`,
    as the discriminative baseline beside it (Table 4 of the paper) or as its
    `prefilter`.

    Parameters
    ----------
    model : str or Path, default="microsoft/resnet-50"
        A Hub id (``"name@revision"`` for a revision) or a local folder in transformers
        layout: any image classifier, such as ``"google/vit-base-patch16-224"``; or one
        that ships, trained on the photos of "fashion-dit": ``"fashion-resnet"``,
        ``"fashion-vit"``, each also with ``-small`` and ``-tiny``.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), default=None
        Names aligned with the sorted labels, for labels that are not names.
    class_ids : array-like or list of length n_classes or "order", default=None
        The model's class of each sorted label, or a list of several whose
        probabilities add up. None: names are looked up in the model's own labels
        (``id2label``; of "tabby, tabby cat" the whole and each part is a name), and
        integers are ids. "order": the k-th sorted label is class k, which survives
        meta-estimators that encode labels.
    priors : array-like of shape (n_classes,), default=None
        Class priors aligned with `classes_`; None: uniform.
    temperature : float, default=1.0
        Divides the logits before the softmax. Above 1: less sure.
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of an image given as a flat row,
        as in numpy's reshape. With a -1 in it, values outside [0, 1] are clipped.
    batch_size : int or "auto", default="auto"
        Images in a forward pass.
    device : str or torch.device, default="auto"
        Where the model runs. "auto": a GPU if there is one.
    dtype : str or torch.dtype, default="auto"
        Of the weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU.
    verbose : int, default=0
        1: a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    n_classes_ : int
        How many there are.
    class_ids_ : list of list of int
        The model's classes of each label.
    n_features_in_ : int
        Length of a flat row, if `fit` saw some.

    See Also
    --------
    diffusion_sklearn.ConditionalDiffusionClassifier : Classes of a diffusion model.
    CLIPZeroShotClassifier : Classes of any name.

    Notes
    -----
    A name that several classes have, as "crane" in ImageNet, is an error: tell by
    `class_ids` which is meant, or pass a list of both. The prior is that of the
    labels, however many classes of the model each has. A pickle holds the model's
    name, never its weights.

    References
    ----------
    .. [1] Hendrycks, Zhao, Basart, Steinhardt and Song, "Natural Adversarial
       Examples", CVPR 2021.

    Examples
    --------
    Ids of classes that are merged into one label:

    >>> from diffusion_sklearn.baselines import PretrainedImageClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> clf = PretrainedImageClassifier(model="fashion-resnet")
    >>> clf = clf.set_params(class_ids=[[5, 7, 9], [0, 2, 4, 6]])
    >>> clf = clf.fit(classes=["shoe", "top"])
    >>> print(*clf.predict(photos.images[:2]))  # an ankle boot and a pullover
    shoe top

    Names of a model's own, here of the Hub: ``model="google/vit-base-patch16-224"``
    and ``fit(classes=["tabby", "golden retriever", "teapot"])``.
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        "model": "no_validation",
        "classes": ["array-like", None],
        "class_names": ["array-like", None],
        "class_ids": ["array-like", StrOptions({"order"}), None],
        "priors": ["array-like", None],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "image_shape": ["array-like", None],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "device": "no_validation",
        "dtype": "no_validation",
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        model=HUB_MODEL,
        classes=None,
        class_names=None,
        class_ids=None,
        priors=None,
        temperature=1.0,
        image_shape=None,
        batch_size="auto",
        device="auto",
        dtype="auto",
        verbose=0,
    ):
        self.model = model
        self.classes = classes
        self.class_names = class_names
        self.class_ids = class_ids
        self.priors = priors
        self.temperature = temperature
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def fit(self, X=None, y=None, *, classes=None):
        """Look the classes up in the model. Nothing is trained.

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
            If a parameter is not possible, no label set is given, or the model has
            no such class.
        OSError
            If the model can't be had.
        """
        self._validate_params()
        _, labels, names, listed = self._resolve_labels(X, y, classes)
        priors = check_priors(self.priors, labels)
        spec = self._describe_model()
        network = get_classifier(*spec)
        class_ids = self._find_ids(network, labels, names, listed)

        # All has gone well: what was fitted before goes now.
        self.classes_, self.n_classes_ = labels, len(labels)
        self.class_ids_ = class_ids
        self._spec, self._priors = spec, priors
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
        images, network = self._read_images(X), get_classifier(*self._spec)
        logits = run_in_parts(network.logits, images, self.batch_size, self.verbose)
        logits = logits / self.temperature  # (n, n_labels)
        merged = [logsumexp(logits[:, ids], axis=1) for ids in self.class_ids_]
        logits = np.stack(merged, axis=1)  # (n, k)
        return log_softmax(with_priors(logits, self._priors), axis=1)

    def _find_ids(self, network, labels, names, listed):
        """The model's classes of each label, as lists."""
        given = self.class_ids
        if given is None or isinstance(given, str):
            ids = resolve_class_ids(given, labels, names, network, listed)
            return [[i] for i in ids]
        groups = [np.ravel(ids).tolist() for ids in given]
        if len(groups) != len(labels) or not all(groups):
            raise ValueError(
                f"class_ids={given!r} must have an id, or a list of ids, for each of "
                f"the {len(labels)} sorted labels {labels.tolist()!r}."
            )
        owners = np.repeat(labels, [len(group) for group in groups])
        flat = [i for group in groups for i in group]
        resolve_class_ids(flat, owners, None, network, listed)  # for its errors
        return groups

    def _describe_model(self):
        return describe_checkpoint(
            self,
            BUNDLED,
            f"a Hub id, a folder or a bundled name ({', '.join(BUNDLED)})",
            "image processor",
        )


class PretrainedClassifier:
    """An image classifier of transformers with its image processor.

    Parameters
    ----------
    model : PreTrainedModel
        Whose output has ``logits``.
    processor : BaseImageProcessor
        Of the images.

    Attributes
    ----------
    labels : dict of str to int
        Names of its classes.
    shared : dict of str to list of int
        Names that several classes have.
    n_labels : int
        How many classes it has.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model.eval(), processor
        self.labels, self.shared = index_names(model.config.id2label)
        self.n_labels = model.config.num_labels

    @torch.inference_mode()
    def logits(self, images, first=0):
        """Logits of all classes.

        Parameters
        ----------
        images : sequence
            In any form that the classifiers take.
        first : int, default=0
            Index of the first image, for error messages.

        Returns
        -------
        logits : ndarray of shape (len(images), n_labels), float64
        """
        pixels = pixels_for(self.model, self.processor, images, first)
        return self.model(pixels).logits.cpu().double().numpy()


def get_classifier(name, revision, device, dtype):
    """The classifier of a name, loaded at the first call of the process.

    Parameters
    ----------
    name : str
        Bundled name, folder or Hub id.
    revision : str or None
        Branch, tag or commit on the Hub.
    device, dtype : str, torch.device or torch.dtype
        The estimator's parameters.

    Returns
    -------
    classifier : PretrainedClassifier

    Raises
    ------
    OSError
        If the model can't be had.
    ValueError
        If it was not trained to classify.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)

    def read(source, how):
        with quiet():
            model, info = read_part(
                AutoModelForImageClassification,
                source,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **how,
            )
            if info["missing_keys"]:
                raise ValueError(
                    f"model={name!r} lacks weights of a classifier "
                    f"({', '.join(sorted(info['missing_keys'])[:3])}); pass one that "
                    f"was trained to classify images, such as {HUB_MODEL!r}."
                )
            # Without torchvision, and the same with it.
            processor = read_part(AutoImageProcessor, source, backend="pil", **how)
        return PretrainedClassifier(model.to(device), processor)

    def load():
        save_with = "save_pretrained(folder) of model and image processor"
        return load_pretrained(name, revision, read, BUNDLED, save_with)

    return get_or_load(("classifier", name, revision, str(device), dtype), load)
