"""Stable Diffusion XL: a U-Net conditioned on tokens, a pooled embedding and sizes."""

import torch

from diffusion_sklearn.backbones._stable_diffusion import (
    HUB_MODEL,
    StableDiffusionBackbone,
)
from diffusion_sklearn.backbones._text import (
    embed_in_batches,
    encoder_device,
    join_pooled,
    split_pooled,
)
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

    def __init__(self, pipeline):
        super().__init__(pipeline)
        if pipeline.text_encoder is None or pipeline.tokenizer is None:
            raise ValueError(
                "This is the refiner of Stable Diffusion XL, which continues from the "
                "latents of the base model and takes an aesthetic score; pass the base "
                "model, such as 'stabilityai/stable-diffusion-xl-base-1.0'."
            )

    def condition(self, names):
        """Pooled embedding and token embeddings of prompts, concatenated.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Tensor of shape (len(names), p + n_tokens * d)
        """
        pipeline, names = self.pipeline, list(names)
        tokenizer = pipeline.tokenizer_2
        check_prompts(names, tokenizer, tokenizer.model_max_length, HUB_MODEL)

        def embed(prompts):
            tokens, _, pooled, _ = pipeline.encode_prompt(
                prompts, device=encoder_device(self), do_classifier_free_guidance=False
            )
            return join_pooled(pooled, tokens)

        return embed_in_batches(self, names, embed)

    def null_condition(self):
        """The empty prompt, or zeros with ``force_zeros_for_empty_prompt``."""
        empty = self.condition([""])
        zeros = self.pipeline.config.get("force_zeros_for_empty_prompt")
        return torch.zeros_like(empty) if zeros else empty

    def forward(self, noised, timesteps, conditions):
        unet, side = self.network, noised.shape[-1] * self.vae_factor
        n_ids = 6  # original size, corner of the crop, target size
        embedded = unet.add_embedding.linear_1.in_features
        n_pooled = embedded - n_ids * unet.config.addition_time_embed_dim
        pooled, tokens = split_pooled(
            conditions, n_pooled, unet.config.cross_attention_dim
        )
        ids = noised.new_tensor([side, side, 0, 0, side, side]).expand(len(noised), -1)
        return unet(
            noised,
            timesteps,
            encoder_hidden_states=tokens,
            timestep_cond=self._no_guidance(noised),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
        ).sample
