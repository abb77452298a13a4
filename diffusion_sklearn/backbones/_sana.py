"""Sana: a flow-matching transformer with linear attention on small latents."""

import inspect

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_with_mask

HUB_MODEL = "Efficient-Large-Model/Sana_600M_512px_diffusers"


class SanaBackbone(Backbone):
    """A ``SanaPipeline``; its instruction to Gemma goes before every prompt.

    Parameters
    ----------
    pipeline : diffusers.SanaPipeline
        Xie et al. (2024).
    """

    pipelines = ("SanaPipeline",)
    is_flow = True
    max_sequence_length = 300
    has_negative = True  # prompt to encode

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
        call = inspect.signature(self.pipeline.__call__)
        return self._embed(names, call.parameters["complex_human_instruction"].default)

    def null_condition(self):
        """The empty prompt, without the instruction, as in its pipeline."""
        return self._embed([""], None)

    def _embed(self, names, instruction):
        return embed_with_mask(
            self,
            names,
            HUB_MODEL,
            has_negative=self.has_negative,
            complex_human_instruction=instruction,
        )

    def forward(self, noised, timesteps, conditions):
        return self.network(
            noised,
            encoder_hidden_states=conditions.tokens,
            encoder_attention_mask=conditions.mask,
            timestep=timesteps * self.network.config.timestep_scale,
        ).sample
