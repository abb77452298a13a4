"""CogView 4: a flow-matching transformer conditioned on the tokens of GLM and sizes."""

import torch

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._text import embed_in_batches, pad_tokens
from diffusion_sklearn.backbones._tokens import check_prompts

HUB_MODEL = "zai-org/CogView4-6B"


class CogView4Backbone(Backbone):
    """A ``CogView4Pipeline``.

    Its time is that before the shift of the noise schedule, which depends on the size
    of the image. The original and target sizes are the size that images are resized
    to; the crop is zero.

    Parameters
    ----------
    pipeline : diffusers.CogView4Pipeline
        Of Zhipu AI (2025).
    """

    pipelines = ("CogView4Pipeline",)
    is_flow = True
    max_sequence_length = 1024

    def __init__(self, pipeline):
        super().__init__(pipeline)
        config = self.scheduler.config
        kind = config.get("use_dynamic_shifting") and config.get("time_shift_type")
        if kind != "linear":
            raise ValueError(
                "CogView 4 was trained with a scheduler that has use_dynamic_shifting="
                "True and time_shift_type='linear', which say what the network's time "
                f"means; {type(self.scheduler).__name__} has not. Give the pipeline "
                "its own scheduler."
            )

    def condition(self, names):
        """Token embeddings of prompts, each padded as its pipeline pads one alone.

        Parameters
        ----------
        names : list of str
            Prompts.

        Returns
        -------
        conditions : Conditions
            ``tokens`` (len(names), n_tokens, d) and ``mask`` (len(names), n_tokens).
        """
        pipeline, names, length = self.pipeline, list(names), self.max_sequence_length
        check_prompts(names, pipeline.tokenizer, length, HUB_MODEL)

        def embed(prompts, device):
            rows = [  # one by one: GLM sees the padding to the longest
                pipeline.encode_prompt(
                    prompt,
                    do_classifier_free_guidance=False,
                    device=device,
                    max_sequence_length=length,
                )[0][0]
                for prompt in prompts
            ]
            return pad_tokens(rows, length)

        return embed_in_batches(self, names, embed)

    def forward(self, noised, timesteps, conditions):
        side, config = noised.shape[-1], self.scheduler.config
        n_patches = (side // self._latent_step()) ** 2
        ratio = (n_patches / config.get("base_image_seq_len", 256)) ** 0.5
        mu = ratio * config.get("max_shift", 0.75) + config.get("base_shift", 0.25)
        sigma = timesteps / self.n_timesteps  # mu / (mu + 1 / time - 1)
        time = timesteps / (sigma + mu * (1 - sigma))
        lengths, output = conditions.mask.sum(dim=1), torch.empty_like(noised)
        for length in lengths.unique().tolist():  # the network has no mask of tokens
            rows = lengths == length
            size = noised.new_full((int(rows.sum()), 2), side * self.vae_factor)
            output[rows] = self.network(
                noised[rows],
                encoder_hidden_states=conditions.tokens[rows, :length],
                timestep=time[rows],
                original_size=size,
                target_size=size,
                crop_coords=torch.zeros_like(size),
            ).sample
        return output
