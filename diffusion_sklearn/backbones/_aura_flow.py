"""AuraFlow: a flow-matching transformer conditioned on the tokens of Pile-T5."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_with_mask

HUB_MODEL = "fal/AuraFlow-v0.3"


class AuraFlowBackbone(Backbone):
    """An ``AuraFlowPipeline``.

    Parameters
    ----------
    pipeline : diffusers.AuraFlowPipeline
        Of fal (2024).
    """

    pipelines = ("AuraFlowPipeline",)
    is_flow = True
    max_sequence_length = 256

    def condition(self, names):
        """Token embeddings of prompts; those of the padding are zeros.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Tensor of shape (len(names), n_tokens, d)
        """
        return embed_with_mask(self, names, HUB_MODEL).tokens

    def forward(self, noised, timesteps, conditions):
        return self.network(
            noised,
            encoder_hidden_states=conditions,
            timestep=timesteps / self.n_timesteps,
        ).sample
