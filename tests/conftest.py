"""Tiny pipelines with random weights, and photos, shared by all tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # numbers are those of a CPU

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from diffusion_sklearn import clear_cache
from diffusion_sklearn.backbones import _loading
from diffusion_sklearn.datasets import load_fashion_photos


def tiny_vae(seed):
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[4, 8],
        norm_num_groups=2,
        latent_channels=4,
        sample_size=8,
        scaling_factor=0.7,
        shift_factor=0.1,
    )


def tiny_dit():
    vae = tiny_vae(0)
    torch.manual_seed(1)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=5,
        norm_num_groups=2,
    )
    # DiT starts as zeros at its end; give the classes something to differ by.
    for p in transformer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    names = {
        k: name for k, name in enumerate(["ant", "bee", "cat", "dog, hound", "eel"])
    }
    pipeline = DiTPipeline(
        transformer, vae, DDIMScheduler(clip_sample=False), id2label=names
    )
    pipeline.register_to_config(id2label=names)
    return pipeline


def tiny_tokenizer():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.-,"
    words = [*letters, *(f"{c}</w>" for c in letters)]
    vocab = {word: k for k, word in enumerate(words)}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=40)


def tiny_sd(prediction_type, attention_first=False):
    vae = tiny_vae(2)
    tokenizer = tiny_tokenizer()
    torch.manual_seed(3)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=40,
            projection_dim=8,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    down = ["DownBlock2D", "CrossAttnDownBlock2D"]
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=down[::-1] if attention_first else down,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        encoder_hid_dim_type="text_proj" if attention_first else None,
        encoder_hid_dim=8 if attention_first else None,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    for p in unet.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_clip(kind):
    """A CLIP or SigLIP ("clip", "siglip"), its tokenizer and its image processor."""
    tokenizer = tiny_tokenizer()
    common = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **common,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**common, "image_size": 8, "patch_size": 4}
    side = {"height": 8, "width": 8}
    torch.manual_seed(4)
    if kind == "clip":
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model = CLIPModel(config)
        processor = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=side)
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessorPil(size=side)
    for p in model.parameters():
        if p.ndim > 1:  # all but biases and norms
            torch.nn.init.normal_(p, std=0.5)
    model.logit_scale.data.fill_(2.0)
    if kind == "siglip":
        model.logit_bias.data.fill_(-1.5)
    return model, tokenizer, processor


def save_tiny_clip(folder, kind):
    for part in tiny_clip(kind):
        part.save_pretrained(folder)


@pytest.fixture(scope="session")
def dit_folder(tmp_path_factory):
    """A tiny DiT saved in diffusers layout."""
    folder = tmp_path_factory.mktemp("tiny-dit")
    tiny_dit().save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    """A tiny Stable Diffusion (epsilon prediction) saved in diffusers layout."""
    folder = tmp_path_factory.mktemp("tiny-sd")
    tiny_sd("epsilon").save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture(scope="session")
def sd_v_folder(tmp_path_factory):
    """A tiny Stable Diffusion with v prediction saved in diffusers layout."""
    folder = tmp_path_factory.mktemp("tiny-sd-v")
    tiny_sd("v_prediction").save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP saved in transformers layout."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    save_tiny_clip(folder, "clip")
    return str(folder)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory):
    """A tiny SigLIP saved in transformers layout."""
    folder = tmp_path_factory.mktemp("tiny-siglip")
    save_tiny_clip(folder, "siglip")
    return str(folder)


@pytest.fixture(scope="session")
def photos():
    """The 1,000 photos that ship."""
    return load_fashion_photos()


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that are really read from disk."""
    read, names = _loading._read_pipeline, []

    def counting(source, *args):
        names.append(source)
        return read(source, *args)

    monkeypatch.setattr(_loading, "_read_pipeline", counting)
    clear_cache()
    return names
