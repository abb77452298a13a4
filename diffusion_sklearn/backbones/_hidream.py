"""HiDream: a flow-matching transformer of experts with four text encoders."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "HiDream-ai/HiDream-I1-Full"


class HiDreamBackbone(Backbone):
    """A ``HiDreamImagePipeline``.

    Parameters
    ----------
    pipeline : diffusers.HiDreamImagePipeline
        Cai et al. (2025). HiDream-I1-Dev and -Fast are distilled.
    """

    pipelines = ("HiDreamImagePipeline",)
    is_flow = True
    max_sequence_length = 128

    def condition(self, names):
        """Token embeddings (T5, layers of Llama) and pooled embedding (two CLIPs).

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d), ``layers`` (len(names), n_layers,
            n_tokens, d) and ``pooled`` (len(names), p).
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer_3, self.max_sequence_length, HUB_MODEL)

        def embed(prompts, device):
            tokens, _, layers, _, pooled, _ = pipeline.encode_prompt(
                prompts,
                device=device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )
            return Conditions(
                tokens=tokens, layers=layers.transpose(0, 1), pooled=pooled
            )

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        return -self.network(  # it predicts x - eps
            noised,
            timesteps=timesteps,
            encoder_hidden_states_t5=conditions.tokens,
            encoder_hidden_states_llama3=conditions.layers.transpose(0, 1),
            pooled_embeds=conditions.pooled,
        ).sample
