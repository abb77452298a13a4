"""Where contrastive models come from: transformers or open_clip."""

import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from diffusion_sklearn.backbones._devices import resolve_device, resolve_dtype
from diffusion_sklearn.backbones._prompts import (
    check_prompts,
    default_template,
    tokenize,
)
from diffusion_sklearn.backbones._sources import get_or_load, load_pretrained, quiet
from diffusion_sklearn.baselines._checkpoints import pixels_for, read_part
from diffusion_sklearn.baselines._dual_encoder import HUB_MODEL, ContrastiveModel
from diffusion_sklearn.baselines._open_clip import (
    find_repository,
    is_open_clip,
    read_open_clip,
)

BUNDLED = {"fashion-clip": "CLIP"}
"""Models that ship with the package, and what each is."""


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
        super().__init__(
            model, tokenizer, processor, default_template(tokenizer), length
        )

    def _tokenize(self, prompts):
        check_prompts(prompts, self.tokenizer, self._length, HUB_MODEL)
        return tokenize(self.tokenizer, prompts, self._length).input_ids

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
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)

    def load():
        save_with = "save_pretrained(folder) of model, tokenizer and image processor"
        repository = find_repository(name)
        if repository:
            save_with = f"hf download {repository} --local-dir FOLDER"

        def read(source, how):
            with quiet():
                if repository or is_open_clip(source, how):
                    found = read_open_clip(repository or source, how)
                else:
                    found = _read_transformers(name, source, how)
            found.model.to(device, dtype)  # only now: the scale was read in float32
            return found

        return load_pretrained(name, revision, read, BUNDLED, save_with)

    return get_or_load(("contrastive", name, revision, str(device), dtype), load)


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
