"""Stable Diffusion 1.x and 2.x: a U-Net that attends to the tokens of a prompt."""

import warnings

import torch

from diffusion_sklearn.backbones._base import Backbone


class StableDiffusionBackbone(Backbone):
    """A ``StableDiffusionPipeline``, with epsilon or v prediction.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionPipeline
        Of version 1.x or 2.x, or with the same parts.
    """

    kind = "text"

    def __init__(self, pipeline):
        super().__init__(pipeline)
        channels = self.vae.config.latent_channels
        if self.network.config.in_channels != channels:
            raise ValueError(
                f"The U-Net takes {self.network.config.in_channels} channels and the "
                f"latent has {channels}: inpainting and depth models can't classify; "
                "pass a text-to-image model."
            )

    def _network(self, pipeline):
        return pipeline.unet

    def _latent_step(self):
        return 2 ** (len(self.network.config.block_out_channels) - 1)

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
        """
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        _warn_of_cut(names, tokenizer)
        tokens = tokenizer(
            names,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = None
        if getattr(encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(encoder.device)
        ids = tokens.input_ids.to(encoder.device).split(64)
        masks = mask.split(64) if mask is not None else [None] * len(ids)
        states = [
            encoder(part, attention_mask=m)[0]
            for part, m in zip(ids, masks, strict=True)
        ]
        return torch.cat(states).to("cpu", self.dtype)

    def predict(self, noised, timesteps, conditions):
        output = self.network(
            noised.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditions.to(self.dtype),
        )
        return output.sample.to(noised.device, self.compute_dtype)


def _warn_of_cut(prompts, tokenizer):
    for prompt in prompts:
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        excess = len(ids) - tokenizer.model_max_length
        if excess > 0:
            # The end token stays; what goes are the words before it.
            lost = tokenizer.decode(ids[-1 - excess : -1])
            warnings.warn(
                f"The prompt {prompt!r} has {len(ids)} tokens, the model reads "
                f"{tokenizer.model_max_length}: {lost!r} was cut. Shorten the class "
                "name or the prompt_template.",
                UserWarning,
                stacklevel=2,
            )
