"""Lumina-Image 2: a flow-matching transformer conditioned on the tokens of Gemma 2."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._text import embed_in_batches, embed_with_mask

HUB_MODEL = "Alpha-VLLM/Lumina-Image-2.0"


class Lumina2Backbone(Backbone):
    """A ``Lumina2Pipeline``; its system prompt goes before every prompt.

    Parameters
    ----------
    pipeline : diffusers.Lumina2Pipeline
        Qin et al. (2025).
    """

    pipelines = ("Lumina2Pipeline",)
    is_flow = True
    max_sequence_length = 256

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
        before = f"{self.pipeline.system_prompt} <Prompt Start> "
        return embed_with_mask(self, names, HUB_MODEL, around=before)

    def null_condition(self):
        """The empty prompt, without the system prompt, as in its pipeline."""

        def embed(prompts, device):
            _, _, tokens, mask = self.pipeline.encode_prompt(
                prompts,
                negative_prompt=prompts,
                device=device,
                max_sequence_length=self.max_sequence_length,
            )
            return Conditions(tokens=tokens, mask=mask.bool())

        return embed_in_batches(self, [""], embed)

    def forward(self, noised, timesteps, conditions):
        return -self.network(  # it predicts x - eps, and its time is 1 at x
            noised,
            timestep=1 - timesteps / self.n_timesteps,
            encoder_hidden_states=conditions.tokens,
            encoder_attention_mask=conditions.mask,
        ).sample
