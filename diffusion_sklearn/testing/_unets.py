"""Tiny pipelines with a U-Net and random weights."""

import diffusers

from diffusion_sklearn.testing._parts import (
    kl_autoencoder,
    pipeline_class,
    same_weights,
    text_parts,
)
from diffusion_sklearn.testing._text_encoders import chatglm, clip, t5, varied

BETAS = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
"""Noise schedule of Stable Diffusion 1, 2 and XL."""


def _unet(**config):
    """A U-Net of latents with cross-attention."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, norm_num_groups=2, **config,
    )  # fmt: skip


@same_weights
def stable_diffusion(prediction_type="epsilon", image_to_image=False):
    """Stable Diffusion 1.x or 2.x."""
    parts, unet = text_parts(clip()), _unet(cross_attention_dim=8)
    scheduler = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, prediction_type=prediction_type
    )
    return pipeline_class("StableDiffusion", image_to_image)(
        **parts, vae=kl_autoencoder(scaling_factor=0.18215), unet=varied(unet),
        scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


@same_weights
def latent_consistency(image_to_image=False):
    """A latent consistency model of Stable Diffusion 1.x."""
    unet = _unet(cross_attention_dim=8, time_cond_proj_dim=8)
    return pipeline_class("LatentConsistencyModel", image_to_image)(
        vae=kl_autoencoder(scaling_factor=0.18215), **text_parts(clip()),
        unet=varied(unet),
        scheduler=diffusers.LCMScheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@same_weights
def stable_diffusion_xl():
    """Stable Diffusion XL."""
    unet = _unet(
        cross_attention_dim=20, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 6,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        kl_autoencoder(scaling_factor=0.13025, force_upcast=True),
        **text_parts(clip(), clip(n_pooled=6, width=12)),
        unet=varied(unet),
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    )


@same_weights
def kolors(image_to_image=False):
    """Kolors; needs sentencepiece."""
    unet = _unet(
        cross_attention_dim=8, encoder_hid_dim_type="text_proj", encoder_hid_dim=16,
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )  # fmt: skip
    return pipeline_class("Kolors", image_to_image)(
        kl_autoencoder(scaling_factor=0.13025, force_upcast=True),
        **text_parts(chatglm()),
        unet=varied(unet),
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    )


@same_weights
def deepfloyd_if(image_to_image=False):
    """Stage 1 of DeepFloyd IF."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=6, block_out_channels=(4, 8),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=1, norm_num_groups=2, attention_head_dim=2, act_fn="gelu",
        cross_attention_dim=32, encoder_hid_dim=16, encoder_hid_dim_type="text_proj",
        addition_embed_type="text", addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    return pipeline_class("IF", image_to_image)(
        *t5(),
        varied(unet),
        diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", variance_type="learned_range",
            thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
        ),
        safety_checker=None, feature_extractor=None, watermarker=None,
        requires_safety_checker=False,
    )  # fmt: skip


@same_weights
def pixels():
    """A class-conditional U-Net on pixels, with five classes."""
    unet = diffusers.UNet2DModel(
        sample_size=8, num_class_embeds=5, block_out_channels=(4, 8),
        layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return diffusers.DDPMPipeline(varied(unet), scheduler)
