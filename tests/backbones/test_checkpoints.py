"""Checkpoints that lack something are errors; variants and .bin files are read."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_sklearn import ZeroShotDiffusionClassifier, clear_cache, load_backbone
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from tests.models import PIPELINES, tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)
UNET = "unet/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"


def errors(model, **params):
    params = {"n_trials": 3, "pruning": None, **params}
    clf = ZeroShotDiffusionClassifier(model=model, target="native", **params)
    return clf.fit(classes=["bee", "cat"]).denoising_errors(IMAGES).errors


@pytest.fixture
def copy(sd_folder, tmp_path):
    """A copy of a tiny Stable Diffusion, to be damaged."""
    clear_cache()
    return Path(shutil.copytree(sd_folder, tmp_path / "copy"))


def change_keys(file, change):
    weights = {change(key): tensor for key, tensor in load_file(file).items()}
    weights.pop(None, None)
    save_file(weights, file, metadata={"format": "pt"})


# Completeness -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file, change, match",
    [
        (ENCODER, lambda key: f"other.{key}", "text_encoder have wrong keys: 36 miss"),
        (ENCODER, lambda key: None if "fc1.bias" in key else key, r"0\.mlp\.fc1\.bias"),
        (UNET, lambda key: None if key == "conv_in.bias" else key, r"conv_in\.bias"),
        (UNET, lambda key: key.replace("conv_out.bias", "x"), r"1 unexpected \(x\)"),
        (
            "vae/diffusion_pytorch_model.safetensors",
            lambda key: None if key.startswith("encoder.conv_in") else key,
            r"vae have wrong keys: 2 missing \(encoder\.conv_in\.bias",
        ),
    ],
)
def test_weights_with_wrong_keys(copy, file, change, match):
    change_keys(copy / file, change)
    with pytest.raises(OSError, match=match):
        load_backbone(copy)


def test_weights_of_another_shape(copy):
    weights = load_file(copy / ENCODER)
    weights["final_layer_norm.bias"] = torch.zeros(5)
    save_file(weights, copy / ENCODER, metadata={"format": "pt"})
    with pytest.raises(OSError, match=r"text_encoder.*final_layer_norm\.bias"):
        load_backbone(copy)


def test_positions_that_older_versions_saved_are_no_error(copy):
    expected = errors(copy)
    weights = load_file(copy / ENCODER)
    weights["text_model.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(weights, copy / ENCODER, metadata={"format": "pt"})
    clear_cache()
    np.testing.assert_array_equal(errors(copy), expected)


@pytest.mark.parametrize(
    "file, match",
    [
        (UNET, "unet/ has no weights"),
        ("unet/config.json", r"unet: .*config\.json"),
        ("text_encoder/config.json", "text_encoder: "),
        ("scheduler/scheduler_config.json", r"scheduler_config\.json"),
        ("tokenizer/tokenizer.json", r"tokenizer lacks vocab\.json, merges\.txt"),
        ("tokenizer/tokenizer_config.json", r"lacks tokenizer_config\.json"),
        ("model_index.json", r"there is no model_index\.json"),
    ],
)
def test_a_file_that_is_missing(copy, file, match):
    (copy / file).unlink()
    with pytest.raises(OSError, match=f"can't be loaded.*local folder says.*{match}"):
        load_backbone(copy)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_vocabulary_in_two_files(copy, name):
    """Files as of the published checkpoints, one of which is missing."""
    whole = json.loads((copy / "tokenizer/tokenizer.json").read_text())["model"]
    (copy / "tokenizer/tokenizer.json").unlink()
    (copy / "tokenizer/vocab.json").write_text(json.dumps(whole["vocab"]))
    (copy / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    load_backbone(copy)
    clear_cache()
    (copy / "tokenizer" / name).unlink()
    with pytest.raises(OSError, match=f"tokenizer lacks {name}"):
        load_backbone(copy)


@pytest.mark.parametrize(
    "file", [UNET, "unet/config.json", "model_index.json", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]"])
def test_a_damaged_file(copy, file, content):
    (copy / file).write_bytes(content)
    with pytest.raises(OSError, match="can't be loaded: the local folder says: "):
        load_backbone(copy)


def test_a_missing_shard(tmp_path):
    pipeline = tiny_sd("epsilon")
    pipeline.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted((tmp_path / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    np.testing.assert_allclose(errors(tmp_path), errors(pipeline), rtol=1e-5)
    clear_cache()
    shards[1].unlink()
    with pytest.raises(OSError, match=shards[1].name):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"_class_name": ["my_pipeline", "MyPipeline"]}, "code of its own.*MyPipeline"),
        ({"unet": ["my_unet", "MyUNet"]}, r"code of its own \(my_unet.MyUNet\)"),
        ({"_class_name": None}, "no _class_name"),
        ({"scheduler": None}, "scheduler"),
        ({"_class_name": "StableDiffusionInpaintPipeline"}, "image beside the prompt"),
        ({"_class_name": "FluxControlNetPipeline"}, "text-to-image"),
    ],
)
def test_an_index_that_can_not_be_read(copy, change, match):
    index = json.loads((copy / "model_index.json").read_text()) | change
    index = {key: value for key, value in index.items() if value is not None}
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises((OSError, ValueError), match=match):
        load_backbone(copy)


def test_parts_that_are_never_used_are_not_loaded(copy):
    expected = errors(copy)
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (copy / "model_index.json").write_text(json.dumps(index))
    clear_cache()
    np.testing.assert_array_equal(errors(copy), expected)
    assert load_backbone(copy).pipeline.safety_checker is None


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("wrong", ["missing", "unexpected"])
def test_clip_with_wrong_keys(request, tmp_path, kind, wrong):
    folder = shutil.copytree(request.getfixturevalue(f"{kind}_folder"), tmp_path / "c")
    key = "text_model.encoder.layers.0.mlp.fc1.bias"
    change_keys(folder / "model.safetensors", lambda k: None if k == key else k)
    if wrong == "unexpected":
        weights = load_file(folder / "model.safetensors")
        weights |= {key: torch.zeros(16), "extra.weight": torch.zeros(1)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    match = "extra.weight" if wrong == "unexpected" else r"mlp\.fc1\.bias"
    with pytest.raises(OSError, match=f"1 {wrong} .*{match}"):
        CLIPZeroShotClassifier(model=folder).fit(classes=["bee", "cat"])


def test_clip_without_merges(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "c")
    whole = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(whole["vocab"]))
    with pytest.raises(OSError, match="merges"):
        CLIPZeroShotClassifier(model=folder).fit(classes=["bee", "cat"])


# Variants -----------------------------------------------------------------------------


def test_a_folder_with_one_variant_only(tmp_path):
    half = tiny_sd("epsilon").to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    expected = errors(half.to(torch.float32))
    np.testing.assert_allclose(errors(tmp_path), expected, rtol=1e-5)
    given = load_backbone(tmp_path, variant="fp16")
    np.testing.assert_allclose(errors(given), expected, rtol=1e-5)
    with pytest.raises(OSError, match="no weights with variant='bf16'"):
        load_backbone(tmp_path, variant="bf16")


def test_a_folder_with_several_variants(copy):
    """Without `variant`, the files without one; half of the models has no such file."""
    plain = errors(copy)
    other = tiny_sd("v_prediction")
    torch.nn.init.ones_(other.unet.conv_in.bias)
    other.unet.save_pretrained(copy / "unet", variant="ema")
    clear_cache()
    np.testing.assert_array_equal(errors(copy), plain)
    backbone = load_backbone(copy, variant="ema")
    assert backbone.network.conv_in.bias.eq(1).all()
    assert pickle.loads(pickle.dumps(backbone)) is backbone
    (copy / UNET).rename(copy / "unet/diffusion_pytorch_model.fp16.safetensors")
    clear_cache()
    with pytest.raises(OSError, match=r"unet/.*\['ema', 'fp16'\]: pass variant="):
        load_backbone(copy)


@pytest.mark.parametrize(
    "model, options",
    [
        ("fashion-scenes", {"revision": "no-such-revision"}),
        ("fashion-scenes", {"config": "fashion-dit"}),
        (PIPELINES["DiT"](), {"variant": "fp16"}),
    ],
)
def test_an_option_without_a_meaning(model, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* has no meaning"):
        load_backbone(model, **options)


# Weights in .bin files ----------------------------------------------------------------


def test_bin_files_are_read(tmp_path):
    """By torch's weights-only unpickler, alone or beside safetensors."""
    pipeline = tiny_sd("epsilon")
    pipeline.save_pretrained(tmp_path, safe_serialization=True)
    expected = errors(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        name = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(load_file(file), file.with_name(f"{name}.bin"))
        file.unlink()
    clear_cache()
    np.testing.assert_array_equal(errors(tmp_path), expected)


class Malicious:
    """Creates a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_malicious_bin_file_is_refused(copy, tmp_path, part):
    trap = tmp_path / "was-run"
    (file,) = (copy / part).glob("*.safetensors")
    weights = {**load_file(file), "trap": Malicious(trap)}
    file.unlink()
    name = "pytorch_model" if file.stem == "model" else file.stem
    torch.save(weights, file.with_name(f"{name}.bin"))
    with pytest.raises(OSError, match=f"{part}: "):
        load_backbone(copy)
    assert not trap.exists()


def test_a_malicious_bin_file_of_clip_is_refused(clip_folder, tmp_path):
    folder, trap = shutil.copytree(clip_folder, tmp_path / "c"), tmp_path / "was-run"
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    clf = CLIPZeroShotClassifier(model=folder)
    torch.save({**weights, "trap": Malicious(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="can't be loaded"):
        clf.fit(classes=["bee", "cat"])
    assert not trap.exists()
    torch.save(weights, folder / "pytorch_model.bin")
    clf.fit(classes=["bee", "cat"])
