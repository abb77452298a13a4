"""PixArt-alpha and -Sigma: a DiT conditioned on the tokens of T5."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_with_mask

HUB_MODEL = "PixArt-alpha/PixArt-Sigma-XL-2-512-MS"


class PixArtBackbone(Backbone):
    """A ``PixArtAlphaPipeline`` or ``PixArtSigmaPipeline``.

    Parameters
    ----------
    pipeline : diffusers.PixArtAlphaPipeline or diffusers.PixArtSigmaPipeline
        Chen et al. (2023, 2024).

    Attributes
    ----------
    max_sequence_length : int
        Tokens of T5 that the network was trained with: 120 (alpha) or 300 (Sigma).
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")

    def __init__(self, pipeline):
        super().__init__(pipeline)
        is_sigma = "Sigma" in type(pipeline).__name__
        self.max_sequence_length = 300 if is_sigma else 120

    def condition(self, names):
        """Token embeddings of prompts, and their attention mask.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d) and ``mask`` (len(names), n_tokens).
        """
        return embed_with_mask(self, names, HUB_MODEL)

    def forward(self, noised, timesteps, conditions):
        added = {"resolution": None, "aspect_ratio": None}
        if self.network.use_additional_conditions:
            side = float(noised.shape[-1] * self.vae_factor)
            added["resolution"] = noised.new_full((len(noised), 2), side)
            added["aspect_ratio"] = noised.new_ones(len(noised), 1)
        return self.network(
            noised,
            encoder_hidden_states=conditions.tokens,
            encoder_attention_mask=conditions.mask,
            timestep=timesteps,
            added_cond_kwargs=added,
        ).sample
