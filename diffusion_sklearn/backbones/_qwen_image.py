"""Qwen-Image: a flow-matching transformer of packed latents."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._packing import pack, unpack
from diffusion_sklearn.backbones._text import embed_in_batches, pad_tokens
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "Qwen/Qwen-Image"


class QwenImageBackbone(Backbone):
    """A ``QwenImagePipeline``; its instruction goes before every prompt.

    Parameters
    ----------
    pipeline : diffusers.QwenImagePipeline
        Wu et al. (2025).
    """

    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline")
    is_flow = True
    max_sequence_length = 512

    @property
    def latent_channels(self):
        """Channels of a latent."""
        return self.vae.config.z_dim

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
        pipeline, names = self.pipeline, list(names)
        length, around = self.max_sequence_length, pipeline.prompt_template_encode
        # The first tokens, of the instruction, are left out of the embeddings.
        n_read = length + pipeline.prompt_template_encode_start_idx
        check_prompts(names, pipeline.tokenizer, n_read, HUB_MODEL, around.format(""))

        def embed(prompts, device):
            tokens, mask = pipeline.encode_prompt(
                prompts, device, max_sequence_length=length
            )
            if mask is not None:  # else all are of one length
                tokens = [row[of > 0] for row, of in zip(tokens, mask, strict=True)]
            return pad_tokens(tokens, length)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        h, w = noised.shape[-2:]
        longest = int(conditions.mask.sum(dim=1).max())  # without common padding
        output = self.network(
            pack(noised),
            timestep=timesteps / self.n_timesteps,
            encoder_hidden_states=conditions.tokens[:, :longest],
            encoder_hidden_states_mask=conditions.mask[:, :longest],
            img_shapes=[[(1, h // 2, w // 2)]] * len(noised),
        ).sample
        return unpack(output, h)
