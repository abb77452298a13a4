"""Weights and memory of published models, counted on the meta device.

    python -m benchmarks.speed.model_sizes

Networks and text encoders are made from their published configs without memory for
their weights. A count that does not round to the published number is an error. Memory
is that of the weights in bfloat16, 2 bytes each. Some seconds on 2 cores.
"""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import diffusers
import torch
import transformers

from benchmarks._common import make_parser, write
from benchmarks._published import config_of, count_weights

UNITS = {"M": 1e6, "B": 1e9}
BYTES = 2


def _of_published(model, part, cls):
    return cls, config_of(model, part, "real")


_T5 = dict(d_kv=64, feed_forward_proj="gated-gelu", num_layers=24, vocab_size=32128)
_QWEN_3 = dict(
    head_dim=128, num_attention_heads=32, num_hidden_layers=36, num_key_value_heads=8,
    vocab_size=151936,
)  # fmt: skip
_CLIP_L = config_of("sdxl", "text_encoder", "real")

ENCODERS = {
    "CLIP ViT-L": ("CLIPTextModel", _CLIP_L),
    "CLIP ViT-L, projected": ("CLIPTextModelWithProjection", _CLIP_L),
    "OpenCLIP ViT-H": _of_published("sd2", "text_encoder", "CLIPTextModel"),
    "OpenCLIP ViT-G": _of_published(
        "sdxl", "text_encoder_2", "CLIPTextModelWithProjection"
    ),
    "T5 v1.1 XXL": (
        "T5EncoderModel", dict(_T5, d_ff=10240, d_model=4096, num_heads=64)
    ),
    "Pile-T5 XL": (
        "UMT5EncoderModel", dict(_T5, d_ff=5120, d_model=2048, num_heads=32)
    ),
    "Gemma 2 2B": ("Gemma2Model", {}),
    "GLM-4 9B": ("GlmModel", {}),
    "Qwen 2.5-VL 7B": (
        "Qwen2_5_VLForConditionalGeneration",
        dict(
            text_config=dict(
                hidden_size=3584, intermediate_size=18944, num_attention_heads=28,
                num_hidden_layers=28, num_key_value_heads=4, vocab_size=152064,
            ),
            vision_config=dict(
                depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16,
                out_hidden_size=3584,
            ),
            tie_word_embeddings=False,
        ),
    ),
    "Qwen 3 4B": (
        "Qwen3ForCausalLM",
        dict(
            _QWEN_3, hidden_size=2560, intermediate_size=9728, tie_word_embeddings=True
        ),
    ),
    "Qwen 3 8B": (
        "Qwen3ForCausalLM",
        dict(
            _QWEN_3, hidden_size=4096, intermediate_size=12288,
            tie_word_embeddings=False,
        ),
    ),
}  # fmt: skip
"""Class and config of each text encoder; {}: the defaults are the published config."""

_SD_3 = dict(
    attention_head_dim=64, caption_projection_dim=1536, in_channels=16,
    joint_attention_dim=4096, num_attention_heads=24, num_layers=24, out_channels=16,
    patch_size=2, pooled_projection_dim=2048, sample_size=128,
)  # fmt: skip
_PIXART = dict(caption_channels=4096, sample_size=128)
_SANA_600M = dict(
    cross_attention_dim=1152, cross_attention_head_dim=72, num_attention_heads=36,
    num_cross_attention_heads=16, num_layers=28,
)  # fmt: skip
_SPRINT = dict(guidance_embeds=True, qk_norm="rms_norm_across_heads")
_KLEIN = dict(guidance_embeds=False)
_SD_3_ENCODERS = ("CLIP ViT-L, projected", "OpenCLIP ViT-G", "T5 v1.1 XXL")

MODELS = {
    "Stable Diffusion 1.5": (
        "StableDiffusionPipeline", "UNet2DConditionModel",
        dict(
            attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280],
            cross_attention_dim=768, sample_size=64,
        ),
        ("CLIP ViT-L",), "860 M",
    ),
    "Stable Diffusion 2 base": (
        "StableDiffusionPipeline",
        *_of_published("sd2", "unet", "UNet2DConditionModel"),
        ("OpenCLIP ViT-H",), "865.9 M",
    ),
    "Stable Diffusion XL": (
        "StableDiffusionXLPipeline",
        *_of_published("sdxl", "unet", "UNet2DConditionModel"),
        ("CLIP ViT-L", "OpenCLIP ViT-G"), "2.6 B",
    ),
    "Kolors": (
        "KolorsPipeline", "UNet2DConditionModel",
        dict(
            config_of("sdxl", "unet", "real"), encoder_hid_dim=4096,
            encoder_hid_dim_type="text_proj",
            projection_class_embeddings_input_dim=4096 + 6 * 256,
        ),
        None, "2.58 B",
    ),
    "Stable Diffusion 3 medium": (
        "StableDiffusion3Pipeline", "SD3Transformer2DModel",
        dict(_SD_3, pos_embed_max_size=192), _SD_3_ENCODERS, "2 B",
    ),
    "Stable Diffusion 3.5 medium": (
        "StableDiffusion3Pipeline", "SD3Transformer2DModel",
        dict(
            _SD_3, dual_attention_layers=tuple(range(13)), pos_embed_max_size=384,
            qk_norm="rms_norm",
        ),
        _SD_3_ENCODERS, "2.5 B",
    ),
    "FLUX.1 dev": (
        "FluxPipeline", "FluxTransformer2DModel", dict(guidance_embeds=True),
        ("CLIP ViT-L", "T5 v1.1 XXL"), "12 B",
    ),
    "FLUX.2 dev": ("Flux2Pipeline", "Flux2Transformer2DModel", {}, None, "32 B"),
    "FLUX.2 klein 4B": (
        "Flux2KleinPipeline", "Flux2Transformer2DModel",
        dict(
            _KLEIN, joint_attention_dim=7680, num_attention_heads=24, num_layers=5,
            num_single_layers=20,
        ),
        ("Qwen 3 4B",), "4 B",
    ),
    "FLUX.2 klein 9B": (
        "Flux2KleinPipeline", "Flux2Transformer2DModel",
        dict(
            _KLEIN, joint_attention_dim=12288, num_attention_heads=32, num_layers=8,
            num_single_layers=24,
        ),
        ("Qwen 3 8B",), "9 B",
    ),
    "Chroma": (
        "ChromaPipeline", "ChromaTransformer2DModel", {}, ("T5 v1.1 XXL",), "8.9 B"
    ),
    "PixArt-alpha": (
        "PixArtAlphaPipeline", "PixArtTransformer2DModel", _PIXART, ("T5 v1.1 XXL",),
        "0.6 B",
    ),
    "PixArt-Sigma": (
        "PixArtSigmaPipeline", "PixArtTransformer2DModel",
        dict(_PIXART, use_additional_conditions=False), ("T5 v1.1 XXL",), "0.6 B",
    ),
    "Sana 0.6B": (
        "SanaPipeline", "SanaTransformer2DModel", _SANA_600M, ("Gemma 2 2B",), "0.6 B"
    ),
    "Sana 1.6B": ("SanaPipeline", "SanaTransformer2DModel", {}, ("Gemma 2 2B",),
                  "1.6 B"),
    "SANA-Sprint 0.6B": (
        "SanaSprintPipeline", "SanaTransformer2DModel", _SANA_600M | _SPRINT,
        ("Gemma 2 2B",), "0.6 B",
    ),
    "Qwen-Image": (
        "QwenImagePipeline", "QwenImageTransformer2DModel", {}, ("Qwen 2.5-VL 7B",),
        "20 B",
    ),
    "Z-Image": (
        "ZImagePipeline", "ZImageTransformer2DModel", {}, ("Qwen 3 4B",), "6 B"
    ),
    "Lumina-Image 2": (
        "Lumina2Pipeline", "Lumina2Transformer2DModel", dict(cap_feat_dim=2304),
        ("Gemma 2 2B",), "2.6 B",
    ),
    "AuraFlow": (
        "AuraFlowPipeline", "AuraFlowTransformer2DModel",
        dict(pos_embed_max_size=4096), ("Pile-T5 XL",), "6.8 B",
    ),
    "HiDream-I1": (
        "HiDreamImagePipeline", "HiDreamImageTransformer2DModel",
        dict(
            axes_dims_rope=(64, 32, 32), caption_channels=[4096, 4096], in_channels=16,
            llama_layers=[*range(32), *[31] * 16], max_resolution=(128, 128),
            num_activated_experts=2, num_attention_heads=20, num_layers=16,
            num_routed_experts=4, num_single_layers=32, out_channels=16, patch_size=2,
            text_emb_dim=2048,
        ),
        None, "17 B",
    ),
    "CogView 4": (
        "CogView4Pipeline", "CogView4Transformer2DModel",
        dict(attention_head_dim=128, num_attention_heads=32, num_layers=28),
        ("GLM-4 9B",), "6 B",
    ),
    "HunyuanDiT 1.2": (
        "HunyuanDiTPipeline", "HunyuanDiT2DModel",
        dict(
            hidden_size=1408, in_channels=4, mlp_ratio=4.3637, num_layers=40,
            patch_size=2, sample_size=128, use_style_cond_and_image_meta_size=False,
        ),
        None, "1.5 B",
    ),
    "DeepFloyd IF-I XL": (
        "IFPipeline", "UNet2DConditionModel",
        dict(
            act_fn="gelu", addition_embed_type="text", attention_head_dim=64,
            block_out_channels=[704, 1408, 2112, 2816], cross_attention_dim=2816,
            cross_attention_norm="group_norm", encoder_hid_dim=4096,
            encoder_hid_dim_type="text_proj", in_channels=3, layers_per_block=3,
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", out_channels=6,
            resnet_time_scale_shift="scale_shift", sample_size=64,
            down_block_types=(
                "ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3
            ),
            up_block_types=(
                *["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"
            ),
        ),
        ("T5 v1.1 XXL",), "4.3 B",
    ),
}  # fmt: skip
"""Pipeline class, class and config of the network, text encoders, published weights.

None for the text encoders: their configs are not known here. The network of Kolors is
that of SDXL for the wider tokens and pooled prompt of ChatGLM; the published number is
the size of its file in float16, 5.16 GB. LCM has the network of Stable Diffusion 1.5
and a layer for the guidance scale. U-Nets on pixels have no published model of their
own.
"""


def count(library, name, config):
    """Weights of a module, as a file holds them, without making it.

    Parameters
    ----------
    library : module
        diffusers or transformers.
    name : str
        Class of the module.
    config : dict
        Its config.

    Returns
    -------
    count : int
        With buffers that are saved, such as the embedding of positions of SD 3; shared
        weights count once.
    """
    cls = getattr(library, name)
    with torch.device("meta"):
        if library is transformers:
            module = cls(cls.config_class(**config))
        else:
            module = cls.from_config(config)
    tensors = {id(tensor): tensor for tensor in module.parameters()}
    saved = module.state_dict(keep_vars=True).values()
    tensors |= {id(tensor): tensor for tensor in saved}
    return sum(tensor.numel() for tensor in tensors.values())


def rounds_to(count, published):
    """Whether a count, rounded as the published number is, equals it."""
    number, unit = published.split()
    digits = len(number.partition(".")[2])
    return round(count / UNITS[unit], digits) == float(number)


def measure():
    """Rows of the table.

    Returns
    -------
    rows : list of dict

    Raises
    ------
    AssertionError
        If a network has not as many weights as published.
    """
    encoders = {name: count(transformers, *of) for name, of in ENCODERS.items()}
    rows = []
    for name, (pipeline, cls, config, texts, published) in MODELS.items():
        n_weights = count(diffusers, cls, config)
        if not rounds_to(n_weights, published):
            raise AssertionError(f"{name}: {n_weights:,} weights, not {published}.")
        rows.append(_row(name, pipeline, n_weights, published, texts, encoders))
    n_weights = round(count_weights("dit", "real")["transformer"] * 1e6)
    return [*rows, _row("DiT-XL/2", "DiTPipeline", n_weights, "675 M", (), encoders)]


def _row(name, pipeline, n_weights, published, texts, encoders):
    row = {
        "model": name,
        "pipeline": pipeline,
        "published": published,
        "counted": n_weights,
        "after_fit": n_weights * BYTES / 1e9,
    }
    if texts is None:
        return row | {"encoders": "not known here"}
    n_text = sum(encoders[text] for text in texts)
    return row | {
        "encoders": ", ".join(f"{t} ({encoders[t] / 1e9:.2f} B)" for t in texts),
        "during_fit": (n_weights + n_text) * BYTES / 1e9,
    }


def main():
    args = make_parser(__doc__).parse_args()
    rows = measure()
    for row in rows:
        fit = row.get("during_fit", float("nan"))
        print(
            f"{row['model']:28} {row['published']:>8} {row['counted']:>15,} "
            f"{row['after_fit']:5.1f} GB {fit:5.1f} GB  {row['encoders']}"
        )
    write(__file__, args, rows)


if __name__ == "__main__":
    main()
