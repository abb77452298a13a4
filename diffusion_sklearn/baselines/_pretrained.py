"""Image classifiers of transformers, restricted to the label set."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.utils._param_validation import StrOptions
from transformers import AutoImageProcessor, AutoModelForImageClassification

from diffusion_sklearn.backbones._class_names import index_names
from diffusion_sklearn.backbones._completeness import fetch, read
from diffusion_sklearn.baselines._checkpoints import (
    CheckpointClassifier,
    load_checkpoint,
    pixels_for,
)
from diffusion_sklearn.classifiers._class_ids import resolve_class_ids
from diffusion_sklearn.classifiers._labels import align

HUB_MODEL = "microsoft/resnet-50"
BUNDLED = {
    "fashion-resnet": "ResNet",
    "fashion-resnet-small": "ResNet",
    "fashion-resnet-tiny": "ResNet",
    "fashion-vit": "ViT",
    "fashion-vit-small": "ViT",
    "fashion-vit-tiny": "ViT",
}
"""Models that ship with the package, and the kind of each."""


@dataclass(kw_only=True, eq=False, repr=False)
class PretrainedImageClassifier(CheckpointClassifier):
    r"""Classify images with a pretrained classifier, restricted to the label set.

    The posterior is the softmax over the logits z of the classes in the label set only,
    as in tests of an ImageNet classifier on a part of the 1,000 classes [1]_:

    .. math:: p(c_i \mid x) \propto p(c_i) \sum_{k \in c_i} \exp z_k(x)

    The interface is that of :class:`~diffusion_sklearn.ConditionalDiffusionClassifier`,
    to use it as a discriminative baseline (Table 4 of the paper) or as a `prefilter`.

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
    class_ids : array-like, list, dict, "order" or "labels", default=None
        The model's class of each sorted label, or a list of several whose
        probabilities add up. None: names are looked up in the model's own labels
        (``id2label``; of "tabby, tabby cat" the whole and each part is a name), and
        integers are ids. "labels": integers are ids, without the warning for those
        that may be encoded. "order": the k-th sorted label is class k, which survives
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
        Number of classes.
    class_ids_ : list of list of int
        The model's classes of each label.
    n_features_in_ : int
        Length of a flat row, if `fit` was given some.

    See Also
    --------
    diffusion_sklearn.ConditionalDiffusionClassifier : Classes of a diffusion model.
    CLIPZeroShotClassifier : Classes of any name.

    Notes
    -----
    A name shared by several classes, as "crane" in ImageNet, is an error: select one
    with `class_ids`, or pass a list of both. `priors` are those of the labels, however
    many classes of the model each has. A pickle holds the model's name, never its
    weights.

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

    By name, with a model of the Hub: ``model="google/vit-base-patch16-224"`` and
    ``fit(classes=["tabby", "golden retriever", "teapot"])``.
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        **CheckpointClassifier._parameter_constraints,
        "class_ids": ["array-like", StrOptions({"order", "labels"}), None],
    }
    _bundled = BUNDLED
    _accepted = "a Hub id, a folder or a bundled name"
    _saved_parts = "image processor"

    model: object = HUB_MODEL
    class_ids: object = None

    def _fit_classes(self, model, labels, names, classes_given):
        """Set the model's classes of each label, as lists."""
        if self.class_ids is None or isinstance(self.class_ids, str):
            ids = resolve_class_ids(self.class_ids, labels, names, model, classes_given)
            self.class_ids_ = [[i] for i in ids]
            return
        groups = align("class_ids", self.class_ids, labels)
        groups = [np.ravel(ids).tolist() for ids in groups]
        if len(groups) != len(labels) or not all(groups):
            raise ValueError(
                f"class_ids={self.class_ids!r} must have an id, or a list of ids, for "
                f"each of the {len(labels)} sorted labels {labels.tolist()!r}."
            )
        ids = [i for group in groups for i in group]
        repeated = np.repeat(labels, [len(group) for group in groups])
        resolve_class_ids(ids, repeated, None, model, classes_given)  # for its errors
        self.class_ids_ = groups

    def _class_logits(self, images):
        logits = self._run(self._load(*self._checkpoint).logits, images)  # (n, labels)
        logits = logits / self.temperature
        columns = [logsumexp(logits[:, ids], axis=1) for ids in self.class_ids_]
        return np.stack(columns, axis=1)  # (n, k)

    @staticmethod
    def _load(name, revision, device, dtype):
        save_with = "save_pretrained(folder) of model and image processor"
        return load_checkpoint(
            _read_classifier, name, revision, device, dtype, BUNDLED, save_with
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
        Names shared by several classes, with their ids.
    n_labels : int
        Number of classes.
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


def _read_classifier(source, hub_options, device, dtype):
    folder, options = fetch(source, hub_options)
    options |= {"dtype": dtype, "output_loading_info": True}
    model, info = read(AutoModelForImageClassification, folder, "", **options)
    if info["missing_keys"]:
        raise ValueError(
            f"model={source!r} lacks weights of a classifier "
            f"({', '.join(sorted(info['missing_keys'])[:3])}); pass one that was "
            f"trained to classify images, such as {HUB_MODEL!r}."
        )
    # The PIL backend gives the same pixels with and without torchvision.
    processor = read(AutoImageProcessor, folder, "", backend="pil")
    return PretrainedClassifier(model.to(device), processor)
