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


class TransformersModel(ContrastiveModel):
    """CLIP, SigLIP and what has the same parts, of transformers.

    Parameters
    ----------
    model : PreTrainedModel
        With ``get_image_features``, ``get_text_features`` and ``logit_scale``.
    tokenizer : PreTrainedTokenizerBase
        Of the texts.
    processor : BaseImageProcessor
        Of the images.
    """

    def __init__(self, model, tokenizer, processor):
        read = model.config.get_text_config().max_position_embeddings
        length = min(tokenizer.model_max_length, read)
        super().__init__(model, tokenizer, processor, own_template(tokenizer), length)

    def _tokenize(self, prompts):
        return tokenize(self.tokenizer, prompts, self._length, HUB_MODEL).input_ids

    def _prepare(self, images, first):
        return pixels_for(self.model, self.processor, images, first)

    def _encode_texts(self, ids):
        return self.model.get_text_features(ids).pooler_output

    def _encode_images(self, pixels):
        return self.model.get_image_features(pixels).pooler_output


def get_contrastive(name, revision, device, dtype):
    """The model of a name, loaded at the first call of the process.

    Parameters
    ----------
    name : str
        Bundled name, folder, Hub id or ``"open_clip:ARCHITECTURE/TAG"``.
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
        If it is no contrastive model, or open_clip lists no such weights.
    ImportError
        If it is one of open_clip, which is not installed.
    """
    # Only here: it builds on the class above.
    from diffusion_sklearn.baselines import _open_clip

    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)

    def load():
        save_with = "save_pretrained(folder) of model, tokenizer and image processor"
        repository = _open_clip.find_repository(name)
        if repository:
            save_with = f"hf download {repository} --local-dir FOLDER"

        def read(source, how):
            with quiet(*LOGS):
                if repository or _open_clip.is_open_clip(source, how):
                    found = _open_clip.read_open_clip(repository or source, how)
                else:
                    found = _read_transformers(name, source, how)
            found.model.to(device, dtype)  # only now: the scale was read in float32
            return found

        return load_pretrained(name, revision, read, BUNDLED, save_with)

    return once(("contrastive", name, revision, str(device), dtype), load)


def _read_transformers(name, source, how):
    model = read_part(
        AutoModel, source, dtype=torch.float32, use_safetensors=True, **how
    )
    if not hasattr(model, "logit_scale"):
        raise ValueError(
            f"model={name!r} is a {type(model).__name__}, no contrastive model; pass "
            "a CLIP, OpenCLIP or SigLIP checkpoint in the layout of transformers, "
            f"such as {HUB_MODEL!r}, or of open_clip, such as 'open_clip:RN50/openai'."
        )
    tokenizer = read_part(AutoTokenizer, source, **how)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise OSError("there is no tokenizer")  # its stand-in knows no words
    # Without torchvision, and the same with it.
    processor = read_part(AutoImageProcessor, source, backend="pil", **how)
    return TransformersModel(model, tokenizer, processor)
