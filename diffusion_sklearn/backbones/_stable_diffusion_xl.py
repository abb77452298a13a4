"""Stable Diffusion XL: a U-Net conditioned on tokens, a pooled embedding and sizes."""

import torch

from diffusion_sklearn.backbones._conditions import Conditions, map_tensors
from diffusion_sklearn.backbones._stable_diffusion import (
    HUB_MODEL,
    StableDiffusionBackbone,
)
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts


class StableDiffusionXLBackbone(StableDiffusionBackbone):
    """A ``StableDiffusionXLPipeline``, SDXL-turbo and other distilled ones included.

    The original and target sizes are the size that images are resized to; the crop is
    zero.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionXLPipeline
        Podell et al. (2023).
    """

    family_target = "native"
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    max_sequence_length = None  # the tokenizer says

    def __init__(self, pipeline):
        super().__init__(pipeline)
        if pipeline.text_encoder is None or pipeline.tokenizer is None:
            raise ValueError(
                "This is the refiner of Stable Diffusion XL, which continues from the "
                "latents of the base model and takes an aesthetic score; pass the base "
                "model, such as 'stabilityai/stable-diffusion-xl-base-1.0'."
            )

    def condition(self, names):
        """Token embeddings and pooled embedding of prompts.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d) and ``pooled`` (len(names), p).
        """
        pipeline, names = self.pipeline, list(names)
        tokenizer = getattr(pipeline, "tokenizer_2", pipeline.tokenizer)
        length = self.max_sequence_length or tokenizer.model_max_length
        check_prompts(names, tokenizer, length, HUB_MODEL)

        def embed(prompts, device):
            tokens, _, pooled, _ = pipeline.encode_prompt(
                prompts, device=device, do_classifier_free_guidance=False
            )
            return Conditions(tokens=tokens, pooled=pooled)

        return embed_in_batches(self, names, embed)

    def null_condition(self):
        """The empty prompt, or zeros with ``force_zeros_for_empty_prompt``."""
        empty = self.condition([""])
        zeros = self.pipeline.config.get("force_zeros_for_empty_prompt")
        return map_tensors(torch.zeros_like, empty) if zeros else empty

    def forward(self, noised, timesteps, conditions):
        side = noised.shape[-1] * self.vae_factor
        # Original size, corner of the crop, target size.
        ids = noised.new_tensor([side, side, 0, 0, side, side]).expand(len(noised), -1)
        return self.network(
            noised,
            timesteps,
            encoder_hidden_states=conditions.tokens,
            timestep_cond=self._no_guidance(noised),
            added_cond_kwargs={"text_embeds": conditions.pooled, "time_ids": ids},
        ).sample
