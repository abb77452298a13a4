"""Contrastive models of transformers, and the loading of any contrastive model."""

import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from diffusion_sklearn.backbones._completeness import (
    fetch,
    read,
    read_tokenizer,
    read_weights,
)
from diffusion_sklearn.backbones._tokens import check_prompts, default_template
from diffusion_sklearn.baselines._checkpoints import load_checkpoint, pixels_for
from diffusion_sklearn.baselines._dual_encoder import HUB_MODEL, ContrastiveModel
from diffusion_sklearn.baselines._open_clip import (
    find_repository,
    is_open_clip,
    read_open_clip,
)

BUNDLED = {"fashion-clip": "CLIP"}
"""Models that ship with the package, and the kind of each."""


class TransformersModel(ContrastiveModel):
    """CLIP, SigLIP and models with the same parts, of transformers.

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
        n_positions = model.config.get_text_config().max_position_embeddings
        length = min(tokenizer.model_max_length, n_positions)
        super().__init__(
            model, tokenizer, processor, default_template(tokenizer), length
        )

    def _tokenize(self, prompts):
        check_prompts(prompts, self.tokenizer, self._length, HUB_MODEL)
        return self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self._length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def _prepare(self, images, first):
        return pixels_for(self.model, self.processor, images, first)

    def _encode_texts(self, ids):
        return self.model.get_text_features(ids).pooler_output

    def _encode_images(self, pixels):
        return self.model.get_image_features(pixels).pooler_output


def get_contrastive(name, revision, device, dtype):
    """Load a contrastive model at the first call of the process.

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
        If the model can't be loaded.
    ValueError
        If it is no contrastive model, or open_clip lists no such weights.
    ImportError
        If it needs open_clip, which is not installed.
    """
    repository = find_repository(name)
    save_with = "save_pretrained(folder) of model, tokenizer and image processor"
    if repository:
        save_with = f"hf download {repository} --local-dir FOLDER"

    def read(source, hub_options, device, dtype):
        if repository or is_open_clip(source, hub_options):
            contrastive = read_open_clip(repository or source, hub_options)
        else:
            contrastive = _read_transformers(source, hub_options)
        contrastive.model.to(device, dtype)  # after the scale is read in float32
        return contrastive

    return load_checkpoint(read, name, revision, device, dtype, BUNDLED, save_with)


def _read_transformers(source, hub_options):
    folder, options = fetch(source, hub_options)
    model = read_weights(AutoModel, folder, "", {"dtype": torch.float32, **options})
    if not hasattr(model, "logit_scale"):
        raise ValueError(
            f"model={source!r} is a {type(model).__name__}, no contrastive model; pass "
            "a CLIP, OpenCLIP or SigLIP checkpoint in the layout of transformers, "
            f"such as {HUB_MODEL!r}, or of open_clip, such as 'open_clip:RN50/openai'."
        )
    tokenizer = read_tokenizer(AutoTokenizer, folder, "")
    # The PIL backend gives the same pixels with and without torchvision.
    processor = read(AutoImageProcessor, folder, "", backend="pil")
    return TransformersModel(model, tokenizer, processor)
