"""Images -> aesthetic scores and probabilities of being unsafe."""

import re
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.special import expit

from diffusion_sklearn.backbones._sources import quiet, resolve_name
from diffusion_sklearn.baselines._checkpoints import pixels_for
from diffusion_sklearn.baselines._contrastive import BUNDLED, HUB_MODEL, get_contrastive


class ClipAestheticScorer:
    """Aesthetic score of images: a linear head on CLIP's unit vectors.

    This is the architecture of LAION's aesthetic predictors; their weights are not part
    of the package.

    Parameters
    ----------
    model : str or Path, default="openai/clip-vit-large-patch14"
        A CLIP: a Hub id, a folder or a bundled name.
    head : str, Path, dict or list of tuple
        A safetensors file, or a dict, with ``weight`` and ``bias`` of one or more
        linear layers (``layers.0.weight`` and so on, applied in the order of their
        numbers, without activations, as in LAION's predictor V2); or a list of (weight
        (out, in), bias (out,)).
    device, dtype : str or torch.device, str or torch.dtype, default="auto"
        As in :class:`~diffusion_sklearn.baselines.CLIPZeroShotClassifier`.

    Raises
    ------
    ValueError
        If the shapes of the layers do not fit.

    See Also
    --------
    training_filter_report : Report that uses the scores.

    References
    ----------
    Schuhmann et al. (2022), "LAION-5B: An open large-scale dataset for training next
    generation image-text models", NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from diffusion_sklearn.datasets import ClipAestheticScorer, load_fashion_photos
    >>> head = [(np.zeros((1, 128)), [4.5])]  # scores every image 4.5
    >>> scorer = ClipAestheticScorer("fashion-clip", head=head)
    >>> scorer(load_fashion_photos().images[:2]).tolist()
    [4.5, 4.5]
    """

    def __init__(self, model=HUB_MODEL, *, head, device="auto", dtype="auto"):
        self.model, self.device, self.dtype = model, device, dtype
        self._layers = read_layers(head)

    def __call__(self, images):
        """Score images.

        Parameters
        ----------
        images : sequence of n images

        Returns
        -------
        scores : ndarray of shape (n,), float64
        """
        return self._forward(images, lambda hidden: hidden)

    def _forward(self, images, activation):
        name, revision = resolve_name(self.model, BUNDLED)
        clip = get_contrastive(name, revision, self.device, self.dtype)
        hidden = clip.embed_images(images).astype(np.float64)  # (n, d)
        if hidden.shape[1] != self._layers[0][0].shape[1]:
            raise ValueError(
                f"head takes vectors of {self._layers[0][0].shape[1]} numbers and "
                f"model={str(self.model)!r} gives {hidden.shape[1]}; pass the CLIP "
                "that the head was trained on."
            )
        for k, (weight, bias) in enumerate(self._layers):
            hidden = (activation(hidden) if k else hidden) @ weight.T + bias
        return hidden[:, 0]  # (n,)


class ClipSafetyScorer(ClipAestheticScorer):
    """Probability that images are unsafe: a small network on CLIP's unit vectors.

    Linear layers with ReLU between them and a sigmoid at the end, the architecture of
    LAION's CLIP-based detector; its weights are not part of the package. Fold a
    normalisation of the inputs into the first layer.

    Parameters
    ----------
    model, head, device, dtype
        As in :class:`ClipAestheticScorer`.

    See Also
    --------
    SafetyCheckerScorer : The checker that comes with Stable Diffusion 1.

    Examples
    --------
    >>> import numpy as np
    >>> from diffusion_sklearn.datasets import ClipSafetyScorer, load_fashion_photos
    >>> head = [(np.zeros((1, 128)), [0.0])]
    >>> scorer = ClipSafetyScorer("fashion-clip", head=head)
    >>> scorer(load_fashion_photos().images[:2]).tolist()
    [0.5, 0.5]
    """

    def __call__(self, images):
        """Score images.

        Parameters
        ----------
        images : sequence of n images

        Returns
        -------
        proba : ndarray of shape (n,), float64
        """
        return expit(self._forward(images, lambda hidden: np.maximum(hidden, 0)))


class SafetyCheckerScorer:
    """The safety checker of Stable Diffusion 1 as a scorer: 1 if unsafe, else 0.

    It compares an image with a list of concepts and gives no probability: all
    thresholds from 0 to below 1 are equivalent.

    Parameters
    ----------
    checker : StableDiffusionSafetyChecker or str
        ``pipeline.safety_checker``, or an argument of its ``from_pretrained``.
    processor : image processor
        As ``pipeline.feature_extractor``.

    Examples
    --------
    A checker with random weights in place of ``pipeline.safety_checker``. An image is
    unsafe if its cosine with a concept is above a threshold; here every image is.

    >>> from diffusers.pipelines.stable_diffusion.safety_checker import (
    ...     StableDiffusionSafetyChecker,
    ... )
    >>> from transformers import CLIPConfig, CLIPImageProcessorPil
    >>> from diffusion_sklearn.datasets import SafetyCheckerScorer, load_fashion_photos
    >>> tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=tiny))
    >>> _ = checker.concept_embeds_weights.fill_(-1)  # cosines are larger
    >>> nsfw = SafetyCheckerScorer(checker, CLIPImageProcessorPil())
    >>> nsfw(load_fashion_photos().images[:2]).tolist()
    [1.0, 1.0]
    """

    def __init__(self, checker, processor):
        if isinstance(checker, str | Path):
            from diffusers.pipelines.stable_diffusion.safety_checker import (
                StableDiffusionSafetyChecker,
            )

            checker = StableDiffusionSafetyChecker.from_pretrained(checker)
        self.checker, self.processor = checker.eval(), processor

    @torch.inference_mode()
    def __call__(self, images):
        """Score images.

        Parameters
        ----------
        images : sequence of n images

        Returns
        -------
        flags : ndarray of shape (n,), float64
        """
        pixels = pixels_for(self.checker, self.processor, images)  # (n, 3, h, w)
        blank = np.zeros((len(pixels), 1, 1, 3))  # images to censor
        with quiet():
            _, flags = self.checker(clip_input=pixels, images=blank)
        return np.array(flags, np.float64)


def read_layers(head):
    """Read the linear layers of a head.

    Parameters
    ----------
    head : str, Path, dict or list of tuple
        As in :class:`ClipAestheticScorer`.

    Returns
    -------
    layers : list of (ndarray of shape (out, in), ndarray of shape (out,)), float64

    Raises
    ------
    ValueError
        If their shapes do not fit, or the last layer has several outputs.
    """
    if isinstance(head, str | Path):
        head = load_file(head)
    if isinstance(head, dict):
        stems = [k.removesuffix("weight") for k in head if k.endswith("weight")]
        stems.sort(key=lambda stem: [int(k) for k in re.findall(r"\d+", stem)])
        if not stems or not all(f"{stem}bias" in head for stem in stems):
            raise ValueError(
                f"head has {sorted(head)!r}; each layer needs a weight and a bias."
            )
        head = [(head[f"{stem}weight"], head[f"{stem}bias"]) for stem in stems]
    layers = [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in head]
    # Each layer has as many outputs as the next one has inputs, the last has one.
    widths = [weight.shape[1:] for weight, _ in layers[1:]] + [(1,)]
    fits = [
        weight.ndim == 2 and weight.shape[:1] == bias.shape == width
        for (weight, bias), width in zip(layers, widths, strict=False)
    ]
    if not layers or not all(fits):
        shapes = [(weight.shape, bias.shape) for weight, bias in layers]
        raise ValueError(
            f"head has layers of shape {shapes}; pass weights (out, in) and biases "
            "(out,) that fit each other, the last with one output."
        )
    return layers
