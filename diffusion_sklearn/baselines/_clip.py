"""CLIP and its kin as zero-shot classifiers."""

from numbers import Integral, Real

import numpy as np
from scipy.special import log_softmax
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.baselines._checkpoints import describe_checkpoint, run_in_parts
from diffusion_sklearn.baselines._contrastive import (
    BUNDLED,
    HUB_MODEL,
    get_contrastive,
)
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._pairs import read_pairs
from diffusion_sklearn.classifiers._prompts import make_prompts
from diffusion_sklearn.engine._posterior import check_priors, with_priors


class CLIPZeroShotClassifier(BaseImageClassifier):
    r"""Classify images with a contrastive model such as CLIP, with no training.

    The posterior is the softmax of the scaled cosine similarities of an image with the
    prompts of the classes [1]_:

    .. math:: p(c_i \mid x) \propto p(c_i) \exp\{s \cos(f(x), g(c_i))\}

    It has the manners of :class:`~diffusion_sklearn.ZeroShotDiffusionClassifier`, as a
    baseline beside it or as its `prefilter`.

    Parameters
    ----------
    model : str or Path, default="openai/clip-vit-large-patch14"
        A Hub id (``"name@revision"`` for a revision) or a local folder, in the layout
        of transformers (CLIP, OpenCLIP, SigLIP) or of open_clip
        (``open_clip_config.json``, ``open_clip_model.safetensors``); a pair of
        ``open_clip.list_pretrained()`` as ``"open_clip:ARCHITECTURE/TAG"``, such as
        ``"open_clip:RN50/openai"``, CLIP's ResNet-50; or the bundled
        ``"fashion-clip"``. What is in open_clip's layout alone needs
        ``pip install "diffusion-sklearn[open-clip]"``.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), default=None
        Names aligned with the sorted labels, for labels that are not names.
    prompt_template : str or list of str, default="auto"
        A text with ``{}`` for the name of the class. The embeddings of several are
        averaged. "auto": the bundled model's own, else ``"a photo of a {}."``.
    priors : array-like of shape (n_classes,), default=None
        Class priors aligned with `classes_`; None: uniform.
    temperature : float, default=1.0
        Divides the scaled similarities before the softmax. Above 1: less sure.
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
    prompts_ : list of list of str
        The prompts of each class.
    text_embeddings_ : ndarray of shape (n_classes, d)
        A unit vector for each class.
    logit_scale_ : float
        s, one over the temperature that the model was trained with.
    n_features_in_ : int
        Length of a flat row, if `fit` saw some.

    See Also
    --------
    diffusion_sklearn.ZeroShotDiffusionClassifier : The same with a diffusion model.

    Notes
    -----
    SigLIP scores each pair on its own, with a sigmoid; here the softmax over the
    classes makes a posterior of its scores. A pickle holds the model's name, never its
    weights.

    References
    ----------
    .. [1] Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", ICML 2021.

    Examples
    --------
    >>> from diffusion_sklearn.baselines import CLIPZeroShotClassifier
    >>> from diffusion_sklearn.datasets import make_fashion_scenes
    >>> scenes = make_fashion_scenes(20, split="test", n_items=1)
    >>> clf = CLIPZeroShotClassifier(model="fashion-clip")
    >>> _ = clf.fit(classes=["red bag", "blue bag", "green sandal"])
    >>> clf.predict_proba(scenes.images).shape
    (20, 3)
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        "model": "no_validation",
        "classes": ["array-like", None],
        "class_names": ["array-like", None],
        "prompt_template": [str, list, tuple],
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
        prompt_template="auto",
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
        self.prompt_template = prompt_template
        self.priors = priors
        self.temperature = temperature
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def fit(self, X=None, y=None, *, classes=None):
        """Name the classes and encode their prompts. Nothing is trained.

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
            If a parameter is not possible, or no label set is given.
        OSError
            If the model can't be had.
        ImportError
            If it is one of open_clip, which is not installed.
        """
        self._validate_params()
        _, labels, names, listed = self._resolve_labels(X, y, classes)
        priors = check_priors(self.priors, labels)
        spec = self._describe_model()
        encoder = get_contrastive(*spec)
        prompts, embeddings = self._encode_classes(encoder, names, listed)

        # All has gone well: what was fitted before goes now.
        self.classes_, self.n_classes_ = labels, len(labels)
        self.prompts_, self.logit_scale_ = prompts, encoder.scale
        self.text_embeddings_ = embeddings  # (k, d)
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
        embeddings = self._embed_images(
            self._read_images(X), get_contrastive(*self._spec)
        )
        logits = self.logit_scale_ * embeddings @ self.text_embeddings_.T  # (n, k)
        logits = logits.astype(np.float64) / self.temperature
        return log_softmax(with_priors(logits, self._priors), axis=1)

    def score_pairs(self, images, captions):
        """How well captions describe images, for matching the ones to the others.

        The captions are encoded as they are, without a template.

        Parameters
        ----------
        images : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`. With nested captions, a group of images for
            each of their rows: a list of lists or an array of shape
            (n, m, height, width[, channels]).
        captions : array-like of str, of shape (k,) or (n, k)
            Captions to score with every image, or those of each group.

        Returns
        -------
        scores : ndarray of shape (n_images, k) or (n, m, k), float64
            Cosine similarity of each image with each caption, scaled as in training.
            A matrix (n, 2, 2) is what
            :func:`~diffusion_sklearn.metrics.winoground_scores` takes.

        Raises
        ------
        ValueError
            If the captions are no str, or the groups do not fit.

        Notes
        -----
        Needs no `fit`.

        Examples
        --------
        >>> from diffusion_sklearn.baselines import CLIPZeroShotClassifier
        >>> from diffusion_sklearn.datasets import load_fashion_winoground
        >>> from diffusion_sklearn.metrics import winoground_scores
        >>> pairs = load_fashion_winoground()
        >>> clip = CLIPZeroShotClassifier(model="fashion-clip")
        >>> scores = clip.score_pairs(pairs.images, pairs.captions)
        >>> 0 < winoground_scores(scores, pairs.tags).text < 1
        True
        """
        self._validate_params()
        spec = getattr(self, "_spec", None) or self._describe_model()
        encoder = get_contrastive(*spec)
        images, texts, asked, shape = read_pairs(images, captions, self._read_images)
        embeddings = self._embed_images(images, encoder).astype(np.float64)
        similar = embeddings @ encoder.embed_texts(texts).T  # (n, texts)
        logits = encoder.scale * similar + encoder.bias
        return np.take_along_axis(logits, asked, axis=1).reshape(shape)

    def _encode_classes(self, encoder, names, listed):
        """Prompts of each class, and a unit vector for each."""
        own = encoder.prompt_template
        prompts = make_prompts(self.prompt_template, names, own, listed)
        embeddings = encoder.embed_texts([p for one in prompts for p in one])
        embeddings = embeddings.reshape(len(names), len(prompts[0]), -1).mean(axis=1)
        return prompts, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def _embed_images(self, images, encoder):
        embed = encoder.embed_images
        return run_in_parts(embed, images, self.batch_size, self.verbose)  # (n, d)

    def _describe_model(self):
        return describe_checkpoint(
            self,
            BUNDLED,
            "a Hub id, a folder, 'open_clip:ARCHITECTURE/TAG' or a bundled name "
            f"({', '.join(BUNDLED)})",
            "tokenizer and image processor",
        )
