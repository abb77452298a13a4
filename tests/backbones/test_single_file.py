"""A model in one file, in the layout of its authors' own code."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_sklearn import ZeroShotDiffusionClassifier, clear_cache, load_backbone
from diffusion_sklearn.backbones._single_file import find_config
from diffusion_sklearn.testing import check_backbone
from diffusion_sklearn.testing._transformers import stable_diffusion_3
from diffusion_sklearn.testing._unets import stable_diffusion, stable_diffusion_xl
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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    r"^embeddings\.position_embedding\.weight": "positional_embedding",
    r"^embeddings\.": "",
    r"^final_layer_norm": "ln_final",
    r"^encoder\.layers": "transformer.resblocks",
    r"layer_norm(\d)": r"ln_\1",
    r"self_attn": "attn",
    r"fc1": "c_fc",
    r"fc2": "c_proj",
}
SD3 = {
    r"^pos_embed\.pos_embed": "pos_embed",
    r"^pos_embed\.proj": "x_embedder.proj",
    r"^time_text_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
    r"^time_text_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
    r"^time_text_embed\.text_embedder\.linear_1": "y_embedder.mlp.0",
    r"^time_text_embed\.text_embedder\.linear_2": "y_embedder.mlp.2",
    r"^transformer_blocks": "joint_blocks",
    r"\.norm1\.linear": ".x_block.adaLN_modulation.1",
    r"\.norm1_context\.linear": ".context_block.adaLN_modulation.1",
    r"\.attn\.to_out\.0": ".x_block.attn.proj",
    r"\.attn\.to_([qkv])": r".x_block.attn.\1",
    r"\.attn\.add_([qkv])_proj": r".context_block.attn.\1",
    r"\.ff\.net\.0\.proj": ".x_block.mlp.fc1",
    r"\.ff\.net\.2": ".x_block.mlp.fc2",
    r"^proj_out": "final_layer.linear",
    r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
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


def renamed(weights, names):
    for pattern, name in names.items():
        weights = {re.sub(pattern, name, key): w for key, w in weights.items()}
    return weights


def of_clip(encoder, prefix):
    """Weights of a text encoder in the layout of CLIP."""
    names = {r"^(text_model\.)?": f"{prefix}.transformer.text_model."}
    return renamed(encoder.state_dict(), names)


def of_open_clip(encoder, prefix):
    """Weights of a text encoder in the layout of OpenCLIP."""
    weights = renamed(encoder.state_dict(), {r"^text_model\.": ""} | OPEN_CLIP)
    projection = weights.pop("text_projection.weight", None)
    if projection is not None:
        weights["text_projection"] = projection.T
    for layer in range(encoder.config.num_hidden_layers):
        attention = f"transformer.resblocks.{layer}.attn"
        for kind in "weight", "bias":
            parts = [weights.pop(f"{attention}.{x}_proj.{kind}") for x in "qkv"]
            weights[f"{attention}.in_proj_{kind}"] = torch.cat(parts)
    return {f"{prefix}.model.{key}": w for key, w in weights.items()}


def of_sd3(transformer):
    """Weights of the tiny transformer of Stable Diffusion 3, which has one block."""
    weights = renamed(transformer.state_dict(), SD3)
    for kind in "weight", "bias":
        for block in "x_block", "context_block":
            name = f"joint_blocks.0.{block}.attn"
            parts = [weights.pop(f"{name}.{x}.{kind}") for x in "qkv"]
            weights[f"{name}.qkv.{kind}"] = torch.cat(parts)
        for name in "joint_blocks.0.context_block", "final_layer":
            scale, shift = weights[f"{name}.adaLN_modulation.1.{kind}"].chunk(2)
            weights[f"{name}.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    return weights


def of_text_encoder(encoder, prefix):
    """Weights of a text encoder in the layout of Stable Diffusion 3."""
    names = {r"^(?=\w)": f"{prefix}.transformer."}
    weights = renamed(encoder.state_dict(), names)
    weights.pop(f"{prefix}.transformer.encoder.embed_tokens.weight", None)  # shared
    if prefix.endswith("clip_l"):
        del weights[f"{prefix}.transformer.text_projection.weight"]  # an identity
    return weights


def in_one_file(pipeline, file, layouts=((of_clip, "cond_stage_model"),)):
    """Write a file with the text encoders in these layouts."""
    if hasattr(pipeline, "unet"):
        network = {of_unet(key): w for key, w in pipeline.unet.state_dict().items()}
    else:
        network = of_sd3(pipeline.transformer)
    weights = {f"model.diffusion_model.{key}": w for key, w in network.items()}
    vae = renamed(pipeline.vae.state_dict(), VAE)
    weights |= {f"first_stage_model.{key}": w for key, w in vae.items()}
    for part, (layout, prefix) in zip(
        ("text_encoder", "text_encoder_2", "text_encoder_3"), layouts, strict=False
    ):
        weights |= layout(getattr(pipeline, part), prefix)
    save_file({key: w.clone().contiguous() for key, w in weights.items()}, file)
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


@pytest.mark.parametrize(
    "make, layouts",
    [
        (stable_diffusion, [(of_clip, "cond_stage_model")]),
        (stable_diffusion, [(of_open_clip, "cond_stage_model")]),
        (
            stable_diffusion_xl,
            [
                (of_clip, "conditioner.embedders.0"),
                (of_open_clip, "conditioner.embedders.1"),
            ],
        ),
        (
            stable_diffusion_3,
            [
                (of_text_encoder, "text_encoders.clip_l"),
                (of_text_encoder, "text_encoders.clip_g"),
                (of_text_encoder, "text_encoders.t5xxl"),
            ],
        ),
    ],
    ids=["1.x", "2.x", "XL", "3"],
)
def test_check_backbone(make, layouts, tmp_path):
    pipeline = make()
    if make is stable_diffusion_3:
        torch.nn.init.eye_(pipeline.text_encoder.text_projection.weight)
    pipeline.save_pretrained(tmp_path / "folder")
    file = in_one_file(pipeline, tmp_path / "model.safetensors", layouts)
    backbone = load_backbone(file, config=tmp_path / "folder")
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            expected = part.state_dict()
            loaded = getattr(backbone.pipeline, name).state_dict()
            assert loaded.keys() == expected.keys()
            for key, tensor in loaded.items():
                np.testing.assert_array_equal(tensor, expected[key], err_msg=key)
    check_backbone(backbone)


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
