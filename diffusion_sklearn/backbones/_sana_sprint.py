"""SANA-Sprint: a distilled Sana that takes a guidance scale."""

from diffusion_sklearn.backbones._sana import SanaBackbone


class SanaSprintBackbone(SanaBackbone):
    """A ``SanaSprintPipeline``.

    Its noise schedule is on a circle (TrigFlow), its network that of a rectified flow,
    to which the pipeline converts. The network is given a guidance scale of 1.

    Parameters
    ----------
    pipeline : diffusers.SanaSprintPipeline
        Chen et al. (2025).
    """

    pipelines = ("SanaSprintPipeline", "SanaSprintImg2ImgPipeline")
    has_negative = False

    def forward(self, noised, timesteps, conditions):
        scale = self.network.config.guidance_embeds_scale
        return self.network(
            noised,
            encoder_hidden_states=conditions.tokens,
            encoder_attention_mask=conditions.mask,
            guidance=noised.new_full((len(noised),), scale),
            timestep=timesteps / self.n_timesteps,
        ).sample
