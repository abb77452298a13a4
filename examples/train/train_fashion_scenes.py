r"""Train the bundled text-to-image model ``fashion-scenes`` from scratch.

A small U-Net on the latents of captioned scenes, conditioned on the frozen text encoder
of ``fashion-clip``, with v-prediction and 10 % of the captions dropped. The result is a
folder that ``StableDiffusionPipeline.from_pretrained`` loads.

    python examples/train/train_vae.py --out runs/vae
    python examples/train/train_fashion_clip.py --out runs/clip
    python examples/train/train_fashion_scenes.py --vae runs/vae/vae \
        --clip runs/clip/fashion-clip --out runs/scenes

Two phases: the first learns where things are, the second, at lower noise, what they
are. Resumes from ``runs/scenes/checkpoint.pt`` when it is there; ``--start FOLDER``
begins the second phase with the U-Net of a saved pipeline. 2 hours on 2 cores.
"""

import argparse
import copy
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from _scene_text import N_SCENES, draw_captions, tokenize, training_scenes
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from diffusion_sklearn.datasets._fashion_scenes import MIRRORED

DROPOUT = 0.1
T = 1000


@dataclass(frozen=True)
class Phase:
    """A cycle of the learning rate."""

    name: str
    passes: float  # over the scenes
    batch: int
    beta_end: float  # of the noise schedule
    one_way: float  # share of captions told from the item left or on top, at the start


PHASES = (
    # More noise at the end than in Stable Diffusion's own schedule, which leaves so
    # small a scene visible: what can be seen is never learned from the caption. And
    # who is first and what the relation is tell nothing alone: begin with captions of
    # one direction, so that the order does.
    Phase("layout", 8, 64, 0.02, 1.0),
    # A third of those timesteps hide the items too. With the layout learned, fewer do.
    Phase("items", 12, 128, 0.012, 0.5),
)


def encode(vae, pixels):
    """Posterior mean of every scene, (n, 8, 8, 8): what a classifier is shown."""
    with torch.no_grad():
        return torch.cat(
            [
                vae.encode(batch.float() / 127.5 - 1).latent_dist.mean
                for batch in pixels.split(500)
            ]
        )


@torch.no_grad()
def token_map(text_encoder, tokenizer, scenes):
    """Linear map of the token states that a U-Net learns from, (d, d).

    A contrastive text encoder hardly tells apart what never helped it, such as left
    and right. The map makes all directions equally strong (whitening), and the eight
    in which such captions differ most five times as strong.
    """

    def encode(captions):
        parts = [captions[k : k + 500] for k in range(0, len(captions), 500)]
        states = [text_encoder(tokenize(tokenizer, part))[0] for part in parts]
        return torch.cat(states).flatten(0, 1).double()  # (n_tokens, d)

    states = encode(draw_captions(scenes, np.random.default_rng(0)))
    values, vectors = torch.linalg.eigh(states.T @ states / len(states))
    whitening = vectors * (values + 1e-3).rsqrt() @ vectors.T
    pairs = [scene for scene in scenes if scene.relation]
    turned = [replace(s, relation=MIRRORED[s.relation]) for s in pairs]
    there, back = (encode([s.caption for s in told]) for told in (pairs, turned))
    apart = torch.linalg.svd((there - back) @ whitening, full_matrices=False)[2][:8]
    strengthen = torch.eye(len(values)) + 4 * apart.T @ apart
    return (strengthen @ whitening).float()


def make_scheduler(beta_end):
    return DDIMScheduler(
        num_train_timesteps=T,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=beta_end,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_unet(width):
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        encoder_hid_dim_type="text_proj",
        encoder_hid_dim=width,
        cross_attention_dim=width,
        attention_head_dim=4,
    )


def train(phase, unet, average, latents, scenes, states_of, checkpoint):
    """Train `unet` and its moving average for a phase, from the checkpoint on."""
    steps = int(phase.passes * len(scenes) / phase.batch)
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=0.03
    )
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["phase"] == phase.name:
            unet.load_state_dict(saved["unet"])
            average.load_state_dict(saved["average"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
            start = saved["step"]
    alphas_cumprod = make_scheduler(phase.beta_end).alphas_cumprod
    fast = torch.compile(unet)
    began, losses = time.time(), []
    for step in range(start, steps):
        rng = np.random.default_rng([PHASES.index(phase) + 1, step])
        noise_rng = torch.Generator().manual_seed(step)
        rows = rng.integers(len(scenes), size=phase.batch)
        one_way = max(0.5, phase.one_way - step / steps)
        captions = draw_captions([scenes[k] for k in rows], rng, one_way)
        captions = ["" if rng.random() < DROPOUT else c for c in captions]
        states = torch.stack([states_of(c) for c in captions])  # (b, tokens, d)
        x0 = latents[rows]
        noise = torch.randn(x0.shape, generator=noise_rng)
        t = torch.randint(T, (phase.batch,), generator=noise_rng)
        signal = alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
        spread = (1 - alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
        xt, velocity = signal * x0 + spread * noise, signal * noise - spread * x0
        with torch.autocast("cpu", torch.bfloat16):
            predicted = fast(xt, t, encoder_hidden_states=states).sample
        loss = F.mse_loss(predicted.float(), velocity)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.999, (step + 1) / (step + 10))
        torch._foreach_lerp_(
            list(average.parameters()), list(unet.parameters()), 1 - decay
        )
        losses.append(loss.item())
        if (step + 1) % 250 == 0 or step + 1 == steps:
            print(
                f"{phase.name} {step + 1}/{steps} loss {np.mean(losses[-250:]):.4f} "
                f"{time.time() - began:.0f} s",
                flush=True,
            )
            saved = {
                "phase": phase.name,
                "unet": unet.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
            }
            torch.save(saved, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vae", type=Path, default=Path("runs/vae/vae"))
    parser.add_argument("--clip", type=Path, default=Path("runs/clip/fashion-clip"))
    parser.add_argument("--out", type=Path, default=Path("runs/scenes"))
    parser.add_argument("--start", type=Path, default=None)
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--n-scenes", type=int, default=N_SCENES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    vae = AutoencoderKL.from_pretrained(args.vae, dtype=torch.float32).eval()
    text_encoder = CLIPTextModel.from_pretrained(args.clip, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(args.clip)
    pixels, scenes = training_scenes(args.n_scenes, args.data_home)
    latents = encode(vae, pixels)
    del pixels
    scale = round(1 / latents.std().item(), 5)
    latents *= scale

    @cache
    def states_of(caption):
        with torch.no_grad():
            return text_encoder(tokenize(tokenizer, [caption]))[0][0]  # (tokens, d)

    torch.manual_seed(0)
    phases = PHASES
    if args.start:
        phases = PHASES[1:]
        unet = UNet2DConditionModel.from_pretrained(args.start / "unet").float()
    else:
        unet = make_unet(text_encoder.config.hidden_size)
        with torch.no_grad():
            mapped = token_map(text_encoder, tokenizer, scenes[:3000])
            unet.encoder_hid_proj.weight.copy_(mapped)
            unet.encoder_hid_proj.bias.zero_()
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} million parameters")
    # Compiled, with plain attention and this memory format, it is the fastest here.
    unet.set_attn_processor(AttnProcessor())
    unet.to(memory_format=torch.channels_last)
    average = copy.deepcopy(unet).eval().requires_grad_(False)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        at = torch.load(checkpoint, weights_only=True)["phase"]
        phases = [p for p in PHASES if p.name == at or p is PHASES[-1]]
    for phase in phases:
        train(phase, unet, average, latents, scenes, states_of, checkpoint)
        unet.load_state_dict(average.state_dict())

    vae.register_to_config(scaling_factor=scale)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=average,
        scheduler=make_scheduler(phases[-1].beta_end),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    folder = args.out / "fashion-scenes"
    pipeline.save_pretrained(folder, safe_serialization=True)
    for config in folder.glob("*/*.json"):  # no path of the training machine
        lines = config.read_text("utf-8").splitlines()
        lines = [line for line in lines if "_name_or_path" not in line]
        config.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
