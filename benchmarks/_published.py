"""Models in the layout of the Hub: published configs, random weights.

A folder has what the repository on the Hub has: float32 weights as sharded safetensors,
a variant in float16 beside them, and a tokenizer as ``vocab.json`` and ``merges.txt``.
The configs are those of stabilityai/stable-diffusion-2-base, facebook/DiT-XL-2-256 and
stabilityai/stable-diffusion-xl-base-1.0.
"""

import gzip
import json
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import diffusers
import torch
import transformers

from diffusion_sklearn.testing._text_encoders import LETTERS

CLIP_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # of OpenAI's CLIP, in open_clip
START, END = "<|startoftext|>", "<|endoftext|>"
CAT = [49406, 320, 1125, 539, 320, 2368, 49407]
"""Token ids of "a photo of a cat" in the published vocabulary."""

_STABLE_DIFFUSION_VAE = dict(
    _class_name="AutoencoderKL", act_fn="silu", block_out_channels=[128, 256, 512, 512],
    down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3, latent_channels=4,
    layers_per_block=2, norm_num_groups=32, out_channels=3,
    up_block_types=["UpDecoderBlock2D"] * 4,
)  # fmt: skip
_CLIP = dict(
    attention_dropout=0.0, bos_token_id=0, dropout=0.0, eos_token_id=2,
    layer_norm_eps=1e-5, max_position_embeddings=77, model_type="clip_text_model",
    pad_token_id=1, vocab_size=49408,
)  # fmt: skip
_CLIP_L = dict(
    _CLIP, architectures=["CLIPTextModel"], hidden_act="quick_gelu", hidden_size=768,
    intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12,
    projection_dim=768,
)  # fmt: skip
_OPEN_CLIP_H = dict(
    _CLIP, architectures=["CLIPTextModel"], hidden_act="gelu", hidden_size=1024,
    intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23,
    projection_dim=512,
)  # fmt: skip
_OPEN_CLIP_G = dict(
    _CLIP, architectures=["CLIPTextModelWithProjection"], hidden_act="gelu",
    hidden_size=1280, intermediate_size=5120, num_attention_heads=20,
    num_hidden_layers=32, projection_dim=1280,
)  # fmt: skip
_UNET = dict(
    _class_name="UNet2DConditionModel", act_fn="silu", center_input_sample=False,
    downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, in_channels=4,
    layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-5, norm_num_groups=32,
    only_cross_attention=False, out_channels=4, use_linear_projection=True,
)  # fmt: skip
_STABLE_DIFFUSION_BETAS = dict(
    beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085,
    clip_sample=False, num_train_timesteps=1000, prediction_type="epsilon",
    set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None,
)  # fmt: skip
_IMAGE_PROCESSOR = dict(
    crop_size={"height": 224, "width": 224}, do_center_crop=True, do_convert_rgb=True,
    do_normalize=True, do_rescale=True, do_resize=True,
    image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_processor_type="CLIPImageProcessor",
    image_std=[0.26862954, 0.26130258, 0.27577711], resample=3,
    size={"shortest_edge": 224},
)  # fmt: skip

MODELS = {
    "sd2": {
        "name": "Stable Diffusion 2",
        "index": {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "network": "unet",
        "image_size": 512,
        "configs": {
            "scheduler": dict(
                _STABLE_DIFFUSION_BETAS, _class_name="PNDMScheduler"
            ),
            "feature_extractor": _IMAGE_PROCESSOR,
            "tokenizer": {"pad_token": "!"},
            "text_encoder": _OPEN_CLIP_H,
            "unet": dict(
                _UNET, attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024,
                block_out_channels=[320, 640, 1280, 1280], sample_size=64,
                down_block_types=[*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
                dual_cross_attention=False, num_class_embeds=None,
                up_block_types=["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
            ),
            "vae": dict(_STABLE_DIFFUSION_VAE, sample_size=768),
        },
        "weights": {"text_encoder": 340.4, "unet": 865.9, "vae": 83.65},
    },
    "dit": {
        "name": "DiT-XL/2",
        "index": {
            "_class_name": "DiTPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "transformer": ["diffusers", "Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "network": "transformer",
        "image_size": 256,
        "configs": {
            "scheduler": dict(
                _class_name="DDIMScheduler", beta_end=0.02, beta_schedule="linear",
                beta_start=0.0001, clip_sample=False, num_train_timesteps=1000,
                prediction_type="epsilon", set_alpha_to_one=True, steps_offset=0,
                trained_betas=None,
            ),
            # Published before the class DiTTransformer2DModel existed.
            "transformer": dict(
                _class_name="Transformer2DModel", activation_fn="gelu-approximate",
                attention_bias=True, attention_head_dim=72, cross_attention_dim=None,
                dropout=0.0, in_channels=4, norm_elementwise_affine=False,
                norm_num_groups=32, norm_type="ada_norm_zero", num_attention_heads=16,
                num_embeds_ada_norm=1000, num_layers=28, num_vector_embeds=None,
                only_cross_attention=False, out_channels=8, patch_size=2,
                sample_size=32, upcast_attention=False, use_linear_projection=False,
            ),
            "vae": dict(_STABLE_DIFFUSION_VAE, sample_size=256),
        },
        "weights": {"transformer": 675.1, "vae": 83.65},
    },
    "sdxl": {
        "name": "Stable Diffusion XL",
        "index": {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "network": "unet",
        "image_size": 1024,
        "configs": {
            "scheduler": dict(
                _STABLE_DIFFUSION_BETAS, _class_name="EulerDiscreteScheduler",
                interpolation_type="linear", sample_max_value=1.0,
                timestep_spacing="leading", use_karras_sigmas=False,
            ),
            "tokenizer": {"pad_token": END},
            "tokenizer_2": {"pad_token": "!"},
            "text_encoder": _CLIP_L,
            "text_encoder_2": _OPEN_CLIP_G,
            "unet": dict(
                _UNET, addition_embed_type="text_time", addition_time_embed_dim=256,
                attention_head_dim=[5, 10, 20], block_out_channels=[320, 640, 1280],
                cross_attention_dim=2048, projection_class_embeddings_input_dim=2816,
                down_block_types=["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
                sample_size=128, transformer_layers_per_block=[1, 2, 10],
                up_block_types=[*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            ),
            "vae": dict(
                _STABLE_DIFFUSION_VAE, force_upcast=True, sample_size=1024,
                scaling_factor=0.13025,
            ),
        },
        "weights": {
            "text_encoder": 123.1, "text_encoder_2": 694.7, "unet": 2567.5,
            "vae": 83.65,
        },
    },
}  # fmt: skip
"""Millions of weights as published; index and configs as in the repositories."""

_FEW = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2,
            num_hidden_layers=2, projection_dim=16)  # fmt: skip
TINY = {
    "text_encoder": _FEW,
    "text_encoder_2": _FEW,
    "vae": dict(block_out_channels=[8, 8, 8, 8], norm_num_groups=4, layers_per_block=1),
    "transformer": dict(num_layers=2, num_attention_heads=2, attention_head_dim=8),
    "sd2": dict(
        block_out_channels=[8, 8, 16, 16], norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=16,
    ),
    "sdxl": dict(
        block_out_channels=[8, 8, 16], norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=32, transformer_layers_per_block=[1, 1, 2],
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16,
    ),
}  # fmt: skip
"""What ``--size tiny`` changes: channels and layers, not the layout."""

TINY_IMAGE_SIZE = 64

CLASS_NAMES = ["tench, Tinca tinca", "goldfish, Carassius auratus", "class 2"]
"""Names of the first classes of the DiT; the others have no names."""


def config_of(model, part, size):
    """Published config of a part of a model, or the tiny one."""
    spec, config = MODELS[model], dict(MODELS[model]["configs"][part])
    if size == "real":
        return config
    config |= TINY[model] if part == "unet" else TINY.get(part, {})
    if part in ("unet", "transformer"):
        config["sample_size"] = TINY_IMAGE_SIZE // 8
    if spec["index"][part][1].startswith("CLIPText"):
        vocabulary, _ = clip_vocabulary(size)
        config |= {
            "vocab_size": len(vocabulary),
            "bos_token_id": vocabulary[START],
            "pad_token_id": vocabulary[END],
        }
    return config


def clip_vocabulary(size):
    """Tokens and their ids, and the merges, of CLIP; tiny: every letter is a token.

    Returns
    -------
    vocabulary : dict of str to int
    merges : list of str

    Raises
    ------
    ModuleNotFoundError
        If open_clip is not installed, which has the list of merges.
    """
    if size == "tiny":
        tokens, merges = list("!" + LETTERS.replace("!", "")), []
    else:
        package = find_spec("open_clip")
        if package is None:
            raise ModuleNotFoundError(
                "The vocabulary of CLIP comes with open_clip: pip install "
                "open_clip_torch, or pass --size tiny."
            )
        path = Path(package.submodule_search_locations[0]) / CLIP_VOCABULARY
        with gzip.open(path, "rt", encoding="utf-8") as file:
            # As CLIP reads it: 256 bytes, the same at the end of a word, and so many
            # merges that there are 49,408 tokens with the two special ones.
            merges = [
                line.rstrip("\n") for line in islice(file, 1, 49152 - 256 - 2 + 1)
            ]
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        tokens = [chr(byte) for byte in printable]
        tokens += [chr(256 + n) for n in range(256 - len(printable))]
    tokens += [f"{token}</w>" for token in tokens]
    tokens += [merge.replace(" ", "") for merge in merges] + [START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def write_tokenizer(folder, config, size):
    """A tokenizer of CLIP as published, without a ``tokenizer.json``."""
    vocabulary, merges = clip_vocabulary(size)
    folder.mkdir()
    write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, **config}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    write_json(folder / "tokenizer_config.json", settings | special)
    if size == "real":
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        ids = tokenizer("a photo of a cat").input_ids
        if ids != CAT:
            raise AssertionError(f"The tokens of 'a photo of a cat' are {ids}.")


def write_json(path, values):
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def make_part(library, name, config):
    """A network with random weights from its config."""
    if library == "diffusers":
        if name == "Transformer2DModel":
            name = "DiTTransformer2DModel"
        return getattr(diffusers, name).from_config(config)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**config))


def keep_variance(module):
    """Scale PyTorch's initial weights so that a layer keeps the variance of its input.

    Without it, little of the condition reaches the output of a deep network.
    """
    for p in module.parameters():
        if p.ndim > 1:  # all but biases and norms
            p.data.mul_(3**0.5)


def count_weights(model, size):
    """Millions of weights of each part, from its config, without making it.

    Returns
    -------
    weights : dict of str to float

    Raises
    ------
    AssertionError
        If a part has not as many as published.
    """
    spec, weights = MODELS[model], {}
    for part, published in spec["weights"].items():
        with torch.device("meta"):
            module = make_part(*spec["index"][part], config_of(model, part, size))
        weights[part] = n_weights = _n_weights(module) / 1e6
        if part == "transformer":
            # Here each block has an embedding of timestep and class of its own, and
            # the embedding of positions is a buffer.
            blocks = module.transformer_blocks
            n_weights -= sum(_n_weights(block.norm1.emb) for block in blocks[1:]) / 1e6
            n_weights += module.pos_embed.pos_embed.numel() / 1e6
        if size == "real" and abs(n_weights / published - 1) > 1e-3:
            raise AssertionError(
                f"{part} of {model}: {n_weights:.2f} million weights, not {published}."
            )
    return weights


def _n_weights(module):
    return sum(p.numel() for p in module.parameters())


def write_model(model, folder, size, shard_size):
    """Write a model in the layout of its repository; one part at a time in memory."""
    spec = MODELS[model]
    folder.mkdir(parents=True)
    index = {"_diffusers_version": "0.18.2", **spec["index"]}
    if model == "dit":
        names = CLASS_NAMES + [f"class {k}" for k in range(len(CLASS_NAMES), 1000)]
        index["id2label"] = {str(k): name for k, name in enumerate(names)}
    torch.manual_seed(0)
    for part, of_class in index.items():
        if not isinstance(of_class, list) or of_class[0] is None:
            continue
        library, name = of_class
        config = config_of(model, part, size)
        if part.startswith("tokenizer"):
            write_tokenizer(folder / part, config, size)
        elif part == "scheduler":
            (folder / part).mkdir()
            write_json(folder / part / "scheduler_config.json", config)
        elif part == "feature_extractor":
            (folder / part).mkdir()
            write_json(folder / part / "preprocessor_config.json", config)
        else:
            module = make_part(library, name, config)
            if library == "diffusers":
                keep_variance(module)
            module.save_pretrained(folder / part, max_shard_size=shard_size)
            module.half().save_pretrained(
                folder / part, max_shard_size=shard_size, variant="fp16"
            )
            write_json(folder / part / "config.json", config)  # as published
            del module
    write_json(folder / "model_index.json", index)
