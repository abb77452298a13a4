"""Networks of real size, with random weights, in the tiny pipelines of every family.

They have the published config and no text encoder: they are timed on latents alone.
"""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from functools import partial

import torch

from diffusion_sklearn.testing._transformers import (
    dit,
    flux,
    pixart_alpha,
    pixart_sigma,
    sana,
    stable_diffusion_3,
)
from diffusion_sklearn.testing._unets import (
    pixels,
    stable_diffusion,
    stable_diffusion_xl,
)

LEVELS = {
    "block_out_channels": [4, 4, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
"""Of an autoencoder: eight pixels a side for an element of the latent."""


def device_of_real_size():
    """Where networks of real size are made."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_pipeline(make, latent, config, size="tiny"):
    """A tiny pipeline, or the same with a network of real size."""
    pipeline = make()
    if size == "tiny":
        return pipeline
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    parts = dict.fromkeys(p for p in pipeline.components if p.startswith("text_enc"))
    with torch.device(device_of_real_size()):
        parts[name] = type(getattr(pipeline, name))(**config)
    if latent:
        vae = pipeline.vae
        parts["vae"] = type(vae).from_config({**vae.config, **latent})
    pipeline.register_modules(**parts)
    if "default_sample_size" in vars(pipeline):  # Flux
        pipeline.default_sample_size = 128
    return pipeline


_FAMILIES = {
    "Stable Diffusion 1.x, 2.x": (
        stable_diffusion,
        LEVELS,
        dict(
            sample_size=64, attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=1024, use_linear_projection=True,
        ),
    ),
    "Stable Diffusion XL": (
        stable_diffusion_xl,
        LEVELS,
        dict(
            sample_size=128, block_out_channels=(320, 640, 1280),
            down_block_types=(
                "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"
            ),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
    ),
    "Stable Diffusion 3, 3.5": (
        stable_diffusion_3,
        {**LEVELS, "latent_channels": 16},
        dict(
            sample_size=128, num_layers=24, num_attention_heads=24,
            caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
            pos_embed_max_size=192,
        ),
    ),
    "Flux": (
        flux,
        {**LEVELS, "latent_channels": 16},
        dict(guidance_embeds=True),
    ),
    "PixArt-alpha": (
        pixart_alpha,
        LEVELS,
        dict(sample_size=64, caption_channels=4096),
    ),
    "PixArt-Sigma": (
        pixart_sigma,
        LEVELS,
        dict(sample_size=64, caption_channels=4096),
    ),
    "Sana": (
        sana,
        {"latent_channels": 32},
        dict(
            sample_size=16, num_layers=28, num_attention_heads=36,
            attention_head_dim=32, num_cross_attention_heads=16,
            cross_attention_head_dim=72, cross_attention_dim=1152,
        ),
    ),
    "DiT": (dit, LEVELS, dict(sample_size=32, out_channels=8)),
    "U-Net on pixels": (
        pixels,
        None,
        dict(
            sample_size=64, num_class_embeds=1000, norm_num_groups=32,
            block_out_channels=(192, 384, 576, 768), layers_per_block=3,
            down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
            up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        ),
    ),
}  # fmt: skip

FAMILIES = {name: partial(make_pipeline, *family) for name, family in _FAMILIES.items()}
"""Each is called with "tiny" or "real"."""
