"""Z-Image: a flow-matching transformer of lists of latents."""

import torch

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_in_batches, pad_tokens
from diffusion_sklearn.backbones._tokens import chat_around, check_prompts

HUB_MODEL = "Tongyi-MAI/Z-Image"


class ZImageBackbone(Backbone):
    """A ``ZImagePipeline``; a prompt is what a user says in its chat template.

    Parameters
    ----------
    pipeline : diffusers.ZImagePipeline
        Cai et al. (2025). Z-Image-Turbo is distilled.
    """

    pipelines = ("ZImagePipeline", "ZImageImg2ImgPipeline")
    is_flow = True
    no_guidance = 0.0
    max_sequence_length = 512

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
        tokenizer, names = self.pipeline.tokenizer, list(names)
        length = self.max_sequence_length
        around = chat_around(tokenizer, enable_thinking=True)
        check_prompts(names, tokenizer, length, HUB_MODEL, around)

        def embed(prompts, device):
            rows, _ = self.pipeline.encode_prompt(
                list(prompts),  # it overwrites them
                device,
                do_classifier_free_guidance=False,
                max_sequence_length=length,
            )
            return pad_tokens(rows, length)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        rows = zip(conditions.tokens, conditions.mask, strict=True)
        output = self.network(
            list(noised.unsqueeze(2)),  # of one frame
            (self.n_timesteps - timesteps) / self.n_timesteps,
            [tokens[mask] for tokens, mask in rows],
        ).sample
        return -torch.stack(output).squeeze(2)  # it predicts x - eps

    def _latent_side(self):
        own = 1024 // self.vae_factor  # in no config
        return getattr(self.pipeline, "default_sample_size", own)

    def _latent_step(self):
        return self.network.config.all_patch_size[0]
