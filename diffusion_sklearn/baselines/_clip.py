"""CLIP and other contrastive models as zero-shot classifiers."""

from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import normalize

from diffusion_sklearn.baselines._checkpoints import CheckpointClassifier
from diffusion_sklearn.baselines._contrastive import BUNDLED, HUB_MODEL, get_contrastive
from diffusion_sklearn.classifiers._labels import check_distinct
from diffusion_sklearn.classifiers._pairs import read_pairs
from diffusion_sklearn.classifiers._prompts import make_prompts


@dataclass(kw_only=True, eq=False, repr=False)
class CLIPZeroShotClassifier(CheckpointClassifier):
    r"""Classify images with a contrastive model such as CLIP, with no training.

    The posterior is the softmax of the scaled cosine similarities of an image with the
    prompts of the classes [1]_:

    .. math:: p(c_i \mid x) \propto p(c_i) \exp\{s \cos(f(x), g(c_i))\}

    The interface is that of :class:`~diffusion_sklearn.ZeroShotDiffusionClassifier`, to
    use it as a baseline or as a `prefilter`.

    Parameters
    ----------
    model : str or Path, default="openai/clip-vit-large-patch14"
        A Hub id (``"name@revision"`` for a revision) or a local folder, in the layout
        of transformers (CLIP, OpenCLIP, SigLIP) or of open_clip
        (``open_clip_config.json``, ``open_clip_model.safetensors``); a pair of
        ``open_clip.list_pretrained()`` as ``"open_clip:ARCHITECTURE/TAG"``, such as
        ``"open_clip:RN50/openai"``, CLIP's ResNet-50; or the bundled
        ``"fashion-clip"``. Models in the layout of open_clip need
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
        Number of classes.
    prompts_ : list of list of str
        The prompts of each class.
    text_embeddings_ : ndarray of shape (n_classes, d)
        Unit vector of each class.
    logit_scale_ : float
        s, the inverse of the temperature in training.
    n_features_in_ : int
        Length of a flat row, if `fit` was given some.

    See Also
    --------
    diffusion_sklearn.ZeroShotDiffusionClassifier : The same with a diffusion model.

    Notes
    -----
    SigLIP scores each pair on its own, with a sigmoid; here its scores go through a
    softmax over the classes. A pickle holds the model's name, never its weights.

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
        **CheckpointClassifier._parameter_constraints,
        "prompt_template": [str, list, tuple],
    }
    _bundled = BUNDLED
    _accepted = "a Hub id, a folder, 'open_clip:ARCHITECTURE/TAG' or a bundled name"
    _saved_parts = "tokenizer and image processor"
    _load = staticmethod(get_contrastive)

    model: object = HUB_MODEL
    prompt_template: object = "auto"

    def score_pairs(self, images, captions):
        """Score how well captions describe images.

        The captions are encoded without a template.

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
        checkpoint = getattr(self, "_checkpoint", None) or self._resolve_checkpoint()
        model = self._load(*checkpoint)
        images, texts, columns, shape = read_pairs(images, captions, self._read_images)
        embeddings = self._run(model.embed_images, images).astype(np.float64)  # (n, d)
        logits = model.scale * embeddings @ model.embed_texts(texts).T + model.bias
        return np.take_along_axis(logits, columns, axis=1).reshape(shape)

    def _fit_classes(self, model, labels, names, classes_given):
        template = model.prompt_template
        prompts = make_prompts(self.prompt_template, names, template, classes_given)
        embeddings = model.embed_texts([p for row in prompts for p in row])
        embeddings = embeddings.reshape(len(names), len(prompts[0]), -1).mean(axis=1)
        embeddings = normalize(embeddings)  # (k, d)
        check_distinct(embeddings, labels, prompts)
        self.prompts_, self.logit_scale_ = prompts, model.scale
        self.text_embeddings_ = embeddings

    def _class_logits(self, images):
        embeddings = self._run(self._load(*self._checkpoint).embed_images, images)
        logits = self.logit_scale_ * embeddings @ self.text_embeddings_.T  # (n, k)
        return logits.astype(np.float64) / self.temperature
