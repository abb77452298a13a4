"""Sana: a flow-matching transformer of linear attention, on strongly packed latents."""

import inspect

import torch

from diffusion_sklearn._prompts import check_prompts
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_in_batches

HUB_MODEL = "Efficient-Large-Model/Sana_600M_512px_diffusers"
MOST_TOKENS = 300


class SanaBackbone(Backbone):
    """A ``SanaPipeline``; prompts follow the instruction that its pipeline gives Gemma.

    Parameters
    ----------
    pipeline : diffusers.SanaPipeline
        Xie et al. (2024).
    """

    pipelines = ("SanaPipeline",)

    def shared_parts(self):
        network = self.network
        crossings = [block.attn2 for block in network.transformer_blocks]
        keys = [part for attn in crossings for part in (attn.to_k, attn.to_v)]
        return {
            ("image", "trial"): [network.patch_embed],
            ("condition",): [network.caption_projection, network.caption_norm, *keys],
        }

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
        call = inspect.signature(self.pipeline.__call__)
        return self._embed(names, call.parameters["complex_human_instruction"].default)

    def null_condition(self):
        """The empty prompt, without the instruction, as in its pipeline."""
        return self._embed([""], None)

    @torch.no_grad()
    def _embed(self, names, instruction):
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer, MOST_TOKENS, HUB_MODEL)

        def embed(rows):
            tokens, mask, _, _ = pipeline.encode_prompt(
                names[rows],
                do_classifier_free_guidance=False,
                device=self.device,
                max_sequence_length=MOST_TOKENS,
                complex_human_instruction=instruction,
            )
            return torch.cat([tokens, mask[..., None].to(tokens.dtype)], dim=-1)

        return embed_in_batches(embed, len(names), self.dtype)

    def forward(self, noised, timesteps, conditions):
        return self.network(
            noised,
            encoder_hidden_states=conditions[..., :-1],
            encoder_attention_mask=conditions[..., -1],
            timestep=timesteps * self.network.config.timestep_scale,
        ).sample
