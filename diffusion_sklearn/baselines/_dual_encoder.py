"""Contrastive models: images and texts -> unit vectors of one space."""

import threading

import torch
from torch.nn import functional as F

HUB_MODEL = "openai/clip-vit-large-patch14"
MOST_TEXTS_AT_ONCE = 64


class ContrastiveModel:
    """A dual encoder with its tokenizer and image processor.

    Each library of such models has a subclass, which tokenizes, prepares pixels and
    calls the encoders.

    Parameters
    ----------
    model : Module
        With ``logit_scale`` and, if there is one, ``logit_bias``.
    tokenizer : callable
        Of the texts.
    processor : callable
        Of the images.
    prompt_template : str
        What the model was made for.
    length : int
        Tokens that the text encoder reads.

    Attributes
    ----------
    scale : float
        What cosine similarities are multiplied with: one over the temperature of
        training.
    bias : float
        What is added then; 0 but for SigLIP.
    """

    def __init__(self, model, tokenizer, processor, prompt_template, length):
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.scale = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.bias = 0.0 if bias is None else float(bias.detach().float())
        self.prompt_template, self._length = prompt_template, length
        # Fast tokenizers keep the padding asked for last: one caller at a time.
        self._lock = threading.Lock()

    @torch.inference_mode()
    def embed_texts(self, prompts):
        """Unit vectors of texts.

        Parameters
        ----------
        prompts : list of str
            One that is too long is cut, with a warning.

        Returns
        -------
        embeddings : ndarray of shape (len(prompts), d), float32 or float64

        Raises
        ------
        ValueError
            If a prompt has words that a model of few words never saw.
        """
        with self._lock:
            ids = self._tokenize(prompts)  # (n, length)
        parts = ids.to(self.model.logit_scale.device).split(MOST_TEXTS_AT_ONCE)
        return self._unit([self._encode_texts(part) for part in parts])

    @torch.inference_mode()
    def embed_images(self, images, first=0):
        """Unit vectors of images.

        Parameters
        ----------
        images : sequence
            In any form that the classifiers take.
        first : int, default=0
            Index of the first image, for error messages.

        Returns
        -------
        embeddings : ndarray of shape (len(images), d), float32 or float64
        """
        return self._unit([self._encode_images(self._prepare(images, first))])

    def _unit(self, features):
        features = torch.cat(features)  # (n, d)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return F.normalize(features, dim=-1).cpu().numpy()
