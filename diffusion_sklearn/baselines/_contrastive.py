"""Contrastive models: images and texts -> unit vectors of one space."""

import threading

import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from diffusion_sklearn._device import resolve_device, resolve_dtype
from diffusion_sklearn._prompts import own_template, tokenize
from diffusion_sklearn._sources import load_pretrained, once, quiet
from diffusion_sklearn.baselines._checkpoints import LOGS, pixels_for, read_part

BUNDLED = {"fashion-clip": "CLIP"}
"""Models that ship with the package, and what each is."""

HUB_MODEL = "openai/clip-vit-large-patch14"
MOST_TEXTS_AT_ONCE = 64


class ContrastiveModel:
    """A dual encoder of transformers with its tokenizer and image processor.

    Parameters
    ----------
    model : PreTrainedModel
        With ``get_image_features``, ``get_text_features`` and ``logit_scale``: CLIP,
        SigLIP and what has the same parts.
    tokenizer : PreTrainedTokenizerBase
        Of the texts.
    processor : BaseImageProcessor
        Of the images.

    Attributes
    ----------
    scale : float
        What cosine similarities are multiplied with: one over the temperature of
        training.
    bias : float
        What is added then; 0 but for SigLIP.
    prompt_template : str
        What the model was made for.
    """

    def __init__(self, model, tokenizer, processor):
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.scale = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.bias = 0.0 if bias is None else float(bias.detach().float())
        self.prompt_template = own_template(tokenizer)
        read = model.config.get_text_config().max_position_embeddings
        self._length = min(tokenizer.model_max_length, read)
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
            tokens = tokenize(self.tokenizer, prompts, self._length, HUB_MODEL)
        parts = tokens.input_ids.to(self.model.device).split(MOST_TEXTS_AT_ONCE)
        return self._unit([self.model.get_text_features(ids) for ids in parts])

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
        pixels = pixels_for(self.model, self.processor, images, first)
        return self._unit([self.model.get_image_features(pixels)])

    def _unit(self, outputs):
        features = torch.cat([output.pooler_output for output in outputs])  # (n, d)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return F.normalize(features, dim=-1).cpu().numpy()


def get_contrastive(name, revision, device, dtype):
    """The model of a name, loaded at the first call of the process.

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
    model : ContrastiveModel

    Raises
    ------
    OSError
        If the model can't be had.
    ValueError
        If it is no contrastive model.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)

    def read(source, how):
        with quiet(*LOGS):
            model = read_part(
                AutoModel, source, dtype=torch.float32, use_safetensors=True, **how
            )
            if not hasattr(model, "logit_scale"):
                raise ValueError(
                    f"model={name!r} is a {type(model).__name__}, no contrastive "
                    "model; pass a CLIP, OpenCLIP or SigLIP checkpoint in the layout "
                    f"of transformers, such as {HUB_MODEL!r}."
                )
            tokenizer = read_part(AutoTokenizer, source, **how)
            if len(tokenizer) <= len(tokenizer.all_special_ids):
                raise OSError("there is no tokenizer")  # its stand-in knows no words
            # Without torchvision, and the same with it.
            processor = read_part(AutoImageProcessor, source, backend="pil", **how)
        found = ContrastiveModel(model, tokenizer, processor)
        found.model.to(device, dtype)  # only now: the scale was read in float32
        return found

    def load():
        save_with = "save_pretrained(folder) of model, tokenizer and image processor"
        return load_pretrained(name, revision, read, BUNDLED, save_with)

    return once(("contrastive", name, revision, str(device), dtype), load)
