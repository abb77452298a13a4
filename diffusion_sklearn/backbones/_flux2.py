"""FLUX.2 and FLUX.2 klein: flow-matching transformers of patchified latents."""

import torch
from torch.nn import functional as F

from diffusion_sklearn.backbones._autoencoder import posterior_mean
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._flux import guidance_input
from diffusion_sklearn.backbones._packing import positions
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import (
    chat_around,
    check_prompts,
    tokenizer_of,
)

HUB_MODEL = "black-forest-labs/FLUX.2-klein-base-4B"


class Flux2Backbone(Backbone):
    """A ``Flux2Pipeline``; its system message goes before every prompt.

    Four neighbours of the autoencoder's latents are one position, with its channels.
    A network with a guidance scale as an input gets 1, which is no guidance.

    Parameters
    ----------
    pipeline : diffusers.Flux2Pipeline
        Of Black Forest Labs (2025).
    """

    pipelines = ("Flux2Pipeline",)
    is_flow = True
    packs_latents = True
    max_sequence_length = 512

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.vae_factor *= 2

    @property
    def latent_channels(self):
        """Channels of a latent."""
        return 4 * self.vae.config.latent_channels

    def condition(self, names):
        """Token embeddings of prompts, those of the padding included.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Tensor of shape (len(names), n_tokens, d)
        """
        tokenizer, names = self.pipeline.tokenizer, list(names)
        length, around = self.max_sequence_length, self._text_around()
        check_prompts(names, tokenizer_of(tokenizer), length, HUB_MODEL, around)

        def embed(prompts, device):
            return self.pipeline.encode_prompt(
                prompts, device, max_sequence_length=length
            )[0]

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        h, w = noised.shape[-2:]
        words = torch.arange(conditions.shape[1]).to(timesteps)
        output = self.network(
            noised.flatten(2).transpose(1, 2),
            timestep=timesteps / self.n_timesteps,  # the network multiplies by 1000
            guidance=guidance_input(self.network, noised),
            encoder_hidden_states=conditions,
            txt_ids=F.pad(words.unsqueeze(1), (3, 0)),
            img_ids=F.pad(positions(h, w, timesteps), (0, 1)),
        ).sample
        return output.transpose(1, 2).unflatten(2, (h, w))

    def _encode(self, vae, pixels):
        latents, statistics = F.pixel_unshuffle(posterior_mean(vae, pixels), 2), vae.bn
        mean, var = (
            x.to(latents.dtype)
            for x in (statistics.running_mean, statistics.running_var)
        )
        std = (var + vae.config.batch_norm_eps).sqrt()
        return (latents - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)

    def _text_around(self):
        """The chat without a prompt."""
        texts = {"system": self.pipeline.system_message, "user": ""}
        chat = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in texts.items()
        ]
        return self.pipeline.tokenizer.apply_chat_template(chat, tokenize=False)


class Flux2KleinBackbone(Flux2Backbone):
    """A ``Flux2KleinPipeline``; a prompt is what a user says in its chat template.

    Parameters
    ----------
    pipeline : diffusers.Flux2KleinPipeline
        Of Black Forest Labs (2026). If its config says ``is_distilled``, there is a
        warning.
    """

    pipelines = ("Flux2KleinPipeline",)

    def _text_around(self):
        return chat_around(self.pipeline.tokenizer, enable_thinking=False)
