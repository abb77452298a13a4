"""Tiny models with random weights, saved once for all workers, and the two lanes."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from diffusion_sklearn.testing import tiny_pipelines
from diffusion_sklearn.testing._text_encoders import clip_tokenizer as tiny_tokenizer
from diffusion_sklearn.testing._unets import stable_diffusion

PIPELINES = tiny_pipelines()
COMMON = "Stable Diffusion 1.x, 2.x", "Stable Diffusion 3, 3.5", "DiT"
BY_FAMILY = [
    pytest.param(name, marks=() if name in COMMON else pytest.mark.slow)
    for name in PIPELINES
]
"""Names of all families, of which only common ones are in the fast lane."""


def slow(*values):
    """Values of `parametrize` with which a test is in the slow lane."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else [v]), marks=pytest.mark.slow)
        for v in values
    ]


def with_odd_scale(pipeline):
    """Scale and shift of no published model: they must be read from the config."""
    pipeline.vae.register_to_config(scaling_factor=0.7, shift_factor=0.1)
    return pipeline


def tiny_dit():
    return with_odd_scale(PIPELINES["DiT"]())


def tiny_sd(prediction_type):
    return with_odd_scale(stable_diffusion(prediction_type))


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


def saved(name, save):
    """Folder of a tiny model, saved once for all workers of a test run.

    `parametrize` needs it before any fixture runs, and its path is part of the names
    of tests, which must be the same in all workers.
    """
    folder = Path(os.environ["DIFFUSION_SKLEARN_TESTS"]) / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            save(folder)
    return str(folder)


def save_pipeline(make, *args):
    return lambda folder: make(*args).save_pretrained(folder, safe_serialization=True)


def saved_model(name):
    """Folder of "dit", "sd", "sd-v", "sd3", "clip" or "siglip", saved if need be."""
    makers = {
        "dit": save_pipeline(tiny_dit),
        "sd": save_pipeline(tiny_sd, "epsilon"),
        "sd-v": save_pipeline(tiny_sd, "v_prediction"),
        "sd3": save_pipeline(PIPELINES["Stable Diffusion 3, 3.5"]),
        "clip": lambda folder: save_tiny_clip(folder, "clip"),
        "siglip": lambda folder: save_tiny_clip(folder, "siglip"),
    }
    return saved(name, makers[name])
