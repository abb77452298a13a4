"""Pipelines of every family with random weights, tiny or of the published size.

The tests use the tiny ones. Those of the published size have no text encoder.
"""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.-,"


def clip_tokenizer(length=24):
    """Every letter is a token."""
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: k for k, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def clip_encoder(width, pooled=None):
    """A text encoder of CLIP for :func:`clip_tokenizer`, projected if `pooled`."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=pooled or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    cls = CLIPTextModelWithProjection if pooled else CLIPTextModel
    return varied(cls(config))


def t5_tokenizer():
    """Every letter is a token."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    pieces += [(letter, -2.0) for letter in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def t5_encoder(width):
    """An encoder of T5 for :func:`t5_tokenizer`."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=4, d_ff=16, num_layers=1,
        num_heads=2,
    )  # fmt: skip
    return varied(T5EncoderModel(config))


def varied(module):
    """Random weights everywhere: zeros, as at the end of a DiT, tell nothing."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module


def vae(size, channels, **config):
    """An autoencoder; the networks of real size are timed on latents alone."""
    levels = 2 if size == "tiny" else 4
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[4, 8] if size == "tiny" else [4, 4, 8, 8],
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=8,
        **config,
    )


def network(size, cls, real, **tiny):
    """A network of the published config, or of a few weights."""
    torch.manual_seed(1)
    if size == "tiny":
        return varied(cls(**tiny))
    with torch.device(device_of_real_size()):
        return cls(**real)


def device_of_real_size():
    """Where networks of real size are made."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def stable_diffusion(size="tiny"):
    """Stable Diffusion 2 (base)."""
    unet = network(
        size,
        UNet2DConditionModel,
        dict(
            sample_size=64, attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=1024, use_linear_projection=True,
        ),
        block_out_channels=(4, 8), layers_per_block=1, sample_size=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=8,
        attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip
    is_tiny = size == "tiny"
    return StableDiffusionPipeline(
        vae=vae(size, 4, scaling_factor=0.18215),
        text_encoder=clip_encoder(8) if is_tiny else None,
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
            steps_offset=1, clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl(size="tiny"):
    """Stable Diffusion XL."""
    unet = network(
        size,
        UNet2DConditionModel,
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
        block_out_channels=(4, 8), layers_per_block=1, sample_size=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
        attention_head_dim=2, norm_num_groups=2, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 6,
    )  # fmt: skip
    is_tiny = size == "tiny"
    return StableDiffusionXLPipeline(
        vae=vae(size, 4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=clip_encoder(8) if is_tiny else None,
        text_encoder_2=clip_encoder(8, pooled=6) if is_tiny else None,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
            steps_offset=1, timestep_spacing="leading",
        ),
    )  # fmt: skip


def stable_diffusion_3(size="tiny", with_t5=True):
    """Stable Diffusion 3 (medium)."""
    transformer = network(
        size,
        SD3Transformer2DModel,
        dict(
            sample_size=128, num_layers=24, num_attention_heads=24,
            caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
            pos_embed_max_size=192,
        ),
        sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=16,
        caption_projection_dim=8, pooled_projection_dim=12, pos_embed_max_size=8,
    )  # fmt: skip
    is_tiny = size == "tiny"
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(size, 4 if is_tiny else 16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_encoder(8, pooled=6) if is_tiny else None,
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(8, pooled=6) if is_tiny else None,
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(16) if is_tiny and with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux(size="tiny", guidance_embeds=True):
    """Flux.1 dev, which is told of guidance; schnell is not."""
    transformer = network(
        size,
        FluxTransformer2DModel,
        dict(guidance_embeds=True),
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=8,
        guidance_embeds=guidance_embeds, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    is_tiny = size == "tiny"
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(size, 4 if is_tiny else 16, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_encoder(8) if is_tiny else None,
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(16) if is_tiny else None,
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    return pipeline


def _pixart(cls, size, side):
    is_tiny = size == "tiny"
    transformer = network(
        size,
        PixArtTransformer2DModel,
        dict(sample_size=64, caption_channels=4096),
        sample_size=side, num_attention_heads=2, attention_head_dim=6,
        in_channels=4, out_channels=8, num_layers=1, patch_size=2,
        cross_attention_dim=12, caption_channels=16, norm_num_groups=2,
        use_additional_conditions=side == 8,
    )  # fmt: skip
    return cls(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(16) if is_tiny else None,
        vae=vae(size, 4, scaling_factor=0.18215),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_end=0.02, solver_order=2),
    )


def pixart_alpha(size="tiny"):
    """PixArt-alpha; the tiny one is told the size of the image, as at 1024 pixels."""
    return _pixart(PixArtAlphaPipeline, size, 8)


def pixart_sigma(size="tiny"):
    """PixArt-Sigma."""
    return _pixart(PixArtSigmaPipeline, size, 4)


def sana(size="tiny"):
    """Sana (600M)."""
    transformer = network(
        size,
        SanaTransformer2DModel,
        dict(
            sample_size=16, num_layers=28, num_attention_heads=36,
            attention_head_dim=32, num_cross_attention_heads=16,
            cross_attention_head_dim=72, cross_attention_dim=1152,
        ),
        sample_size=4, in_channels=4, out_channels=4, num_layers=1, patch_size=1,
        num_attention_heads=2, attention_head_dim=4, num_cross_attention_heads=2,
        cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
    )  # fmt: skip
    is_tiny = size == "tiny"
    torch.manual_seed(2)
    autoencoder = AutoencoderDC(
        latent_channels=4 if is_tiny else 32, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", scaling_factor=0.41407,
    )  # fmt: skip
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *LETTERS, "▁"]
    tokenizer = GemmaTokenizer({w: k for k, w in enumerate(words)}, merges=[])
    encoder = None
    if is_tiny:
        config = Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, head_dim=4,
            num_attention_heads=2, num_hidden_layers=1, num_key_value_heads=2,
            pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )  # fmt: skip
        encoder = varied(Gemma2Model(config))
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return SanaPipeline(tokenizer, encoder, autoencoder, transformer, scheduler)


def dit(size="tiny"):
    """DiT-XL/2 at 256 pixels."""
    transformer = network(
        size,
        DiTTransformer2DModel,
        dict(sample_size=32, out_channels=8),
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8,
        num_layers=1, sample_size=4, patch_size=2, num_embeds_ada_norm=5,
        norm_num_groups=2,
    )  # fmt: skip
    return DiTPipeline(
        transformer,
        vae(size, 4, scaling_factor=0.18215),
        DDIMScheduler(clip_sample=False),
        id2label={k: name for k, name in enumerate(["ant", "bee", "cat", "dog"])},
    )


def pixels(size="tiny"):
    """Class-conditional DDPM on pixels, with the widths of improved DDPM at 64."""
    unet = network(
        size,
        UNet2DModel,
        dict(
            sample_size=64, num_class_embeds=1000, norm_num_groups=32,
            block_out_channels=(192, 384, 576, 768), layers_per_block=3,
            down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
            up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        ),
        sample_size=8, num_class_embeds=5, block_out_channels=(4, 8),
        layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2"))


FAMILIES = {
    "Stable Diffusion 1.x, 2.x": stable_diffusion,
    "Stable Diffusion XL": stable_diffusion_xl,
    "Stable Diffusion 3, 3.5": stable_diffusion_3,
    "Flux": flux,
    "PixArt-alpha": pixart_alpha,
    "PixArt-Sigma": pixart_sigma,
    "Sana": sana,
    "DiT": dit,
    "U-Net on pixels": pixels,
}
