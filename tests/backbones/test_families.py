"""Every family against a double loop in float64, written from its own training loss."""

import inspect
import pickle
import re
import warnings
from dataclasses import replace

import diffusers
import numpy as np
import peft
import pytest
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ErrorStore,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.backbones._conditions import from_dict, to_dict
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.engine._cache import ErrorCache
from diffusion_sklearn.images._pixels import to_pixels
from diffusion_sklearn.testing._transformers import (
    chroma,
    cogview4,
    flux,
    flux2,
    hidream,
    lumina2,
    pixart_alpha,
    qwen_image,
    stable_diffusion_3,
    z_image,
)
from diffusion_sklearn.testing._unets import (
    kolors,
    pixels,
    stable_diffusion,
    stable_diffusion_xl,
)
from tests.models import BY_FAMILY, PIPELINES

IMAGES = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), dtype=np.uint8)
LARGE = IMAGES.repeat(4, axis=1).repeat(4, axis=2)
"""Of 32 pixels, for an autoencoder with eight pixels a side for a latent position."""
PROMPTS = ["a photo of a bee.", "a photo of a cat."]
VARIANTS = (
    "Stable Diffusion, velocity",
    "Stable Diffusion, image to image",
    "LCM, image to image",
    "Kolors, image to image",
    "SANA-Sprint, image to image",
    "Stable Diffusion 3 without T5",
    "Flux schnell",
    "DeepFloyd IF, image to image",
    "Qwen-Image, image to image",
    "Z-Image, image to image",
    "Chroma, image to image",
)
FAMILIES = {name: PIPELINES[name] for name in PIPELINES if name not in VARIANTS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny pipeline of each family, saved in diffusers layout."""
    paths = {name: str(tmp_path_factory.mktemp("family")) for name in PIPELINES}
    for name, path in paths.items():
        PIPELINES[name]().save_pretrained(path, safe_serialization=True)
    return paths


def images_of(name):
    return (
        LARGE if name in ("Lumina 2", "Z-Image", "CogView 4", "HunyuanDiT") else IMAGES
    )


def classifier(model, **params):
    """Fitted, with two classes."""
    params = {"n_trials": 4, "pruning": None, "image_size": 8, **params}
    params.setdefault("target", "native")
    if load_backbone(model).kind == "class":
        return ConditionalDiffusionClassifier(model=model, **params).fit(classes=[1, 2])
    return ZeroShotDiffusionClassifier(model=model, **params).fit(
        classes=["bee", "cat"]
    )


# What each network is called with by its pipeline, a prompt and a latent at a time.


def of_clip(tokenizer, encoder, prompt):
    ids = tokenizer(
        [prompt], padding="max_length", max_length=40, return_tensors="pt"
    ).input_ids
    return encoder(ids, output_hidden_states=True)


def of_t5(tokenizer, encoder, prompt, length):
    tokens = tokenizer(
        [prompt], padding="max_length", max_length=length, return_tensors="pt"
    )
    states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    return states, tokens.attention_mask


def call_sd(p, xt, t, prompt):
    states = of_clip(p.tokenizer, p.text_encoder, prompt)[0]
    return p.unet(xt, t, encoder_hidden_states=states).sample


def call_lcm(p, xt, t, prompt):
    states = of_clip(p.tokenizer, p.text_encoder, prompt)[0]
    no_guidance = torch.tensor([[0.0] * 4 + [1.0] * 4]).double()  # sines, cosines of 0
    return p.unet(xt, t, encoder_hidden_states=states, timestep_cond=no_guidance).sample


def call_sdxl(p, xt, t, prompt):
    one = of_clip(p.tokenizer, p.text_encoder, prompt)
    two = of_clip(p.tokenizer_2, p.text_encoder_2, prompt)
    states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    ids = torch.tensor([[8, 8, 0, 0, 8, 8]]).double()
    added = {"text_embeds": two.text_embeds, "time_ids": ids}
    return p.unet(xt, t, encoder_hidden_states=states, added_cond_kwargs=added).sample


def call_kolors(p, xt, t, prompt):
    n = len(p.tokenizer(prompt).input_ids)
    ids = torch.zeros(1, 256, dtype=torch.int64)
    ids[0, -n:] = torch.tensor(p.tokenizer(prompt).input_ids)
    mask, positions = torch.zeros(2, 1, 256, dtype=torch.int64)
    mask[0, -n:], positions[0, -n:] = 1, torch.arange(n)
    *_, last, final = p.text_encoder(
        ids, attention_mask=mask, position_ids=positions, output_hidden_states=True
    ).hidden_states  # tokens first
    added = {
        "text_embeds": final[-1],
        "time_ids": torch.tensor([[8, 8, 0, 0, 8, 8]]).double(),
    }
    return p.unet(
        xt, t, encoder_hidden_states=last.transpose(0, 1), added_cond_kwargs=added
    ).sample


def call_sd3(p, xt, t, prompt):
    one = of_clip(p.tokenizer, p.text_encoder, prompt)
    two = of_clip(p.tokenizer_2, p.text_encoder_2, prompt)
    clip = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    long = torch.zeros(1, 256, 16).double()
    if p.text_encoder_3 is not None:
        # Its pipeline gives T5 no mask.
        ids = p.tokenizer_3(
            [prompt], padding="max_length", max_length=256, return_tensors="pt"
        ).input_ids
        long = p.text_encoder_3(ids)[0]
    return p.transformer(
        xt,
        timestep=1000 * sigma(t),
        encoder_hidden_states=torch.cat([clip, long], dim=1),
        pooled_projections=torch.cat([one.text_embeds, two.text_embeds], dim=-1),
    ).sample


CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def packed(xt):
    corners = [xt[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i, j in CORNERS]
    return torch.stack([corner.flatten(1) for corner in corners], dim=1)


def unpacked(output):
    latents = torch.zeros(1, 4, 4, 4).double()
    for k, (i, j) in enumerate(CORNERS):
        corner = output[:, k].view(1, 4, 2, 2)
        latents[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = corner
    return latents


def call_flux(p, xt, t, prompt):
    pooled = of_clip(p.tokenizer, p.text_encoder, prompt).pooler_output
    is_dev = p.transformer.config.guidance_embeds
    length = 512 if is_dev else 256
    ids = p.tokenizer_2(
        [prompt], padding="max_length", max_length=length, return_tensors="pt"
    ).input_ids
    states = p.text_encoder_2(ids)[0]
    output = p.transformer(
        packed(xt),
        timestep=sigma(t),
        guidance=torch.ones(1).double() if is_dev else None,
        pooled_projections=pooled,
        encoder_hidden_states=states,
        txt_ids=torch.zeros(length, 3).double(),
        img_ids=torch.tensor([[0.0, i, j] for i, j in CORNERS]).double(),
    ).sample
    return unpacked(output)


def call_pixart(p, xt, t, prompt):
    length = 300 if "Sigma" in type(p).__name__ else 120
    states, mask = of_t5(p.tokenizer, p.text_encoder, prompt, length)
    added = {"resolution": None, "aspect_ratio": None}
    if length == 120:
        added = {
            "resolution": torch.tensor([[8.0, 8.0]]).double(),
            "aspect_ratio": torch.tensor([[1.0]]).double(),
        }
    return p.transformer(
        xt,
        encoder_hidden_states=states,
        encoder_attention_mask=mask.double(),
        timestep=t,
        added_cond_kwargs=added,
    ).sample


def call_sana(p, xt, t, prompt):
    call = inspect.signature(p.__call__).parameters["complex_human_instruction"]
    instruction = "\n".join(call.default)
    length = len(p.tokenizer(instruction).input_ids) + 300 - 2
    p.tokenizer.padding_side = "right"
    tokens = p.tokenizer(
        [instruction + prompt.lower()],
        padding="max_length",
        max_length=length,
        return_tensors="pt",
    )
    mask = tokens.attention_mask
    states = p.text_encoder(tokens.input_ids, attention_mask=mask)[0]
    kept = [0, *range(length - 299, length)]
    is_sprint = "Sprint" in type(p).__name__
    return p.transformer(
        xt,
        encoder_hidden_states=states[:, kept],
        encoder_attention_mask=mask[:, kept].double(),
        timestep=sigma(t) * (1 if is_sprint else 1000),
        guidance=torch.tensor([0.1]).double() if is_sprint else None,
    ).sample


def call_cogview4(p, xt, t, prompt):
    ids = p.tokenizer([prompt]).input_ids[0]
    ids = torch.tensor([[0] * (-len(ids) % 16) + ids])
    states = p.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    mu = 0.75 * (4 / 256) ** 0.5 + 0.25  # of four patches
    return p.transformer(
        xt,
        encoder_hidden_states=states,
        timestep=1000 / (1 + mu * (1 / sigma(t) - 1)),  # before the shift by mu
        original_size=torch.tensor([[32, 32]]).double(),
        target_size=torch.tensor([[32, 32]]).double(),
        crop_coords=torch.zeros(1, 2).double(),
    ).sample


def call_hunyuan_dit(p, xt, t, prompt):
    bert = p.tokenizer(
        [prompt], padding="max_length", max_length=77, return_tensors="pt"
    )
    tokens = p.text_encoder(bert.input_ids, attention_mask=bert.attention_mask)[0]
    tokens_t5, mask_t5 = of_t5(p.tokenizer_2, p.text_encoder_2, prompt, 256)
    # Two patches a side stretch over the 32 of 512 pixels; in 8 numbers a position.
    place = torch.tensor([0.0, 16.0]).double()
    angles = place[:, None] * torch.tensor([1.0, 0.01]).double()
    angles = angles.repeat_interleave(2, dim=1)
    down, across = angles.repeat_interleave(2, dim=0), angles.repeat(2, 1)
    angles = torch.cat([across, down], dim=1)
    return p.transformer(
        xt,
        t.double(),
        encoder_hidden_states=tokens,
        text_embedding_mask=bert.attention_mask,
        encoder_hidden_states_t5=tokens_t5,
        text_embedding_mask_t5=mask_t5,
        image_meta_size=torch.tensor([[1024, 1024, 32, 32, 0, 0]]).double(),
        style=torch.tensor([0]),
        image_rotary_emb=(angles.cos(), angles.sin()),
    ).sample


def call_deepfloyd_if(p, xt, t, prompt):
    states, _ = of_t5(p.tokenizer, p.text_encoder, prompt, 77)
    return p.unet(xt, t, encoder_hidden_states=states).sample


def call_qwen_image(p, xt, t, prompt):
    tokens = p.tokenizer([p.prompt_template_encode.format(prompt)], return_tensors="pt")
    states = p.text_encoder(**tokens, output_hidden_states=True).hidden_states[-1]
    output = p.transformer(
        packed(xt),
        timestep=sigma(t),
        encoder_hidden_states=states[:, 34:],  # one prompt needs no mask
        img_shapes=[[(1, 2, 2)]],
    ).sample
    return unpacked(output)


def call_z_image(p, xt, t, prompt):
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    tokens = p.tokenizer([text], return_tensors="pt")  # without padding
    states = p.text_encoder(**tokens, output_hidden_states=True).hidden_states[-2]
    video = xt[0, :, None]
    return -p.transformer([video], 1 - sigma(t), [states[0]]).sample[0][:, 0][None]


def call_chroma(p, xt, t, prompt):
    states, mask = of_t5(p.tokenizer, p.text_encoder, prompt, 512)
    read = torch.arange(516) <= mask.sum()  # one token of padding, too
    read[512:] = True  # the image
    return unpacked(
        p.transformer(
            packed(xt),
            timestep=sigma(t),
            encoder_hidden_states=states,
            attention_mask=read[None].double(),
            txt_ids=torch.zeros(512, 3).double(),
            img_ids=torch.tensor([[0.0, i, j] for i, j in CORNERS]).double(),
        ).sample
    )


def call_flux2(p, xt, t, prompt):
    is_klein = "Klein" in type(p).__name__
    chat = f"[SYSTEM_PROMPT]{getattr(p, 'system_message', '')}[/SYSTEM_PROMPT]"
    chat = f"<s>{chat}[INST]{prompt}[/INST]"
    if is_klein:
        chat = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    tokens = p.tokenizer(
        [chat],
        padding="max_length",
        max_length=512,
        return_tensors="pt",
        add_special_tokens=False,
    )
    states = p.text_encoder(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        output_hidden_states=True,
    ).hidden_states
    layers = (9, 18, 27) if is_klein else (10, 20, 30)
    output = p.transformer(
        xt.flatten(2).mT,
        timestep=sigma(t),
        guidance=None if is_klein else torch.ones(1).double(),
        encoder_hidden_states=torch.cat([states[k] for k in layers], dim=-1),
        txt_ids=torch.tensor([[0, 0, 0, k] for k in range(512)]),
        img_ids=torch.tensor([[0, i, j, 0] for i, j in CORNERS]),
    ).sample
    return output.mT.view(xt.shape)


def call_hidream(p, xt, t, prompt):
    pairs = (p.tokenizer, p.text_encoder), (p.tokenizer_2, p.text_encoder_2)
    padded = {"padding": "max_length", "max_length": 128, "return_tensors": "pt"}
    pooled = [
        encoder(tokenizer([prompt], **padded).input_ids).text_embeds
        for tokenizer, encoder in pairs
    ]
    states, _ = of_t5(p.tokenizer_3, p.text_encoder_3, prompt, 128)
    llama = p.text_encoder_4(
        **p.tokenizer_4([prompt], **padded), output_hidden_states=True
    ).hidden_states
    return -p.transformer(
        xt,
        timesteps=1000 * sigma(t),
        encoder_hidden_states_t5=states,
        encoder_hidden_states_llama3=llama[1:],
        pooled_embeds=torch.cat(pooled, dim=-1),
    ).sample


def call_lumina2(p, xt, t, prompt):
    text = f"{p.system_prompt} <Prompt Start> {prompt}"
    tokens = p.tokenizer([text], return_tensors="pt")  # without padding
    states = p.text_encoder(**tokens, output_hidden_states=True).hidden_states[-2]
    return -p.transformer(
        xt,
        timestep=1 - sigma(t),
        encoder_hidden_states=states,
        encoder_attention_mask=tokens.attention_mask,
    ).sample


def call_aura_flow(p, xt, t, prompt):
    states, mask = of_t5(p.tokenizer, p.text_encoder, prompt, 256)
    states = states * mask[..., None]
    return p.transformer(xt, encoder_hidden_states=states, timestep=sigma(t)).sample


def call_dit(p, xt, t, label):
    return p.transformer(xt, timestep=t, class_labels=torch.tensor([label])).sample


def call_pixels(p, xt, t, label):
    return p.unet(xt, t, class_labels=torch.tensor([label])).sample


CALLS = {
    "Stable Diffusion 1.x, 2.x": call_sd,
    "Stable Diffusion, velocity": call_sd,
    "Stable Diffusion, image to image": call_sd,
    "LCM": call_lcm,
    "LCM, image to image": call_lcm,
    "Stable Diffusion XL": call_sdxl,
    "Kolors": call_kolors,
    "Kolors, image to image": call_kolors,
    "Stable Diffusion 3, 3.5": call_sd3,
    "Stable Diffusion 3 without T5": call_sd3,
    "Flux": call_flux,
    "Flux schnell": call_flux,
    "PixArt-alpha": call_pixart,
    "PixArt-Sigma": call_pixart,
    "Sana": call_sana,
    "SANA-Sprint": call_sana,
    "SANA-Sprint, image to image": call_sana,
    "CogView 4": call_cogview4,
    "HunyuanDiT": call_hunyuan_dit,
    "DeepFloyd IF": call_deepfloyd_if,
    "DeepFloyd IF, image to image": call_deepfloyd_if,
    "Qwen-Image": call_qwen_image,
    "Qwen-Image, image to image": call_qwen_image,
    "Z-Image": call_z_image,
    "Z-Image, image to image": call_z_image,
    "Chroma": call_chroma,
    "Chroma, image to image": call_chroma,
    "FLUX.2": call_flux2,
    "FLUX.2 klein": call_flux2,
    "HiDream": call_hidream,
    "Lumina 2": call_lumina2,
    "AuraFlow": call_aura_flow,
    "DiT": call_dit,
    "U-Net on pixels": call_pixels,
}
FLOWS = (
    "Stable Diffusion 3, 3.5",
    "Stable Diffusion 3 without T5",
    "Flux",
    "Flux schnell",
    "Sana",
    "SANA-Sprint",
    "SANA-Sprint, image to image",
    "CogView 4",
    "Qwen-Image",
    "Qwen-Image, image to image",
    "Z-Image",
    "Z-Image, image to image",
    "Chroma",
    "Chroma, image to image",
    "FLUX.2",
    "FLUX.2 klein",
    "HiDream",
    "Lumina 2",
    "AuraFlow",
)


def sigma(t):
    return (t.double() + 1) / 1000


def in_float64(pipeline):
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.double().eval()
    return pipeline


def latents_of(name, pipeline, image):
    x = torch.from_numpy(image.transpose(2, 0, 1)[None] / 127.5 - 1).double()
    if getattr(pipeline, "vae", None) is None:
        return x
    config = pipeline.vae.config
    if name.startswith("FLUX.2"):
        z, bn = pipeline.vae.encode(x)[0].mean, pipeline.vae.bn
        z = torch.stack([z[:, :, i::2, j::2] for i, j in CORNERS], dim=2).flatten(1, 2)
        scale = (bn.running_var + 1e-4).sqrt()
        return (z - bn.running_mean.view(1, -1, 1, 1)) / scale.view(1, -1, 1, 1)
    if name.startswith("Qwen"):
        x = pipeline.vae.encode(x[:, :, None])[0].mean[:, :, 0]  # one frame
        mean, std = torch.tensor([config.latents_mean, config.latents_std]).double()
        return (x - mean.view(1, 4, 1, 1)) / std.view(1, 4, 1, 1)
    x = pipeline.vae.encode(x)[0]
    x = x if name.startswith("SANA") or name == "Sana" else x.mean
    return (x - (config.get("shift_factor") or 0)) * config.scaling_factor


def reference(name, pipeline, trials, conditions):
    """Training loss of each image, class and trial, in float64."""
    pipeline, call = in_float64(pipeline), CALLS[name]
    is_velocity = name in ("Stable Diffusion, velocity", "HunyuanDiT")
    if name not in FLOWS:  # the schedule from its config
        config = pipeline.scheduler.config
        betas = np.linspace(config.beta_start, config.beta_end, 1000)
        if config.beta_schedule == "scaled_linear":
            betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000) ** 2
        if config.beta_schedule == "squaredcos_cap_v2":
            steps = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - steps[1:] / steps[:-1], 0.999)
        abar = np.cumprod(1 - betas)
    images = images_of(name)
    errors = np.zeros((len(images), len(conditions), len(trials)))
    for i, image in enumerate(images):
        x = latents_of(name, pipeline, image)
        noise = torch.from_numpy(trials.noise(x.shape[1:])).double()
        for j, step in enumerate(trials.timesteps.tolist()):
            t, eps = torch.tensor([step]), noise[j : j + 1]
            if name in FLOWS:
                xt, truth = (1 - sigma(t)) * x + sigma(t) * eps, eps - x
            else:
                alpha, sigma_t = abar[step] ** 0.5, (1 - abar[step]) ** 0.5
                xt = alpha * x + sigma_t * eps
                truth = alpha * eps - sigma_t * x if is_velocity else eps
            for k, condition in enumerate(conditions):
                output = call(pipeline, xt, t, condition)[:, : x.shape[1]]
                errors[i, k, j] = (output - truth).square().mean()
    return errors


@pytest.mark.parametrize("name", BY_FAMILY)
def test_against_double_loop(name, folders):
    images = images_of(name)
    clf = classifier(folders[name], batch_size=7, image_size=images.shape[1])
    result = clf.denoising_errors(images)
    conditions = [1, 2] if clf.backbone_.kind == "class" else PROMPTS
    with torch.no_grad():
        expected = reference(name, PIPELINES[name](), clf.trials_, conditions)
    # The schedule of diffusers is float32; relative to errors of about 1.
    scale = np.abs(expected).mean()
    assert np.isfinite(scale)
    np.testing.assert_allclose(
        result.errors / scale, expected / scale, rtol=1e-5, atol=1e-5
    )
    # The condition matters: another prompt, another error; a permuted batch, the same.
    assert np.abs(result.errors[:, 0] - result.errors[:, 1]).max() > 1e-5
    order = [2, 0, 1]
    again = clf.denoising_errors(images[order]).errors
    np.testing.assert_allclose(again, result.errors[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Stable Diffusion 3, 3.5", "PixArt-Sigma"])
def test_named_tensors_reach_workers_and_memory(name, folders, tmp_path):
    """Pooled embeddings and masks as well as tokens, in half precision too."""
    clf = classifier(folders[name], dtype="bfloat16", memory=str(tmp_path))
    expected = clf.denoising_errors(IMAGES).errors
    plan = fitted_plan(clf)
    received = pickle.loads(pickle.dumps(replace(plan, token=name)))
    assert received is not plan
    for key, tensor in to_dict(plan.conditions).items():
        other = to_dict(received.conditions)[key]
        assert other.dtype == tensor.dtype and torch.equal(other, tensor)
    again = clf.denoising_errors(IMAGES)
    np.testing.assert_array_equal(again.errors, expected)
    assert not again.n_evaluations.any()  # all of them kept
    # Another mask or pooled embedding is another condition.
    for key, tensor in to_dict(plan.conditions).items():
        changed = {**to_dict(plan.conditions), key: tensor.flip(1)}
        other = replace(plan, conditions=from_dict(changed))
        with ErrorCache.open(ErrorStore(tmp_path), other) as cache:
            pixels = to_pixels(list(IMAGES), 8)
            assert np.isnan(cache.get(pixels)).all(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Stable Diffusion 3, 3.5", "Qwen-Image"])
def test_named_tensors_reach_other_processes(name, folders):
    clf = classifier(folders[name])
    expected = clf.denoising_errors(IMAGES).errors
    errors = clf.set_params(n_jobs=2).denoising_errors(IMAGES).errors
    np.testing.assert_allclose(errors, expected, rtol=1e-4)


@pytest.mark.parametrize("name", BY_FAMILY)
def test_float16_is_finite_and_near(name, folders):
    images = images_of(name)
    params = {"model": folders[name], "image_size": images.shape[1]}
    half = classifier(**params, dtype="float16").denoising_errors(images).errors
    full = classifier(**params).denoising_errors(images).errors
    assert np.isfinite(half).all()
    np.testing.assert_allclose(half.mean(), full.mean(), rtol=0.15)


def test_the_autoencoder_of_sdxl_runs_in_float32_where_weights_are_float16(folders):
    backbone = load_backbone(folders["Stable Diffusion XL"], dtype="float16")
    assert backbone.vae.dtype == torch.float16
    assert backbone._encoder.dtype == torch.float32
    rounded = load_backbone(folders["Stable Diffusion XL"])
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    torch.testing.assert_close(
        backbone.encode(x), rounded.encode(x), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("make", [stable_diffusion_xl, pixart_alpha, flux])
def test_half_precision_leaves_time_and_size_as_they_are(make, monkeypatch):
    """At 1024 pixels and odd timesteps, as for a network of real size."""
    backbone = load_backbone(make().to(dtype=torch.bfloat16))
    inputs = {}

    def spy(*args, **kwargs):
        inputs.update(kwargs, args=args)
        raise StopIteration

    conditions = backbone.condition(["a cat"])
    monkeypatch.setattr(backbone.network, "forward", spy)
    side = 1024 // backbone.vae_factor
    noised = torch.zeros(1, backbone.latent_channels, side, side)
    with pytest.raises(StopIteration):
        backbone.predict(noised, torch.tensor([997]), conditions)
    if make is flux:
        assert inputs["timestep"].dtype == torch.float32
        np.testing.assert_allclose(inputs["timestep"], 0.998, rtol=1e-6)
        assert inputs["img_ids"][-1].tolist() == [0, side // 2 - 1, side // 2 - 1]
        return
    added = inputs["added_cond_kwargs"]
    if make is stable_diffusion_xl:
        assert inputs["args"][1].tolist() == [997]
        assert added["time_ids"].tolist() == [[1024, 1024, 0, 0, 1024, 1024]]
    else:
        assert inputs["timestep"].tolist() == [997]
        assert added["resolution"].tolist() == [[1024, 1024]]
        mask = inputs["encoder_attention_mask"]
        n_tokens = len(backbone.pipeline.tokenizer("a cat").input_ids)
        assert mask.tolist() == [[1.0] * n_tokens + [0.0] * (120 - n_tokens)]


def test_a_text_encoder_that_overflows_is_an_error():
    pipeline = stable_diffusion()
    pipeline.text_encoder.get_input_embeddings().weight.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"text encoder gave NaN.*bfloat16"):
        load_backbone(pipeline).condition(["a cat"])


def test_the_null_condition_of_sdxl_is_zeros():
    pipeline = stable_diffusion_xl()
    null = load_backbone(pipeline).null_condition()
    assert not null.tokens.any() and not null.pooled.any()
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    backbone = load_backbone(pipeline)
    null, empty = backbone.null_condition(), backbone.condition([""])
    assert torch.equal(null.tokens, empty.tokens)
    assert torch.equal(null.pooled, empty.pooled)


@pytest.mark.parametrize(
    "make, length",
    [
        (stable_diffusion_xl, 40),
        (stable_diffusion_3, 256),
        (flux, 512),
        (chroma, 512),
        (hidream, 128),
    ],
)
def test_a_long_prompt_is_named(make, length):
    with pytest.warns(UserWarning, match=f"the model reads {length}: .* was cut"):
        load_backbone(make()).condition(["bee " * 200])


def test_distilled_flux2_klein_is_a_warning():
    pipeline = flux2(is_klein=True)
    pipeline.register_to_config(is_distilled=True)
    with pytest.warns(UserWarning, match=r"is distilled.*no likelihoods"):
        load_backbone(pipeline)


def test_a_processor_in_place_of_a_tokenizer():
    """As of FLUX.2 dev, whose text encoder reads images too."""

    class Processor:
        def __init__(self, tokenizer):
            self.tokenizer, self.chat_template = tokenizer, tokenizer.chat_template

        def apply_chat_template(self, *args, **kwargs):
            return self.tokenizer.apply_chat_template(*args, **kwargs)

    pipeline = flux2()
    backbone = load_backbone(pipeline)
    expected, before = backbone.condition(["a bee"]), backbone.fingerprint()
    pipeline.tokenizer = Processor(pipeline.tokenizer)
    backbone = load_backbone(pipeline)
    torch.testing.assert_close(backbone.condition(["a bee"]), expected)
    assert backbone.prompt_template == "a photo of a {}."
    assert backbone.fingerprint()["tokenizer"] == before["tokenizer"]
    pipeline.tokenizer.chat_template += " "
    assert backbone.fingerprint()["tokenizer"] != before["tokenizer"]


@pytest.mark.parametrize("make", [qwen_image, z_image, lumina2])
def test_the_text_around_a_prompt_takes_its_part_of_the_length(make):
    backbone = load_backbone(make())
    with pytest.warns(UserWarning, match="the model reads") as record:
        backbone.condition(["b" * 600])
    length = int(re.search(r"reads (\d+)", str(record[0].message))[1])
    longest = "b" * (length - len(backbone.pipeline.tokenizer("").input_ids))
    with warnings.catch_warnings(action="error"):
        mask = backbone.condition([longest, "bee"]).mask
    assert mask[0].all() and not mask[1].all()
    with pytest.warns(UserWarning, match="'c' was cut"):
        backbone.condition([longest + "c"])


@pytest.mark.parametrize("make", [qwen_image, cogview4])
def test_padding_of_a_batch_makes_no_difference(make):
    """Their pipelines pad to the longest prompt."""
    backbone = load_backbone(make())
    names = ["a bee", "a photo of a cat with a hat"]
    noised = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    t, conditions = torch.tensor([300, 300]), backbone.condition(names)
    with torch.no_grad():
        together = backbone.predict(noised, t, conditions)
        alone = backbone.predict(noised[:1], t[:1], conditions[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["LCM", "SANA-Sprint"])
def test_a_distilled_model_is_named(name):
    with pytest.warns(UserWarning, match=r"is distilled.*no likelihoods.*Prefer"):
        load_backbone(PIPELINES[name]())


def test_others_are_not_taken_for_distilled():
    with warnings.catch_warnings(action="error"):
        assert not load_backbone(flux(guidance_embeds=False)).is_distilled


@pytest.mark.parametrize(
    "config", [{"use_dynamic_shifting": False}, {"time_shift_type": "exponential"}]
)
def test_cogview4_needs_its_own_scheduler(config):
    pipeline = cogview4()
    own = pipeline.scheduler
    pipeline.scheduler = type(own).from_config(own.config, **config)
    with pytest.raises(ValueError, match=r"time_shift_type='linear'.*its own sched"):
        load_backbone(pipeline)


def test_a_library_that_a_pipeline_needs_is_named(tmp_path, monkeypatch):
    kolors().save_pretrained(tmp_path)

    class KolorsPipeline:  # as diffusers has it without sentencepiece
        _backends = ("torch", "sentence_pieces")

    monkeypatch.setattr(diffusers, "KolorsPipeline", KolorsPipeline)
    with pytest.raises(ImportError, match="KolorsPipeline needs sentence_pieces"):
        load_backbone(tmp_path)


def test_evenly_spaced_timesteps_are_evenly_spaced_sigmas():
    """Whatever the shift of the sampler's schedule."""
    backbone = load_backbone(stable_diffusion_3())
    clf = classifier(backbone, n_trials=10)
    sigmas = backbone.noise_schedule.sigma_t[clf.trials_.timesteps]
    np.testing.assert_allclose(sigmas, np.arange(0.051, 1, 0.1), atol=1e-6)


@pytest.mark.parametrize("target", ["epsilon", "sample", "velocity"])
def test_targets_of_a_flow_are_weightings_of_each_other(target):
    clf = classifier(stable_diffusion_3(), dtype="float64")
    native = clf.denoising_errors(IMAGES).errors
    sigmas = (clf.trials_.timesteps + 1) / 1000
    weight = {"epsilon": (1 - sigmas) ** 2, "sample": sigmas**2, "velocity": 1.0}
    errors = clf.set_params(target=target).denoising_errors(IMAGES).errors
    np.testing.assert_allclose(errors, native * weight[target], rtol=1e-4)


# What users put into a pipeline before they pass it on.


def test_weights_swapped_in():
    plain = classifier(stable_diffusion()).denoising_errors(IMAGES).errors
    pipeline = stable_diffusion()
    torch.manual_seed(5)
    pipeline.unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    assert not np.allclose(classifier(pipeline).denoising_errors(IMAGES).errors, plain)


def test_a_tiny_autoencoder():
    """AutoencoderTiny has no distribution: its latents are what they are."""
    pipeline = stable_diffusion()
    torch.manual_seed(6)
    pipeline.vae = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    backbone = load_backbone(pipeline)
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    assert backbone.image_size == 8
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode(x), pipeline.vae.encode(x).latents)
    assert classifier(pipeline).predict(IMAGES).shape == (3,)


def test_lora_weights(tmp_path):
    pipeline = stable_diffusion()
    plain = classifier(pipeline).denoising_errors(IMAGES).errors
    config = peft.LoraConfig(
        r=2, target_modules=["to_k", "to_v"], init_lora_weights=False
    )
    pipeline.unet.add_adapter(config)
    state = peft.get_peft_model_state_dict(pipeline.unet)
    type(pipeline).save_lora_weights(tmp_path, unet_lora_layers=state)

    loaded = stable_diffusion()
    loaded.load_lora_weights(str(tmp_path))
    clf = classifier(loaded)
    with_lora = clf.denoising_errors(IMAGES).errors
    assert not np.allclose(with_lora, plain, atol=1e-6)
    clf.set_params(memory=str(tmp_path / "memory"))
    np.testing.assert_array_equal(clf.denoising_errors(IMAGES).errors, with_lora)
    loaded.fuse_lora()
    loaded.unload_lora_weights()
    clf = classifier(loaded, memory=str(tmp_path / "memory"))
    np.testing.assert_allclose(
        clf.denoising_errors(IMAGES).errors, with_lora, rtol=1e-4, atol=1e-5
    )


def test_a_textual_inversion_of_two_vectors():
    pipeline = stable_diffusion()
    vectors = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    pipeline.load_textual_inversion({"<bee>": vectors})
    backbone = load_backbone(pipeline)
    conditions = backbone.condition(["a <bee>", "a <bee> <bee>_1"])
    # One word of the prompt is two tokens.
    names = pipeline.maybe_convert_prompt(["a <bee>"], pipeline.tokenizer)
    assert names == ["a <bee> <bee>_1"]
    ids = pipeline.tokenizer(names, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = pipeline.text_encoder(ids)[0]
    torch.testing.assert_close(conditions[:1], expected)


def test_latents_with_their_own_mean_and_standard_deviation():
    """As in SDXL's fine-tuned cousins: (z - mean) / std times the scale."""
    pipeline = stable_diffusion()
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    plain = load_backbone(pipeline).encode(x)
    mean, std = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 4.0, 4.0]
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    shift, width = (torch.tensor(v).view(1, 4, 1, 1) for v in (mean, std))
    expected = (plain / 0.18215 - shift) / width * 0.18215
    torch.testing.assert_close(load_backbone(pipeline).encode(x), expected)


def test_an_unknown_family_names_the_known_ones_and_the_way_out():
    class OddPipeline(DiffusionPipeline):
        def __init__(self, unet):
            super().__init__()
            self.register_modules(unet=unet)

    message = (
        r"OddPipeline.*FluxPipeline.*nearest of these is DD[IP]MPipeline.*derive it "
        r"from PixelBackbone.*condition, null_condition and forward.*Writing a Backb"
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(OddPipeline(pixels().unet))


def test_the_nearest_family_is_that_with_the_same_parts(tmp_path):
    pipeline = flux()
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace('"FluxPipeline"', '"OddPipeline"'))
    with pytest.raises(ValueError, match=r"nearest of these is FluxPipeline"):
        load_backbone(tmp_path)


def test_a_backbone_of_ones_own():
    """A subclass of Backbone is used for the pipeline classes that it names."""

    class OwnPipeline(type(pixels())):
        pass

    made = pixels()
    own = OwnPipeline(made.unet, made.scheduler)

    class OwnBackbone(type(load_backbone(made))):
        pipelines = ("OwnPipeline",)

    assert isinstance(load_backbone(own), OwnBackbone)
    errors = classifier(own).denoising_errors(IMAGES).errors
    expected = classifier(made).denoising_errors(IMAGES).errors
    np.testing.assert_allclose(errors, expected, rtol=1e-5)
