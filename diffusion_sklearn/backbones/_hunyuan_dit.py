"""HunyuanDiT: a DiT conditioned on the tokens of BERT and T5."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._text import embed_in_batches
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"
LENGTHS = 77, 256
"""Tokens that BERT and T5 read."""


class HunyuanDiTBackbone(Backbone):
    """A ``HunyuanDiTPipeline``.

    Versions up to 1.1 take sizes: the original size is 1024, the target size is that
    which images are resized to, the crop is zero, as in the pipeline.

    Parameters
    ----------
    pipeline : diffusers.HunyuanDiTPipeline
        Li et al. (2024).
    """

    pipelines = ("HunyuanDiTPipeline",)

    @property
    def learns_variance(self):
        """Whether the network's output has a second half of channels, for sigma."""
        return self.network.config.learn_sigma

    def condition(self, names):
        """Token embeddings of prompts by both text encoders, and their masks.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` and ``mask`` of BERT, ``tokens_2`` and ``mask_2`` of T5.
        """
        pipeline, names = self.pipeline, list(names)
        check_prompts(names, pipeline.tokenizer_2, LENGTHS[1], HUB_MODEL)

        def embed(prompts, device):
            (tokens, mask), (tokens_2, mask_2) = (
                pipeline.encode_prompt(
                    prompts,
                    device=device,
                    do_classifier_free_guidance=False,
                    max_sequence_length=length,
                    text_encoder_index=index,
                )[::2]
                for index, length in enumerate(LENGTHS)
            )
            return Conditions(
                tokens=tokens, mask=mask.bool(), tokens_2=tokens_2, mask_2=mask_2.bool()
            )

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (
            get_resize_crop_region_for_grid,
        )

        side, patch = noised.shape[-1], self.network.config.patch_size
        grid, size = (side // patch,) * 2, side * self.vae_factor
        ids = noised.new_tensor([1024, 1024, size, size, 0, 0])
        rotary = get_2d_rotary_pos_embed(
            self.network.inner_dim // self.network.num_heads,
            get_resize_crop_region_for_grid(grid, 64 // patch),  # 512 pixels
            grid,
            device=noised.device,
            output_type="pt",
        )
        return self.network(
            noised,
            timesteps.to(noised.dtype),  # the network takes its dtype from it
            encoder_hidden_states=conditions.tokens,
            text_embedding_mask=conditions.mask,
            encoder_hidden_states_t5=conditions.tokens_2.contiguous(),
            text_embedding_mask_t5=conditions.mask_2,
            image_meta_size=ids.expand(len(noised), -1).contiguous(),
            style=noised.new_zeros(len(noised)).long(),
            image_rotary_emb=rotary,
        ).sample
