"""Where models come from, and that each is loaded once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from sklearn.base import clone

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    clear_cache,
    load_backbone,
)
from diffusion_sklearn.backbones import _pipelines
from tests.backbones.layouts import errors_of, size_of
from tests.models import PIPELINES, slow, tiny_dit, tiny_sd

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def test_loaded_once_for_each_model_and_dtype(dit_folder, sd_folder, loads):
    first = load_backbone(dit_folder)
    assert load_backbone(Path(dit_folder)) is first
    assert load_backbone(dit_folder, device="cpu", dtype=torch.float32) is first
    assert loads == [dit_folder]
    other = load_backbone(dit_folder, dtype="float64")
    assert other is not first and other.dtype == torch.float64
    load_backbone(sd_folder)
    assert loads == [dit_folder, dit_folder, sd_folder]
    clear_cache()
    assert load_backbone(dit_folder) is not first


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fashion-dit", "fashion-scenes"])
def test_libraries_are_silent_while_they_load(model):
    """In a new process: they speak once in each."""
    code = f"from diffusion_sklearn import load_backbone; load_backbone({model!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""


def test_folder_pipeline_object_and_backbone_agree(dit_folder):
    def proba(model):
        clf = ConditionalDiffusionClassifier(model=model, n_trials=5, pruning=None)
        return clf.fit(classes=["ant", "bee", "eel"]).predict_proba(IMAGES)

    expected = proba(dit_folder)
    np.testing.assert_array_equal(proba(load_backbone(dit_folder)), expected)
    np.testing.assert_array_equal(proba(load_backbone(dit_folder).pipeline), expected)
    np.testing.assert_allclose(proba(tiny_dit()), expected, rtol=1e-5)


def test_a_pipeline_in_train_mode_is_evaluated_and_gets_its_mode_back():
    pipeline = tiny_dit()
    pipeline.transformer.train()
    pipeline.transformer.pos_embed.eval()
    modes = [module.training for module in pipeline.transformer.modules()]
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=5)
    clf.fit(classes=["ant", "bee"])
    expected = clone(clf).set_params(model=tiny_dit()).fit(classes=["ant", "bee"])
    np.testing.assert_array_equal(
        clf.predict_proba(IMAGES), expected.predict_proba(IMAGES)
    )
    assert [m.training for m in pipeline.transformer.modules()] == modes


def test_configs_are_read_not_assumed(sd_folder, sd_v_folder, dit_folder):
    backbone = load_backbone(sd_folder)
    assert (backbone.kind, backbone.prediction_type) == ("text", "epsilon")
    assert load_backbone(sd_v_folder).prediction_type == "velocity"
    assert load_backbone(dit_folder).labels["hound"] == 3
    assert backbone.image_size == 8 and backbone.latent_shape(8) == (4, 4, 4)
    pixels = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1)
    vae = backbone.vae
    with torch.no_grad():
        mean = vae.encode(pixels.float()).latent_dist.mean
    torch.testing.assert_close(backbone.encode(pixels), (mean - 0.1) * 0.7)


def test_schedule_stays_in_float32(dit_folder):
    backbone = load_backbone(dit_folder, dtype="bfloat16")
    assert backbone.noise_schedule.alphas_cumprod.dtype == torch.float32
    assert backbone.noise_schedule.alphas_cumprod[0] < 1


@pytest.mark.parametrize(
    "estimator", [ConditionalDiffusionClassifier, ZeroShotDiffusionClassifier]
)
def test_a_checkpoint_that_can_not_be_had(estimator, tmp_path):
    """Offline, the default model of each: what was tried and what to do."""
    with pytest.raises(OSError, match="can't be loaded") as error:
        estimator().fit(classes=["tench", "goldfish"])
    message = str(error.value)
    for part in (
        estimator().model,
        "the local cache",
        "Hugging Face Hub",
        "no local folder",
        "save_pretrained",
        "'fashion-dit'",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["./no/such/folder", "two words", "a/b/c"])
def test_a_name_that_can_not_be_on_the_hub(name):
    with pytest.raises(OSError, match="no local folder"):
        load_backbone(name)


def test_a_bundled_name_with_a_slip():
    with pytest.raises(OSError, match=r"'fashion-dt' .*did you mean 'fashion-dit'\?"):
        load_backbone("fashion-dt")


def test_revision_reaches_the_hub(monkeypatch):
    asked = []

    def refuse(source, how, **options):
        asked.append((source, how))
        raise OSError("no network")

    monkeypatch.setattr(_pipelines, "_read_pipeline", refuse)
    for load in (
        lambda: load_backbone("org/name@v1.2"),
        lambda: load_backbone("org/name", revision="v1.2"),
    ):
        with pytest.raises(OSError, match=r"'org/name' at revision 'v1.2'"):
            load()
    assert asked == 2 * [
        ("org/name", {"local_files_only": True, "revision": "v1.2"}),
        ("org/name", {"revision": "v1.2"}),
    ]


def test_hub_cache_is_used_offline(dit_folder, tmp_path, monkeypatch):
    """A repository in the layout of the Hub's cache loads without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--org--tiny"
    shutil.copytree(dit_folder, repo / "snapshots" / commit)
    for ref in ("main", "v2"):
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    clear_cache()
    for name in ("org/tiny", "org/tiny@v2"):
        assert load_backbone(name).labels["eel"] == 4


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(OSError, match="a local folder"):
        load_backbone(tmp_path)


def test_an_unsupported_family(dit_folder, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(dit_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "KandinskyPipeline"})
    )
    with pytest.raises(ValueError, match="KandinskyPipeline are not supported"):
        load_backbone(folder)


def test_an_inpainting_model_is_refused():
    pipeline = tiny_sd("epsilon")
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(ValueError, match="takes 9 channels"):
        load_backbone(pipeline)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="model=3 is of type int"):
        load_backbone(3)


def test_a_prompt_that_is_cut_is_named(sd_folder):
    clf = ZeroShotDiffusionClassifier(model=sd_folder, prompt_template="{}")
    with pytest.warns(UserWarning, match="nopqrstuvwxyz' was cut"):
        clf.fit(classes=["abcdefghijklmnopqrstuvwxyz" * 2, "b"])


def test_the_bundled_model_is_a_plain_pipeline(tmp_path):
    """diffusers alone loads it and samples from it."""
    from importlib.resources import files

    from diffusers import DiTPipeline

    folder = files("diffusion_sklearn.bundled") / "fashion-dit"
    pipeline = DiTPipeline.from_pretrained(folder, dtype=torch.float32)
    assert pipeline.labels["ankle boot"] == 9 and len(pipeline.labels) == 10
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline([9, 1], guidance_scale=1.0, num_inference_steps=4).images
    assert made[0].size == (32, 32)
    size = sum(p.stat().st_size for p in Path(str(folder)).rglob("*.safetensors"))
    assert size <= 16 * 2**20
    state = pipeline.transformer.config
    assert state.out_channels == 2 * state.in_channels


def test_a_pipeline_object_is_never_cast_or_moved(dit_folder):
    pipeline = tiny_dit()
    before = pipeline.transformer.proj_out_2.weight.clone()
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=3, pruning=None)
    expected = clf.fit(classes=["ant", "bee"]).predict_proba(IMAGES)
    half = ConditionalDiffusionClassifier(model=pipeline, n_trials=3, dtype="bfloat16")
    half.fit(classes=["ant", "bee"]).predict(IMAGES)
    assert half.backbone_.dtype == torch.bfloat16
    assert pipeline.dtype == torch.float32
    assert torch.equal(pipeline.transformer.proj_out_2.weight, before)
    np.testing.assert_array_equal(clf.predict_proba(IMAGES), expected)


def test_a_backbone_is_not_what_was_asked_for(dit_folder):
    backbone = load_backbone(dit_folder)
    clf = ConditionalDiffusionClassifier(model=backbone, dtype="float64")
    with pytest.raises(ValueError, match=r"dtype='float64', but the backbone.*float32"):
        clf.fit(classes=["ant", "bee"])
    clf.set_params(dtype=torch.float32, device="cpu").fit(classes=["ant", "bee"])


def test_names_of_classes_survive_saving(dit_folder, tmp_path):
    load_backbone(dit_folder).pipeline.save_pretrained(tmp_path)
    assert load_backbone(tmp_path).labels == load_backbone(dit_folder).labels
    assert load_backbone(tmp_path).labels["dog, hound"] == 3


def test_a_name_of_several_classes():
    pipeline = tiny_dit()
    names = {0: "crane, bird", 1: "crane, machine", 2: "cat", 3: "dog", 4: "eel"}
    pipeline.register_to_config(id2label=names)
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=2)
    with pytest.raises(ValueError, match=r"several classes.*'crane': \[0, 1\]"):
        clf.fit(classes=["crane", "cat"])
    clf.fit(classes=["crane, machine", "bird"])
    assert clf.class_ids_.tolist() == [0, 1]


def test_a_name_of_several_classes_in_a_pipeline_that_diffusers_loaded(
    dit_folder, tmp_path
):
    """Its ``labels`` have the last class alone."""
    folder = shutil.copytree(dit_folder, tmp_path / "model")
    file = folder / "model_index.json"
    names = {"0": "crane", "1": "crane", "2": "cat", "3": "dog, hound", "4": "eel"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": names}))
    pipeline = DiTPipeline.from_pretrained(folder)
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=2)
    with pytest.raises(ValueError, match=r"several classes.*'crane': \[0, 1\]"):
        clf.fit(classes=["crane", "cat"])
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.labels = {"crane": 4, "cat": 2}  # names of the user's
    assert load_backbone(pipeline).labels == pipeline.labels


def test_a_pipeline_without_names():
    pipeline = tiny_dit()
    pipeline.register_to_config(id2label=None)
    pipeline.labels = {}
    clf = ConditionalDiffusionClassifier(model=pipeline, n_trials=2)
    with pytest.raises(ValueError, match=r"no names for its classes.*class_ids"):
        clf.fit(classes=["ant", "bee"])


def test_configs_that_diffusers_allows():
    pipeline = tiny_sd("epsilon")
    pipeline.unet.register_to_config(sample_size=[4, 4])
    assert load_backbone(pipeline).image_size == 8
    pipeline.scheduler.register_to_config(prediction_type="score")
    with pytest.raises(ValueError, match="prediction_type='score'"):
        load_backbone(pipeline)


KEPT = "PixArt-Sigma", "DiT", "Chroma", "Qwen-Image", "Flux", "AuraFlow", "Sana"
"""Families with weights or tables that loading leaves in float32."""


@pytest.mark.parametrize("dtype", ["bfloat16", *slow("float16")])
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in KEPT[:3] else pytest.mark.slow)
        for name in PIPELINES
        if "image to image" not in name
    ],
)
def test_a_copy_in_half_precision_is_what_loading_gives(family, dtype, tmp_path):
    """Tables such as frequencies stay in float32, and weights that the model lists."""
    made = PIPELINES[family]()
    made.save_pretrained(tmp_path)
    pipeline = load_backbone(tmp_path).pipeline
    copied, loaded = (load_backbone(m, dtype=dtype) for m in (pipeline, tmp_path))
    actual, expected = (errors_of(model, size_of(made)) for model in (copied, loaded))
    np.testing.assert_array_equal(actual, expected)
    for name, part in loaded.pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            twin = getattr(copied.pipeline, name)
            tensors = dict(twin.named_parameters()) | dict(twin.named_buffers())
            expected = dict(part.named_parameters()) | dict(part.named_buffers())
            assert {key: x.dtype for key, x in tensors.items()} == {
                key: x.dtype for key, x in expected.items()
            }
    double = load_backbone(
        load_backbone(pipeline, dtype=dtype).pipeline, dtype="float64"
    )
    assert {p.dtype for p in double.network.parameters()} == {torch.float64}
