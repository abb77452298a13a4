"""Stable Diffusion 3 and 3.5: a flow-matching transformer with three text encoders."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "stabilityai/stable-diffusion-3.5-medium"


class StableDiffusion3Backbone(Backbone):
    """A ``StableDiffusion3Pipeline``, with or without T5.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusion3Pipeline
        Esser et al. (2024). With ``text_encoder_3=None``, prompts are encoded by CLIP
        alone.
    """

    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    is_flow = True
    max_sequence_length = 256

    def condition(self, names):
        """Token embeddings and pooled embedding of prompts.

        Parameters
        ----------
        names : list of str
            Prompts. CLIP takes the first 77 tokens of a prompt, T5 256.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d) and ``pooled`` (len(names), p).
        """
        pipeline, names = self.pipeline, list(names)
        clip, t5 = pipeline.tokenizer, pipeline.tokenizer_3
        if pipeline.text_encoder_3 is None:
            check_prompts(names, clip, clip.model_max_length, HUB_MODEL)
        else:
            check_prompts(names, t5, self.max_sequence_length, HUB_MODEL)

        def embed(prompts, device):
            tokens, _, pooled, _ = pipeline.encode_prompt(
                prompts,
                prompt_2=None,
                prompt_3=None,
                device=device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )
            return Conditions(tokens=tokens, pooled=pooled)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        return self.network(
            noised,
            timestep=timesteps,
            encoder_hidden_states=conditions.tokens,
            pooled_projections=conditions.pooled,
        ).sample
