"""Train the autoencoder that the bundled models share.

An ``AutoencoderKL`` with factor 4 and 8 latent channels (32 x 32 pixels to 8 x 8 x 8),
on Fashion-MNIST's training photos and on colour scenes composed of them. L1 error and
a small KL weight; no adversarial loss.

    python examples/train/train_vae.py --out runs/vae

Resumes from ``runs/vae/checkpoint.pt`` when it is there. About 7 minutes on 2 cores.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from diffusion_sklearn.datasets import load_fashion_mnist, make_fashion_scenes
from diffusion_sklearn.images._pixels import fit_square


def training_pixels(n_scenes, data_home):
    """Photos (gray, as RGB) and scenes, (n, 3, 32, 32) uint8."""
    photos = load_fashion_mnist(data_home=data_home).images
    photos = np.stack([fit_square(Image.fromarray(photo), 32) for photo in photos])
    photos = np.repeat(photos[:, None], 3, axis=1)
    scenes = make_fashion_scenes(n_scenes, data_home=data_home).images
    return torch.from_numpy(np.concatenate([photos, scenes.transpose(0, 3, 1, 2)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/vae"))
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--n-scenes", type=int, default=60_000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    pixels = training_pixels(args.n_scenes, args.data_home)
    held_out = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))
    held_out, kept = held_out[:1000], held_out[1000:]
    vae = AutoencoderKL(
        sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 48],
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=args.steps, pct_start=0.05
    )
    start, checkpoint = 0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start = saved["step"]

    began = time.time()
    for step in range(start, args.steps):
        rng = torch.Generator().manual_seed(step)
        rows = kept[torch.randint(len(kept), (args.batch,), generator=rng)]
        x = pixels[rows].float() / 127.5 - 1  # (b, 3, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=rng)
            z = posterior.mean + posterior.std * noise  # (b, 8, 8, 8)
            decoded = vae.decode(z).sample
        kl = posterior.kl().float().mean()
        loss = F.l1_loss(decoded.float(), x) + 1e-5 * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            torch.save(
                {
                    "vae": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                checkpoint,
            )
            print(
                f"step {step + 1} loss {loss.item():.4f} {time.time() - began:.0f} s",
                flush=True,
            )

    vae.eval()
    with torch.inference_mode():
        x = pixels[held_out].float() / 127.5 - 1
        mean = vae.encode(x).latent_dist.mean
        error = F.l1_loss(vae.decode(mean).sample, x)
    vae.register_to_config(scaling_factor=round(1 / mean.std().item(), 5))
    vae.save_pretrained(args.out / "vae")
    print(f"held-out L1 {error:.4f}, scaling factor {vae.config.scaling_factor}")


if __name__ == "__main__":
    main()
