"""What tiny pipelines of several families have in common."""

from functools import wraps

import diffusers
import torch


def same_weights(make):
    """Draw the same weights at every call, and leave the global generator alone."""

    @wraps(make)
    def seeded(*args, **kwargs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make(*args, **kwargs)

    return seeded


def kl_autoencoder(n_blocks=2, **config):
    """An autoencoder, which halves the side with every block but the last."""
    return diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * n_blocks,
        up_block_types=["UpDecoderBlock2D"] * n_blocks,
        block_out_channels=[4] * (n_blocks - 1) + [8], norm_num_groups=2,
        latent_channels=4, sample_size=8, **config,
    ).eval()  # fmt: skip


def text_parts(*pairs):
    """Tokenizers and text encoders by the names that pipelines give them."""
    parts = {}
    for k, (tokenizer, encoder) in enumerate(pairs, start=1):
        end = "" if k == 1 else f"_{k}"
        parts |= {"tokenizer" + end: tokenizer, "text_encoder" + end: encoder}
    return parts


def pipeline_class(name, image_to_image):
    """A pipeline of diffusers, from a text alone or from an image too."""
    kind = "Img2Img" if image_to_image else ""
    return getattr(diffusers, f"{name}{kind}Pipeline")


def with_sample_size(pipeline):
    """Set the side of a latent, which is in no config of some pipelines."""
    pipeline.default_sample_size = 4
    return pipeline
