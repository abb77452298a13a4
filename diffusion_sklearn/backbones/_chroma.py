"""Chroma: Flux without a pooled prompt, with a mask of the tokens."""

import torch

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._packing import pack, positions, unpack
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "lodestones/Chroma1-HD"


class ChromaBackbone(Backbone):
    """A ``ChromaPipeline``.

    Parameters
    ----------
    pipeline : diffusers.ChromaPipeline
        Of Lodestone Rock (2025).
    """

    pipelines = ("ChromaPipeline", "ChromaImg2ImgPipeline")
    is_flow = True
    max_sequence_length = 512

    def condition(self, names):
        """Token embeddings of prompts, and their mask with one token of padding.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d) and ``mask`` (len(names), n_tokens).
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer, self.max_sequence_length, HUB_MODEL)

        def embed(prompts, device):
            tokens, _, mask, *_ = pipeline.encode_prompt(
                prompts,
                device=device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )
            return Conditions(tokens=tokens, mask=mask)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        h, w = noised.shape[-2:]
        packed, mask = pack(noised), conditions.mask
        of_image = mask.new_ones(packed.shape[:2])
        output = self.network(
            packed,
            timestep=timesteps / self.n_timesteps,  # the network multiplies by 1000
            encoder_hidden_states=conditions.tokens,
            # Of floats, as from the pipeline: diffusers adds it to the attention.
            attention_mask=torch.cat([mask, of_image], dim=1),
            txt_ids=noised.new_zeros(conditions.tokens.shape[1], 3),
            img_ids=positions(h // 2, w // 2, noised),
        ).sample
        return unpack(output, h)

    def _latent_step(self):
        return 2
