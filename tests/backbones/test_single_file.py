"""A model in one file, in the layout of its authors' own code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_sklearn import ZeroShotDiffusionClassifier, clear_cache, load_backbone
from diffusion_sklearn.backbones._single_file import find_config
from diffusion_sklearn.testing import check_backbone
from diffusion_sklearn.testing._transformers import stable_diffusion_3
from diffusion_sklearn.testing._unets import stable_diffusion, stable_diffusion_xl
from tests.backbones.layouts import (
    ENCODERS_OF_SD3,
    ENCODERS_OF_XL,
    as_shared,
    in_one_file,
    of_clip,
    of_open_clip,
)
from tests.models import PIPELINES, slow, tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)


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


def test_changed_configs_are_read_anew(file, sd_folder, tmp_path):
    folder = shutil.copytree(sd_folder, tmp_path / "configs")
    backbone = load_backbone(file, config=folder)
    assert load_backbone(file, config=folder) is backbone
    scheduler = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(scheduler.read_text()) | {"prediction_type": "v_prediction"}
    scheduler.write_text(json.dumps(config))
    assert backbone.prediction_type == "epsilon"
    assert load_backbone(file, config=folder).prediction_type == "velocity"


@pytest.mark.parametrize(
    "make, layouts",
    [
        (stable_diffusion, [(of_clip, "cond_stage_model")]),
        *slow(
            (stable_diffusion, [(of_open_clip, "cond_stage_model")]),
            (stable_diffusion_xl, ENCODERS_OF_XL),
            (stable_diffusion_3, ENCODERS_OF_SD3),
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


def test_a_projection_that_diffusers_does_not_read(tmp_path):
    """Files of Stable Diffusion 3 may have that of the first encoder."""
    pipeline = stable_diffusion_3(with_t5=False)
    pipeline.save_pretrained(tmp_path / "folder")
    file = in_one_file(pipeline, tmp_path / "model.safetensors", ENCODERS_OF_SD3[:2])
    with_identity = load_backbone(file, config=tmp_path / "folder").pipeline
    assert torch.equal(with_identity.text_encoder.text_projection.weight, torch.eye(4))
    weight = pipeline.text_encoder.text_projection.weight
    key = "text_encoders.clip_l.transformer.text_projection.weight"
    save_file(load_file(file) | {key: weight.detach()}, file)
    backbone = load_backbone(file, config=tmp_path / "folder")
    assert backbone.fingerprint() == load_backbone(pipeline).fingerprint()


def test_a_file_without_a_part_of_its_weights(file, sd_folder):
    weights = load_file(file)
    del weights["model.diffusion_model.out.2.bias"]
    save_file(weights, file)
    with pytest.raises(OSError, match=r"1 missing \(conv_out.bias\)"):
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
    with pytest.raises(OSError, match=r"1 unexpected \(.*input_blocks.9.0.op.weight"):
        load_backbone(file, config=sd_folder)
    with pytest.raises(ValueError, match="no DiTTransformer2DModel from a single"):
        load_backbone(file, config=dit_folder)


@pytest.mark.parametrize(
    "key, shape, match",
    [
        ("model.diffusion_model.out.2.scale_weight", (), "1 unexpected"),  # of fp8
        ("model.diffusion_model.out.2.bias", (3,), r"conv_out.bias: \(3,\) for \(4,\)"),
        ("first_stage_model.decoder.x.weight", (1,), "1 unexpected"),
        ("cond_stage_model.transformer.text_model.x.bias", (1,), "1 unexpected"),
        ("conditioner.embedders.1.model.ln_final.bias", (1,), "1 unexpected"),
        ("text_encoders.t5xxl.transformer.shared.weight", (1,), "1 unexpected"),
        ("lora_unet_x.weight", (1,), "1 unexpected"),
        ("v_pred", (), r"predicts velocities \(v_pred\).*'epsilon'"),
    ],
)
def test_weights_that_would_not_be_read(file, sd_folder, key, shape, match):
    weights = load_file(file) | {key: torch.zeros(shape)}
    save_file(weights, file)
    names = "" if "velocities" in match or "for" in match else f".*{key}"
    with pytest.raises(OSError, match=match + names) as error:
        load_backbone(file, config=sd_folder)
    assert file in str(error.value)


def test_weights_that_authors_add(file, sd_folder):
    """Averages, schedules and positions, which the model does not use."""
    expected = load_backbone(file, config=sd_folder).fingerprint()
    more = {
        "model_ema.diffusion_modeloutput_blocks00": torch.ones(3),
        "alphas_cumprod": torch.ones(1000),
        "sqrt_one_minus_alphas_cumprod": torch.ones(1000),
        "posterior_mean_coef1": torch.ones(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.ones(
            1
        ),
        "cond_stage_model.logit_scale": torch.ones(()),
        "cond_stage_model.model.attn_mask": torch.ones(2, 2),
        "first_stage_model.loss.logvar": torch.ones(()),
        "embedding_manager.safety_checker.x": torch.ones(1),
    }
    save_file(load_file(file) | more, file)
    assert load_backbone(file, config=sd_folder).fingerprint() == expected


# The network alone --------------------------------------------------------------------


def change(folder, part, index=()):
    """Take the weights of a part from a folder, and change its index."""
    for weights in (folder / part).glob("*.safetensors"):
        weights.unlink()
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(index)))


@pytest.mark.parametrize(
    "family, prefix",
    [
        ("Stable Diffusion 1.x, 2.x", "model.diffusion_model."),
        ("Flux", ""),
        *slow(
            ("Stable Diffusion 1.x, 2.x", ""),
            ("Stable Diffusion 3, 3.5", ""),
            ("Z-Image", ""),
            ("Z-Image", "model.diffusion_model."),
            ("FLUX.2", "model.diffusion_model."),
            ("AuraFlow", "model.diffusion_model."),
            ("Qwen-Image", "model.diffusion_model."),
            ("HiDream", "model.diffusion_model."),
        ),
    ],
)
def test_a_file_with_the_network_alone(family, prefix, tmp_path):
    """In its authors' layout; the config lacks the network's weights."""
    pipeline = PIPELINES[family]()
    pipeline.save_pretrained(tmp_path / "folder")
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    weights = as_shared(getattr(pipeline, part))
    file = tmp_path / "network.safetensors"
    save_file({prefix + key: w for key, w in weights.items()}, file)
    change(tmp_path / "folder", part)
    backbone = load_backbone(file, config=tmp_path / "folder")
    assert backbone.fingerprint() == load_backbone(pipeline).fingerprint()
    key = max(weights)  # any
    for wrong, match in (
        ({**weights, key: weights[key][:0]}, key.rsplit(".")[-1]),
        ({k: w for k, w in weights.items() if k != key}, key.rsplit(".")[-1]),
        (weights | {"other.weight": torch.zeros(1)}, "other.weight"),
    ):
        save_file({prefix + key: w for key, w in wrong.items()}, file)
        with pytest.raises(OSError, match=match):
            load_backbone(file, config=tmp_path / "folder")


def test_parts_that_neither_the_file_nor_the_folder_has(file, sd_folder, tmp_path):
    folder = Path(shutil.copytree(sd_folder, tmp_path / "folder"))
    of_network = {
        key: w for key, w in load_file(file).items() if key.startswith("model.diff")
    }
    save_file(of_network, file)
    (weights,) = (folder / "text_encoder").glob("*.safetensors")
    encoder = load_file(weights)
    save_file(dict(list(encoder.items())[1:]), weights, metadata={"format": "pt"})
    with pytest.raises(OSError, match=r"text_encoder have wrong keys: 1 missing"):
        load_backbone(file, config=folder)
    change(folder, "text_encoder")
    with pytest.raises(OSError, match="text_encoder/ has no weights"):
        load_backbone(file, config=folder)
    change(folder, "unet", {"text_encoder": ["transformers", "T5OtherModel"]})
    with pytest.raises(OSError, match=r"text_encoder is a T5OtherModel.*install"):
        load_backbone(file, config=folder)


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
