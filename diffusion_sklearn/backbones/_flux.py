"""Flux: a flow-matching transformer of packed latents."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._packing import pack, positions, unpack
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "black-forest-labs/FLUX.1-dev"


def guidance_input(network, noised):
    """The guidance scale that a network takes, as no guidance; None: it takes none.

    Parameters
    ----------
    network : FluxTransformer2DModel or Flux2Transformer2DModel
    noised : Tensor of shape (b, c, h, w)

    Returns
    -------
    guidance : Tensor of shape (b,) or None
    """
    if not network.config.guidance_embeds:
        return None
    return noised.new_ones(len(noised))


class FluxBackbone(Backbone):
    """A ``FluxPipeline``, schnell or dev.

    A network with a guidance scale as an input (dev) gets 1, which is no guidance.

    Parameters
    ----------
    pipeline : diffusers.FluxPipeline
        Of Black Forest Labs.

    Attributes
    ----------
    max_sequence_length : int
        Tokens of T5 that the network was trained with: 512 (dev) or 256 (schnell).
    """

    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline")
    is_flow = True

    def __init__(self, pipeline):
        super().__init__(pipeline)
        is_dev = self.network.config.guidance_embeds
        self.max_sequence_length = 512 if is_dev else 256

    def condition(self, names):
        """Token embeddings (T5) and pooled embedding (CLIP) of prompts.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d) and ``pooled`` (len(names), p).
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer_2, self.max_sequence_length, HUB_MODEL)

        def embed(prompts, device):
            tokens, pooled, _ = pipeline.encode_prompt(
                prompts,
                prompt_2=None,
                device=device,
                max_sequence_length=self.max_sequence_length,
            )
            return Conditions(tokens=tokens, pooled=pooled)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        h, w = noised.shape[-2:]
        output = self.network(
            pack(noised),
            timestep=timesteps / self.n_timesteps,  # the network multiplies by 1000
            guidance=guidance_input(self.network, noised),
            pooled_projections=conditions.pooled,
            encoder_hidden_states=conditions.tokens,
            txt_ids=noised.new_zeros(conditions.tokens.shape[1], 3),
            img_ids=positions(h // 2, w // 2, noised),
        ).sample
        return unpack(output, h)

    def _latent_step(self):
        return 2
