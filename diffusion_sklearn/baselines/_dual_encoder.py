"""Contrastive models: images and texts -> unit vectors of one space."""

import threading

import torch
from torch.nn import functional as F

HUB_MODEL = "openai/clip-vit-large-patch14"
TEXTS_PER_BATCH = 64


class ContrastiveModel:
    """A dual encoder with its tokenizer and image processor.

    A subclass for each library tokenizes texts, prepares pixels and calls the encoders.

    Parameters
    ----------
    model : Module
        With ``logit_scale`` and, if there is one, ``logit_bias``.
    tokenizer : callable
        Of the texts.
    processor : callable
        Of the images.
    prompt_template : str
        Template of the prompts that the model was trained on.
    length : int
        Number of tokens that the text encoder reads.

    Attributes
    ----------
    scale : float
        Factor of the cosine similarities, the inverse of the temperature in training.
    bias : float
        Added to the scaled similarities; not 0 only for SigLIP.
    """

    def __init__(self, model, tokenizer, processor, prompt_template, length):
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.scale = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.bias = 0.0 if bias is None else float(bias.detach().float())
        self.prompt_template, self._length = prompt_template, length
        # Fast tokenizers store the padding of the last call: one caller at a time.
        self._lock = threading.Lock()

    @torch.inference_mode()
    def embed_texts(self, prompts):
        """Unit vectors of texts.

        Parameters
        ----------
        prompts : list of str
            Prompts that are too long are cut, with a warning.

        Returns
        -------
        embeddings : ndarray of shape (len(prompts), d), float32 or float64

        Raises
        ------
        ValueError
            If a prompt has words that a bundled model was not trained on.
        """
        with self._lock:
            ids = self._tokenize(prompts)  # (n, length)
        parts = ids.to(self.model.logit_scale.device).split(TEXTS_PER_BATCH)
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
