"""Flux: a flow-matching transformer of packed latents."""

import torch
from torch.nn import functional as F

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import (
    embed_in_batches,
    encoder_device,
    join_pooled,
    split_pooled,
)
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "black-forest-labs/FLUX.1-dev"
NO_GUIDANCE = 1.0


class FluxBackbone(Backbone):
    """A ``FluxPipeline``, schnell or dev.

    A network with a guidance scale as an input (dev) gets 1, which is no guidance.

    Parameters
    ----------
    pipeline : diffusers.FluxPipeline
        Of Black Forest Labs.

    Attributes
    ----------
    max_sequence_length : int
        Tokens of T5 that the network was trained with: 512 (dev) or 256 (schnell).
    """

    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline")
    is_flow = True

    def __init__(self, pipeline):
        super().__init__(pipeline)
        is_dev = self.network.config.guidance_embeds
        self.max_sequence_length = 512 if is_dev else 256

    def condition(self, names):
        """Pooled embedding (CLIP) and token embeddings (T5) of prompts, concatenated.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Tensor of shape (len(names), p + n_tokens * d)
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer_2, self.max_sequence_length, HUB_MODEL)

        def embed(prompts):
            tokens, pooled, _ = pipeline.encode_prompt(
                prompts,
                prompt_2=None,
                device=encoder_device(self),
                max_sequence_length=self.max_sequence_length,
            )
            return join_pooled(pooled, tokens)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        config, (h, w) = self.network.config, noised.shape[-2:]
        pooled, tokens = split_pooled(
            conditions, config.pooled_projection_dim, config.joint_attention_dim
        )
        # Four neighbours are one token: (b, 4 c, h / 2, w / 2) -> (b, h w / 4, 4 c).
        packed = F.pixel_unshuffle(noised, 2).flatten(2).transpose(1, 2)
        rows, columns = torch.meshgrid(
            torch.arange(h // 2, device=noised.device),
            torch.arange(w // 2, device=noised.device),
            indexing="ij",
        )
        positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1)
        guidance = None
        if config.guidance_embeds:
            guidance = noised.new_full((len(noised),), NO_GUIDANCE)
        output = self.network(
            packed,
            timestep=timesteps / self.n_timesteps,  # the network multiplies by 1000
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=noised.new_zeros(tokens.shape[1], 3),
            img_ids=positions.view(-1, 3).to(noised),
        ).sample
        output = output.transpose(1, 2).unflatten(2, (h // 2, w // 2))
        return F.pixel_shuffle(output, 2)

    def _latent_side(self):
        return self.pipeline.default_sample_size

    def _latent_step(self):
        return 2
