"""What users switch on or attach: right numbers, or an error that says what to do."""

import json
import re
import warnings
from importlib.resources import files

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FluxImg2ImgPipeline,
    FluxPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PyramidAttentionBroadcastConfig,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.embeddings import (
    ImageProjection,
    MultiIPAdapterImageProjection,
)
from safetensors import safe_open
from safetensors.torch import save_file

from diffusion_sklearn import ZeroShotDiffusionClassifier, clear_cache, load_backbone
from diffusion_sklearn.backbones._text import text_encoders
from diffusion_sklearn.datasets import make_fashion_scenes
from diffusion_sklearn.testing import check_backbone
from diffusion_sklearn.testing._text_encoders import varied
from diffusion_sklearn.testing._transformers import flux, sana, stable_diffusion_3
from diffusion_sklearn.testing._unets import stable_diffusion, stable_diffusion_xl

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)
CPU = torch.device("cpu")


def errors(model, **params):
    params = {"n_trials": 3, "pruning": None, "image_size": 8, **params}
    clf = ZeroShotDiffusionClassifier(model=model, target="native", **params)
    return clf.fit(classes=["bee", "cat"]).denoising_errors(IMAGES).errors


def lcm():
    """Stable Diffusion with a U-Net that takes the guidance scale."""
    pipeline = stable_diffusion()
    pipeline.unet = changed(pipeline.unet, time_cond_proj_dim=8)
    return pipeline


def changed(unet, **config):
    """A U-Net of the same config but for some values, with other weights."""
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")} | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return varied(UNet2DConditionModel(**config))


# Dtype and device of each module ------------------------------------------------------


@pytest.mark.parametrize("half", ["unet", "vae", "text_encoder"])
def test_a_dtype_is_that_of_every_module(half):
    pipeline = stable_diffusion()
    getattr(pipeline, half).to(torch.float16)
    full = load_backbone(pipeline, dtype="float32").pipeline
    for part in (full.unet, full.vae, full.text_encoder):
        assert part.dtype == torch.float32
    assert getattr(pipeline, half).dtype == torch.float16
    backbone = load_backbone(pipeline)  # as it is
    assert backbone.pipeline is pipeline and np.isfinite(errors(pipeline)).all()


def test_text_encoders_in_two_places():
    pipeline = stable_diffusion_xl()
    pipeline.text_encoder_2.to("meta")
    with pytest.raises(ValueError, match=r"on \['cpu', 'meta'\]; put all"):
        load_backbone(pipeline).condition(["bee"])


# Families of flows --------------------------------------------------------------------


@pytest.mark.parametrize("make", [flux, stable_diffusion_3, sana])
@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler(), DPMSolverMultistepScheduler(use_flow_sigmas=True)]
)
def test_a_flow_with_the_scheduler_of_another_family(make, scheduler):
    pipeline = make()
    pipeline.scheduler = scheduler
    with pytest.raises(ValueError, match=r"flow matching.*prediction_type='epsilon'"):
        load_backbone(pipeline)


# What the pipeline tells the network --------------------------------------------------


def test_lcm_is_told_no_guidance():
    """As its pipeline tells it at guidance_scale=1."""
    pipeline, heard = lcm(), []
    pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(kwargs["timestep_cond"]),
        with_kwargs=True,
    )
    errors(pipeline)
    mine = heard[-1]
    pipeline.set_progress_bar_config(disable=True)
    pipeline("bee", height=8, width=8, num_inference_steps=1, guidance_scale=1.0)
    assert heard[-1].shape == (1, 8)
    torch.testing.assert_close(mine, heard[-1].expand_as(mine))


def test_lcm_pipelines():
    parts = {k: v for k, v in lcm().components.items() if k != "scheduler"}
    scheduler = LCMScheduler.from_config(stable_diffusion().scheduler.config)
    pipeline = LatentConsistencyModelPipeline(
        **parts, scheduler=scheduler, requires_safety_checker=False
    )
    np.testing.assert_array_equal(errors(pipeline), errors(lcm()))


class Reversed(StableDiffusionPipeline):
    """A pipeline with an encoding of its own."""

    def encode_prompt(self, prompt, *args, **kwargs):
        prompt = [text[::-1] for text in prompt]
        return super().encode_prompt(prompt, *args, **kwargs)


class Broken(StableDiffusionPipeline):
    def encode_prompt(self, *args, **kwargs):
        return self.no_such_part


def test_encode_prompt_of_a_subclass():
    plain = stable_diffusion()
    own = Reversed(**plain.components, requires_safety_checker=False)
    actual = load_backbone(own).condition(["bee", "cat"])
    expected = load_backbone(plain).condition(["eeb", "tac"])
    torch.testing.assert_close(actual, expected)
    broken = Broken(**plain.components, requires_safety_checker=False)
    with pytest.raises(ValueError, match=r"Broken.encode_prompt raised Attr.*no_such"):
        load_backbone(broken).condition(["bee"])


@pytest.mark.parametrize(
    "make, cls",
    [
        (stable_diffusion_xl, StableDiffusionXLImg2ImgPipeline),
        (stable_diffusion_3, StableDiffusion3Img2ImgPipeline),
        (flux, FluxImg2ImgPipeline),
    ],
)
def test_image_to_image_pipelines(make, cls):
    plain = make()
    np.testing.assert_array_equal(errors(cls(**plain.components)), errors(plain))


# Hooks --------------------------------------------------------------------------------


def model_offload():
    pipeline = stable_diffusion()
    pipeline.enable_model_cpu_offload(device="cpu")
    return pipeline, stable_diffusion()


def group_offload():
    pipeline = flux()
    pipeline.transformer.enable_group_offload(CPU, CPU, offload_type="leaf_level")
    return pipeline, flux()


def sequential_offload():
    """Of the network and the autoencoder alone."""
    from accelerate import cpu_offload

    pipeline = stable_diffusion()
    cpu_offload(pipeline.unet, CPU)
    cpu_offload(pipeline.vae, CPU)
    return pipeline, stable_diffusion()


def fp8():
    pipeline, plain = flux(), flux()
    pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    for name, module in pipeline.transformer.named_modules():
        for key, p in module.named_parameters(recurse=False):
            if p.dtype == torch.float8_e4m3fn:
                other = plain.transformer.get_submodule(name).get_parameter(key)
                other.data.copy_(p.data.float())
    return pipeline, plain


def compiled():
    pipeline = stable_diffusion()
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    return pipeline, stable_diffusion()


HOOKED = model_offload, group_offload, sequential_offload, fp8


@pytest.mark.parametrize(
    "make", [*HOOKED, pytest.param(compiled, marks=pytest.mark.slow)]
)
def test_offloaded_cast_and_compiled(make):
    pipeline, plain = make()
    np.testing.assert_allclose(errors(pipeline), errors(plain), rtol=1e-4)


@pytest.mark.parametrize("make", HOOKED)
def test_no_copy_of_an_offloaded_pipeline(make):
    with pytest.raises(ValueError, match=r"dtype='torch.float64'.*dtype='auto'"):
        load_backbone(make()[0], dtype="float64")


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=0.2),
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            current_timestep_callback=lambda: 500,
        ),
        FasterCacheConfig(
            is_guidance_distilled=True,
            spatial_attention_block_skip_range=2,
            current_timestep_callback=lambda: 500,
        ),
    ],
)
@pytest.mark.parametrize("when", ["before", "between"])
def test_caches_between_forward_passes(config, when):
    pipeline = flux()
    backbone = load_backbone(pipeline)
    expected = errors(pipeline) if when == "between" else None
    pipeline.transformer.enable_cache(config)
    for model in pipeline, backbone:
        with pytest.raises(ValueError, match=r"pipeline\.transformer\.disable_cache\("):
            errors(model)
    pipeline.transformer.disable_cache()
    if expected is not None:
        np.testing.assert_array_equal(errors(pipeline), expected)


# Models that need more than a prompt --------------------------------------------------


def test_the_refiner():
    base = stable_diffusion_xl()
    refiner = StableDiffusionXLPipeline(
        vae=base.vae, text_encoder=None, text_encoder_2=base.text_encoder_2,
        tokenizer=None, tokenizer_2=base.tokenizer_2, scheduler=base.scheduler,
        unet=changed(base.unet, projection_class_embeddings_input_dim=5 * 4 + 6),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"refiner.*pass the base model"):
        load_backbone(refiner)


def test_an_ip_adapter():
    pipeline = stable_diffusion()
    projection = ImageProjection(4, 8, num_image_text_embeds=1)
    pipeline.unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    with pytest.raises(ValueError, match=r"IP-Adapter.*unload_ip_adapter\(\)"):
        load_backbone(pipeline)


def test_an_upscaler():
    pipeline = stable_diffusion()
    pipeline.unet = changed(pipeline.unet, num_class_embeds=10)
    with pytest.raises(ValueError, match="beside the prompt"):
        load_backbone(pipeline)


# Memory -------------------------------------------------------------------------------


def test_text_encoders_leave_the_device(tmp_path, monkeypatch):
    """Those of a model that was loaded by name; an object's stay where they are."""
    stable_diffusion_xl().save_pretrained(tmp_path)
    moved = ["cpu", "run", "cpu"]
    for model, expected in ((tmp_path, moved), (stable_diffusion_xl(), ["run"])):
        backbone, seen = load_backbone(model), []
        encoder = text_encoders(backbone.pipeline)[1]
        monkeypatch.setattr(encoder, "to", lambda device, s=seen: s.append(str(device)))
        encoder.register_forward_pre_hook(lambda *_, s=seen: s.append("run"))
        backbone.condition(["bee", "cat"])
        assert seen == expected


def test_a_backbone_that_is_told_its_guidance():
    check_backbone(load_backbone(lcm()))


# Quantized networks -------------------------------------------------------------------


def quantized(library, folder, dtype=torch.float32):
    """A pipeline whose network is quantized, in a folder of its own, too."""
    if library == "torchao":
        pytest.importorskip("torchao", reason="torchao is not installed")
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    else:
        pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
        from diffusers import QuantoConfig

        config = QuantoConfig(weights_dtype="int8")
    flux().save_pretrained(folder / "plain")
    pipeline = FluxPipeline.from_pretrained(folder / "plain", dtype=dtype)
    pipeline.transformer = type(pipeline.transformer).from_pretrained(
        folder / "plain", subfolder="transformer", quantization_config=config,
        torch_dtype=dtype,
    )  # fmt: skip
    weight = pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    assert type(weight) is not torch.nn.Parameter
    pipeline.save_pretrained(folder / "quantized")
    return pipeline


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.Quanto.* deprecated:FutureWarning")  # the objects'
@pytest.mark.parametrize("library", ["torchao", "quanto"])
def test_a_quantized_network(library, tmp_path):
    """Nearly the errors of the plain one, and no copy of another dtype."""
    pipeline = quantized(library, tmp_path)
    actual, expected = errors(pipeline), errors(flux())
    np.testing.assert_allclose(actual, expected, rtol=0.1)
    assert not np.array_equal(actual, expected)
    with pytest.raises(ValueError, match="quantized"):
        load_backbone(pipeline, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = load_backbone(tmp_path / "quantized")
    np.testing.assert_array_equal(errors(backbone), actual)
    before = load_backbone(pipeline).fingerprint()
    assert backbone.fingerprint() == before
    assert load_backbone(tmp_path / "plain").fingerprint() != before
    pipeline.transformer.proj_out = flux().transformer.proj_out
    assert load_backbone(pipeline).fingerprint() != before
    clear_cache()
    (file,) = (tmp_path / "quantized/transformer").glob("*.safetensors")
    with safe_open(file, "pt") as content:
        weights = {key: content.get_tensor(key) for key in content.keys()}
        metadata = content.metadata()
    for key in weights:  # the integers, the scale, the bias
        if re.fullmatch(r"proj_out\.(bias|\w*weight.*)", key):
            save_file({k: w for k, w in weights.items() if k != key}, file, metadata)
            with pytest.raises(OSError, match=r"transformer.*1 missing \(proj_out\."):
                load_backbone(tmp_path / "quantized")


@pytest.mark.slow
def test_quantized_weights_that_can_not_be_cast(tmp_path):
    """Those of torchao compute in the dtype in which they were made, here and there."""
    pipeline = quantized("torchao", tmp_path, torch.bfloat16)
    backbone = load_backbone(tmp_path / "quantized")
    assert backbone.dtype == torch.bfloat16
    np.testing.assert_array_equal(errors(backbone), errors(pipeline))
    with pytest.raises(ValueError, match=r"dtype='float32'.*torch.bfloat16.*'auto'"):
        load_backbone(tmp_path / "quantized", dtype="float32")


@pytest.mark.parametrize(
    "config, match",
    [
        ({"quant_method": "unknown"}, "Unknown quantization type, got unknown"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "GPU|bitsandbytes"),
        ({"quant_method": "quanto"}, "optimum-quanto|wrong keys"),
    ],
)
def test_a_quantization_that_can_not_be_read(config, match, tmp_path):
    flux().save_pretrained(tmp_path)
    file = tmp_path / "transformer/config.json"
    settings = json.loads(file.read_text()) | {"quantization_config": config}
    file.write_text(json.dumps(settings))
    with pytest.raises(OSError, match=f"can't be loaded.*transformer.*({match})"):
        load_backbone(tmp_path)


@pytest.mark.slow
def test_a_network_of_a_gguf_file(tmp_path):
    """Nearly the errors of the plain one; the quantized weights are in its name."""
    gguf = pytest.importorskip("gguf")
    from diffusers import GGUFQuantizationConfig

    pipeline = flux()
    pipeline.save_pretrained(tmp_path)
    file, q8 = tmp_path / "flux.gguf", gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(file, "flux")
    for name, weight in pipeline.transformer.state_dict().items():
        values, kind = weight.numpy(), None
        if values.ndim == 2 and values.shape[1] % 32 == 0:  # as many as a block of q8
            values, kind = gguf.quants.quantize(values, q8), q8
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    pipeline.transformer = type(pipeline.transformer).from_single_file(
        str(file), config=str(tmp_path), subfolder="transformer",
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    )  # fmt: skip
    weights = [w for w in pipeline.transformer.parameters() if hasattr(w, "quant_type")]
    assert weights
    actual, expected = errors(pipeline), errors(flux())
    np.testing.assert_allclose(actual, expected, rtol=0.1)
    assert not np.array_equal(actual, expected)
    with pytest.raises(ValueError, match="quantized"):
        load_backbone(pipeline, dtype="bfloat16")
    before = load_backbone(pipeline).fingerprint()
    weights[0].as_tensor().numpy().flat[5] ^= 1  # a bit of the file's bytes
    assert load_backbone(pipeline).fingerprint() != before


def test_a_projection_of_the_text_is_no_adapter():
    """fashion-scenes has one; as an object it is what it is by its name."""
    from_file = str(files("diffusion_sklearn.bundled") / "fashion-scenes")
    pipeline = StableDiffusionPipeline.from_pretrained(from_file, dtype=torch.float32)
    assert pipeline.unet.encoder_hid_proj is not None
    scene = make_fashion_scenes(1, split="test", n_items=1).images
    results = [
        ZeroShotDiffusionClassifier(model=model, n_trials=8)
        .fit(classes=["blue bag", "purple pullover", "red bag"])
        .denoising_errors(scene)
        for model in (pipeline, "fashion-scenes")
    ]
    np.testing.assert_allclose(results[0].log_proba, results[1].log_proba, atol=1e-4)
    np.testing.assert_array_equal(results[0].n_evaluations, results[1].n_evaluations)
