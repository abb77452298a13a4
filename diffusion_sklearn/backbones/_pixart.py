"""PixArt-alpha and -Sigma: a DiT that attends to the tokens of T5."""

import torch

from diffusion_sklearn._prompts import check_prompts
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_in_batches

HUB_MODEL = "PixArt-alpha/PixArt-Sigma-XL-2-512-MS"


class PixArtBackbone(Backbone):
    """A ``PixArtAlphaPipeline`` or ``PixArtSigmaPipeline``.

    Parameters
    ----------
    pipeline : diffusers.PixArtAlphaPipeline or diffusers.PixArtSigmaPipeline
        Chen et al. (2023, 2024).
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")

    def __init__(self, pipeline):
        super().__init__(pipeline)
        is_sigma = "Sigma" in type(pipeline).__name__
        self.most_tokens = 300 if is_sigma else 120

    def shared_parts(self):
        network = self.network
        crossings = [block.attn2 for block in network.transformer_blocks]
        keys = [part for attn in crossings for part in (attn.to_k, attn.to_v)]
        return {
            ("image", "trial"): [network.pos_embed],
            ("condition",): [network.caption_projection, *keys],
            ("trial",): [network.adaln_single.linear],
        }

    @torch.no_grad()
    def condition(self, names):
        """Token embeddings of prompts, with their mask as a last channel.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Tensor of shape (len(names), n_tokens, d + 1)
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer, self.most_tokens, HUB_MODEL)

        def embed(rows):
            tokens, mask, _, _ = pipeline.encode_prompt(
                names[rows],
                do_classifier_free_guidance=False,
                device=self.device,
                max_sequence_length=self.most_tokens,
            )
            return torch.cat([tokens, mask[..., None].to(tokens.dtype)], dim=-1)

        return embed_in_batches(embed, len(names), self.dtype)

    def forward(self, noised, timesteps, conditions):
        added = {"resolution": None, "aspect_ratio": None}
        if self.network.use_additional_conditions:
            side = float(noised.shape[-1] * self.vae_factor)
            added["resolution"] = noised.new_full((len(noised), 2), side)
            added["aspect_ratio"] = noised.new_ones(len(noised), 1)
        return self.network(
            noised,
            encoder_hidden_states=conditions[..., :-1],
            encoder_attention_mask=conditions[..., -1],
            timestep=timesteps,
            added_cond_kwargs=added,
        ).sample
