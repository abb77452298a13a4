"""Tiny pipelines in the layouts in which models are shared."""

import copy
import re

import numpy as np
import torch
from safetensors.torch import save_file

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)

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


def size_of(model):
    """Side of the images of a model, 32 pixels at most."""
    return min(load_backbone(model).image_size, 32)


def errors_of(model, size):
    """Errors of a model of any kind on two images."""
    backbone = load_backbone(model)
    images = np.random.RandomState(0).randint(0, 256, (2, size, size, 3), np.uint8)
    params = {"n_trials": 3, "pruning": None, "target": "native", "image_size": size}
    if backbone.kind == "class":
        clf = ConditionalDiffusionClassifier(model=backbone, **params)
        return clf.fit(classes=[0, 1]).denoising_errors(images).errors
    clf = ZeroShotDiffusionClassifier(model=backbone, **params)
    return (
        clf.fit(classes=["a blue bag", "a red shirt"]).denoising_errors(images).errors
    )


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


Z_IMAGE = {
    r"all_final_layer\.2-1\.": "final_layer.",
    r"all_x_embedder\.2-1\.": "x_embedder.",
    r"attention\.norm_([kq])": r"attention.\1_norm",
    r"attention\.to_out\.0": "attention.out",
}
FLUX2 = {
    r"^x_embedder": "img_in",
    r"^context_embedder": "txt_in",
    r"^time_guidance_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
    r"^time_guidance_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
    r"^time_guidance_embed\.guidance_embedder\.linear_1": "guidance_in.in_layer",
    r"^time_guidance_embed\.guidance_embedder\.linear_2": "guidance_in.out_layer",
    r"^(\w+_modulation\w*)\.linear": r"\1.lin",
    r"^proj_out": "final_layer.linear",
    r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
    r"^single_transformer_blocks": "single_blocks",
    r"^(single_blocks\.\d)\.attn\.to_qkv_mlp_proj": r"\1.linear1",
    r"^(single_blocks\.\d)\.attn\.to_out": r"\1.linear2",
    r"^(single_blocks\.\d)\.attn\.norm_q\.weight": r"\1.norm.query_norm.scale",
    r"^(single_blocks\.\d)\.attn\.norm_k\.weight": r"\1.norm.key_norm.scale",
    r"^transformer_blocks": "double_blocks",
    r"\.attn\.norm_q\.weight": ".img_attn.norm.query_norm.scale",
    r"\.attn\.norm_k\.weight": ".img_attn.norm.key_norm.scale",
    r"\.attn\.norm_added_q\.weight": ".txt_attn.norm.query_norm.scale",
    r"\.attn\.norm_added_k\.weight": ".txt_attn.norm.key_norm.scale",
    r"\.attn\.to_out\.0": ".img_attn.proj",
    r"\.attn\.to_add_out": ".txt_attn.proj",
    r"\.attn\.to_([qkv])": r".img_attn.\1",
    r"\.attn\.add_([qkv])_proj": r".txt_attn.\1",
    r"\.ff\.linear_in": ".img_mlp.0",
    r"\.ff\.linear_out": ".img_mlp.2",
    r"\.ff_context\.linear_in": ".txt_mlp.0",
    r"\.ff_context\.linear_out": ".txt_mlp.2",
}
AURA_FLOW = {
    r"^time_step_proj\.linear_1": "t_embedder.mlp.0",
    r"^time_step_proj\.linear_2": "t_embedder.mlp.2",
    r"^context_embedder": "cond_seq_linear",
    r"^joint_transformer_blocks": "double_layers",
    r"^single_transformer_blocks": "single_layers",
    r"^(double.*)\.norm1\.linear": r"\1.modX.1",
    r"\.norm1_context\.linear": ".modC.1",
    r"^(single.*)\.norm1\.linear": r"\1.modCX.1",
    r"^(double.*)\.ff\.": r"\1.mlpX.",
    r"^(single.*)\.ff\.": r"\1.mlp.",
    r"\.ff_context\.": ".mlpC.",
    r"\.linear_([12])\.": r".c_fc\1.",
    r"\.out_projection": ".c_proj",
    r"^(double.*)\.attn\.to_([qkv])": r"\1.attn.w2\2",
    r"^(double.*)\.attn\.to_out\.0": r"\1.attn.w2o",
    r"^(single.*)\.attn\.to_([qkv])": r"\1.attn.w1\2",
    r"^(single.*)\.attn\.to_out\.0": r"\1.attn.w1o",
    r"\.attn\.add_([qkv])_proj": r".attn.w1\1",
    r"\.attn\.to_add_out": ".attn.w1o",
    r"^proj_out": "final_linear",
    r"^norm_out\.linear": "modF.1",
    r"^pos_embed\.pos_embed": "positional_encoding",
    r"^pos_embed\.proj": "init_x_linear",
}


def joined(weights, names, name):
    """Weights with those of q, k and v in one."""
    for key in [key for key in weights if re.search(rf"{names.format('q')}\.", key)]:
        qkv = [re.sub(names.format("q"), names.format(x), key) for x in "qkv"]
        qkv = [k.replace("\\", "") for k in qkv]
        weights[re.sub(names.format("q"), name, key)] = torch.cat(
            [weights.pop(k) for k in qkv]
        )
    return weights


def shift_first(weights, key):
    """Weights of a modulation with the shift before the scale."""
    scale, shift = weights[key].chunk(2)
    return weights | {key: torch.cat([shift, scale])}


def as_shared(network):
    """Weights of a network in its authors' layout, or else in that of diffusers."""
    kind, weights = type(network).__name__, network.state_dict()
    if kind == "UNet2DConditionModel":
        return {of_unet(key): w.clone() for key, w in weights.items()}
    if kind == "SD3Transformer2DModel":
        weights = of_sd3(network)
    if kind == "ZImageTransformer2DModel":
        weights = joined(
            renamed(weights, Z_IMAGE), r"attention\.to_{}", "attention.qkv"
        )
    if kind == "Flux2Transformer2DModel":
        weights = joined(renamed(weights, FLUX2), r"_attn\.{}", "_attn.qkv")
        weights = shift_first(weights, "final_layer.adaLN_modulation.1.weight")
    if kind == "AuraFlowTransformer2DModel":
        weights = shift_first(renamed(weights, AURA_FLOW), "modF.1.weight")
    return {key: w.clone().contiguous() for key, w in weights.items()}


# A pipeline on disk -------------------------------------------------------------------

ENCODERS_OF_XL = (
    (of_clip, "conditioner.embedders.0"),
    (of_open_clip, "conditioner.embedders.1"),
)
ENCODERS_OF_SD3 = tuple(
    (of_text_encoder, f"text_encoders.{name}") for name in ("clip_l", "clip_g", "t5xxl")
)
WHOLE = {
    "Stable Diffusion 1.x, 2.x": ((of_clip, "cond_stage_model"),),
    "Stable Diffusion, velocity": ((of_open_clip, "cond_stage_model"),),
    "Stable Diffusion, image to image": ((of_clip, "cond_stage_model"),),
    "Stable Diffusion XL": ENCODERS_OF_XL,
    "Stable Diffusion 3, 3.5": ENCODERS_OF_SD3,
    "Stable Diffusion 3 without T5": ENCODERS_OF_SD3[:2],
}
"""Families whose files have all parts, and the layouts of their text encoders."""


def write_folder(pipeline, folder):
    """Write the layout of diffusers."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def write_variant(pipeline, folder):
    """Write the layout of diffusers with weights in half precision, as a variant."""
    half = copy.deepcopy(pipeline).to(torch.float16)
    half.save_pretrained(folder, safe_serialization=True, variant="fp16")
    return str(folder)


def write_single_file(family, pipeline, file):
    """Write a single file as the family's models are shared; None: they never are."""
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    network = getattr(pipeline, part)
    if family in WHOLE:
        return in_one_file(pipeline, file, WHOLE[family])
    if not hasattr(network, "from_single_file"):
        return None
    # Other U-Nets than Stable Diffusion's under the names of diffusers.
    weights = network.state_dict() if part == "unet" else as_shared(network)
    save_file({k: w.clone().contiguous() for k, w in weights.items()}, file)
    return str(file)
