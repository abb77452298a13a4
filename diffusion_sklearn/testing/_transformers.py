"""Tiny pipelines with a transformer and random weights."""

import diffusers

from diffusion_sklearn.testing._parts import (
    kl_autoencoder,
    pipeline_class,
    same_weights,
    text_parts,
    with_sample_size,
)
from diffusion_sklearn.testing._text_encoders import (
    bert,
    clip,
    gemma,
    glm,
    llama,
    mistral3,
    qwen2_vl,
    qwen3,
    t5,
    varied,
)

CLASS_NAMES = ["ant", "bee", "cat", "dog, hound", "eel"]


@same_weights
def stable_diffusion_3(with_t5=True):
    """Stable Diffusion 3 or 3.5."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=16,
        caption_projection_dim=8, pooled_projection_dim=10, pos_embed_max_size=8,
    )  # fmt: skip
    third = t5() if with_t5 else (None, None)
    return diffusers.StableDiffusion3Pipeline(
        transformer=varied(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        **text_parts(clip(n_pooled=4, width=4), clip(n_pooled=6, width=12), third),
    )


@same_weights
def flux(guidance_embeds=True):
    """Flux.1 dev, or schnell without an embedding of the guidance scale."""
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=8,
        guidance_embeds=guidance_embeds, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    pipeline = diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        kl_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        **text_parts(clip(), t5()),
        transformer=varied(transformer),
    )
    return with_sample_size(pipeline)


def _pixart(cls, sample_size):
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=sample_size, num_attention_heads=2, attention_head_dim=6,
        in_channels=4, out_channels=8, num_layers=1, patch_size=2,
        cross_attention_dim=12, caption_channels=16, norm_num_groups=2,
    )  # fmt: skip
    return getattr(diffusers, cls)(
        *t5(),
        kl_autoencoder(scaling_factor=0.18215),
        varied(transformer),
        diffusers.DPMSolverMultistepScheduler(beta_end=0.02, solver_order=2),
    )


@same_weights
def pixart_alpha():
    """PixArt-alpha, with the image's size as an input, as at 1024 pixels."""
    return _pixart("PixArtAlphaPipeline", 128)


@same_weights
def pixart_sigma():
    """PixArt-Sigma."""
    return _pixart("PixArtSigmaPipeline", 4)


@same_weights
def sana(kind=""):
    """Sana, or SANA-Sprint."""
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=1, patch_size=1,
        num_attention_heads=2, attention_head_dim=4, num_cross_attention_heads=2,
        cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        guidance_embeds=bool(kind),
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    if kind:
        scheduler = diffusers.SCMScheduler()
    parts = autoencoder.eval(), varied(transformer)
    cls = getattr(diffusers, f"Sana{kind}Pipeline")
    return cls(*gemma(), *parts, scheduler)


@same_weights
def cogview4():
    """CogView 4."""
    transformer = diffusers.CogView4Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=2, text_embed_dim=16,
        time_embed_dim=8, condition_dim=4, rope_axes_dim=(8, 8),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25,
        max_shift=0.75,
    )  # fmt: skip
    return diffusers.CogView4Pipeline(
        *glm(),
        kl_autoencoder(n_blocks=4, scaling_factor=1.0),
        varied(transformer),
        scheduler,
    )


@same_weights
def hunyuan_dit():
    """HunyuanDiT, with sizes and a style as inputs, as up to version 1.1."""
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=4, patch_size=2, in_channels=4, num_layers=4, hidden_size=16,
        attention_head_dim=8, num_attention_heads=2, cross_attention_dim=8,
        cross_attention_dim_t5=16, pooled_projection_dim=8,
    )  # fmt: skip
    return diffusers.HunyuanDiTPipeline(
        **text_parts(bert(), t5()),
        vae=kl_autoencoder(n_blocks=4, scaling_factor=0.13025),
        transformer=varied(transformer),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.018,
            steps_offset=1, prediction_type="v_prediction", clip_sample=False,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@same_weights
def qwen_image(image_to_image=False):
    """Qwen-Image."""
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1,
        temperal_downsample=[False], latents_mean=[-0.8, -0.7, 0.1, 1.0],
        latents_std=[2.8, 1.5, 2.3, 2.7],
    )  # fmt: skip
    pipeline = pipeline_class("QwenImage", image_to_image)(
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae.eval(),
        **text_parts(qwen2_vl()),
        transformer=varied(transformer),
    )
    return with_sample_size(pipeline)


@same_weights
def z_image(image_to_image=False):
    """Z-Image."""
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 2, 2], axes_lens=[1024, 16, 16],
    )  # fmt: skip
    varied(transformer).t_embedder.mlp[2].weight.data /= 20  # it sums 1,024 units
    pipeline = pipeline_class("ZImage", image_to_image)(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        kl_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        **text_parts(qwen3()),
        transformer=transformer,
    )
    return with_sample_size(pipeline)


@same_weights
def chroma(image_to_image=False):
    """Chroma."""
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8, approximator_hidden_dim=8, approximator_layers=1,
    )  # fmt: skip
    # Half precision rounds the time, which all layers see: a small effect.
    varied(transformer).distilled_guidance_layer.out_proj.weight.data /= 4
    pipeline = pipeline_class("Chroma", image_to_image)(
        diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True),
        kl_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        *reversed(t5()),
        transformer=transformer,
    )
    return with_sample_size(pipeline)


@same_weights
def flux2(is_klein=False):
    """FLUX.2 dev or klein."""
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, axes_dims_rope=(2, 2, 2, 2),
        timestep_guidance_channels=16, guidance_embeds=not is_klein,
    )  # fmt: skip
    # Half precision rounds the time, which all layers see: a small effect.
    time = varied(transformer).time_guidance_embed.timestep_embedder
    time.linear_2.weight.data /= 8
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[4, 8],
        norm_num_groups=2, latent_channels=4, sample_size=8,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    text = qwen3(28, "Qwen3ForCausalLM") if is_klein else mistral3()
    kind = "Klein" if is_klein else ""
    pipeline = getattr(diffusers, f"Flux2{kind}Pipeline")(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae.eval(),
        **text_parts(text),
        transformer=transformer,
    )
    return with_sample_size(pipeline)


@same_weights
def hidream():
    """HiDream-I1."""
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, num_single_layers=1,
        attention_head_dim=8, num_attention_heads=2, caption_channels=[16, 16],
        text_emb_dim=12, num_routed_experts=2, num_activated_experts=1,
        axes_dims_rope=(4, 2, 2), max_resolution=(8, 8), llama_layers=[0, 1],
    )  # fmt: skip
    clips = (clip(n_pooled=6, length=128) for _ in range(2))
    pipeline = diffusers.HiDreamImagePipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        kl_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        **text_parts(*clips, t5(), llama()),
        transformer=varied(transformer),
    )
    return with_sample_size(pipeline)


@same_weights
def lumina2():
    """Lumina-Image 2."""
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=16, num_layers=1,
        num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=4,
        axes_dim_rope=(4, 2, 2), axes_lens=(300, 8, 8), cap_feat_dim=8,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        varied(transformer),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        kl_autoencoder(n_blocks=4, scaling_factor=0.3611, shift_factor=0.1159),
        **text_parts(gemma(n_layers=2)),
    )


@same_weights
def aura_flow():
    """AuraFlow."""
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, out_channels=4,
        num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
        pos_embed_max_size=16,
    )  # fmt: skip
    return diffusers.AuraFlowPipeline(
        *t5("UMT5"),
        kl_autoencoder(scaling_factor=0.13025),
        varied(transformer),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


@same_weights
def dit():
    """DiT, with five classes."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8,
        num_layers=1, sample_size=4, patch_size=2, num_embeds_ada_norm=5,
        norm_num_groups=2,
    )  # fmt: skip
    id2label = dict(enumerate(CLASS_NAMES))
    pipeline = diffusers.DiTPipeline(
        varied(transformer),
        kl_autoencoder(scaling_factor=0.18215),
        diffusers.DDIMScheduler(clip_sample=False),
        id2label,
    )
    pipeline.register_to_config(id2label=id2label)
    return pipeline
