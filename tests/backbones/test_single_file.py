"""A model in one file, in the layout of its authors' own code."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_sklearn import ZeroShotDiffusionClassifier, clear_cache, load_backbone
from diffusion_sklearn.backbones._single_file import find_config
from diffusion_sklearn.testing import check_backbone
from diffusion_sklearn.testing._pipelines import stable_diffusion
from tests.conftest import tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE = {
    r"down_blocks\.(\d)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.0\.resnets": "up.1.block",
    r"up_blocks\.1\.resnets": "up.0.block",
    r"up_blocks\.0\.upsamplers\.0": "up.1.upsample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"group_norm": "norm",
    r"to_([qkv])": r"\1",
    r"to_out\.0": "proj_out",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
}


def of_unet(key):
    """Name of a weight of the tiny U-Net: one layer a block, two blocks."""
    match = re.match(r"(down|up|mid)_block(?:s\.(\d))?\.(\w+)\.(\d)\.(.*)", key)
    if match is None:
        outer = next(name for name in OUTER if key.startswith(f"{name}."))
        return key.replace(outer, OUTER[outer])
    place, block, kind, layer, rest = match.groups()
    block, layer = int(block or 0), int(layer)
    if kind == "resnets":
        name, end = rest.rsplit(".", 1)
        rest = f"{RESNET[name]}.{end}"
    if place == "mid":
        return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{2 * block + 2}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{2 * block + 1}.2.{rest}"
    number = 2 * block + layer + (place == "down")
    blocks = "input_blocks" if place == "down" else "output_blocks"
    return f"{blocks}.{number}.{int(kind == 'attentions')}.{rest}"


def of_vae(key):
    for pattern, name in VAE.items():
        key = re.sub(pattern, name, key)
    return key


def in_one_file(pipeline, file):
    weights = {}
    for prefix, module, rename in (
        ("model.diffusion_model.", pipeline.unet, of_unet),
        ("first_stage_model.", pipeline.vae, of_vae),
        ("cond_stage_model.transformer.text_model.", pipeline.text_encoder, str),
    ):
        for key, tensor in module.state_dict().items():
            weights[prefix + rename(key)] = tensor.clone()
    save_file(weights, file)
    return str(file)


@pytest.fixture
def file(tmp_path):
    clear_cache()
    return in_one_file(tiny_sd("epsilon"), tmp_path / "model.safetensors")


def test_the_same_numbers_as_the_folder(file, sd_folder):
    def errors(model):
        params = {"n_trials": 3, "pruning": None, "target": "native"}
        clf = ZeroShotDiffusionClassifier(model=model, **params)
        return clf.fit(classes=["bee", "cat"]).denoising_errors(IMAGES).errors

    backbone = load_backbone(file, config=sd_folder)
    np.testing.assert_allclose(errors(backbone), errors(sd_folder), rtol=1e-5)


def test_check_backbone(tmp_path):
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path / "folder")
    file = in_one_file(pipeline, tmp_path / "model.safetensors")
    check_backbone(load_backbone(file, config=tmp_path / "folder"))


def test_a_file_without_a_part_of_its_weights(file, sd_folder):
    weights = load_file(file)
    del weights["model.diffusion_model.out.2.bias"]
    save_file(weights, file)
    with pytest.raises(OSError, match=r"has \d+ weights, and by the configs"):
        load_backbone(file, config=sd_folder)


@pytest.mark.parametrize(
    "key, match",
    [
        ("first_stage_model.quant_conv.bias", "weights are missing"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "missing"),
    ],
)
def test_a_file_without_a_weight_of_another_part(file, sd_folder, key, match):
    weights = load_file(file)
    del weights[key]
    save_file(weights, file)
    with pytest.raises(OSError, match=match):
        load_backbone(file, config=sd_folder)


def test_the_config_of_another_model(file, sd_folder, sd_v_folder, dit_folder):
    """Another size or family is an error; the scheduler is that of the config."""
    backbone = load_backbone(file, config=sd_v_folder)
    assert backbone.prediction_type == "velocity"
    weights = load_file(file)
    weights["model.diffusion_model.input_blocks.9.0.op.weight"] = torch.zeros(8)
    save_file(weights, file)
    clear_cache()
    with pytest.raises(OSError, match=r"has \d+ weights, and by the configs"):
        load_backbone(file, config=sd_folder)
    with pytest.raises(ValueError, match="no DiTPipeline from a single file"):
        load_backbone(file, config=dit_folder)


@pytest.mark.parametrize(
    "shapes, config",
    [
        ({"output_blocks.11.0.skip_connection.weight": (1,)}, "v1-5"),
        ({"output_blocks.11.0.skip_connection.weight": (1,), "v_pred": ()}, None),
        (  # version 2: with epsilon or velocity
            {
                "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (1, 1024),
                "output_blocks.11.0.skip_connection.weight": (1,),
            },
            None,
        ),
        ({"input_blocks.0.0.weight": (1, 9)}, None),  # inpainting
        ({"x": (1,)}, None),
    ],
)
def test_the_config_that_follows_from_the_weights(tmp_path, shapes, config):
    file = str(tmp_path / "model.safetensors")
    prefix = "model.diffusion_model."
    keys = {
        k if k == "v_pred" else prefix + k: torch.zeros(v) for k, v in shapes.items()
    }
    save_file(keys, file)
    if config is None:
        with pytest.raises(OSError, match=r"do not follow.*config="):
            find_config(file)
    else:
        assert find_config(file).endswith(config)
        with pytest.raises(OSError, match=r"with the configs of .*v1-5'.*lacks it"):
            load_backbone(file)


def test_a_damaged_file(file):
    with open(file, "r+b") as f:
        f.truncate(1000)
    with pytest.raises(OSError, match="no complete safetensors file"):
        load_backbone(file)
    with pytest.raises(ValueError, match="variant='fp16' has no meaning"):
        load_backbone(file, variant="fp16")
